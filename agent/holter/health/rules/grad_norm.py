"""Gradient norms: an excursion of their own, and one that starts out far too large."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import FiniteSeries, Scan, Sign, State, number
from holter.health.rules.excursion import Count, Deviations, Excursion, ExcursionState, Ratio

__all__ = ["GradNorm"]


class Start(msgspec.Struct, array_like=True):
    """The first values of one metric."""

    seen: int = 0
    smallest: float = math.inf
    open: bool = False
    back: int = 0


class GradNormState(ExcursionState):
    """Memory of `GradNorm`."""

    starts: dict[str, Start] = msgspec.field(default_factory=dict)


class GradNorm(Excursion, frozen=True, kw_only=True):
    """Fires on `points` values in a row above `ratio` times the median, or when the first `start_points` are all huge.

    Single spikes are normal, and clipped. An absolute limit would not do: 15 of 28 healthy logs exceed 5.
    """

    kind: ClassVar[Kind] = "grad_norm"
    memory: ClassVar[type[State]] = GradNormState

    ratio: Ratio = 10.0
    z: Deviations = 6.0
    explosion: Ratio = 10.0
    points: Count = 3
    single_ratio: Ratio | None = None
    critical_after: Count | None = None
    start_above: Annotated[float, Meta(gt=0)] = 1000.0
    start_points: Count = 5

    def observe(self, scan: Scan, state: GradNormState, signs: list[Sign]) -> None:  # type: ignore[override]
        super().observe(scan, state, signs)
        for column in scan.columns:
            start = state.starts.setdefault(scan.names[column], Start())
            if start.open or start.seen < self.start_points:
                self._watch_start(scan.series(column, signs), start)

    def _watch_start(self, series: FiniteSeries, start: Start) -> None:
        for index, value in enumerate(series.values.tolist()):
            if start.open:
                self._until_back(series, start, index)
            elif start.seen < self.start_points:
                start.seen += 1
                start.smallest = min(start.smallest, value)
                if start.seen == self.start_points and start.smallest > self.start_above:
                    self._open_start(series, start, index)

    def _open_start(self, series: FiniteSeries, start: Start, index: int) -> None:
        start.open = True
        text = (
            f"The first {self.start_points} values of {series.name} are all above {number(self.start_above)}; "
            f"it is {number(series.values[index])} at step {series.step(index)}"
        )
        evidence = {"smallest": start.smallest, "values": start.seen, "formula": "min of the first values > threshold"}
        subject = f"{series.name} at the start"
        series.sign("open", index, text, subject=subject, threshold=self.start_above, evidence=evidence)

    def _until_back(self, series: FiniteSeries, start: Start, index: int) -> None:
        start.back = start.back + 1 if series.values[index] <= self.start_above / 10 else 0
        if start.back < self.recover_for:
            return
        start.open = False
        text = f"{series.name} has come down to {number(series.values[index])} at step {series.step(index)}"
        series.sign("resolve", index, text, subject=f"{series.name} at the start")
