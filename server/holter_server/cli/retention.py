"""`holter retention`: what each project keeps."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import USAGE, Failure
from holter_server.cli.screen import ago, plain_table, print_json, stderr, stdout

__all__ = ["retention"]

retention = typer.Typer(
    no_args_is_help=True,
    help="How long a project keeps its runs. Off unless set; what it deletes can be restored until it is purged.",
)

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="A project's name.")]
MaybeProject = Annotated[str | None, typer.Argument(metavar="[PROJECT]", show_default=False, help="Only this project.")]
Days = Annotated[
    float | None, typer.Option(min=0, show_default=False, help="Keep a run so many days after its last sign of life.")
]
RawDays = Annotated[
    float | None,
    typer.Option(min=0, show_default=False, help="Keep its raw points so many days; its charts stay, exports don't."),
]
Runs = Annotated[int | None, typer.Option(min=1, show_default=False, help="Keep the newest so many runs.")]


@retention.command()
def show(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List what each project keeps, and the default."""
    answer = Connection(url, token).get("/retention")
    if as_json:
        print_json(answer)
        return
    table = plain_table("project", "keeps", "set", flexible=("project",))
    for row in answer["projects"]:
        table.add_row(row["project"], _limits(row), "for it" if row["of"] == "project" else "by default")
    if answer["projects"]:
        stdout().print(table)
    days = answer["purge_after_days"]
    grace = "are never purged by themselves" if days is None else f"are purged after {days:g} days"
    stderr().print(Text(f"Default: {_limits(answer['default'])}. Deleted runs {grace}.", style="dim"))


@retention.command("set")
def set_limits(
    project: Project,
    days: Days = None,
    runs: Runs = None,
    raw_days: RawDays = None,
    *,
    everything: Annotated[
        bool, typer.Option("--everything", help="Keep every run, whatever the default says.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say what a project keeps. Runs with the tag keep, and runs that run, are never deleted."""
    if everything == any(limit is not None for limit in (days, runs, raw_days)):
        raise Failure(
            "Say --days, --runs or --raw-days, or --everything", "holter retention preview tries it", exit_code=USAGE
        )
    connection = Connection(url, token)
    answer = connection.put(
        f"/projects/{quote(project, safe='')}/retention", {"days": days, "runs": runs, "raw_days": raw_days}
    )
    if as_json:
        print_json(answer)
        return
    stdout().print(f"{project} keeps {_limits(answer['retention'])}")
    due = connection.get("/retention/due", project=project)["runs"]
    if due:
        said = f"{len(due)} of its runs will be deleted or thinned within minutes: holter retention preview {project}"
        stderr().print(Text(said, style="dim"), soft_wrap=True)


@retention.command()
def clear(project: Project, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Let the default hold for a project again."""
    answer = Connection(url, token).delete(f"/projects/{quote(project, safe='')}/retention")
    stdout().print(f"{project} keeps {_limits(answer['retention'])}, by default")


@retention.command()
def preview(
    project: MaybeProject = None,
    *,
    days: Days = None,
    runs: Runs = None,
    raw_days: RawDays = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the runs that would be deleted, or lose their raw points, by what is set or by the limits that you give.

    It deletes nothing.
    """
    answer = Connection(url, token).get("/retention/due", project=project, days=days, runs=runs, raw_days=raw_days)
    if as_json:
        print_json(answer)
        return
    if not answer["runs"]:
        stderr().print("No run would be deleted or lose points.")
        return
    deeds = {"delete": "deleted", "thin": "raw points dropped"}
    table = plain_table("run", "project/name", "state", "seen ago", "would be", "why", flexible=("project/name", "why"))
    for run in answer["runs"]:
        title = f"{run['project']}/{run['name']}"
        seen, deed = ago(run["last_seen_at"]), deeds[run["deed"]]
        table.add_row(run["run"], title, run["state"], seen, deed, run["because"])
    stdout().print(table)
    stderr().print(Text("The tag keep keeps a run.", style="dim"))


def _limits(row: dict[str, Any]) -> str:
    raw = "" if row["raw_days"] is None else f", raw points for {row['raw_days']:g} days"
    return _runs(row) + raw


def _runs(row: dict[str, Any]) -> str:
    newest = None if row["runs"] is None else "its newest run" if row["runs"] == 1 else f"its newest {row['runs']} runs"
    if row["days"] is None:
        return newest or "everything"
    each = f"for {row['days']:g} days after its last sign of life"
    return f"each run {each}" if newest is None else f"{newest}, each {each}"
