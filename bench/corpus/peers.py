"""Other tools on the same logs, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.entries import Entry
from corpus.scoring import Alarm, Outcome, outcome_of

__all__ = ["NOT_RUN", "PEERS", "Absent", "peer_outcomes"]

ADAPTERS = Path(__file__).parent / "adapters"
PEERS = {"losslint": "losslint==0.4.1", "trainpulse": "trainpulse==0.4.0"}
NOT_RUN = {
    "trainwatch": "hooks into a torch training; it takes no log",
    "stabilityguard": "hooks into a torch training; it takes no log",
    "trainwatcher": "sends mail and Telegram messages from within the loop; its three rules are in detection.md",
}


@dataclass(frozen=True)
class Absent:
    """A tool that could not be run, and why."""

    name: str
    reason: str


def peer_outcomes(name: str, entries: Sequence[Entry]) -> dict[str, list[Outcome]] | Absent:
    """The outcomes of each of the tool's modes."""
    python = _environment(name)
    if isinstance(python, Absent):
        return python
    logs = {entry.id: str(entry.path) for entry in entries}
    run = subprocess.run(
        [python, str(ADAPTERS / f"{name}_logs.py")],
        input=json.dumps(logs), capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    if run.returncode:
        return Absent(name, run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit {run.returncode}")
    told: dict[str, dict[str, list[list[str]]]] = json.loads(run.stdout)
    return {
        f"{name} {mode}": [
            outcome_of(entry, [Alarm(int(row), kind, severity) for row, kind, severity in alarms[entry.id]])
            for entry in entries
        ]
        for mode, alarms in told.items()
    }


def _environment(name: str) -> str | Absent:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "holter-bench" / "venvs" / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", PEERS[name]]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        return Absent(name, f"pip could not install {PEERS[name]}: {done.stderr.strip().splitlines()[-1]}")
    return str(python)
