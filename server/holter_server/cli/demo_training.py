"""The demo's trainings: where they are, and one of them as a process."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from holter_server.cli.failure import Failure

__all__ = ["RECIPES", "Plan", "Training", "check_installed", "find_examples", "recipe_names", "start"]

RECIPES = ("healthy_new", "precursor_x100", "nan_empty_spectra")

_GRACE = 10.0  # seconds for a training to end after it was interrupted


@dataclass(frozen=True)
class Plan:
    """What the demo is to train, and the folder that keeps what it leaves."""

    recipes: list[str]
    steps: int | None  # None: as many as the recipe says
    examples: Path
    folder: Path


@dataclass(frozen=True)
class Training:
    """One training under way. Its output goes to ``log``, so that the terminal stays readable."""

    recipe: str
    arguments: list[str]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def exit_status(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        """Interrupt it, as Ctrl-C would, and see that it is gone."""
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.ended:
                return
            self.process.send_signal(stop)
            try:
                self.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue

    def last_lines(self, count: int = 12) -> str:
        """The end of its output: where a traceback is."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, count)).rstrip()


def find_examples() -> Path:
    """``examples/denovo`` below the working directory, or in the source tree that this module stands in."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        folder = root / "examples" / "denovo"
        if (folder / "scripts").is_dir():
            return folder
    raise Failure(
        "The demo's trainings, examples/denovo, are not here: they come with Holter's source, not with the package",
        "Get the source and run `make demo` in it, or run `holter demo` in a folder that has examples/denovo",
    )


def check_installed() -> None:
    """A `Failure` unless the trainings' own libraries are there."""
    missing = [name for name in ("torch", "pyteomics") if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"The demo's trainings need {' and '.join(missing)}", 'pip install "holter[examples]"')


def recipe_names(examples: Path) -> list[str]:
    """Every recipe that there is a config for."""
    return sorted({path.stem for path in (examples / "configs").glob("*/*.yaml")})


def _config(recipe: str, examples: Path) -> str:
    """The recipe's short form for demos where it has one, otherwise its full one."""
    short = examples / "configs" / "demo" / f"{recipe}.yaml"
    return f"demo/{recipe}" if short.is_file() else f"recipes/{recipe}"


def start(recipe: str, plan: Plan, url: str) -> Training:
    """Start a training that streams to the service at ``url``; what it leaves goes into the plan's folder."""
    arguments = ["--config", _config(recipe, plan.examples), "--output", str(plan.folder / recipe)]
    if plan.steps is not None:
        # The curriculum shrinks with the training, or a short one would end before the losses that make it ill enter.
        arguments += ["--max_steps", str(plan.steps), "--set", "training.curriculum_scale=auto"]
    log = plan.folder / f"{recipe}.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this program first, which then ends the training in good order.
        process = subprocess.Popen(
            [sys.executable, "scripts/train_gaussian_losses.py", *arguments],
            cwd=plan.examples,
            env=_environment(url, plan.folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Training(recipe, arguments, process, log)


def _environment(url: str, folder: Path) -> dict[str, str]:
    """This process's environment, but with the demo's own service and none of the settings for another one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLTER_")}
    return kept | {"HOLTER_URL": url, "HOLTER_DIR": str(folder / "agent"), "PYTHONUNBUFFERED": "1"}
