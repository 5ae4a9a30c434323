"""The corpus: ``manifest.json`` beside ``series/*.csv``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from holter.logfiles import LogFile, read_log

__all__ = ["Entry", "load_entries"]


@dataclass(frozen=True)
class Entry:
    """One log with its label."""

    id: str
    path: Path
    label: str  # healthy, nan, explosion, divergence, spike, grad_explosion, plateau, overfit, other
    sure: bool
    source: str  # logs of one source are alike
    onset_step: float | None

    @cached_property
    def log(self) -> LogFile:
        return read_log(self.path)

    @property
    def healthy(self) -> bool:
        return self.label == "healthy"

    @property
    def rows(self) -> int:
        return len(self.log.rows)

    @cached_property
    def onset(self) -> int | None:
        """The row at which the sickness begins."""
        if self.onset_step is None:
            return None
        steps = [row.step for row in self.log.rows]
        exact = next((index for index, step in enumerate(steps) if step == self.onset_step), None)
        later = (index for index, step in enumerate(steps) if step >= (self.onset_step or 0))
        return next(later, len(steps) - 1) if exact is None else exact


def load_entries(folder: Path) -> list[Entry]:
    """The entries of the open half, in the manifest's order.

    Raises:
        SystemExit: there is no corpus.
    """
    manifest = folder / "manifest.json"
    if not manifest.exists():
        raise SystemExit(f"There is no corpus in {folder}: name its folder, or set HOLTER_CORPUS")
    entries = json.loads(manifest.read_text(encoding="utf-8"))["entries"]
    return [
        Entry(
            entry["id"],
            folder / entry["file"],
            entry["label"],
            entry["confidence"] == "sure",
            entry["group"],
            None if entry["onset_step"] is None else float(entry["onset_step"]),
        )
        for entry in entries
    ]
