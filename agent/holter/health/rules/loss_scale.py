"""The loss scale of mixed precision that collapses: gradients overflow again and again."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["LossScale"]

Count = Annotated[int, Meta(ge=1)]


class Series(msgspec.Struct, array_like=True):
    """One loss scale."""

    seen: int = 0
    first: float = 0.0
    last: float = 0.0
    falls: list[int] = []  # at which record the scale last fell
    open: bool = False
    low: bool = False  # an incident about a scale at its end is open


class LossScaleState(State):
    """Memory of `LossScale`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class LossScale(Check, frozen=True, kw_only=True):
    """Fires when a loss scale falls `falls` times within `within` records (after `settle` records, in which a scaler
    finds its level), and when it is down at `lowest` or below, having been above.

    A scaler halves it after each overflow and doubles it after some 2,000 good steps, so that one fall is normal. The
    first resolves after `within` records without a fall, the second when the scale is above `lowest` fourfold.
    """

    kind: ClassVar[Kind] = "loss_scale"
    memory: ClassVar[type[State]] = LossScaleState

    falls: Annotated[int, Meta(ge=2)] = 3
    within: Count = 100
    settle: Count = 50
    lowest: Annotated[float, Meta(gt=0)] = 1.0

    def observe(self, scan: Scan, state: LossScaleState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            if len(series.values):
                self._watch(series, state.series.setdefault(series.name, Series()))

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        values = series.values
        if not memory.seen:
            memory.first = memory.last = float(values[0])
        changes = np.flatnonzero(values != np.concatenate([[memory.last], values[:-1]])).tolist()
        seen = memory.seen
        for index in changes:
            self._until(series, memory, seen, index)
            self._change(series, memory, seen, index)
        self._until(series, memory, seen, len(values) - 1)
        memory.seen, memory.last = seen + len(values), float(values[-1])

    def _until(self, series: FiniteSeries, memory: Series, seen: int, index: int) -> None:
        """Up to the value at ``index`` nothing fell: long enough for the incident to be over?"""
        if not memory.open:
            return
        over = memory.falls[-1] + self.within - seen
        if over > index:
            return
        memory.open, memory.falls = False, []
        at = max(over, 0)
        text = f"{series.name} has not fallen for {self.within} records: {number(series.values[at])} at step "
        series.sign("resolve", at, f"{text}{series.step(at)}")

    def _change(self, series: FiniteSeries, memory: Series, seen: int, index: int) -> None:
        value = float(series.values[index])
        before = memory.last if index == 0 else float(series.values[index - 1])
        subject = f"{series.name} lowest"
        if memory.low and value >= 4 * self.lowest:
            memory.low = False
            text = f"{series.name} is up at {number(value)} at step {series.step(index)}"
            series.sign("resolve", index, text, subject=subject)
        if value >= before:
            return
        if value <= self.lowest < max(before, memory.first) and not memory.low:
            memory.low = True
            text = f"{series.name} is down at {number(value)} at step {series.step(index)}: it began at "
            evidence: dict[str, Any] = {"first": memory.first, "before": before, "formula": "scale <= lowest"}
            series.sign(
                "open", index, text + number(memory.first), subject=subject, severity="critical",
                threshold=self.lowest, baseline=memory.first, evidence=evidence,
            )  # fmt: skip
        at = seen + index
        if at < self.settle:
            return
        memory.falls = [*memory.falls, at][-self.falls :]
        if not memory.open and len(memory.falls) == self.falls and at - memory.falls[0] < self.within:
            memory.open = True
            text = f"{series.name} has fallen {self.falls} times in {at - memory.falls[0] + 1} records, to "
            text += f"{number(value)} at step {series.step(index)}"
            evidence = {"records": at - memory.falls[0] + 1, "formula": f"{self.falls} falls in {self.within} records"}
            series.sign("open", index, text, baseline=memory.first, evidence=evidence)
