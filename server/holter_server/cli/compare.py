"""`holter compare` and `holter pin`: a verdict on a candidate beside a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import plain_table, print_json, stdout
from holter_server.report.words import VERDICTS, difference_text, interval_text, side_text, value_text, winner_text

__all__ = ["EXIT_CODES", "compare", "criteria_text", "pin", "show_comparison", "split_side", "write_reports"]

EXIT_CODES = {"accepted": 0, "rejected": 1, "undetermined": 2, "not_comparable": 3}
FAILED = EXIT_CODES["not_comparable"]
PIN_TAG = "baseline"
_COLOURS = {"accepted": "bold green", "rejected": "bold red"}
_WINNERS = {"candidate": "green", "baseline": "red", "tie": "dim"}

Sides = Annotated[
    list[str],
    typer.Argument(
        metavar="BASELINE CANDIDATE",
        help="Each: ids joined by commas, project/name, or filters such as group=new,project=denovo (every run that "
        "fits is a seed). BASELINE may be `pinned`.",
        show_default=False,
    ),
]
Metric = Annotated[list[str] | None, typer.Option("--metric", "-m", help="Only these values; may be repeated.")]
Criteria = Annotated[str, typer.Option("--criteria", "-c", help="default, denovo, or a YAML file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the report to this file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write the report with figures to this file.")]


def compare(
    sides: Sides,
    criteria: Criteria = "default",
    *,
    explain: Annotated[bool, typer.Option("--explain", help="Show the arithmetic of every row.")] = False,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Only these values; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstraps.")] = 0,
    markdown: MarkdownFile = None,
    html: HtmlFile = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Give a verdict on a candidate beside a baseline: table, decision tree, and what would decide.

    The exit status is 0 when the candidate is accepted, 1 rejected, 2 undetermined, 3 when they could not be compared
    (the gate says why, or the service is not there). A command that was not typed right is 2, too.
    """
    try:
        if len(sides) != 2:
            raise Failure("Give two sides: BASELINE CANDIDATE", "Join the runs of one side by commas")
        connection = Connection(url, token)
        body = {
            "baseline": split_side(sides[0]),
            "candidate": split_side(sides[1]),
            "criteria": criteria_text(criteria),
            "metrics": metric or ["*"],
            "seed": seed,
            "figures": html is not None,
        }
        found = connection.post("/compare", body)["comparison"]
        write_reports(found, markdown, html)
    except Failure as failure:
        failure.exit_code = FAILED
        raise
    if as_json:
        print_json({"comparison": {name: value for name, value in found.items() if name != "figures"}})
    else:
        show_comparison(found, explain=explain)
    raise typer.Exit(EXIT_CODES[found["verdict"]])


def pin(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Runs of one project; several are seeds.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Pin runs as their project's baseline, in place of what was pinned: `holter compare pinned CANDIDATE`."""
    connection = Connection(url, token)
    chosen = [connection.run(text) for text in runs]
    projects = sorted({run["project"] for run in chosen})
    if len(projects) > 1:
        raise Failure(f"The runs are of {len(projects)} projects: {', '.join(projects)}", "Pin those of one at a time")
    ids = {run["id"] for run in chosen}
    for run in connection.all("/runs", "runs", project=projects[0], tag=PIN_TAG):
        if run["id"] not in ids:
            connection.patch(f"/runs/{run['id']}", {"tags": [tag for tag in run["tags"] if tag != PIN_TAG]})
    for run in chosen:
        if PIN_TAG not in run["tags"]:
            connection.patch(f"/runs/{run['id']}", {"tags": [*run["tags"], PIN_TAG]})
    stdout().print(Text(f"The baseline of {projects[0]}: {', '.join(sorted(ids))}"))


def split_side(text: str) -> list[str]:
    """Filters are one entry, as their commas mean "and"; anything else is a list."""
    return [text] if "=" in text else [part for part in text.split(",") if part]


def criteria_text(given: str) -> str:
    """The name of criteria that are shipped, or the text of a file, checked so that mistakes name it."""
    from holter_server.verdict.criteria import NAMES, RuleError, parse  # noqa: PLC0415 - the others need not wait

    if given in NAMES:
        return given
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
        parse(text, str(path))
    except RuleError as error:
        raise Failure(str(error), "docs/verdict.md shows criteria that are right") from None
    except (OSError, UnicodeDecodeError):
        raise Failure(f"Can't read {given}", f"Name {', '.join(NAMES)} or a YAML file") from None
    return text


def write_reports(found: dict[str, Any], markdown: Path | None, html: Path | None, title: str = "") -> None:
    """Write what was asked for. A `Failure` where a file can't be written."""
    from holter_server.report.html import html_report  # noqa: PLC0415
    from holter_server.report.markdown import markdown_report  # noqa: PLC0415

    heading = title or f"{_names(found, 'candidate')} against {_names(found, 'baseline')}"
    for path, render in ((markdown, markdown_report), (html, html_report)):
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(render(found, heading), encoding="utf-8")
            except OSError as error:
                raise Failure(f"Can't write {path}: {error.strerror}", "Name another file") from None


def _names(found: dict[str, Any], side: str) -> str:
    return ", ".join(dict.fromkeys(run["name"] for run in found["runs"][side]))


def show_comparison(found: dict[str, Any], *, explain: bool = False) -> None:
    """The whole comparison on standard output."""
    out = stdout()
    for side in ("baseline", "candidate"):
        out.print(Text(f"{side:10}{side_text(found['runs'][side])}"))
    gate = found["gate"]
    if gate["status"] != "ok":
        out.print(Text(f"{gate['status']}: {'; '.join(gate['reasons'])}", style="yellow"))
    out.print()
    numeric = ("baseline", "candidate", "difference", "95 % interval")
    table = plain_table("criterion", "metric", *numeric, "winner", right=numeric, flexible=("metric",))
    for row in found["rows"]:
        table.add_row(
            Text(row["title"]),
            Text(row["metric"]),
            value_text(row["baseline"], row["unit"]),
            value_text(row["candidate"], row["unit"]),
            difference_text(row),
            Text(interval_text(row)),
            Text(winner_text(row), style=_WINNERS.get(row["winner"], "yellow")),
        )
    out.print(table)
    if explain:
        for row in found["rows"]:
            out.print(Text.assemble((f"{row['title']}, {row['metric']}: ", "bold"), row["arithmetic"]))
    _show_readings(found)
    if found["standing"]:
        out.print(Text(found["standing"]["say"]))
    style = _COLOURS.get(found["verdict"], "bold yellow")
    out.print(Text.assemble((VERDICTS[found["verdict"]], style), f": {found['reason']}"))


def _show_readings(found: dict[str, Any]) -> None:
    out = stdout()
    out.print(Text("\nThe tree, literally", style="bold"))
    for step in found["literal"]["path"]:
        line = Text.assemble(f"{step['question']} ", (step["answer"], "bold"), (f"  {step['because']}", "dim"))
        out.print(Padding(line, (0, 0, 0, 2)))
    out.print(Padding(Text(f"→ {found['literal']['say']}"), (0, 0, 0, 2)))
    honest = found["honest"]
    out.print(Text.assemble(("The honest reading: ", "bold"), f"{honest['verdict']}. {honest['say']}"))
    for lead in honest["leads"]:
        state = lead["state"].replace("_", " ")
        out.print(Padding(Text(f"{lead['criterion']} {state} → {' / '.join(lead['outcomes'])}"), (0, 0, 0, 2)))
    for knob in found["knobs"]:
        out.print(Text.assemble((f"{knob['component']} {knob['state']}", "bold"), f": {knob['arithmetic']}"))
        for advice in knob["advice"]:
            out.print(Padding(Text(advice), (0, 0, 0, 2)))
    out.print()
