"""A GPU that is too hot, throttled, or counts errors."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number
from holter.health.rules.limit import Limit

__all__ = ["GpuErrors", "GpuLimit"]


class GpuLimit(Limit, frozen=True, kw_only=True):
    """As `limit`, for what a GPU says of itself: its temperature, or 1 while it is throttled."""

    kind: ClassVar[Kind] = "gpu"


class Counter(msgspec.Struct, array_like=True):
    """One count of errors."""

    base: float | None = None  # what it was at first, or when the incident opened
    open: bool = False
    calm: int = 0  # records in a row without a new error


class GpuErrorsState(State):
    """Memory of `GpuErrors`."""

    counters: dict[str, Counter] = msgspec.field(default_factory=dict)


class GpuErrors(Check, frozen=True, kw_only=True):
    """Fires when a count of errors grows by `errors` or more since the run's first record.

    What was counted before the run is not its own. Resolves after `clear_for` records without another one.
    """

    kind: ClassVar[Kind] = "gpu"
    memory: ClassVar[type[State]] = GpuErrorsState

    errors: Annotated[float, Meta(gt=0)] = 1.0
    clear_for: Annotated[int, Meta(ge=1)] = 100

    def observe(self, scan: Scan, state: GpuErrorsState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            if len(series.values):
                self._watch(series, state.counters.setdefault(series.name, Counter()))

    def _watch(self, series: FiniteSeries, counter: Counter) -> None:
        if counter.base is None:
            counter.base = float(series.values[0])
        # The lowest so far, since a driver that was loaded anew counts from 0.
        lowest = np.minimum.accumulate(np.concatenate([[counter.base], series.values]))
        if not counter.open and not (series.values - lowest[:-1] >= self.errors).any():
            counter.base = float(lowest[-1])
            return
        for index, value in enumerate(series.values.tolist()):
            self._step(series, counter, index, value)

    def _step(self, series: FiniteSeries, counter: Counter, index: int, value: float) -> None:
        base = value if counter.base is None else counter.base
        new = value - base
        if new >= self.errors:
            action = "update" if counter.open else "open"
            counter.open, counter.calm, counter.base = True, 0, value
            text = f"{series.name} has grown by {number(new)} to {number(value)} at step {series.step(index)}"
            evidence: dict[str, Any] = {"new": new, "before": base, "formula": f"new >= {number(self.errors)}"}
            series.sign(action, index, text, baseline=base, threshold=base + self.errors, evidence=evidence)  # type: ignore[arg-type]
            return
        counter.base = min(base, value)
        counter.calm += 1
        if counter.open and counter.calm >= self.clear_for:
            counter.open = False
            series.sign("resolve", index, f"{series.name} has not grown for {self.clear_for} records")
