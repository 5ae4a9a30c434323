"""A loss that has not learned: it stands where it stood at the first record."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.baseline import median
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number
from holter.health.rules.history import History

__all__ = ["Plateau"]

FIRST = 5  # values that tell where the loss began
RISING = 1.05  # a learning rate that has grown by this since the last look is still being warmed up


class Series(msgspec.Struct, array_like=True):
    """One training loss, on the log scale."""

    history: History
    first: list[float] = []  # the first values
    last: float = math.nan  # the newest value
    rate: float | None = None  # the learning rate at the last look, or at the first record
    off: bool = False  # it has been 0 or negative
    open: bool = False


class PlateauState(State):
    """Memory of `Plateau`."""

    rate: float | None = None  # the learning rate, as last logged
    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Plateau(Check, frozen=True, kw_only=True):
    """Fires when a loss can be said to have stayed within `change` of where it began, noise included.

    The run so far is kept as 64 means. When they are three quarters full, and when they are full, the median of the
    first quarter is compared with that of the newest: their difference and twice its standard error must lie within
    `change`, and the first five values must not be higher than now by more than that. So a noisy loss is judged later
    than a smooth one, and a loss that fell at first and has converged is not called. Not judged while the learning
    rate rises, nor before `at_least` points; a value that is only repeated is no point.
    """

    kind: ClassVar[Kind] = "plateau"
    memory: ClassVar[type[State]] = PlateauState

    change: Annotated[float, Meta(gt=0, lt=1)] = 0.04
    at_least: Annotated[int, Meta(ge=48)] = 60

    def observe(self, scan: Scan, state: PlateauState, signs: list[Sign]) -> None:
        rates = scan.values[scan.roles.index(Role.LR)] if Role.LR in scan.roles else None
        for column in scan.columns:
            if scan.roles[column] is Role.LOSS:
                series = scan.series(column, signs)
                memory = state.series.setdefault(series.name, Series(History()))
                if len(series.values) and not memory.off:
                    self._watch(series, memory, state, rates)
        if rates is not None:
            state.rate = float(rates[-1])

    def _watch(self, series: FiniteSeries, memory: Series, state: PlateauState, rates: Any) -> None:
        if series.lowest() > 0:
            self._take(_fresh(series, memory), memory, state, rates)
            return
        n = int(np.argmin(series.values > 0))
        if n:
            self._take(_fresh(series.part(0, n), memory), memory, state, rates)
        memory.off = True
        if memory.open:
            memory.open = False
            text = f"{series.name} is {number(series.values[n])} at step {series.step(n)}: it has no logarithm"
            series.sign("resolve", n, text)

    def _take(self, series: FiniteSeries, memory: Series, state: PlateauState, rates: Any) -> None:
        x = np.log(series.values)
        start = 0
        while start < len(x):
            if len(memory.first) < FIRST:
                memory.rate = memory.rate if memory.first else self._rate(series, start, state, rates)
                memory.first.append(float(x[start]))
                memory.history.add(x[start : start + 1])
                start += 1
                continue
            stop = start + memory.history.until_look()
            memory.history.add(x[start:stop])
            if stop <= len(x):
                self._look(series, memory, stop - 1, self._rate(series, stop - 1, state, rates))
            start = stop

    @staticmethod
    def _rate(series: FiniteSeries, index: int, state: PlateauState, rates: Any) -> float | None:
        """The learning rate at a value."""
        return state.rate if rates is None else float(rates[series.row(index)])

    def _look(self, series: FiniteSeries, memory: Series, index: int, rate: float | None) -> None:
        warming = rate is not None and memory.rate is not None and rate > RISING * memory.rate
        memory.rate = rate
        history = memory.history
        points = len(history.means) * history.size
        if points < self.at_least or warming:
            return
        began, now = history.quarter(0), history.quarter(3)
        error = 2 * history.quarter_error()
        first_error = 2 * 1.2533 * history.deviation() * math.sqrt(history.size / FIRST)
        first = median(memory.first)
        flat = abs(now - began) + error < self.change and first - now < self.change + first_error
        learned = began - now - error > self.change
        if flat and not memory.open:
            self._open(series, memory, index, (first, began, now, error), points)
        elif memory.open and learned:
            memory.open = False
            text = f"{series.name} learns: {number(math.exp(now))} at step {series.step(index)}, it began at "
            series.sign("resolve", index, text + number(math.exp(began)), baseline=math.exp(began))

    def _open(
        self, series: FiniteSeries, memory: Series, index: int, levels: tuple[float, float, float, float], points: int
    ) -> None:
        first, began, now, error = levels
        memory.open = True
        text = (
            f"{series.name} has not learned in {points} records: {number(math.exp(now))} at step {series.step(index)}, "
            f"as at the beginning, {number(math.exp(began))}"
        )
        evidence: dict[str, Any] = {
            "formula": f"|ln newest quarter - ln first quarter| + 2 standard errors < {self.change:g}",
            "first_values": math.exp(first),
            "first_quarter": math.exp(began),
            "newest_quarter": math.exp(now),
            "two_standard_errors": error,
            "records": points,
        }
        series.sign("open", index, text, baseline=math.exp(began), threshold=self.change, evidence=evidence)


def _fresh(series: FiniteSeries, memory: Series) -> FiniteSeries:
    """The values that differ from those before them."""
    fresh = series.fresh(memory.last)
    memory.last = float(series.values[-1])
    return fresh
