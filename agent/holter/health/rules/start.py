"""A loss that goes up from its very first records, where no baseline knows a level yet."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.baseline import ACTIVE_FROM
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["ExplosionAtStart"]

Count = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(gt=1)]
JUMP_FROM = 2  # values before a jump


class Series(msgspec.Struct, array_like=True):
    """One metric: its first value, and how long it has been far above it."""

    first: float = 0.0
    seen: int = 0
    streak: int = 0
    largest: float = 0.0  # so far, without those of a jump
    jumped: int = 0  # values in a row far above the largest one before
    limit: float = 0.0  # what it has to come back to, while open
    open: bool = False
    back: int = 0
    off: bool = False  # it has been negative or began at 0, or has had its incident


class StartState(State):
    """Memory of `ExplosionAtStart`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class ExplosionAtStart(Check, frozen=True, kw_only=True):
    """Fires when `points` in a row of the first `within` values are above `ratio` times the first one.

    It stands in for an absolute limit: loss > 10 alarms on 41 of 134 healthy logs. Among the first 10 values, from the
    third on, it also fires on one above `jump` times the largest so far, or on two in a row above `jump_pair` times: no
    healthy log that was looked at has one above 2 times, or two in a row above 1.3 times.
    """

    kind: ClassVar[Kind] = "explosion"
    memory: ClassVar[type[State]] = StartState

    ratio: Ratio = 1.5
    points: Count = 12
    within: Count = 60
    jump: Ratio = 10.0
    jump_pair: Ratio = 3.0
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
                    self._open_above_first(series, memory, index)
                elif memory.jumped and self._has_jumped(memory, value):
                    self._open_jump(series, memory, index)

    def _count(self, memory: Series, value: float) -> None:
        if value <= 0:
            memory.off = value < 0 or memory.seen == 0
            memory.streak = memory.jumped = 0
            return
        memory.first = memory.first if memory.seen else value
        known = JUMP_FROM <= memory.seen < ACTIVE_FROM or memory.jumped
        memory.seen += 1
        memory.streak = memory.streak + 1 if value > self.ratio * memory.first else 0
        if known and value > self.jump_pair * memory.largest:
            memory.jumped += 1
        else:
            memory.jumped, memory.largest = 0, max(memory.largest, value)

    def _has_jumped(self, memory: Series, value: float) -> bool:
        return memory.jumped >= 2 or value > self.jump * memory.largest

    def _open_above_first(self, series: FiniteSeries, memory: Series, index: int) -> None:
        limit = self.ratio * memory.first
        text = (
            f"{series.name} is {number(series.values[index])} at step {series.step(index)} and has been above "
            f"{number(limit)} for {memory.streak} records: {number(self.ratio)} times its first value "
            f"{number(memory.first)}"
        )
        formula = f"value > {number(self.ratio)} x first value, {self.points} records in a row"
        memory.limit = memory.first
        self._open(series, memory, index, text, formula=formula, threshold=limit)

    def _open_jump(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value = float(series.values[index])
        text = (
            f"{series.name} is {number(value)} at step {series.step(index)}: {number(value / memory.largest)} times "
            f"the largest of its {memory.seen - memory.jumped} values before, {number(memory.largest)}"
        )
        formula = f"value > {number(self.jump)} x largest before, or 2 in a row > {number(self.jump_pair)} x"
        memory.limit = memory.largest
        self._open(series, memory, index, text, formula=formula, threshold=self.jump_pair * memory.largest)

    @staticmethod
    def _open(series: FiniteSeries, memory: Series, index: int, text: str, *, formula: str, threshold: float) -> None:
        value = float(series.values[index])
        memory.open = True
        evidence: dict[str, Any] = {
            "formula": formula,
            "first": memory.first,
            "ratio": value / memory.limit,
            "records": max(memory.streak, memory.jumped),
        }
        series.sign("open", index, text, threshold=threshold, baseline=memory.limit, evidence=evidence)

    def _until_back(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value = float(series.values[index])
        memory.back = memory.back + 1 if value <= memory.limit else 0
        if memory.back < self.recover_for:
            return
        memory.open, memory.off = False, True
        text = f"{series.name} is {number(value)} at step {series.step(index)}, not above {number(memory.limit)} any "
        series.sign("resolve", index, f"{text}more", baseline=memory.limit)
