"""A training that has become slower than it was, and a GPU that waits for its data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.baseline import MAD_TO_DEVIATION, median
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number
from holter.health.rules.schedule import Schedule

__all__ = ["DataWait", "Idle", "Slowdown"]

Count = Annotated[int, Meta(ge=1)]
MEDIAN_ERROR = 1.2533
SPREAD_FLOOR = 0.01  # on the log scale


class Pace(msgspec.Struct, array_like=True):
    """One measure of speed, as ln of something that is larger when the training is faster."""

    skip: int = 0  # values still to be left out: compilation, caches that fill
    block: list[float] = []  # values since the last median
    base: list[float] = []  # medians of the blocks that make up the baseline
    level: float = 0.0
    spread: float = 0.0
    known: bool = False  # the baseline is complete
    slow: int = 0  # blocks in a row that were slow, or, while open, that were not
    open: bool = False


class PaceState(State):
    """Memory of `Slowdown` and `Idle`."""

    schedule: Schedule = msgspec.field(default_factory=Schedule)
    metric: str = ""  # the one that is watched: the first that was logged
    step: int | None = None  # of the newest record with a loss
    time: float | None = None
    paces: dict[str, Pace] = msgspec.field(default_factory=dict)


class Slowdown(Check, frozen=True, kw_only=True):
    """Compares the median of each `block` values of a step time or a throughput with the run's own beginning.

    The baseline is the first four blocks after `skip` values. Fires when the speed is below 1/`ratio` of it, and by 4
    standard errors, in `blocks` blocks in a row (a warning below 1/`severe_ratio`); resolves after as many within half
    of that. Of several such metrics, the first one logged is watched; where there is none, the time from one record to
    the next, divided by the steps between. A change of the curriculum's stage starts anew: longer sequences take
    longer. Evaluations and checkpoints don't count as long as they fall into less than half of the values.
    """

    kind: ClassVar[Kind] = "throughput"
    memory: ClassVar[type[State]] = PaceState

    ratio: Annotated[float, Meta(gt=1)] = 1.25
    severe_ratio: Annotated[float, Meta(gt=1)] = 10.0
    block: Annotated[int, Meta(ge=4)] = 16
    blocks: Count = 3
    skip: Annotated[int, Meta(ge=0)] = 10

    def observe(self, scan: Scan, state: PaceState, signs: list[Sign]) -> None:
        changes = state.schedule.stage_changes(scan)
        for column in scan.columns:
            if scan.roles[column] in (Role.STEP_TIME, Role.THROUGHPUT) and state.metric in ("", scan.names[column]):
                self._switch(state, scan.names[column], signs)
                self._watch(scan.series(column, signs), self._pace(state, state.metric), scan.roles[column], changes)
        if not state.metric and any(scan.roles[column] is Role.LOSS for column in scan.columns):
            self._by_the_clock(scan, state, signs, changes)

    def _pace(self, state: PaceState, name: str) -> Pace:
        return state.paces.setdefault(name, Pace(skip=self.skip))

    @staticmethod
    def _switch(state: PaceState, name: str, signs: list[Sign]) -> None:
        """A metric that measures the pace is better than the records' own times."""
        if state.metric:
            return
        if state.paces.pop(_CLOCK, Pace()).open:
            signs.append(Sign("resolve", _CLOCK, f"From now on {name} is watched"))
        state.metric = name

    def _by_the_clock(self, scan: Scan, state: PaceState, signs: list[Sign], changes: list[int]) -> None:
        steps = np.concatenate([[scan.steps[0] if state.step is None else state.step], scan.steps]).astype(np.float64)
        times = np.concatenate([[math.nan if state.time is None else state.time], scan.times])
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            seconds = np.diff(times) / np.diff(steps)
        rows = np.flatnonzero(np.isfinite(seconds) & (seconds > 0))
        state.step, state.time = scan.step(-1), float(scan.times[-1])
        series = FiniteSeries(scan, _CLOCK, seconds[rows], rows, signs)
        self._watch(series, self._pace(state, _CLOCK), Role.STEP_TIME, changes)

    def _watch(self, series: FiniteSeries, pace: Pace, role: Role, changes: list[int]) -> None:
        if not len(series.values):
            return
        if not series.lowest() > 0:
            series = series.at(np.flatnonzero(series.values > 0))
        speed = -np.log(series.values) if role is Role.STEP_TIME else np.log(series.values)
        if not changes:
            self._take(series, pace, role, speed, (0, len(speed)))
            return
        rows = np.arange(len(series.values)) if series.rows is None else series.rows
        edges = [*np.searchsorted(rows, changes).tolist(), len(rows)]
        start = 0
        for order, edge in enumerate(edges):
            self._take(series, pace, role, speed, (start, edge))
            if order < len(changes):
                self._restart(pace, series, edge)
            start = edge

    def _restart(self, pace: Pace, series: FiniteSeries, index: int) -> None:
        if pace.open:
            text = f"{series.name} has begun a new stage, with a pace of its own"
            series.signs.append(Sign("resolve", series.name, text, row=series.row(min(index, len(series.values) - 1))))
        pace.skip, pace.block, pace.base, pace.known, pace.slow, pace.open = self.skip, [], [], False, 0, False

    def _take(self, series: FiniteSeries, pace: Pace, role: Role, speed: Any, part: tuple[int, int]) -> None:
        start, stop = part
        skipped = min(pace.skip, stop - start)
        pace.skip -= skipped
        start += skipped
        while start < stop:
            end = min(start + self.block - len(pace.block), stop)
            pace.block.extend(speed[start:end].tolist())
            start = end
            if len(pace.block) == self.block:
                self._judge(series, pace, role, end - 1)
                pace.block.clear()

    def _judge(self, series: FiniteSeries, pace: Pace, role: Role, index: int) -> None:
        now = median(pace.block)
        if not pace.known:
            pace.base.append(now)
            pace.spread += median([abs(value - now) for value in pace.block]) / 4
            if len(pace.base) == 4:
                pace.level, pace.known = median(pace.base), True
                pace.spread = max(MAD_TO_DEVIATION * pace.spread, SPREAD_FLOOR)
                pace.base = []
            return
        wanted = max(math.log(self.ratio), 4 * MEDIAN_ERROR * pace.spread / math.sqrt(self.block))
        drop = pace.level - now
        counts = drop < wanted / 2 if pace.open else drop > wanted
        pace.slow = pace.slow + 1 if counts else 0
        if pace.slow >= self.blocks:
            pace.open, pace.slow = not pace.open, 0
            self._tell(series, pace, role, index, now)

    def _tell(self, series: FiniteSeries, pace: Pace, role: Role, index: int, now: float) -> None:
        value, base = (math.exp(-x if role is Role.STEP_TIME else x) for x in (now, pace.level))
        share = math.exp(now - pace.level)
        step = series.step(index)
        if not pace.open:
            text = f"{series.name} is {number(value)} at step {step}, near {number(base)} again"
            series.sign("resolve", index, text, value=value, baseline=base)
            return
        text = f"{series.name} is {number(value)} at step {step} (median of {self.block}), {number(base)} at the "
        text += f"beginning: {100 * (1 - share):.0f} % {self._words}"
        evidence: dict[str, Any] = {
            "formula": f"speed / speed at the beginning < 1/{self.ratio:g}, {self.blocks} medians in a row",
            "speed": share,
            "spread": pace.spread,
            "block": self.block,
        }
        severity: Literal["warning"] | None = "warning" if share < 1 / self.severe_ratio else None
        threshold = base * self.ratio if role is Role.STEP_TIME else base / self.ratio
        series.sign(
            "open", index, text, value=value, threshold=threshold, baseline=base, severity=severity, evidence=evidence
        )

    @property
    def _words(self) -> str:
        return "slower"


_CLOCK = "seconds per step"


class Idle(Slowdown, frozen=True, kw_only=True):
    """Compares a GPU's utilization with that of the run's own beginning, as `slowdown` does, if it was at least `busy`
    percent there. A GPU that has become idle while the training goes on waits for its data, or for another rank.
    """

    kind: ClassVar[Kind] = "starvation"
    memory: ClassVar[type[State]] = PaceState

    ratio: Annotated[float, Meta(gt=1)] = 2.0
    severe_ratio: Annotated[float, Meta(gt=1)] = 2.0
    busy: Annotated[float, Meta(ge=0, le=100)] = 60.0

    def observe(self, scan: Scan, state: PaceState, signs: list[Sign]) -> None:
        for column in scan.columns:
            series = scan.series(column, signs)
            # A GPU that does nothing at all has 0 percent, which has no logarithm.
            shifted = replace(series, values=series.values + 1.0)
            self._watch(shifted, self._pace(state, series.name), Role.THROUGHPUT, [])

    def _judge(self, series: FiniteSeries, pace: Pace, role: Role, index: int) -> None:
        super()._judge(series, pace, role, index)
        if pace.known and pace.level < math.log(self.busy + 1.0):
            pace.known, pace.base, pace.spread = False, [], 0.0  # not yet at work: look again

    @property
    def _words(self) -> str:
        return "less busy"


class Wait(msgspec.Struct, array_like=True):
    """The wait for data: the last records as bits, newest lowest, 1 where it took most of the step."""

    bits: int = 0
    seen: int = 0
    open: bool = False


class DataWaitState(State):
    """Memory of `DataWait`."""

    waits: dict[str, Wait] = msgspec.field(default_factory=dict)


class DataWait(Check, frozen=True, kw_only=True):
    """Fires when the wait for data takes more than `share` of the step's time in 3/4 of the last `window` records.

    The step's time is that of the same record; the wait is part of it. Resolves when that is so in less than 1/4.
    """

    kind: ClassVar[Kind] = "starvation"
    memory: ClassVar[type[State]] = DataWaitState

    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    window: Annotated[int, Meta(ge=4, le=64)] = 64

    def observe(self, scan: Scan, state: DataWaitState, signs: list[Sign]) -> None:
        if Role.STEP_TIME not in scan.roles:
            return
        whole = scan.values[_step_time(scan)]
        for column in scan.columns:
            if scan.roles[column] is not Role.DATA_TIME:
                continue
            wait = state.waits.setdefault(scan.names[column], Wait())
            known = np.isfinite(whole) & np.isfinite(scan.values[column]) & (whole > 0)
            waits = scan.values[column] > self.share * whole
            if not wait.open and not wait.bits and not waits.any():
                wait.seen += int(np.count_nonzero(known))
                continue
            for row in np.flatnonzero(known).tolist():
                self._step(scan, column, wait, row, signs)

    def _step(self, scan: Scan, column: int, wait: Wait, row: int, signs: list[Sign]) -> None:
        value, whole = float(scan.values[column, row]), float(scan.values[_step_time(scan), row])
        waits = value > self.share * whole
        wait.bits = (wait.bits << 1 | waits) & ((1 << self.window) - 1)
        wait.seen += 1
        count = wait.bits.bit_count()
        if not wait.open and 4 * count >= 3 * self.window:
            wait.open = True
        elif wait.open and 4 * count < self.window:
            wait.open = False
        else:
            return
        name = scan.names[column]
        text = f"{name} is {number(value)} of {number(whole)} at step {scan.step(row)}: more than "
        text += f"{100 * self.share:.0f} % of the step in {count} of the last {self.window} records"
        evidence: dict[str, Any] = {
            "records": count,
            "window": self.window,
            "step_time": whole,
            "formula": "wait / step",
        }
        action: Literal["open", "resolve"] = "open" if wait.open else "resolve"
        signs.append(Sign(action, name, text, row=row, value=value, threshold=self.share * whole, evidence=evidence))


def _step_time(scan: Scan) -> int:
    """The column of the step's time."""
    return scan.roles.index(Role.STEP_TIME)
