"""Memory that grows and grows, until there is none left."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind, Severity
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number
from holter.health.rules.history import History

__all__ = ["MemoryCreep"]

STEADY = 0.5  # the newest quarter grew by at least so much of what the earlier ones did: not a cache that fills


class Memory(msgspec.Struct, array_like=True):
    """One measure of memory."""

    history: History
    open: bool = False


class MemoryCreepState(State):
    """Memory of `MemoryCreep`."""

    series: dict[str, Memory] = msgspec.field(default_factory=dict)


class MemoryCreep(Check, frozen=True, kw_only=True):
    """Fires when memory has grown by `growth` from the first quarter of the run to the newest, steadily.

    The run so far is kept as 64 means; from `at_least` records on, the medians of its four quarters must rise one by
    one, the last step by twice its standard error and by at least half the average step before: a cache that fills
    slows down, a leak does not. A warning where the growth reaches the device's total (the metric of the same record
    that has "total" in place of "used") within as many records again, or where the memory has doubled; info otherwise.
    """

    kind: ClassVar[Kind] = "memory"
    memory: ClassVar[type[State]] = MemoryCreepState

    growth: Annotated[float, Meta(gt=0)] = 0.2
    at_least: Annotated[int, Meta(ge=48)] = 192

    def observe(self, scan: Scan, state: MemoryCreepState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            memory = state.series.setdefault(series.name, Memory(History()))
            self._watch(series, memory)

    def _watch(self, series: FiniteSeries, memory: Memory) -> None:
        start, n = 0, len(series.values)
        while start < n:
            stop = start + memory.history.until_look()
            memory.history.add(series.values[start:stop])
            if stop <= n:
                self._look(series, memory, stop - 1)
            start = stop

    def _look(self, series: FiniteSeries, memory: Memory, index: int) -> None:
        history = memory.history
        records = len(history.means) * history.size
        if records < self.at_least:
            return
        quarters = [history.quarter(which) for which in range(4)]
        steps = np.diff(quarters).tolist()
        grown = quarters[3] - quarters[0]
        rises = min(steps) > 0 and steps[2] > max(2 * history.quarter_error(), STEADY * (steps[0] + steps[1]) / 2)
        if not memory.open and rises and quarters[0] > 0 and grown > self.growth * quarters[0]:
            memory.open = True
            self._tell(series, index, quarters, records)
        elif memory.open and steps[2] <= 2 * history.quarter_error():
            memory.open = False
            text = f"{series.name} grows no more: {number(series.values[index])} at step {series.step(index)}"
            series.sign("resolve", index, text)

    def _tell(self, series: FiniteSeries, index: int, quarters: list[float], records: int) -> None:
        value = float(series.values[index])
        total = _total(series, index)
        ahead = value + (quarters[3] - quarters[0]) * 4 / 3
        severe = quarters[3] >= 2 * quarters[0] or (total is not None and ahead >= total)
        severity: Severity = "warning" if severe else "info"
        text = f"{series.name} grows steadily: {number(quarters[0])} in the first quarter of {records} records, "
        text += f"{number(quarters[3])} in the newest; {number(value)} at step {series.step(index)}"
        evidence: dict[str, Any] = {
            "formula": "medians of the quarters rise one by one, the last step as much as those before",
            "quarters": quarters,
            "after_as_many_records": ahead,
            "records": records,
        }
        if total is not None:
            evidence["total"] = total
        series.sign("open", index, text, baseline=quarters[0], threshold=total, severity=severity, evidence=evidence)


def _total(series: FiniteSeries, index: int) -> float | None:
    """The device's memory, where the same record tells it."""
    scan, name = series.scan, series.name.replace("used", "total")
    if name == series.name or name not in scan.names:
        return None
    total = float(scan.values[scan.names.index(name), series.row(index)])
    return total if total > 0 else None
