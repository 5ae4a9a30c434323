"""A part of the loss that is the same number, to the bit, in most of its records: no gradient comes from it."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, FloatArray, Scan, Sign, State, maybe_rounded, number

__all__ = ["Dead"]


class Series(msgspec.Struct, array_like=True):
    """One metric: its newest value, and the window of records that is being filled."""

    last: float = math.nan
    filled: int = 0
    stuck: float = math.nan  # the first value of the window that equals the one before, to the bit
    same: int = 0  # values of the window that equal it
    began: int = 0  # the step of the window's first record
    open: bool = False

    def take(self, value: float, scan: Scan) -> None:
        """The value of a single record that does not fill the window."""
        if value == 0:
            return
        if self.filled == 0:
            self.began = scan.step(0)
        if value == self.last and math.isnan(self.stuck):
            self.stuck, self.same = value, 1
        self.same += value == self.stuck
        self.filled, self.last = self.filled + 1, value


class DeadState(State):
    """Memory of `Dead`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Dead(Check, frozen=True, kw_only=True):
    """Fires when at least `share` of a window of `records` values are one number, to the bit.

    Zeros don't count: a part of weight 0 is switched off, not dead. A clamped loss need not stand still in every
    record: the real one (`clamp`) had no 80 equal records in a row, but 93 % of its values were the limit. An epoch's
    loss that is repeated on each of its rows is many numbers, each for a while; a small number with one or two digits
    may be many that were rounded when they were written. Resolves after a window in which less than half as many are.
    """

    kind: ClassVar[Kind] = "dead"
    memory: ClassVar[type[State]] = DeadState

    records: Annotated[int, Meta(ge=2)] = 200
    share: Annotated[float, Meta(gt=0, le=1)] = 0.75

    def observe(self, scan: Scan, state: DeadState, signs: list[Sign]) -> None:
        one = scan.few if scan.rows == 1 else None
        for column in scan.columns:
            memory = state.series.get(scan.names[column])
            if memory is None:
                memory = state.series[scan.names[column]] = Series()
            if one is not None and scan.finite[column] and memory.filled + 1 < self.records:
                memory.take(one[column][0], scan)
                continue
            series = scan.series(column, signs)
            if series.few is not None:
                self._fill_few(series, memory)
                continue
            zeros = series.values == 0
            if zeros.any():
                series = series.at(np.flatnonzero(~zeros))
            if len(series.values):
                self._fill(series, memory)

    def _fill_few(self, series: FiniteSeries, memory: Series) -> None:
        """As `_fill`, without what a block costs."""
        for index, value in enumerate(series.tolist()):
            if value == 0:
                continue
            if memory.filled == 0:
                memory.began = series.step(index)
            if math.isnan(memory.stuck) and value == memory.last:
                memory.stuck, memory.same = value, 1
            memory.same += value == memory.stuck
            memory.filled, memory.last = memory.filled + 1, value
            if memory.filled == self.records:
                self._judge(series, memory, index)
                memory.filled, memory.same, memory.stuck = 0, 0, math.nan

    def _fill(self, series: FiniteSeries, memory: Series) -> None:
        start = 0
        while start < len(series.values):
            if memory.filled == 0:
                memory.began = series.step(start)
            stop = min(start + self.records - memory.filled, len(series.values))
            self._count(series.values[start:stop], memory)
            memory.filled += stop - start
            if memory.filled == self.records:
                self._judge(series, memory, stop - 1)
                memory.filled, memory.same, memory.stuck = 0, 0, math.nan
            start = stop

    @staticmethod
    def _count(values: FloatArray, memory: Series) -> None:
        if math.isnan(memory.stuck):
            repeated = np.flatnonzero(values == np.concatenate([[memory.last], values[:-1]]))
            if len(repeated):
                # The one before it may belong to the window before: that is one value of 200 too many.
                memory.stuck, memory.same = float(values[repeated[0]]), 1
                memory.same += int(np.count_nonzero(values[repeated[0] :] == memory.stuck))
        else:
            memory.same += int(np.count_nonzero(values == memory.stuck))
        memory.last = float(values[-1])

    def _judge(self, series: FiniteSeries, memory: Series, index: int) -> None:
        share = memory.same / self.records
        if memory.open == (share >= (self.share / 2 if memory.open else self.share)):
            return
        if not memory.open and maybe_rounded(memory.stuck):
            return
        memory.open = not memory.open
        value = number(series.values[index])
        often = f"in {memory.same} of its last {self.records} records, since step {memory.began}"
        if memory.open:
            text = f"{series.name} is {number(memory.stuck)}, to the bit, {often}"
        else:
            text = f"{series.name} moves again: it was one and the same number only {often}, and is {value}"
        evidence: dict[str, Any] = {
            "formula": f"share of values that are one number, to the bit, >= {self.share:g}",
            "share": share,
            "records": self.records,
            "since_step": memory.began,
        }
        series.sign("open" if memory.open else "resolve", index, text, threshold=self.share, evidence=evidence)
