"""A metric beyond a fixed limit, in a share of its last records."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, FloatArray, Scan, Sign, State, number

__all__ = ["Limit"]

Window = Annotated[int, Meta(ge=1, le=64)]  # bits of an integer that msgpack can hold
Share = Annotated[float, Meta(ge=0, le=1)]


class Series(msgspec.Struct, array_like=True):
    """One metric: its last records as bits, newest lowest; while open, what has been seen since."""

    beyond: int = 0
    not_clear: int = 0
    open: bool = False
    since: int = 0  # the step at which it opened
    records: int = 0  # since it opened
    peak: float = 0.0  # the largest excess
    told: float = 0.0  # the excess that the last transition spoke of


class LimitState(State):
    """Memory of `Limit`."""

    rank: int | None = None  # of the best pattern that the run has logged
    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Limit(Check, frozen=True, kw_only=True):
    """Fires when `share` of the last `window` values are above `above` or below `below`; only finite values count.

    Resolves when at most `clear_share` of the last `clear_for` values since then are beyond `clear`.
    """

    kind: ClassVar[Kind] = "limit"
    memory: ClassVar[type[State]] = LimitState

    above: float | None = None
    below: float | None = None
    window: Window = 1  # records
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of the window
    clear: float | None = None  # on the side of `above`, or of `below` without it; default: 10 % inside the limit
    clear_for: Window = 10  # records
    clear_share: Share = 0.0
    prefer_first: bool = False  # look only at the first of the rule's patterns that the run logs

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("a limit needs `above` or `below`")

    def observe(self, scan: Scan, state: LimitState, signs: list[Sign]) -> None:
        if self.prefer_first and scan.ranks:
            self._prefer(min(scan.ranks), state, signs)
        for column, rank in zip(scan.columns, scan.ranks, strict=True):
            if not self.prefer_first or rank == state.rank:
                series = scan.series(column, signs)
                self._watch(series, state.series.setdefault(series.name, Series()))

    @property
    def needed(self) -> int:
        """Records of a window that have to be beyond the limit."""
        return max(1, math.ceil(self.share * self.window - 1e-9))

    @staticmethod
    def _prefer(rank: int, state: LimitState, signs: list[Sign]) -> None:
        if state.rank is not None and rank >= state.rank:
            return
        for name, memory in state.series.items():
            if memory.open:
                signs.append(Sign("resolve", name, f"{name} gives way to a metric that tells more"))
        state.series.clear()
        state.rank = rank

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        beyond = _outside(series.values, self.above, self.below)
        if not memory.open and not memory.beyond and not beyond.any():
            return
        not_clear = _outside(series.values, *self._clear_bounds())
        for index, (out, still) in enumerate(zip(beyond.tolist(), not_clear.tolist(), strict=True)):
            memory.beyond = (memory.beyond << 1 | out) & ((1 << self.window) - 1)
            if memory.open:
                memory.not_clear = (memory.not_clear << 1 | still) & ((1 << self.clear_for) - 1)
                self._follow(series, memory, index)
            elif out and memory.beyond.bit_count() >= self.needed:
                self._open(series, memory, index)

    def _clear_bounds(self) -> tuple[float | None, float | None]:
        """Where a value has to be to count as back. A limit of 0 has no 10 % and clears at itself."""
        above = None if self.above is None else self.above - 0.1 * abs(self.above)
        below = None if self.below is None else self.below + 0.1 * abs(self.below)
        if self.clear is None:
            return above, below
        return (self.clear, below) if self.above is not None else (above, self.clear)

    def _excess(self, value: float) -> float:
        over = -math.inf if self.above is None else value - self.above
        under = -math.inf if self.below is None else self.below - value
        return max(over, under)

    def _limit(self, value: float) -> tuple[float, str]:
        """The limit that ``value`` is to be compared with, and its side in words."""
        if self.below is None or (self.above is not None and value > self.above):
            assert self.above is not None
            return self.above, "above"
        return self.below, "below"

    def _open(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value, step, count = float(series.values[index]), series.step(index), memory.beyond.bit_count()
        memory.open, memory.since, memory.records = True, step, 0
        memory.not_clear = (1 << self.clear_for) - 1
        memory.peak = memory.told = self._excess(value)
        limit, side = self._limit(value)
        often = "" if self.window == 1 else f", as {count} of the last {self.window} records were"
        text = f"{series.name} is {number(value)} at step {step}, {side} {number(limit)}{often}"
        evidence: dict[str, Any] = {
            "formula": f"{side} {number(limit)} in at least {self.needed} of the last {self.window} records",
            "records_beyond": count,
            "window": self.window,
            "since_step": step,
            "peak": value,
        }
        series.sign("open", index, text, threshold=limit, evidence=evidence)

    def _follow(self, series: FiniteSeries, memory: Series, index: int) -> None:
        memory.records += 1
        calm = memory.not_clear.bit_count() <= self.clear_share * self.clear_for
        excess = self._excess(float(series.values[index]))
        if calm and memory.records >= self.clear_for:
            self._resolve(series, memory, index)
        elif excess > memory.peak:
            memory.peak = excess
            if excess >= 2 * memory.told:  # so that a long climb takes few updates
                self._grow(series, memory, index)

    def _grow(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value, step = float(series.values[index]), series.step(index)
        limit, side = self._limit(value)
        memory.told = memory.peak
        text = f"{series.name} has reached {number(value)} at step {step}, {side} {number(limit)} "
        text += f"since step {memory.since}"
        series.sign("update", index, text, threshold=limit, evidence={"peak": value, "peak_step": step})

    @staticmethod
    def _resolve(series: FiniteSeries, memory: Series, index: int) -> None:
        value, step = float(series.values[index]), series.step(index)
        memory.open, memory.beyond = False, 0
        text = f"{series.name} is back: {number(value)} at step {step}, {memory.records} records after it "
        text += f"left at step {memory.since}"
        evidence = {"records": memory.records, "largest_excess": memory.peak}
        series.sign("resolve", index, text, evidence=evidence)


def _outside(values: FloatArray, above: float | None, below: float | None) -> NDArray[np.bool_]:
    high, low = math.inf if above is None else above, -math.inf if below is None else below
    return np.asarray(values > high if below is None else (values > high) | (values < low))
