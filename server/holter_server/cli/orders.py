"""`holter stop`, `holter checkpoint` and `holter dump`: what the service can ask of a training."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Run, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import print_json, stdout

__all__ = ["checkpoint", "dump", "stop"]

Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until the training has answered.")]

_LOOK_EVERY = 0.2  # seconds


def stop(run: Run, wait: Wait = 30.0, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Ask a training to stop at its next step."""
    _order("stop", run, wait, Connection(url, token), as_json)


def checkpoint(
    run: Run, wait: Wait = 30.0, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False
) -> None:
    """Ask a training to save a checkpoint; it has to offer one by on_command("checkpoint", …)."""
    _order("checkpoint", run, wait, Connection(url, token), as_json)


def dump(run: Run, wait: Wait = 30.0, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Ask a training for what its flight recorder holds; on_command("dump", …) may write more."""
    _order("dump", run, wait, Connection(url, token), as_json)


def _order(name: str, text: str, wait: float, connection: Connection, as_json: bool) -> None:
    run = connection.run(text)
    if run["state"] in ("finished", "failed", "stopped"):
        raise Failure(f"{run['project']}/{run['name']} has {run['state']} already", "holter runs --state running")
    command = connection.post(f"/runs/{run['id']}/commands", {"name": name, "args": {}})["command"]
    command = _follow(connection, run["id"], command, wait, quiet=as_json)
    if as_json:
        print_json({"command": command})
    if command["state"] == "failed":
        raise Failure(f"The training could not {name}: {command['result']}", "See the training's own output")
    if command["state"] != "done" and not as_json:
        stdout().print("The training has not answered yet; it will when it next ships. It need not be asked again.")


def _follow(connection: Connection, run: str, command: dict[str, Any], wait: float, *, quiet: bool) -> dict[str, Any]:
    """Print each state as the command reaches it; the command as it was last seen."""
    deadline = time.monotonic() + wait
    shown = ""
    while True:
        if command["state"] != shown and not quiet:
            result = f" ({command['result']})" if command.get("result") else ""
            stdout().print(Text(f"{command['name']}: {command['state']}{result}"))
        shown = command["state"]
        if shown in ("done", "failed") or time.monotonic() >= deadline:
            return command
        time.sleep(_LOOK_EVERY)
        commands = connection.get(f"/runs/{run}/commands")["commands"]
        command = next(row for row in commands if row["id"] == command["id"])
