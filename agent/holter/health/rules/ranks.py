"""What only several ranks together show: values that must be equal and are not, and one rank that is slower."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from holter.health.model import Kind
from holter.health.rules.baseline import median
from holter.health.rules.contract import Check, Scan, Sign, State, number

__all__ = ["RanksDisagree", "Straggler"]

Count = Annotated[int, Meta(ge=1)]
PENDING = 64  # steps that wait for the ranks that have not logged them yet
SYSTEM_SUFFIX = "/system"  # of writers that log what the machine does


class Pending(msgspec.Struct):
    """Values of one metric by step and rank, until every rank has logged the step."""

    steps: dict[int, dict[str, float]] = {}

    def enter(self, step: int, rank: str, value: float, ranks: int) -> dict[str, float] | None:
        """Take a value in; returns the step's values once all of the ranks are there."""
        values = self.steps.setdefault(step, {})
        values[rank] = value
        if len(values) == ranks:
            return self.steps.pop(step)
        if len(self.steps) > PENDING:
            del self.steps[next(iter(self.steps))]
        return None


class Metric(msgspec.Struct):
    """One metric over all ranks."""

    pending: Pending
    agreed: int = 0  # steps in a row in which all ranks had the same
    streak: int = 0  # steps, or windows, in a row that are wrong; while open, that are not
    windows: dict[str, list[float]] = {}  # of each rank, the values of the window that is being filled
    open: str = ""  # the rank that the incident is about


class RanksState(State):
    """Memory of `RanksDisagree` and `Straggler`: of the run, not of one writer."""

    ranks: list[str] = msgspec.field(default_factory=list)
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)


class OverRanks(Check, frozen=True, kw_only=True):
    """Collects a metric's values of all ranks at the same step."""

    scope: ClassVar[Literal["writer", "run"]] = "run"
    memory: ClassVar[type[State]] = RanksState

    def observe(self, scan: Scan, state: RanksState, signs: list[Sign]) -> None:
        if scan.writer.endswith(SYSTEM_SUFFIX):
            return
        if scan.writer not in state.ranks:
            state.ranks.append(scan.writer)
        if len(state.ranks) == 1:
            return
        columns = [(scan.names[column], scan.values[column].tolist()) for column in scan.columns]
        for row, step in enumerate(scan.steps.tolist()):
            for name, values in columns:
                if not math.isfinite(values[row]):
                    continue  # a rule of its own is about that
                metric = state.metrics.setdefault(name, Metric(Pending()))
                complete = metric.pending.enter(step, scan.writer, values[row], len(state.ranks))
                if complete is not None:
                    self._compare(name, metric, complete, (row, step), signs)

    def _compare(
        self, name: str, metric: Metric, values: dict[str, float], at: tuple[int, int], signs: list[Sign]
    ) -> None:
        """All ranks have logged the step; ``at`` is the row and the step."""
        raise NotImplementedError


class RanksDisagree(OverRanks, frozen=True, kw_only=True):
    """Fires when a loss or a gradient norm that was the same on all ranks, to `same`, in `agreed` steps in a row, then
    differs by more than `tolerance` in `steps` steps in a row.

    Values that are reduced over the ranks are equal as long as the weights are; local ones never were, and are not
    judged. Resolves when they have been equal for `agreed` steps again.
    """

    kind: ClassVar[Kind] = "rank"

    same: Annotated[float, Meta(gt=0)] = 1e-4
    tolerance: Annotated[float, Meta(gt=0)] = 0.01
    agreed: Count = 20
    steps: Count = 3

    def _compare(
        self, name: str, metric: Metric, values: dict[str, float], at: tuple[int, int], signs: list[Sign]
    ) -> None:
        middle = median(list(values.values()))
        apart = {rank: abs(value - middle) / (abs(middle) or 1.0) for rank, value in values.items()}
        worst = max(apart, key=lambda rank: apart[rank])
        known = metric.agreed >= self.agreed
        if apart[worst] <= self.same:
            metric.agreed, metric.streak = metric.agreed + 1, 0
        elif not known or metric.open:
            metric.agreed = 0
        elif apart[worst] > self.tolerance:
            metric.streak += 1
        row, step = at
        if not metric.open and metric.streak >= self.steps:
            metric.open, metric.agreed, metric.streak = worst, 0, 0
            text = f"{name} of {worst} is {number(values[worst])} at step {step}, {number(middle)} in the middle of "
            text += f"{len(values)} ranks, which had agreed before"
            evidence: dict[str, Any] = {
                "formula": f"|value - median over ranks| / |median| > {self.tolerance:g}, {self.steps} steps in a row",
                "ranks": len(values),
                "rank": worst,
                "apart": apart[worst],
            }
            signs.append(Sign("open", name, text, row, value=values[worst], baseline=middle, evidence=evidence))
        elif metric.open and metric.agreed >= self.agreed:
            metric.open = ""
            signs.append(Sign("resolve", name, f"{name} is the same on all ranks again at step {step}", row))


class Straggler(OverRanks, frozen=True, kw_only=True):
    """Fires when one rank's median of `window` steps is above `ratio` times the median of the others' in `windows`
    windows in a row. For times of ranks that don't wait for one another: of a step's computation, of the data.
    """

    kind: ClassVar[Kind] = "rank"

    ratio: Annotated[float, Meta(gt=1)] = 1.3
    window: Annotated[int, Meta(ge=4)] = 32
    windows: Count = 3

    def _compare(
        self, name: str, metric: Metric, values: dict[str, float], at: tuple[int, int], signs: list[Sign]
    ) -> None:
        if min(values.values()) <= 0:
            return
        for rank, value in values.items():
            metric.windows.setdefault(rank, []).append(value)
        if min(len(window) for window in metric.windows.values()) < self.window:
            return
        medians = {rank: median(window) for rank, window in metric.windows.items()}
        metric.windows = {}
        slowest = metric.open or max(medians, key=lambda rank: medians[rank])
        others = median([value for rank, value in medians.items() if rank != slowest])
        slow = medians.get(slowest, 0.0) > self.ratio * others
        metric.streak = metric.streak + 1 if slow is not bool(metric.open) else 0
        if metric.streak < self.windows:
            return
        metric.streak = 0
        row, step = at
        ratio = number(medians.get(slowest, 0.0) / others)
        if metric.open:
            metric.open = ""
            signs.append(Sign("resolve", name, f"{name} of {slowest} is {ratio} times that of the others", row))
            return
        metric.open = slowest
        text = f"{slowest} is slow: its {name} is {number(medians[slowest])} at step {step}, {ratio} times the median "
        text += f"{number(others)} of the other ranks, in {self.windows} windows of {self.window} steps"
        evidence: dict[str, Any] = {
            "formula": f"rank's median / others' median > {self.ratio:g}",
            "rank": slowest,
            "medians": dict(sorted(medians.items(), key=lambda item: -item[1])[:8]),
        }
        threshold = self.ratio * others
        signs.append(
            Sign(
                "open", name, text, row, value=medians[slowest], threshold=threshold, baseline=others, evidence=evidence
            )
        )
