"""A part of the loss that is the same number, to the bit, record after record: no gradient comes from it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["Dead"]


class Series(msgspec.Struct, array_like=True):
    """One metric: its last value, and for how many records it has been that."""

    value: float = 0.0
    length: int = 0
    since: int = 0  # step
    open: bool = False


class DeadState(State):
    """Memory of `Dead`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Dead(Check, frozen=True, kw_only=True):
    """Fires when a value other than 0 has not changed by one bit for `records` records; resolves when it changes."""

    kind: ClassVar[Kind] = "dead"
    memory: ClassVar[type[State]] = DeadState

    records: Annotated[int, Meta(ge=2)] = 200

    def observe(self, scan: Scan, state: DeadState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            if len(series.values):
                self._watch(series, state.series.setdefault(series.name, Series()))

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        values = series.values
        edges = np.flatnonzero(values[1:] != values[:-1]) + 1
        if len(edges) == len(values) - 1 and not memory.open and values[0] != memory.value:
            _begin(series, memory, len(values) - 1)  # every value is new
            return
        for start, stop in pairwise([0, *edges.tolist(), len(values)]):
            self._stretch(series, memory, start, stop)

    def _stretch(self, series: FiniteSeries, memory: Series, start: int, stop: int) -> None:
        """Equal values at ``start`` to ``stop - 1``."""
        if memory.length == 0 or series.values[start] != memory.value:
            if memory.open:
                self._resolve(series, memory, start)
            _begin(series, memory, start)
            memory.length = 0
        before = memory.length
        memory.length += stop - start
        if memory.value != 0 and not memory.open and memory.length >= self.records:
            self._open(series, memory, start + max(self.records - before, 1) - 1)

    def _open(self, series: FiniteSeries, memory: Series, index: int) -> None:
        memory.open = True
        text = f"{series.name} has been exactly {number(memory.value)} for {self.records} records, since step "
        evidence: dict[str, Any] = {
            "formula": "value == previous value, to the bit",
            "records": self.records,
            "since_step": memory.since,
        }
        series.sign("open", index, f"{text}{memory.since}", evidence=evidence)

    @staticmethod
    def _resolve(series: FiniteSeries, memory: Series, index: int) -> None:
        memory.open = False
        text = f"{series.name} moves again: {number(series.values[index])} at step {series.step(index)}, after "
        text += f"{memory.length} equal records"
        series.sign("resolve", index, text, evidence={"records": memory.length})


def _begin(series: FiniteSeries, memory: Series, index: int) -> None:
    memory.value, memory.length, memory.since = float(series.values[index]), 1, series.step(index)
