"""What a comparison takes and gives: plain data, so that the arithmetic can be tested without a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from holter.wire import FloatArray, IntArray

__all__ = [
    "Curve",
    "Difference",
    "Gate",
    "Record",
    "Row",
    "Trouble",
    "Winner",
    "common_last_step",
    "config_differences",
]

Winner = Literal["baseline", "candidate", "tie", "undetermined"]
Status = Literal["ok", "INCOMPLETE", "CONFOUNDED", "NOT_APPLIED"]
RUN_NAMES = ("name", "run_name", "run.name")  # only at the top: optimizer.name is a treatment


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One metric of one run without superseded points, ordered by step. Shapes (n,); ``times`` in seconds UTC."""

    steps: IntArray
    times: FloatArray
    values: FloatArray

    def until(self, step: int) -> Curve:
        """The points at or before ``step``."""
        end = int(np.searchsorted(self.steps, step, side="right"))
        return Curve(self.steps[:end], self.times[:end], self.values[:end])


@dataclass(frozen=True, slots=True)
class Trouble:
    """One incident of a run."""

    kind: str
    severity: str
    metric: str
    step: int | None  # at which it opened
    terminal: bool = False  # non-finite of class C from which the run did not come back


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One run. ``curves``: of losses, accuracies, step times and memory; one writer's of each metric."""

    id: str
    project: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    running: bool = False
    planned_steps: int | None = None
    last_step: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    logged: frozenset[str] = frozenset()  # every metric's name, also of those without a curve here
    troubles: Sequence[Trouble] = ()

    @property
    def terminal(self) -> bool:
        return any(trouble.terminal for trouble in self.troubles)

    @property
    def seed(self) -> Any:
        """What the config calls the seed, or None."""
        found = [value for key, value in flat(self.config) if _is_seed(key)]
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Difference:
    """A config key on which the sides differ; a list where one side's runs differ among themselves."""

    key: str
    baseline: Any
    candidate: Any


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the sides can be compared at all."""

    status: Status
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``difference`` is candidate − baseline, for speed the candidate's gain in percent."""

    criterion: Literal["stability", "accuracy", "loss", "speed", "memory"]
    metric: str
    baseline: float | None
    candidate: float | None
    difference: float | None
    winner: Winner
    arithmetic: str


def common_last_step(records: Sequence[Record]) -> int | None:
    """The last step that every run has reached, or None where one has logged nothing."""
    steps = [record.last_step for record in records]
    known = [step for step in steps if step is not None]
    return min(known) if known and len(known) == len(steps) else None


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings, with dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(baseline: Sequence[Record], candidate: Sequence[Record]) -> list[Difference]:
    """Keys whose values are not the same on both sides, by name; seeds and the run's own name are left out."""
    sides = [[dict(flat(record.config)) for record in records] for records in (baseline, candidate)]
    found = []
    for key in sorted({key for side in sides for config in side for key in config}):
        if key in RUN_NAMES or _is_seed(key):
            continue
        old, new = (_distinct([config.get(key) for config in side]) for side in sides)
        if not _same(old, new):
            found.append(Difference(key, _shown(old), _shown(new)))
    return found


def _is_seed(key: str) -> bool:
    last = key.rpartition(".")[2].lower()
    return last == "seed" or last.endswith("_seed")


def _distinct(values: Sequence[Any]) -> dict[str, Any]:
    return {repr(value): value for value in values}  # lists and NaN can't be members of a set, or equal nothing


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return old.keys() == new.keys()


def _shown(values: Mapping[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else list(values.values())
