"""A loss that goes up from its very first records, where no baseline knows a level yet."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["ExplosionAtStart"]

Count = Annotated[int, Meta(ge=1)]


class Series(msgspec.Struct, array_like=True):
    """One metric: its first value, and how long it has been far above it."""

    first: float = 0.0
    seen: int = 0
    streak: int = 0
    open: bool = False
    back: int = 0
    off: bool = False  # it has been negative or began at 0, or has had its incident


class StartState(State):
    """Memory of `ExplosionAtStart`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class ExplosionAtStart(Check, frozen=True, kw_only=True):
    """Fires when `points` in a row of the first `within` values are above `ratio` times the first one.

    It stands in for an absolute limit: loss > 10 alarms on 41 of 134 healthy logs.
    """

    kind: ClassVar[Kind] = "explosion"
    memory: ClassVar[type[State]] = StartState

    ratio: Annotated[float, Meta(gt=1)] = 1.5
    points: Count = 12
    within: Count = 60
    recover_for: Count = 5

    def observe(self, scan: Scan, state: StartState, signs: list[Sign]) -> None:
        for column in scan.columns:
            memory = state.series.setdefault(scan.names[column], Series())
            if memory.open or not (memory.off or memory.seen >= self.within):
                self._watch(scan.series(column, signs), memory)

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        for index, value in enumerate(series.values.tolist()):
            if memory.open:
                self._until_back(series, memory, index)
            elif not memory.off and memory.seen < self.within:
                self._count(memory, value)
                if memory.streak >= self.points:
                    self._open(series, memory, index)

    def _count(self, memory: Series, value: float) -> None:
        if value <= 0:
            memory.off = value < 0 or memory.seen == 0
            memory.streak = 0
            return
        memory.first = memory.first if memory.seen else value
        memory.seen += 1
        memory.streak = memory.streak + 1 if value > self.ratio * memory.first else 0

    def _open(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value, limit = float(series.values[index]), self.ratio * memory.first
        memory.open = True
        text = (
            f"{series.name} is {number(value)} at step {series.step(index)} and has been above {number(limit)} for "
            f"{memory.streak} records: {number(self.ratio)} times its first value {number(memory.first)}"
        )
        evidence: dict[str, Any] = {
            "formula": f"value > {number(self.ratio)} x first value, {self.points} records in a row",
            "first": memory.first,
            "ratio": value / memory.first,
            "records": memory.streak,
        }
        series.sign("open", index, text, threshold=limit, baseline=memory.first, evidence=evidence)

    def _until_back(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value = float(series.values[index])
        memory.back = memory.back + 1 if value <= memory.first else 0
        if memory.back < self.recover_for:
            return
        memory.open, memory.off = False, True
        text = f"{series.name} is {number(value)} at step {series.step(index)}, not above its first value "
        series.sign("resolve", index, text + number(memory.first), baseline=memory.first)
