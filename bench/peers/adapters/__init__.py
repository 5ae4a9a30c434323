"""One small class per tracker, all with the same methods. A module of this folder is only imported in the tracker's
own environment, so it may import the tracker as soon as it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
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

    def remember(self, identity: str) -> None:
        (self.folder / "identity").write_text(identity)

    @property
    def identity(self) -> str:
        return (self.folder / "identity").read_text()


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
