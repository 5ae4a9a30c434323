"""`holter runs` and `holter show`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holter_server.cli import incidents
from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Run, Token, Url
from holter_server.cli.incident import show_incident
from holter_server.cli.screen import (
    ago,
    clock,
    health_text,
    number,
    plain_table,
    print_json,
    state_text,
    stderr,
    stdout,
    step,
)

__all__ = ["runs", "show"]


def runs(
    *,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only runs that are running, finished, failed, stopped, lost or hung.")
    ] = None,
    health: Annotated[str | None, typer.Option(help="Only runs that are healthy, warning or critical.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    group: Annotated[str | None, typer.Option(help="Only runs of this group.")] = None,
    search: Annotated[str | None, typer.Option("--search", "-q", help="Part of a name or of an id.")] = None,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter", "-f", help="Such as 'config.lr < 1e-3 and last(loss) = NaN'; docs/rest.md has the language."
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(help="Field, config.KEY or 'last(METRIC)'; with - in front (--sort -step) the greatest first."),
    ] = "-created_at",
    show_: Annotated[
        str | None, typer.Option("--show", help="Further columns: 'config.lr, last(loss)'. What is sorted by is one.")
    ] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="The deleted runs instead, and when their points go for good.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the runs: state, health, step. The newest first, unless --sort says otherwise."""
    connection = Connection(url, token)
    given = {"project": project, "state": state, "health": health, "tag": tag, "group": group, "q": search}
    columns = _columns(sort, show_)
    page = connection.get(
        "/runs", **given, filter=filter_, sort=sort, values=columns, limit=limit, deleted=deleted or None
    )
    if as_json:
        print_json(page)
        return
    if page.get("hint"):
        stderr().print(Text(page["hint"], style="yellow"))
    if not page["runs"]:
        stderr().print(_nothing_found(any(given.values()) or filter_ is not None, deleted))
        return
    if deleted:
        _show_deleted(page["runs"])
        return
    stdout().print(_run_table(page["runs"]))
    if page.get("next"):
        stderr().print(Text(f"There are more: --limit {limit * 5}", style="dim"))


def _columns(sort: str, shown: str | None) -> str | None:
    """What the service is asked for beside each run: what is not in the table anyway."""
    name = sort.removeprefix("-").strip()
    return ", ".join(filter(None, (shown, name if "(" in name or name.startswith("config.") else None))) or None


def _run_table(found: list[dict[str, Any]]) -> Table:
    extra = tuple(found[0].get("values", ()))
    fixed = ("run", "project/name", "state", "health", "step", "seen ago")
    table = plain_table(*fixed, *extra, right=extra, flexible=("project/name",))
    for run in found:
        table.add_row(
            run["id"],
            Text(f"{run['project']}/{run['name']}", no_wrap=True, overflow="ellipsis"),
            state_text(run["state"]),
            health_text(run["health"], run.get("open_incidents")),
            _progress(run),
            ago(run["last_seen_at"]),
            *(_value(name, value) for name, value in run.get("values", {}).items()),
        )
    return table


def _value(name: str, value: Any) -> Text:
    return Text(clock(value) if name.endswith("_at") and value is not None else number(value))


def show(
    run: Run,
    incident_id: Annotated[
        str | None,
        typer.Argument(metavar="[INCIDENT]", help="With --incident: the id of one, or the beginning of its id."),
    ] = None,
    *,
    incident: Annotated[
        bool, typer.Option("--incident", help="Only the newest incident, or INCIDENT: why, where, and what was kept.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one run: incidents with their advice, ranks where there are several, metrics, config."""
    connection = Connection(url, token)
    found = connection.run(run)
    if incident or incident_id is not None:
        show_incident(connection, found, incident_id, as_json=as_json)
        return
    metrics = connection.get(f"/runs/{found['id']}/metrics")["metrics"]
    of_run = connection.all("/incidents", "incidents", run=found["id"])
    ranks = connection.get(f"/runs/{found['id']}/ranks")["ranks"]
    if as_json:
        print_json({"run": found, "metrics": metrics, "incidents": of_run, "ranks": ranks})
        return
    exits = [
        event["text"] for event in connection.get(f"/runs/{found['id']}/events")["events"] if event["kind"] == "exit"
    ]
    console = stdout()
    console.print(Text(f"{found['project']}/{found['name']}", style="bold"), Text(found["id"], style="dim"))
    console.print(_facts(found, exits[-1:]))
    _section("Incidents", None)
    for fired in reversed(of_run):
        console.print(Padding(incidents.block(fired), (0, 0, 1, 2), expand=False))
    if not of_run:
        console.print("  none")
    if len(ranks) > 1:
        _section("Ranks", _rank_table(ranks))
    _section("Metrics", _metric_table(metrics) if metrics else None)
    _section("Config", _config_table(found["config"]) if found["config"] else None)


def _section(title: str, content: Table | None) -> None:
    stdout().print(Text(f"\n{title}", style="bold"))
    if content is not None:
        stdout().print(Padding(content, (0, 0, 0, 2), expand=False))


def _show_deleted(found: list[dict[str, Any]]) -> None:
    table = plain_table("run", "project/name", "deleted ago", "goes for good", "why", flexible=("project/name", "why"))
    for run in found:
        table.add_row(
            run["id"],
            Text(f"{run['project']}/{run['name']}", no_wrap=True, overflow="ellipsis"),
            ago(run["deleted_at"]),
            "now" if run["purging_at"] else clock(run["purge_at"]),
            run["deleted_because"] or "–",
        )
    stdout().print(table)
    stderr().print(Text("Bring one back: holter restore RUN", style="dim"))


def _nothing_found(filtered: bool, deleted: bool) -> str:
    if deleted:
        return "No deleted run matches." if filtered else "No run is deleted."
    if filtered:
        return "No run matches. Without filters: holter runs"
    return 'No runs yet. In a training: run = holter.init(project="…"), then run.log({"loss": loss}, step=step)'


def _progress(run: dict[str, Any]) -> str:
    if run["last_step"] is None or not run.get("planned_steps"):
        return step(run["last_step"])
    return f"{step(run['last_step'])}/{step(run['planned_steps'])}"


def _facts(run: dict[str, Any], ended: list[str]) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    state = state_text(run["state"])
    if run.get("state_reason"):
        state.append(f" ({run['state_reason']})", style="dim")
    facts.add_row("state", state)
    facts.add_row("health", health_text(run["health"], run.get("open_incidents")))
    speed = run.get("steps_per_second")
    facts.add_row("step", _progress(run) + (f"   {number(speed)} per second" if speed else ""))
    facts.add_row("started", clock(run["started_at"]))
    facts.add_row("finished" if run["finished_at"] else "last seen", clock(run["finished_at"] or run["last_seen_at"]))
    for text in ended:
        facts.add_row("ended", Text(text))
    for name, value in (("group", run["group"]), ("tags", ", ".join(run["tags"])), ("notes", run["notes"])):
        if value:
            facts.add_row(name, Text(value))
    return facts


def _config_table(config: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in _flat(config):
        table.add_row(name, Text(number(value) if isinstance(value, float) else str(value)))
    return table


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _rank_table(ranks: list[dict[str, Any]]) -> Table:
    numeric = ("step", "behind", "step time", "NaN/Inf", "seen ago")
    table = plain_table("rank", "state", *numeric, "where", right=numeric, flexible=("where",))
    for rank in ranks:
        odd = rank["non_finite"]
        place = [rank["host"], rank["device"], f"pid {rank['pid']}" if rank["pid"] else ""]
        table.add_row(
            rank["writer"],
            state_text(rank["state"]),
            step(rank["last_step"]),
            Text(f"{rank['lag']:,}", style="bold yellow") if rank["lag"] else step(rank["lag"]),
            "–" if rank["step_time"] is None else f"{number(rank['step_time'])} s",
            Text(f"{odd:,}", style="bold red") if odd else "–",
            ago(rank["last_seen_at"]),
            Text(" · ".join(filter(None, place))),
        )
    return table


def _metric_table(metrics: list[dict[str, Any]]) -> Table:
    numeric = ("last", "min", "max", "step", "points", "NaN/Inf")
    table = plain_table("metric", *numeric, right=numeric, flexible=("metric",))
    for metric in metrics:
        table.add_row(
            metric["name"],
            number(metric["last"]),
            number(metric["min"]),
            number(metric["max"]),
            step(metric["last_step"]),
            f"{metric['count']:,}",
            Text(f"{metric['non_finite']:,}", style="bold red") if metric["non_finite"] else "–",
        )
    return table
