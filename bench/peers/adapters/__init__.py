"""One small class per tracker, all with the same methods. A module of this folder is only imported in the tracker's
own environment, so it may import the tracker as soon as it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Agent", "load"]

Log = Callable[[dict[str, float], int], Any]
MODULES = {
    "holter": "holter_agent",
    "tensorboardX": "tensorboardx_files",
    "wandb": "wandb_offline",
    "trackio": "trackio_local",
    "mlflow": "mlflow_sqlite",
    "aim": "aim_repository",
}


class Agent:
    """Records one run below ``folder``. Another process may read it back from the same folder."""

    precision: ClassVar[str] = "float64"  # of stored values
    history_points: ClassVar[int] = 1_000_000  # of one series, as many as can be stored in a minute or so
    compared_steps: ClassVar[int] = 10_000  # of each of 50 runs with 4 metrics

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder, self.options = folder.resolve(), options

    def begin(self) -> Log:
        """Start the run, and give the call that logs ``(values, step)``, with as little as possible around it."""
        raise NotImplementedError

    def end(self) -> None:
        """End the run in order, with everything written."""
        raise NotImplementedError

    def read(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of each metric, by the documented way to read a run that may have been killed."""
        raise NotImplementedError

    # --- what only the benchmark of stores asks for ---------------------------------------------------------------

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        """Store a whole run in the quickest way that the tracker offers; ``values`` has the shape (steps, metrics)."""
        raise NotImplementedError

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every point of a metric."""
        raise NotImplementedError

    def view(self, run: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of the points that the tracker's page draws. Left out where there is no page."""
        raise NotImplementedError

    def compare(self, runs: Sequence[str], metrics: Sequence[str]) -> int:
        """Fetch what the page draws for many runs; how many points that is. Left out where there is no page."""
        raise NotImplementedError

    @classmethod
    def can(cls, name: str) -> bool:
        """Whether the tracker has its own method ``name``."""
        return getattr(cls, name) is not getattr(Agent, name)

    def remember(self, identity: str, run: str = "") -> None:
        (self.folder / f"identity{run}").write_text(identity)

    def identity_of(self, run: str = "") -> str:
        return (self.folder / f"identity{run}").read_text()


class Nothing(Agent):
    """A call that does nothing: what the measurement itself costs."""

    def begin(self) -> Log:
        return lambda _values, _step: None

    def end(self) -> None:
        """There is nothing to end."""


def load(name: str) -> type[Agent]:
    if name == "nothing":
        return Nothing
    found: type[Agent] = importlib.import_module(f"adapters.{MODULES[name]}").PEER
    return found
