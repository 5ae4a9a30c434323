"""The one contract that every check keeps: parameters are its fields, memory is a value, signs are what it sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from holter.health.model import Action, Facts, Kind, Severity, Vitals
from holter.health.roles import Role

__all__ = ["FEW", "Check", "FiniteSeries", "FloatArray", "Progress", "Scan", "Sign", "State", "maybe_rounded", "number"]

FloatArray = NDArray[np.float64]
FEW = 32  # records that are faster looked at one by one, in lists
SMALL = 0.1  # below it, two decimals more or less are digits that matter


class State(msgspec.Struct):
    """What a check remembers of one writer (or of the run): msgpack can write it and read it back exactly."""


class Progress(msgspec.Struct):
    """How the run's steps advance: kept by the engine for the checks that look at the clock."""

    step: int | None = None
    time: float | None = None  # of the newest record, by the training's clock
    gaps: list[float] = []  # seconds between the last 64 steps that were logged
    records: int = 0
    moved: bool = False  # since the last tick
    moved_at: float | None = None  # by the service's clock


@dataclass(frozen=True, slots=True)
class Sign:
    """Something a check has seen in one row: the engine makes it a transition of the incident about ``subject``."""

    action: Action
    metric: str
    message: str
    row: int = 0
    subject: str = ""  # one incident at a time is open for each rule, writer and subject; "" stands for the metric
    severity: Severity | None = None  # None: the rule's
    kind: Kind | None = None  # None: the check's
    value: float | None = None
    threshold: float | None = None
    baseline: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


# Not frozen, as the next one: both are made for each rule and batch, and freezing makes that four times as slow.
@dataclass(slots=True)
class Scan:
    """Records of one writer as a check sees them: ``m`` metrics, ``n`` rows.

    ``steps`` (n,) int64, ``times`` (n,) seconds, ``values`` (m, n) with each metric's values side by side, ``finite``
    (m,): whether all of a metric's values are. ``few``: the values as lists where there are at most 32 rows, since
    numpy takes longer for one value than a list for thirty. ``columns`` are the metrics that the rule asks for,
    ``ranks`` the index of the pattern that chose each.
    """

    writer: str
    names: tuple[str, ...]
    roles: tuple[Role, ...]
    steps: NDArray[np.int64]
    times: FloatArray
    values: FloatArray
    finite: list[bool]
    columns: tuple[int, ...]
    ranks: tuple[int, ...]
    facts: Facts
    few: list[list[float]] | None = None

    @property
    def rows(self) -> int:
        return len(self.steps)

    def step(self, row: int) -> int:
        return int(self.steps[row])

    def series(self, column: int, signs: list[Sign]) -> FiniteSeries:
        """The finite values of a column, and where what is seen in them goes."""
        values = self.values[column]
        if self.finite[column]:
            few = None if self.few is None else self.few[column]
            return FiniteSeries(self, self.names[column], values, None, signs, few)
        rows = np.flatnonzero(np.isfinite(values))
        return FiniteSeries(self, self.names[column], values[rows], rows, signs)


@dataclass(slots=True)
class FiniteSeries:
    """One metric's finite values in a scan: ``values`` (k,), at ``rows`` (k,) of it (None: at all of its rows)."""

    scan: Scan
    name: str
    values: FloatArray
    rows: NDArray[np.intp] | None
    signs: list[Sign]
    few: list[float] | None = None

    def tolist(self) -> list[float]:
        """The values as a list, not to be changed."""
        return self.values.tolist() if self.few is None else self.few

    def lowest(self) -> float:
        """The lowest of at least one value."""
        return float(self.values.min()) if self.few is None else min(self.few)

    def fresh(self, last: float) -> FiniteSeries:
        """The values that differ from those before them; ``last`` is the one before the first."""
        values = self.values
        if self.few is not None and self.few[0] != last and all(one != other for one, other in pairwise(self.few)):
            return self
        different = values != np.concatenate([[last], values[:-1]])
        return self if different.all() else self.at(np.flatnonzero(different))

    def row(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def step(self, index: int) -> int:
        return self.scan.step(self.row(index))

    def part(self, start: int, stop: int) -> FiniteSeries:
        """The values from ``start`` to ``stop - 1``."""
        return self.at(np.arange(start, stop))

    def at(self, indices: NDArray[np.intp]) -> FiniteSeries:
        """The values at these indices."""
        rows = indices if self.rows is None else self.rows[indices]
        return FiniteSeries(self.scan, self.name, self.values[indices], rows, self.signs)

    def sign(self, action: Action, index: int, message: str, **more: Any) -> None:
        """Say that something was seen at the value at ``index``; ``more`` are further fields of the `Sign`."""
        more.setdefault("value", float(self.values[index]))
        self.signs.append(Sign(action, self.name, message, row=self.row(index), **more))


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way of looking at a run. Subclasses are frozen; their fields are the parameters that rule files set.

    A check of scope "writer" has a state for each writer, one of scope "run" has one for the run.

    A check sees each record once, in order, however the records were cut into scans; all that it remembers is in the
    state, whose size depends on the number of metrics and not on the number of records.
    """

    kind: ClassVar[Kind]
    scope: ClassVar[Literal["writer", "run"]] = "writer"
    memory: ClassVar[type[State]] = State

    def concerns(self, roles: Sequence[Role]) -> bool:  # noqa: ARG002 - for those that need several metrics at once
        """Whether records matter to it in which the metrics that its rule asks for have these roles."""
        return True

    def observe(self, scan: Scan, state: Any, signs: list[Sign]) -> None:
        """Look at the records of ``scan``, change ``state`` in place, append what was seen to ``signs``."""

    def tick(self, vitals: Vitals, progress: Progress, state: Any, signs: list[Sign]) -> None:
        """Look at the clock: the same, for what is not in the records."""

    def wake(self, vitals: Vitals, progress: Progress, state: Any) -> float:  # noqa: ARG002
        """The first moment of the service's clock at which `tick` may see or change something, if nothing new is heard.

        Until then nobody needs to call it. A check that has a `tick` and says nothing here is called every time.
        """
        return math.inf if type(self).tick is Check.tick else -math.inf


def number(value: float) -> str:
    """A number as messages show it: four significant digits.

    >>> number(5.38123), number(float("inf"))
    ('5.381', '+Inf')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.4g}"


def maybe_rounded(value: float) -> bool:
    """Whether a small number may have lost its digits when it was written: 0.0003 may be anything from 0.00025 on.

    >>> maybe_rounded(0.0003), maybe_rounded(0.000312), maybe_rounded(100.0)
    (True, False, False)
    """
    return abs(value) < SMALL and len(f"{abs(value):.12g}".split("e")[0].replace(".", "").strip("0")) <= 2
