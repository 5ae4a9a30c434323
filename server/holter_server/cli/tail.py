"""`holter tail`: a run's newest values, a line at a time, with its incidents and events between them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from holter.wire import jsonable
from holter_server.cli import incidents
from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import number, severity_text, state_text, stderr, stdout, step
from holter_server.cli.tail_path import Recording, is_recording

__all__ = ["tail"]

_ENDED = ("finished", "failed", "stopped")
_PATH_PREFIXES = ("./", "../", "/", "~")
_NARROWEST, _WIDEST = 11, 20  # characters of a column: -1.2346e-05, and a name that is still shown whole
_GAP = 2
_HEADER_EVERY = 20  # lines


Followed = Annotated[
    str,
    typer.Argument(
        metavar="RUN|PATH",
        help="Id, a unique prefix of one, or project/name (the newest); or a folder with recordings, such as .holter.",
    ),
]


def tail(
    run: Followed,
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", help='Pattern such as "loss/*"; may be given again. Without it, all but system/*.'
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Follow a run in the terminal until it ends, from the service or from its recording on disk.

    What exists on disk is a PATH, everything else a RUN. Ctrl-C stops the following, not the run.
    """
    name, looks = _local(run, metric, interval) if is_recording(run) else _remote(run, metric, interval, url, token)
    reader = _as_json if as_json else _Lines(name)
    try:
        for look in looks:
            reader(look)
    except KeyboardInterrupt:
        return


def _remote(
    run: str, patterns: list[str] | None, interval: float, url: str, token: str | None
) -> tuple[str, Iterator[dict[str, Any]]]:
    if run.startswith(_PATH_PREFIXES) or run in (".", ".."):
        raise Failure(f"There is no recording in {run}", "Recordings are in ./.holter, or where HOLTER_DIR says")
    connection = Connection(url, token)
    found = connection.run(run)
    return f"{found['project']}/{found['name']}", _looks(connection, found["id"], patterns, interval)


def _local(path: str, patterns: list[str] | None, interval: float) -> tuple[str, Iterator[dict[str, Any]]]:
    recording = Recording(Path(path))
    said = f"Following the recording in {path}, not a run at the service"
    if recording.others:
        said += f"; it is the newest of {recording.others + 1} runs there"
    stderr().print(Text(f"{said}.", style="dim"), soft_wrap=True)
    return recording.name, _closing(recording, recording.looks(lambda name: _wanted(name, patterns), interval))


def _closing(recording: Recording, looks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with contextlib.closing(recording):
        yield from looks


def _looks(connection: Connection, run: str, patterns: list[str] | None, interval: float) -> Iterator[dict[str, Any]]:
    """What is new each time, ``{"step", "values", "incidents", "state", "ended"}``; once more when it has ended."""
    seen: dict[str, str] = {}
    last_step = None
    while True:
        state = connection.get(f"/runs/{run}")["run"]["state"]
        metrics = [
            metric for metric in connection.get(f"/runs/{run}/metrics")["metrics"] if _wanted(metric["name"], patterns)
        ]
        newest = max((metric["last_step"] for metric in metrics if metric["last_step"] is not None), default=None)
        changed = [
            incident
            for incident in connection.get("/incidents", run=run, limit=100)["incidents"]
            if seen.get(incident["id"]) != incident["state"]
        ]
        seen |= {incident["id"]: incident["state"] for incident in changed}
        ended = state in _ENDED
        if newest != last_step or changed or ended:
            values = {metric["name"]: metric["last"] for metric in metrics} if newest != last_step else {}
            yield {"step": newest, "values": values, "incidents": changed[::-1], "state": state, "ended": ended}
        last_step = newest
        if ended:
            return
        time.sleep(interval)


def _wanted(name: str, patterns: list[str] | None) -> bool:
    if patterns is None:
        return not name.startswith("system/")
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _as_json(look: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(jsonable(look), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


class _Lines:
    """Prints looks as the lines of a table that has no end, with its header repeated."""

    def __init__(self, name: str) -> None:
        self._console = stdout()
        self._columns: list[str] = []
        self._printed = 0
        self._console.print(Text(name, style="bold"))

    def __call__(self, look: dict[str, Any]) -> None:
        for incident in look["incidents"]:
            self._console.print(incidents.line(incident))
        for event in look.get("events", ()):
            self._console.print(_event(event))
        if look["values"]:
            self._values(look["step"], look["values"])
        if look["ended"]:
            self._console.print(state_text(look["state"]))

    def _values(self, at_step: int, values: dict[str, Any]) -> None:
        columns = _fitting(sorted(values, key=_importance), self._console.width)
        if columns != self._columns or self._printed % _HEADER_EVERY == 0:
            self._columns = columns
            heads = "".join(f"{_short(name):>{_width(name)}}" for name in columns)
            self._console.print(Text(f"{'step':>{_NARROWEST}}{heads}", style="dim"))
        row = Text(f"{step(at_step):>{_NARROWEST}}")
        for name in columns:
            value = values[name]
            row.append(f"{number(value):>{_width(name)}}", style="bold red" if isinstance(value, str) else "")
        self._console.print(row, no_wrap=True)
        self._printed += 1


def _event(event: dict[str, Any]) -> Text:
    at = "" if event["step"] is None else f" (step {step(event['step'])})"
    return Text.assemble(severity_text(event["severity"]), f" {event['kind']}: {event['text']}", (at, "dim"))


def _fitting(names: list[str], width: int) -> list[str]:
    """The first of ``names`` that fit beside the step, at least one."""
    used = _NARROWEST + _width(names[0])
    count = 1
    for name in names[1:]:
        used += _width(name)
        if used > width:
            break
        count += 1
    return names[:count]


def _width(name: str) -> int:
    return max(_NARROWEST, min(len(name), _WIDEST)) + _GAP


def _importance(name: str) -> tuple[int, str]:
    """The total loss first, then its parts, then the rest, by name."""
    for rank, prefix in enumerate(("loss/total", "loss", "grad_norm", "train/", "val/", "lr")):
        if name.startswith(prefix):
            return rank, name
    return 9, name


def _short(name: str) -> str:
    return name if len(name) <= _WIDEST else f"…{name[-(_WIDEST - 1) :]}"
