"""`holter show RUN --incident`: one incident, why it fired, and what the agent has kept for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holter_server.cli import incidents
from holter_server.cli.connection import Connection
from holter_server.cli.failure import Failure
from holter_server.cli.screen import number, print_json, stderr, stdout, step

__all__ = ["show_incident"]

_STACK_LINES = 60
_IDS = 8  # of a batch; --json has all that are known


def show_incident(connection: Connection, run: dict[str, Any], wanted: str | None, *, as_json: bool) -> None:
    """Print the incident of ``run`` whose id (or the beginning of it) is ``wanted``, or the newest one."""
    incident = _chosen(connection, run, wanted)
    found = {kind: _whole(connection, run, incident and incident[kind]) for kind in ("flight", "stacks")}
    if as_json:
        print_json({"run": run, "incident": incident, **found})
        return
    if incident is None:
        stderr().print("No incident: nothing unhealthy was found in this run.")
        return
    console = stdout()
    console.print(Text(f"{run['project']}/{run['name']}", style="bold"), Text(run["id"], style="dim"))
    console.print(incidents.block({**incident, "flight": None, "stacks": None}))
    _section("Why", _table(_arithmetic(incident)))
    if incident["flight"]:
        _section("Flight recorder", Text(str(incident["flight"]["text"])))
        _print(_table(_record(incident["flight"], _host(connection, run, incident["flight"]))))
        if isinstance(file := incident["flight"].get("file"), str) and file:
            _whole_lines(f"holter.flight.load({file!r})")
    if incident["stacks"]:
        _section("Stacks", Text(str(incident["stacks"]["text"])))
        _whole_lines(*_stacks(found["stacks"]))
    console.print(Text(f"\n{connection.url}/runs/{run['id']}", style="dim"))


def _chosen(connection: Connection, run: dict[str, Any], wanted: str | None) -> dict[str, Any] | None:
    if wanted is None:
        newest = connection.get(f"/runs/{run['id']}/incidents", limit=1)["incidents"]
        return newest[0] if newest else None
    rows = connection.all(f"/runs/{run['id']}/incidents", "incidents")
    exact = [row for row in rows if wanted in (row["id"], row["incident"])]
    matches = exact or [row for row in rows if row["id"].startswith(wanted) or row["incident"].startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    many = "more than one incident" if matches else "no incident"
    raise Failure(f"Run {run['id']} has {many} {wanted!r}", f"They are: {_ids(rows)}" if rows else "It has none at all")


def _ids(rows: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{row['incident']} ({row['rule']})" for row in rows[:5])
    return f"{shown} and {len(rows) - 5} more" if len(rows) > 5 else shown


def _whole(connection: Connection, run: dict[str, Any], captured: dict[str, Any] | None) -> dict[str, Any] | None:
    if captured is None:
        return None
    event: dict[str, Any] = connection.get(f"/runs/{run['id']}/events/{quote(captured['event'], safe='')}")["event"]
    return event


# --- what is printed --------------------------------------------------------------------------------------------


def _arithmetic(incident: dict[str, Any]) -> Iterator[tuple[str, str]]:
    evidence = dict(incident["evidence"])
    yield "condition", str(evidence.pop("formula", "") or "")
    for name in ("value", "threshold", "baseline"):
        yield name, "" if incident[name] is None else number(incident[name])
    for name, value in evidence.items():
        yield name.replace("_", " "), _value(value)
    yield "resolved", str(incident["resolution"] or "")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _record(flight: Mapping[str, Any], host: str) -> Iterator[tuple[str, str]]:
    yield "batch", _batch(_mapping(flight.get("batch")))
    if flight["first_step"] is not None:
        yield "steps kept", f"{step(flight['first_step'])} to {step(flight['last_step'])}"
    yield "recorded by", "" if flight["writer"] == "rank0" else flight["writer"]
    if flight.get("file"):
        yield "full record", f"on {host or 'the machine of the training'}, to be loaded there by"


def _batch(batch: Mapping[str, Any]) -> str:
    ids = batch.get("ids")
    names = [str(name) for name in ids] if isinstance(ids, list) else []
    count = batch["count"] if isinstance(batch.get("count"), int) else len(names)
    if not names:
        return f"fingerprint {batch['fingerprint']}" if batch.get("fingerprint") else ""
    more = count - len(names[:_IDS])
    return ", ".join(names[:_IDS]) + (f" and {more:,} more" if more > 0 else "")


def _stacks(event: Mapping[str, Any] | None) -> list[str]:
    lines = str(_mapping((event or {}).get("data")).get("stacks", "")).rstrip().splitlines()
    if len(lines) <= _STACK_LINES:
        return lines
    return [*lines[:_STACK_LINES], f"… and {len(lines) - _STACK_LINES:,} lines more: --json has them all"]


def _host(connection: Connection, run: dict[str, Any], flight: Mapping[str, Any]) -> str:
    writers = connection.get(f"/runs/{run['id']}")["run"]["writers"]
    this = (flight["writer"], flight["attempt"])
    return next((str(writer["host"]) for writer in writers if (writer["name"], writer["attempt"]) == this), "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _table(rows: Iterator[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, Text(value))
    return table


def _section(title: str, content: RenderableType) -> None:
    stdout().print(Text(f"\n{title}", style="bold"))
    _print(content)


def _print(content: RenderableType) -> None:
    stdout().print(Padding(content, (0, 0, 0, 2), expand=False))


def _whole_lines(*lines: str) -> None:
    """Paths and code are copied from a terminal: a line break within one would break it."""
    for line in lines:
        stdout().print(Text(f"  {line}"), soft_wrap=True)
