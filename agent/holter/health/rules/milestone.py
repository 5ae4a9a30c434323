"""A target for a metric at a step: what the plan of a training promises to have reached by then."""

from __future__ import annotations

import statistics
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["Milestone"]

MEDIAN_OF = 10  # records: one batch's loss or accuracy is too noisy to be judged


class Series(msgspec.Struct, array_like=True):
    """One metric: its last values, and what came of the milestone."""

    recent: list[float] = []
    before: bool = False  # a record before the milestone was seen
    judged: bool = False
    open: bool = False


class MilestoneState(State):
    """Memory of `Milestone`."""

    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Milestone(Check, frozen=True, kw_only=True):
    """Judged once, at the first record at or after `at_step`: the median of the last 10 values against the target.

    A run whose records only start after `at_step` is not judged. A missed milestone resolves when it is reached late.
    """

    kind: ClassVar[Kind] = "limit"
    memory: ClassVar[type[State]] = MilestoneState

    at_step: Annotated[int, Meta(ge=1)]
    at_most: float | None = None
    at_least: float | None = None
    tolerance: Annotated[float, Meta(ge=0)] = 0.1  # share of the target that is forgiven

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a milestone needs either `at_most` or `at_least`")

    def observe(self, scan: Scan, state: MilestoneState, signs: list[Sign]) -> None:
        last_step = int(scan.steps.max())
        for column in scan.columns:
            memory = state.series.setdefault(scan.names[column], Series())
            if last_step < self.at_step and not memory.judged:
                self._approach(scan.series(column, signs), memory)
            elif memory.open or not memory.judged:
                self._watch(scan.series(column, signs), memory)

    @staticmethod
    def _approach(series: FiniteSeries, memory: Series) -> None:
        if len(series.values):
            memory.before = True
            memory.recent = [*memory.recent, *series.values[-MEDIAN_OF:].tolist()][-MEDIAN_OF:]

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        for index, value in enumerate(series.values.tolist()):
            if memory.judged and not memory.open:
                return
            memory.recent = [*memory.recent, value][-MEDIAN_OF:]
            if series.step(index) < self.at_step:
                memory.before = True
            elif memory.open:
                self._late(series, memory, index)
            else:
                self._judge(series, memory, index)

    def _judge(self, series: FiniteSeries, memory: Series, index: int) -> None:
        memory.judged = True
        value = statistics.median(memory.recent)
        if not memory.before or self._reached(value):
            return
        memory.open = True
        target, accepted, words = self._target
        text = f"{series.name} is {number(value)} at step {series.step(index)}; by step {self.at_step} it should be "
        evidence: dict[str, Any] = {
            "formula": f"median of the last {len(memory.recent)} values, {words} {number(accepted)}",
            "target": target,
            "accepted": accepted,
            "recent": list(memory.recent),
        }
        message = f"{text}{words} {number(target)}"
        series.sign("open", index, message, value=value, threshold=target, evidence=evidence)

    @property
    def _target(self) -> tuple[float, float, str]:
        """The target, what is accepted, and how to say it."""
        if self.at_most is not None:
            return self.at_most, self.at_most + self.tolerance * abs(self.at_most), "at most"
        assert self.at_least is not None
        return self.at_least, self.at_least - self.tolerance * abs(self.at_least), "at least"

    def _reached(self, value: float) -> bool:
        _, accepted, _ = self._target
        return value <= accepted if self.at_most is not None else value >= accepted

    def _late(self, series: FiniteSeries, memory: Series, index: int) -> None:
        value, step = statistics.median(memory.recent), series.step(index)
        if not self._reached(value):
            return
        memory.open = False
        text = f"{series.name} has reached {number(value)} at step {step}, {step - self.at_step} steps late"
        series.sign("resolve", index, text, value=value)
