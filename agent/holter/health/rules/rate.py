"""A learning rate that can't be meant: negative, zero for long, or far above all that was before."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, maybe_rounded, number

__all__ = ["LearningRate"]

Count = Annotated[int, Meta(ge=1)]


class Series(msgspec.Struct, array_like=True):
    """One learning rate."""

    seen: int = 0  # positive values
    largest: float = 0.0
    last: float = 0.0  # positive value
    zeros: int = 0  # in a row
    open: str = ""  # what the incident is about
    good: int = 0  # records in a row since then


class LearningRateState(State):
    """Memory of `LearningRate`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class LearningRate(Check, frozen=True, kw_only=True):
    """Fires on a negative learning rate; on one that is exactly 0 for `zeros` records in a row after `after` positive
    ones; and on one that rises in one record to more than `jump` times all before it (a schedule that
    restarts comes back to its peak, not above it), again after `after` values.

    Resolves after `clear_for` records with a positive rate.
    """

    kind: ClassVar[Kind] = "lr"
    memory: ClassVar[type[State]] = LearningRateState

    zeros: Count = 20
    after: Count = 20
    jump: Annotated[float, Meta(gt=1)] = 10.0
    clear_for: Count = 20

    def observe(self, scan: Scan, state: LearningRateState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            memory = state.series.setdefault(series.name, Series())
            if len(series.values) and not self._plain(series, memory):
                for index, value in enumerate(series.tolist()):
                    self._step(series, memory, index, value)

    def _plain(self, series: FiniteSeries, memory: Series) -> bool:
        """Take in a block of positive values without a jump, as nearly all are; False if it has to be looked at."""
        if memory.open or memory.seen < self.after or not series.lowest() > 0:
            return False
        highest = float(series.values.max()) if series.few is None else max(series.few)
        if highest > self.jump * memory.largest:
            return False
        memory.seen += len(series.values)
        memory.largest = max(memory.largest, highest)
        memory.last, memory.zeros = float(series.values[-1]), 0
        return True

    def _step(self, series: FiniteSeries, memory: Series, index: int, value: float) -> None:
        problem, text = self._problem(memory, value)
        words = f"{series.name} is {number(value)} at step {series.step(index)}"
        if problem and not memory.open:
            memory.open, memory.good = problem, 0
            evidence: dict[str, Any] = {
                "problem": problem,
                "largest_before": memory.largest,
                "positive_records_before": memory.seen,
                "formula": f"rate < 0, 0 in {self.zeros} records, or > {self.jump:g} x all before",
            }
            series.sign("open", index, f"{words}: {text}", baseline=memory.largest, evidence=evidence)
        memory.zeros = memory.zeros + 1 if value == 0 else 0
        memory.good = memory.good + 1 if value > 0 and not problem else 0
        if value > 0:
            memory.seen, memory.largest, memory.last = memory.seen + 1, max(memory.largest, value), value
        if memory.open and memory.good >= self.clear_for:
            memory.open = ""
            series.sign("resolve", index, words)

    def _problem(self, memory: Series, value: float) -> tuple[str, str]:
        if value < 0:
            return "negative", "the training goes uphill"
        known = memory.seen >= self.after
        faded = memory.last < memory.largest / 2 and maybe_rounded(memory.last)
        if value == 0 and memory.zeros + 1 >= self.zeros and known and not faded:
            return "zero", f"it has been 0 for {memory.zeros + 1} records, and nothing is learned"
        if known and value > self.jump * memory.largest:
            return "jump", f"{number(value / memory.largest)} times the largest one before, {number(memory.largest)}"
        return "", ""
