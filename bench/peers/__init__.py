"""Other trackers beside Holter: an environment of its own for each, and measurements in processes of their own.

A benchmark imports this module; `worker.py` and `adapters/` run in the trackers' environments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["PEERS", "Absent", "Failed", "Tracker", "add_options", "end_marked", "find_peers", "marked", "measure"]

HERE = Path(__file__).parent
PEERS = ("tensorboardX", "wandb", "trackio", "mlflow", "aim")
MARK = "HOLTER_BENCH_MARK"
QUIET = {
    "OPENBLAS_NUM_THREADS": "1",  # the work of a step stays on one processor
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HOLTER_QUIET": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "AIM_UI_TELEMETRY_ENABLED": "0",
}


class Failed(Exception):
    """A measurement ended without a result."""


@dataclass(frozen=True)
class Absent:
    """A peer that can't be measured here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Tracker:
    """Something that logs, with the interpreter that has it installed."""

    name: str
    python: str
    version: str
    options: dict[str, Any] = field(default_factory=dict)
    peer: str = ""  # the adapter's name, where it differs

    @property
    def adapter(self) -> str:
        return self.peer or self.name


def default_venvs() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holter-bench" / "venvs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark with peers takes."""
    parser.add_argument("--peers", default="all", help=f"all, none, or names with commas: {', '.join(PEERS)}")
    parser.add_argument("--venvs", type=Path, metavar="DIR", help=f"the peers' environments ({default_venvs()})")
    parser.add_argument("--install", action="store_true", help="make environments that are not there yet, with pip")


def versions(found: list[Tracker | Absent]) -> dict[str, str]:
    return {peer.name: peer.version for peer in found if isinstance(peer, Tracker)}


def find_peers(asked: str, venvs: Path | None, install: bool) -> list[Tracker | Absent]:
    """The peers ``asked`` for ("all", "none", or names with commas), made ready with ``install``."""
    names = {"all": list(PEERS), "none": []}.get(asked, asked.split(","))
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise SystemExit(f"No such peer: {', '.join(unknown)}. There are: {', '.join(PEERS)}, all, none.")
    return [_find(name, (venvs or default_venvs()).resolve(), install) for name in names]


def _find(name: str, venvs: Path, install: bool) -> Tracker | Absent:
    python = venvs / name / "bin" / "python"
    version = _version(python, name)
    if version is None and install:
        problem = _install(name, venvs / name)
        if problem:
            return Absent(name, problem)
        version = _version(python, name)
    if version is None:
        return Absent(name, f"not installed below {venvs}; --install does it")
    return Tracker(name, str(python), version)


def _install(name: str, venv: Path) -> str | None:
    """Why it could not be installed, or None."""
    print(f"Installing {name} …", flush=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = HERE / "requirements" / f"{name}.txt"
    for command in ([sys.executable, "-m", "venv", str(venv)], [*pip, "--requirement", str(requirements)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            return f"could not be installed: {lines[-1]}"
    return None


def _version(python: Path, name: str) -> str | None:
    code = f"import importlib.metadata as m, numpy, psutil; print(m.version({name!r}))"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(home: Path, mark: str = "") -> dict[str, str]:
    """What a measured process sees: no setting of the person who runs the benchmark, and a home of its own."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("HOLTER_", "WANDB_", "MLFLOW_"))}
    return kept | QUIET | {"HOME": str(home), MARK: mark, "PYTHONUNBUFFERED": "1"}


def measure(tracker: Tracker, task: str, folder: Path, timeout_s: float = 300.0, **options: Any) -> dict[str, Any]:
    """The result of one worker process, whatever way it ended. Its helpers are left alone; see `marked`.

    Raises:
        Failed: there is no result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    given = json.dumps({**tracker.options, **options})
    worker = str(HERE / "worker.py")
    command = [tracker.python, worker, tracker.adapter, task, str(folder), given]
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder, mark_of(folder)), stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if not result.exists():
        tail = (folder / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise Failed(f"{tracker.name}, {task}: exit status {process.returncode}; {' '.join(tail)[-300:]}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def mark_of(folder: Path) -> str:
    """The same for every process that belongs to one measurement's folder."""
    return uuid.uuid5(uuid.NAMESPACE_URL, str(folder.resolve())).hex


def marked(folder: Path) -> list[psutil.Process]:
    """Processes that a worker of ``folder`` has started and left behind."""
    mark, found = mark_of(folder), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_marked(folder: Path) -> int:
    """End what a worker of ``folder`` has left behind; how many there were."""
    left = marked(folder)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    return len(left)
