"""What a verdict takes and gives: plain data, so that the arithmetic can be tested without a database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_server.verdict.intervals import Interval

__all__ = [
    "ALL_STATES",
    "Curve",
    "Difference",
    "Examples",
    "Gate",
    "Record",
    "Row",
    "Sides",
    "State",
    "Status",
    "Trouble",
    "Winner",
    "common_last_step",
    "config_differences",
    "flat",
    "matches",
    "pairs_of",
    "states_of",
]

Winner = Literal["baseline", "candidate", "tie", "undetermined"]
Status = Literal["ok", "INCOMPLETE", "NOT_EXERCISED", "NOT_APPLIED", "CONFOUNDED"]
State = Literal["better", "equivalent", "worse", "much_worse"]
ALL_STATES: tuple[State, ...] = ("better", "equivalent", "worse")
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

    def since(self, step: int) -> Curve:
        """The points at or after ``step``."""
        start = int(np.searchsorted(self.steps, step, side="left"))
        return Curve(self.steps[start:], self.times[start:], self.values[start:])

    def once(self) -> Curve:
        """The newest point of each step."""
        last = np.append(np.diff(self.steps) > 0, True)[: len(self.steps)]
        return self if last.all() else Curve(self.steps[last], self.times[last], self.values[last])


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """One evaluation, example by example: (n,) of how much there was to get right, and how much was."""

    weight: FloatArray
    score: FloatArray


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
    """One run. ``curves``: of what the criteria ask for; one writer's of each metric."""

    id: str
    project: str = ""
    name: str = ""
    state: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    running: bool = False
    planned_steps: int | None = None
    last_step: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    logged: frozenset[str] = frozenset()  # every metric's name, also of those without a curve here
    troubles: Sequence[Trouble] = ()
    evaluations: Mapping[str, Mapping[int, Examples]] = field(default_factory=dict)  # by metric and step

    @property
    def terminal(self) -> bool:
        return any(trouble.terminal for trouble in self.troubles)

    @property
    def seed(self) -> Any:
        """What the config calls the seed, or None."""
        found = [value for key, value in flat(self.config) if _is_seed(key)]
        return found[0] if found else None


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """What is compared: the runs, the common last step, and where the treatment enters.

    ``seeds``: runs a side below which run-to-run noise counts as unknown. ``seed``: of every bootstrap.
    """

    baseline: Sequence[Record]
    candidate: Sequence[Record]
    last: int | None
    entry: int | None = None
    seeds: int = 3
    seed: int = 0

    @property
    def everyone(self) -> list[Record]:
        return [*self.baseline, *self.candidate]

    @property
    def both(self) -> tuple[Sequence[Record], Sequence[Record]]:
        return self.baseline, self.candidate

    def pairs(self) -> list[tuple[Record, Record]] | None:
        return pairs_of(self.baseline, self.candidate)


@dataclass(frozen=True, slots=True)
class Difference:
    """A config key on which the sides differ; a list where one side's runs differ among themselves."""

    key: str
    baseline: Any
    candidate: Any
    declared: bool = False  # as part of the treatment


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the sides can be compared at all. ``blocks``: no verdict follows from what was compared."""

    status: Status
    reasons: tuple[str, ...] = ()
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ``difference`` and ``interval`` are candidate − baseline in the metric's unit or, where ``measure`` says so, a ratio
    candidate / baseline or a slowdown. ``states``: what may be true of the candidate; with one of them it is decided.
    """

    criterion: str
    kind: str
    metric: str
    baseline: float | None
    candidate: float | None
    difference: float | None
    states: tuple[State, ...]
    arithmetic: str
    interval: Interval | None = None
    measure: Literal["difference", "ratio", "slowdown"] = "difference"
    unit: str = ""
    needs: str = ""

    @property
    def assessment(self) -> str:
        return self.states[0] if len(self.states) == 1 else "undetermined"

    @property
    def winner(self) -> Winner:
        found = set(self.states)
        if found == {"better"}:
            return "candidate"
        if found == {"equivalent"}:
            return "tie"
        return "baseline" if found <= {"worse", "much_worse"} else "undetermined"


def states_of(estimate: float, interval: Interval | None, margin: float) -> tuple[State, ...]:
    """What may be true of a gain (positive is better), from its estimate and its interval.

    Better: the interval lies above 0 and the estimate reaches the margin. Worse: the same below. Equivalent: the
    interval lies within the margin. Otherwise every state that the interval reaches into.
    """
    if interval is None or not np.isfinite([interval.low, interval.high]).all():
        return ALL_STATES
    if -margin < interval.low and interval.high < margin:
        return ("equivalent",)
    if interval.low > 0 and estimate >= margin:
        return ("better",)
    if interval.high < 0 and estimate <= -margin:
        return ("worse",)
    reached: list[State] = []
    if interval.high >= margin:
        reached.append("better")
    if interval.low < margin and interval.high > -margin:
        reached.append("equivalent")
    if interval.low <= -margin:
        reached.append("worse")
    return tuple(reached) or ALL_STATES


def matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def common_last_step(records: Sequence[Record]) -> int | None:
    """The last step that every run has reached, or None where one has logged nothing."""
    steps = [record.last_step for record in records]
    known = [step for step in steps if step is not None]
    return min(known) if known and len(known) == len(steps) else None


def pairs_of(baseline: Sequence[Record], candidate: Sequence[Record]) -> list[tuple[Record, Record]] | None:
    """Runs of equal seeds, or None unless every run has its counterpart. One run a side is a pair."""
    if len(baseline) == len(candidate) == 1:
        return [(baseline[0], candidate[0])]
    old, new = ({repr(record.seed): record for record in side} for side in (baseline, candidate))
    unique = len(old) == len(baseline) and len(new) == len(candidate) and "None" not in old
    return [(old[seed], new[seed]) for seed in old] if unique and old.keys() == new.keys() else None


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings, with dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(
    baseline: Sequence[Record], candidate: Sequence[Record], treatment: Sequence[str] = (), ignore: Sequence[str] = ()
) -> list[Difference]:
    """Keys whose values are not the same on both sides, by name; seeds and the run's own name are left out."""
    sides = [[dict(flat(record.config)) for record in records] for records in (baseline, candidate)]
    found = []
    for key in sorted({key for side in sides for config in side for key in config}):
        if key in RUN_NAMES or _is_seed(key) or matches(key, ignore):
            continue
        old, new = (_distinct([config.get(key) for config in side]) for side in sides)
        if old.keys() != new.keys():
            found.append(Difference(key, _shown(old), _shown(new), matches(key, treatment)))
    return found


def _is_seed(key: str) -> bool:
    last = key.rpartition(".")[2].lower()
    return last == "seed" or last.endswith("_seed")


def _distinct(values: Sequence[Any]) -> dict[str, Any]:
    return {repr(value): value for value in values}  # lists and NaN can't be members of a set, or equal nothing


def _shown(values: Mapping[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else list(values.values())
