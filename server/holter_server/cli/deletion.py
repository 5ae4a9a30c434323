"""`holter delete`, `holter restore` and `holter purge`."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Run, Token, Url
from holter_server.cli.failure import USAGE, Failure
from holter_server.cli.screen import clock, print_json, stderr, stdout

__all__ = ["delete", "purge", "restore"]

Runs = Annotated[list[str], typer.Argument(metavar="RUN", help="Ids, unique prefixes, or project/name (the newest).")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]

_LOOK_EVERY = 0.2  # seconds


def delete(runs: Runs, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Hide runs from every list. Nothing is lost yet: holter restore brings them back, until they are purged."""
    connection = Connection(url, token)
    found = [connection.run(text) for text in runs]  # every mistake is found before anything is deleted
    answers = []
    for run in found:
        answer = connection.delete(f"/runs/{run['id']}")
        answers.append({"run": run["id"], "purge_at": answer["purge_at"]})
        if not as_json:
            _tell_deleted(run, answer["purge_at"])
    if as_json:
        print_json({"deleted": answers})


def _tell_deleted(run: dict[str, Any], purge_at: float | None) -> None:
    until = "until somebody purges it" if purge_at is None else f"until {clock(purge_at)}"
    stdout().print(f"Deleted {_title(run)}", soft_wrap=True)
    way = f"It can be had back {until}: holter restore {run['id']}"
    stderr().print(Text(way, style="dim"), soft_wrap=True)
    if run["state"] in ("running", "hung"):
        said = "Its training goes on; what it logs is kept beside it, and shipped when the run is restored."
        stderr().print(Text(said, style="dim"), soft_wrap=True)


def restore(run: Run, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Bring a deleted run back, with every point. holter runs --deleted lists what there is."""
    connection = Connection(url, token)
    found = connection.deleted_run(run)
    restored = connection.post(f"/runs/{found['id']}/restore")["run"]
    if as_json:
        print_json({"run": restored})
        return
    stdout().print(f"Restored {_title(restored)}", soft_wrap=True)
    if "keep" in restored["tags"] and "keep" not in found["tags"]:
        stderr().print(Text("It has the tag keep now, so that retention does not delete it again.", style="dim"))


def purge(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]", help="Deleted runs: ids, unique prefixes, or project/name.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every deleted run.")] = False,
    yes: Yes = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until the points are gone.")] = 30.0,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Remove deleted runs for good: every point, incident and event. This can't be undone."""
    if bool(runs) == every:
        raise Failure("Name the runs to purge, or say --all", "holter runs --deleted lists them", exit_code=USAGE)
    connection = Connection(url, token)
    found = connection.deleted_runs() if every else [connection.deleted_run(text) for text in runs or ()]
    if not yes and found:
        _confirm(found)
    for run in found:
        connection.post(f"/runs/{run['id']}/purge")
    left = _wait_until_gone(connection, [run["id"] for run in found], wait)
    if as_json:
        print_json({"purged": [run["id"] for run in found if run["id"] not in left], "purging": left})
        return
    for run in found:
        stdout().print(f"{'Purging' if run['id'] in left else 'Purged'} {_title(run)}", soft_wrap=True)
    if left:
        stderr().print("The service goes on removing them, also after a restart.")
    if not found:
        stderr().print("No run is deleted, so there is nothing to purge.")


def _confirm(found: list[dict[str, Any]]) -> None:
    names = ", ".join(_title(run) for run in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    if not sys.stdin.isatty():
        raise Failure(f"Purging can't be undone, and nobody can be asked here: {names}", "Say --yes", exit_code=USAGE)
    if not typer.confirm(f"Remove {names} for good?", err=True):
        raise Failure("Nothing was purged")


def _wait_until_gone(connection: Connection, ids: list[str], wait: float) -> list[str]:
    """Those that are still there after ``wait`` seconds."""
    deadline = time.monotonic() + wait
    left = ids
    while left:
        there = {run["id"] for run in connection.deleted_runs()}
        left = [id for id in left if id in there]
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_EVERY)
    return left


def _title(run: dict[str, Any]) -> str:
    return f"{run['project']}/{run['name']} ({run['id']})"
