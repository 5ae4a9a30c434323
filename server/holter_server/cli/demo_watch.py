"""What the demo shows while a training runs: its progress, and each incident when it fires."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from holter_server.cli import incidents
from holter_server.cli.connection import Connection
from holter_server.cli.demo_training import Training
from holter_server.cli.screen import number, severity_text, step

__all__ = ["progress_bars", "watch"]

_LOOK_EVERY = 0.4  # seconds
_SETTLES_WITHIN = 15.0  # seconds from a training's end until its run has ended too
_ENDED = ("finished", "failed", "stopped")


def progress_bars(console: Console) -> Progress:
    """One bar per training, with its newest loss."""
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def watch(training: Training, connection: Connection, progress: Progress) -> dict[str, Any] | None:
    """Follow a training to its end. Returns its run, or None when it never reached the service."""
    task = progress.add_task(training.recipe, total=None, note="starting")
    if not progress.console.is_terminal:  # where a bar is drawn only at its end
        progress.console.print(f"Training {training.recipe}; its output is in {training.log}")
    shown: dict[str, tuple[str, str]] = {}
    run: dict[str, Any] | None = None
    deadline = None
    while True:
        ended = training.ended  # asked before the look, so that the last look comes after the end
        run = _find(connection, training) if run is None else connection.get(f"/runs/{run['id']}")["run"]
        if run is not None:
            _advance(progress, task, connection, run)
            _tell(progress.console, connection, run, shown)
        if ended:
            deadline = deadline or time.monotonic() + _SETTLES_WITHIN
            if run is None or run["state"] in _ENDED or time.monotonic() > deadline:
                progress.stop_task(task)
                return run
        time.sleep(_LOOK_EVERY)


def _find(connection: Connection, training: Training) -> dict[str, Any] | None:
    """Other trainings may stream to this address, too; this one's command names a folder that no other one has."""
    for run in connection.get("/runs", limit=50)["runs"]:
        if run["environment"].get("command", [])[-len(training.arguments) :] == training.arguments:
            return dict(run)
    return None


def _advance(progress: Progress, task: TaskID, connection: Connection, run: dict[str, Any]) -> None:
    metrics = {metric["name"]: metric for metric in connection.get(f"/runs/{run['id']}/metrics")["metrics"]}
    note = f"loss {number(metrics['loss/total']['last'])}" if "loss/total" in metrics else ""
    done = 0 if run["last_step"] is None else run["last_step"] + 1  # steps count from 0
    progress.update(task, total=run["planned_steps"], completed=done, note=note)


def _tell(console: Console, connection: Connection, run: dict[str, Any], shown: dict[str, tuple[str, str]]) -> None:
    """Print the incidents that are new, whole; and those that grew worse or are over, in a line."""
    for incident in reversed(connection.get("/incidents", run=run["id"], limit=200)["incidents"]):
        state, severity = shown.get(incident["id"], ("", ""))
        name = f"{incident['rule']} ({incident['metric'] or run['name']})"
        if not state:
            console.print(Padding(incidents.block(incident, of=run["name"]), (1, 0, 0, 2), expand=False))
        elif incident["state"] == "resolved" and state != "resolved":
            at = incident["resolved_step"]
            where = "" if at is None else f" at step {step(at)}"
            console.print(Text(f"\n  over{where}: {name}", style="dim"))
        elif incident["severity"] != severity:
            console.print(Text.assemble("\n  ", severity_text(incident["severity"]), f" now: {name}"))
        shown[incident["id"]] = (incident["state"], incident["severity"])
