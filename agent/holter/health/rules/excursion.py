"""A series that leaves its own level upwards: loss spikes and explosions, grad-norm explosions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Action, Kind
from holter.health.roles import Role
from holter.health.rules.baseline import WINDOW, Baseline
from holter.health.rules.contract import Check, FiniteSeries, FloatArray, Scan, Sign, State, number

__all__ = ["Excursion"]

Ratio = Annotated[float, Meta(gt=1)]
Deviations = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
BACK = math.log(1.2)  # "recovered" is within this of the old median, or within two deviations of a noisy series
ZEROS_BEFORE_RESTART = 16  # a part that was switched off is a new series when it is switched on
CHUNK = 64  # points tried at once after a suspected one
LENIENT_FOR = 64  # points after a change of stage, until the window knows the new level


class Episode(msgspec.Struct, array_like=True):
    """An excursion that is going on. Levels are natural logarithms."""

    since: int  # step
    level: float  # the median before it
    back: float  # at or below this it is back
    sudden: bool  # known from a single point only
    records: int = 0
    calm: int = 0  # records in a row that were back
    high: int = 0  # in a row above the single-point ratio
    raised: int = 0  # in a row above the ratio
    peak: float = -math.inf
    critical: bool = False

    def count(self, x: float, check: Excursion) -> None:
        """Take in the next point."""
        above = x - self.level
        self.records += 1
        self.calm = self.calm + 1 if x <= self.back else 0
        self.high = self.high + 1 if above > math.log(check.single_ratio or check.ratio) else 0
        self.raised = self.raised + 1 if above > math.log(check.ratio) else 0
        self.peak = max(self.peak, x)

    def lasting(self, check: Excursion) -> bool:
        """Whether it has just become long enough to be critical."""
        if check.critical_after is None or self.critical:
            return False
        return self.high >= check.critical_after or self.raised >= 3 * WINDOW

    def recovery(self, name: str) -> str:
        """How it ended, in words."""
        return (
            f"{name} is back near its old median {number(_exp(self.level))} after {self.records - self.calm} records; "
            f"its peak was {number(_exp(self.peak))}"
        )


class Series(msgspec.Struct, array_like=True):
    """One metric: its baseline, what is suspected, and the excursion that is going on."""

    baseline: Baseline
    streak: int = 0  # suspected points in a row
    suspected: int = 0  # since the window last held calm points only
    accepted_before: int = 0  # `baseline.accepted` at the last suspected point
    zeros: int = 0  # in a row
    negative: bool = False  # has ever been
    lenient: int = 0  # points to come that only the single-point thresholds apply to
    episode: Episode | None = None


class ExcursionState(State):
    """Memory of `Excursion`."""

    stage: float | None = None  # of the curriculum, as last logged
    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Excursion(Check, frozen=True, kw_only=True):
    """Compares ln(value) with the median of its last 64 accepted points; suspected points stay out of that window.

    Fires on `points` values in a row above `ratio` times the median and by `z` robust deviations, or on one above
    `single_ratio` times and by `single_z`. Becomes critical once it has lasted: `critical_after` values in a row above
    `single_ratio`, or 192 in a row above `ratio`. A series that has ever been negative has no log scale and is left
    alone. After 64 suspected points the new level becomes the baseline, while the incident keeps the old one. For 64
    points after a change of the curriculum's stage, whose data may be harder, only the single-point thresholds apply.
    """

    kind: ClassVar[Kind] = "explosion"
    memory: ClassVar[type[State]] = ExcursionState

    ratio: Ratio = 1.6
    z: Deviations = 6.0
    points: Count = 3
    single_ratio: Ratio | None = 5.0
    single_z: Deviations = 10.0
    critical_after: Count | None = 10
    recover_for: Count = 3

    def observe(self, scan: Scan, state: ExcursionState, signs: list[Sign]) -> None:
        changes = _stage_changes(scan, state)
        logs = _logs_of_one(scan) if scan.rows == 1 and not changes else None
        usual = math.log(self.ratio), self.z
        for column in scan.columns:
            memory = state.series.get(scan.names[column])
            if memory is None:
                memory = state.series[scan.names[column]] = Series(Baseline())
            if logs is not None and self._calm(memory, logs[column], usual):
                continue
            if not memory.negative:
                self._watch_stages(scan.series(column, signs), memory, changes)
        if changes:
            for name in state.series.keys() - {scan.names[column] for column in scan.columns}:
                state.series[name].lenient = LENIENT_FOR

    def _calm(self, memory: Series, x: float, usual: tuple[float, float]) -> bool:
        """Take in a single value (its logarithm) if nothing is the matter, which is what live runs mostly send.

        A fifth of the time of the way for blocks, with the same outcome. False: it was not taken.
        """
        if memory.negative or memory.episode is not None or memory.streak or memory.zeros or not math.isfinite(x):
            return False
        if not memory.baseline.take(x, *(self.thresholds(memory) if memory.lenient else usual)):
            return False
        if memory.lenient:
            memory.lenient -= 1
        return True

    def thresholds(self, memory: Series) -> tuple[float, float]:
        """What a point has to exceed to be suspected: a log ratio and a number of deviations."""
        if memory.lenient and self.single_ratio is not None:
            return math.log(self.single_ratio), self.single_z
        return math.log(self.ratio), self.z

    def _watch_stages(self, series: FiniteSeries, memory: Series, changes: list[int]) -> None:
        if not changes:
            self._watch(series, memory)
            return
        rows = np.arange(len(series.values)) if series.rows is None else series.rows
        edges = [0, *np.searchsorted(rows, changes).tolist(), len(rows)]
        for part, (start, stop) in enumerate(pairwise(edges)):
            if part:
                memory.lenient = LENIENT_FOR
            if not memory.negative:
                self._watch(series.part(start, stop), memory)

    def _watch(self, series: FiniteSeries, memory: Series) -> None:
        values = series.values
        if not len(values):
            return
        if values.min() > 0:
            Positive(self, series, memory).look()
            return
        edges = np.flatnonzero(np.diff(np.sign(values))) + 1
        for start, stop in pairwise([0, *edges.tolist(), len(values)]):
            if values[start] < 0:
                _give_up(series, memory, start)
                return
            if values[start] == 0:
                memory.zeros += stop - start
            else:
                Positive(self, series.part(start, stop), memory).look()


def _logs_of_one(scan: Scan) -> list[float]:
    """The logarithms of a single record's values; NaN or infinite where there is none.

    By numpy, as for blocks: math.log may differ from it in the last bit.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: list[float] = np.log(scan.values[:, 0]).tolist()
    return logs


def _stage_changes(scan: Scan, state: ExcursionState) -> list[int]:
    """Rows at which the curriculum's stage differs from that of the row before."""
    if Role.STAGE not in scan.roles:
        return []
    stages = scan.values[scan.roles.index(Role.STAGE)]
    before = np.concatenate([[stages[0] if state.stage is None else state.stage], stages[:-1]])
    state.stage = float(stages[-1])
    return np.flatnonzero((stages != before) & np.isfinite(stages)).tolist()


def _give_up(series: FiniteSeries, memory: Series, index: int) -> None:
    """The series has a negative value: from now on there is no ratio to compare."""
    if memory.episode is not None:
        text = f"{series.name} is {number(series.values[index])}: a series with negative values has no ratio"
        series.sign("resolve", index, text)
    memory.negative, memory.episode = True, None
    memory.baseline.restart()


def _exp(x: float) -> float:
    """e to the ``x``, or +Inf where that is no double."""
    return math.exp(x) if x < 709.78 else math.inf


class Positive:
    """A stretch of positive values of one series, under one rule."""

    __slots__ = ("check", "memory", "series", "x")

    def __init__(self, check: Excursion, series: FiniteSeries, memory: Series) -> None:
        self.check = check
        self.series = series
        self.memory = memory
        self.x: FloatArray = np.log(series.values)

    def look(self) -> None:
        """In blocks as long as nothing is suspect, point by point otherwise."""
        self._after_zeros()
        x, memory = self.x, self.memory
        at, chunk = 0, len(x)
        while at < len(x):
            if memory.episode is None and memory.streak == 0:
                block = x[at : at + min(chunk, memory.lenient or chunk)]
                taken = memory.baseline.advance(block, *self.check.thresholds(self.memory))
                memory.lenient = max(0, memory.lenient - taken)
                at, chunk = at + taken, 2 * chunk
                if taken == len(block):
                    continue
                chunk = CHUNK
            self._point(at)
            memory.lenient = max(0, memory.lenient - 1)
            at += 1

    def _after_zeros(self) -> None:
        memory = self.memory
        if memory.zeros >= ZEROS_BEFORE_RESTART:
            memory.baseline.restart()
            memory.streak = memory.suspected = memory.accepted_before = 0
        memory.zeros = 0

    def _point(self, index: int) -> None:
        x, memory, check = float(self.x[index]), self.memory, self.check
        suspected = x > memory.baseline.limit(*self.check.thresholds(self.memory))
        memory.streak = memory.streak + 1 if suspected else 0
        if memory.episode is not None:
            self._follow(memory.episode, index)
        elif memory.streak >= check.points:
            self._open(index, sudden=False)
        elif suspected and self._single(x):
            self._open(index, sudden=True)
        if suspected:
            self._suspect()
        else:
            memory.baseline.accept(x)

    def _single(self, x: float) -> bool:
        ratio, z = self.check.single_ratio, self.check.single_z
        return ratio is not None and x > self.memory.baseline.limit(math.log(ratio), z)

    def _suspect(self) -> None:
        memory = self.memory
        if memory.baseline.accepted - memory.accepted_before >= WINDOW:
            memory.suspected = 0
        memory.suspected += 1
        memory.accepted_before = memory.baseline.accepted
        if memory.suspected >= WINDOW:
            memory.baseline.restart()
            memory.suspected = memory.accepted_before = 0

    def _open(self, index: int, *, sudden: bool) -> None:
        check, baseline, step = self.check, self.memory.baseline, self.series.step(index)
        x = float(self.x[index])
        back = baseline.median + max(BACK, 2 * baseline.scale)
        episode = self.memory.episode = Episode(step, baseline.median, back, sudden, peak=x)
        episode.count(x, check)
        ratio, z = (check.single_ratio or check.ratio, check.single_z) if sudden else (check.ratio, check.z)
        limit = _exp(baseline.limit(math.log(ratio), z))
        often = "" if sudden else f", {self.memory.streak} records in a row above {number(limit)}"
        text = (
            f"{self.series.name} is {number(_exp(x))} at step {step}: {number(_exp(x - baseline.median))} times its "
            f"median {number(_exp(baseline.median))}{often}"
        )
        evidence: dict[str, Any] = {
            "formula": f"ln value - ln median > max(ln {number(ratio)}, {number(z)} x scale)",
            "ratio": _exp(x - baseline.median),
            "z": (x - baseline.median) / baseline.scale,
            "scale": baseline.scale,
            "window": len(baseline.window),
            "since_step": step,
        }
        self._sign("open", index, text, episode, threshold=limit, evidence=evidence)

    def _follow(self, episode: Episode, index: int) -> None:
        episode.count(float(self.x[index]), self.check)
        value = number(self.series.values[index])
        if episode.calm >= self.check.recover_for:
            self.memory.episode = None
            self._sign("resolve", index, episode.recovery(self.series.name), episode)
        elif episode.lasting(self.check):
            episode.critical, episode.sudden = True, False
            text = f"stays up for {max(episode.high, episode.raised)} records in a row and is now {value}"
            self._sign("escalate", index, f"{self._since(episode)} {text}", episode)
        elif episode.sudden and episode.raised >= self.check.points:
            episode.sudden = False
            text = f"has not come back for {episode.raised} records: more than a spike, now {value}"
            self._sign("update", index, f"{self._since(episode)} {text}", episode)

    def _since(self, episode: Episode) -> str:
        return f"{self.series.name}, above its median {number(_exp(episode.level))} since step {episode.since},"

    def _sign(self, action: Action, index: int, text: str, episode: Episode, **more: Any) -> None:
        more.setdefault("evidence", {"records": episode.records, "peak": _exp(episode.peak)})
        self.series.sign(
            action,
            index,
            text,
            severity="critical" if episode.critical else None,
            kind="spike" if episode.sudden and self.check.kind == "explosion" else None,
            baseline=_exp(episode.level),
            **more,
        )
