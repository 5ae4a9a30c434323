"""A series that leaves its own level upwards: loss spikes and explosions, grad-norm explosions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from holter.health.model import Action, Kind
from holter.health.roles import Role
from holter.health.rules.baseline import WINDOW, Baseline
from holter.health.rules.contract import FEW, Check, FiniteSeries, FloatArray, Scan, Sign, State, number
from holter.health.rules.episode import Episode, Series, exp, offset
from holter.health.rules.schedule import Schedule

__all__ = ["Excursion"]

Ratio = Annotated[float, Meta(gt=1)]
Deviations = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
ZEROS_BEFORE_RESTART = 16  # a part that was switched off is a new series when it is switched on
SCHEDULE = (Role.LR, Role.STAGE)  # metrics that are not watched, and say when the level may change
CHUNK = 64  # points tried at once after a suspected one
LENIENT_FOR = 64  # points after a change of stage, until the window knows the new level
SPIKE = 6.0  # deviations from which a point counts as a spike of a cluster


class ExcursionState(State):
    """Memory of `Excursion`."""

    schedule: Schedule = msgspec.field(default_factory=Schedule)
    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Excursion(Check, frozen=True, kw_only=True):
    """Compares ln(value) with the median of its last 16 accepted points; suspected points stay out of that window.

    Suspected is a point above `ratio` times the median and by `z` robust deviations of the last 64 (median step and
    MAD, the larger). Fires on `points` suspected ones in a row, or on two in a row above `pair_ratio` times, or one
    above `single_ratio` times, by `single_z`. It is a spike until `points` in a row are above `explosion` times the
    median, then an explosion. Becomes critical once it has lasted: `critical_after` values in a row above
    `single_ratio`, or 192 in a row above `explosion`. `cluster` spikes among `within` points are an incident of their
    own.

    A series that has ever been negative has no log scale and is left alone. After 64 suspected points the new level
    becomes the baseline, while the incident keeps the old one. For 64 points after a change of the curriculum's stage,
    or a learning rate that rises threefold in one record, only the single-point thresholds apply: the data may be
    harder, or the schedule has restarted.
    """

    kind: ClassVar[Kind] = "explosion"
    memory: ClassVar[type[State]] = ExcursionState

    ratio: Ratio = 1.15
    z: Deviations = 3.5
    points: Count = 3
    pair_ratio: Ratio | None = None
    single_ratio: Ratio | None = 5.0
    single_z: Deviations = 10.0
    explosion: Ratio = 1.6
    critical_after: Count | None = 10
    recover_for: Count = 3
    cluster: Annotated[int, Meta(ge=2)] | None = None
    within: Count = 100

    def observe(self, scan: Scan, state: ExcursionState, signs: list[Sign]) -> None:
        columns = [column for column in scan.columns if scan.roles[column] not in SCHEDULE]
        if not columns and not state.series:
            return
        changes = state.schedule.changes(scan)
        taken = self._calm_record(scan, columns, state) if scan.rows == 1 and not changes else ()
        for column in columns:
            if column in taken:
                continue
            memory = state.series.get(scan.names[column])
            if memory is None:
                memory = state.series[scan.names[column]] = Series(Baseline())
            if not memory.negative:
                self._watch_stages(scan.series(column, signs), memory, changes)
        if changes:
            for name in state.series.keys() - {scan.names[column] for column in columns}:
                state.series[name].lenient = LENIENT_FOR

    def _calm_record(self, scan: Scan, columns: list[int], state: ExcursionState) -> set[int]:
        """Take in the values of a single record that nothing is special about; the columns of these.

        What a training sends that is watched live, in a third of the time of one series after the other.
        """
        found = []
        values = scan.values[:, 0].tolist()
        for column in columns:
            value, memory = values[column], state.series.get(scan.names[column])
            if memory is not None and 0 < value < math.inf and value != memory.last and _ordinary(memory):
                found.append((column, memory, value))
        if not found:
            return set()
        logs = np.log([value + (memory.offset or 0.0) for _, memory, value in found]).tolist()
        usual, taken = (math.log(self.ratio), self.z), set()
        for (column, memory, value), x in zip(found, logs, strict=True):
            if x <= memory.baseline.limit(*usual):
                memory.baseline.accept(x)
                memory.seen += 1
                memory.last = value
                taken.add(column)
        return taken

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
        if series.lowest() > 0:
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


def _ordinary(memory: Series) -> bool:
    """Whether the next value has only to be compared with the limit."""
    busy = memory.streak or memory.zeros or memory.lenient or memory.cluster or memory.negative
    return not busy and memory.episode is None and memory.offset is not None


def _give_up(series: FiniteSeries, memory: Series, index: int) -> None:
    """The series has a negative value: from now on there is no ratio to compare."""
    text = f"{series.name} is {number(series.values[index])}: a series with negative values has no ratio"
    if memory.episode is not None:
        series.sign("resolve", index, text)
    if memory.cluster:
        series.sign("resolve", index, text, subject=f"{series.name} cluster")
    memory.negative, memory.episode, memory.cluster = True, None, False
    memory.baseline.restart()


class Positive:
    """A stretch of positive values of one series, under one rule."""

    __slots__ = ("check", "memory", "series", "x")

    def __init__(self, check: Excursion, series: FiniteSeries, memory: Series) -> None:
        self.check = check
        self.series = series
        self.memory = memory
        if memory.offset is None:
            memory.offset = offset(float(series.values[0]))
        self.x: FloatArray = np.log(series.values + memory.offset)

    def look(self) -> None:
        """In blocks as long as nothing is suspect, point by point otherwise."""
        self._after_zeros()
        if len(self.x) <= FEW:
            self._one_by_one()
        else:
            self._in_blocks()

    def _one_by_one(self) -> None:
        """As `_in_blocks`, without what a block costs."""
        memory, baseline = self.memory, self.memory.baseline
        values, x = self.series.tolist(), self.x.tolist()
        start = self._calm_start(values, x)
        limit = baseline.limit(*self._thresholds())
        for index in range(start, len(x)):
            value = values[index]
            repeated, memory.last = value == memory.last, value
            if memory.episode is None and memory.streak == 0:
                if repeated:
                    continue
                if x[index] <= limit:
                    self._calm(index, 1)
                    memory.seen += 1
                    memory.lenient = max(0, memory.lenient - 1)
                    baseline.accept(x[index])
                    limit = baseline.limit(*self._thresholds())
                    continue
            self._point(index, repeated=repeated)
            limit = baseline.limit(*self._thresholds())

    def _calm_start(self, values: list[float], x: list[float]) -> int:
        """Take in the points from the first on that nothing is special about, and say how many these were."""
        memory, baseline = self.memory, self.memory.baseline
        special = memory.episode is not None or memory.streak or memory.lenient or memory.cluster
        if special or values[0] == memory.last or any(one == other for one, other in pairwise(values)):
            return 0
        taken = 0
        while taken < len(x):
            points = x[taken : taken + baseline.until_seal()]
            if max(points) > baseline.limit(*self._thresholds()):
                break
            baseline.extend(points)
            taken += len(points)
        if taken:
            memory.seen += taken
            memory.last = values[taken - 1]
        return taken

    def _in_blocks(self) -> None:
        memory = self.memory
        fresh = self._fresh()
        self._repetitions(0, int(fresh[0]) if len(fresh) else len(self.x))
        x = self.x if len(fresh) == len(self.x) else self.x[fresh]
        at, chunk = 0, len(x)  # of the fresh points
        while at < len(x):
            if memory.episode is None and memory.streak == 0:
                block = x[at : at + min(chunk, memory.lenient or chunk)]
                taken = memory.baseline.advance(block, *self._thresholds())
                memory.lenient = max(0, memory.lenient - taken)
                self._calm(int(fresh[at]), taken, fresh[at:])
                memory.seen += taken
                at, chunk = at + taken, 2 * chunk
                if taken == len(block):
                    continue
                chunk = CHUNK
            first, stop = int(fresh[at]), int(fresh[at + 1]) if at + 1 < len(fresh) else len(self.x)
            self._point(first, repeated=False)
            self._repetitions(first + 1, stop)
            at += 1

    def _fresh(self) -> NDArray[np.intp]:
        """Indices of values that differ from those before them: a value that is only repeated tells of no noise."""
        values, memory = self.series.values, self.memory
        different = values != np.concatenate([[memory.last], values[:-1]])
        memory.last = float(values[-1])
        return np.flatnonzero(different)

    def _repetitions(self, start: int, stop: int) -> None:
        """Values equal to the one before count only while something is suspect."""
        for index in range(start, stop):
            if self.memory.episode is None and self.memory.streak == 0:
                return
            self._point(index, repeated=True)

    def _thresholds(self) -> tuple[float, float]:
        """What a point has to exceed to be suspected: a log ratio and a number of deviations."""
        check = self.check
        if self.memory.lenient and check.single_ratio is not None:
            return math.log(check.single_ratio), check.single_z
        return math.log(check.ratio), check.z

    def _after_zeros(self) -> None:
        memory = self.memory
        if memory.zeros >= ZEROS_BEFORE_RESTART:
            memory.baseline.restart()
            memory.streak = memory.suspected = memory.accepted_before = 0
        memory.zeros = 0

    def _point(self, index: int, *, repeated: bool) -> None:
        x, memory, check = float(self.x[index]), self.memory, self.check
        suspected = x > memory.baseline.limit(*self._thresholds())
        self._count(suspected=suspected)
        if memory.episode is not None:
            self._follow(memory.episode, index)
        elif memory.streak >= check.points:
            self._open(index, check.ratio, check.z)
        elif check.pair_ratio is not None and memory.streak >= 2 and memory.pair and self._beyond(x, check.pair_ratio):
            self._open(index, check.pair_ratio, check.single_z)
        elif check.single_ratio is not None and suspected and self._beyond(x, check.single_ratio):
            self._open(index, check.single_ratio, check.single_z)
        memory.pair = check.pair_ratio is not None and suspected and self._beyond(x, check.pair_ratio)
        if suspected:
            self._note_spike(index, x)
            self._suspect()
        elif not repeated:
            memory.baseline.accept(x)

    def _count(self, *, suspected: bool) -> None:
        memory = self.memory
        memory.seen += 1
        memory.lenient = max(0, memory.lenient - 1)
        memory.streak = memory.streak + 1 if suspected else 0

    def _deviations(self, x: float) -> float:
        return (x - self.memory.baseline.level) / self.memory.baseline.scale

    def _beyond(self, x: float, ratio: float) -> bool:
        return x > self.memory.baseline.limit(math.log(ratio), self.check.single_z)

    def _suspect(self) -> None:
        memory = self.memory
        if memory.baseline.accepted - memory.accepted_before >= WINDOW:
            memory.suspected = 0
        memory.suspected += 1
        memory.accepted_before = memory.baseline.accepted
        if memory.suspected >= WINDOW:
            memory.baseline.restart()
            memory.suspected = memory.accepted_before = 0

    # --- one excursion

    def _open(self, index: int, ratio: float, z: float) -> None:
        """What was compared is above the level by the factor ``ratio`` and by ``z`` deviations."""
        check, memory, step = self.check, self.memory, self.series.step(index)
        baseline, x = memory.baseline, float(self.x[index])
        back = baseline.level + max(math.log(check.ratio) / 2, 2 * baseline.scale)
        lasting = memory.streak >= check.points and x - baseline.level > math.log(check.explosion)
        episode = memory.episode = Episode(step, baseline.level, back, not lasting, peak=x)
        self._advance(episode, x)
        limit = memory.value(baseline.limit(math.log(ratio), z))
        often = f", {memory.streak} records in a row above {number(limit)}" if memory.streak > 1 else ""
        level = memory.value(baseline.level)
        value = float(self.series.values[index])
        times = value / level if level > 0 else exp(x - baseline.level)
        text = f"{self.series.name} is {number(value)} at step {step}: {number(times)} times its median "
        evidence: dict[str, Any] = {
            "formula": f"ln value - ln median > max(ln {number(ratio)}, {number(z)} x scale)",
            "ratio": times,
            "z": self._deviations(x),
            "scale": baseline.scale,
            "window": len(baseline.window),
            "since_step": step,
        }
        if memory.streak > 1:
            evidence["in_a_row"] = memory.streak
        self._sign("open", index, f"{text}{number(level)}{often}", episode, threshold=limit, evidence=evidence)

    def _advance(self, episode: Episode, x: float) -> None:
        check = self.check
        episode.count(x, math.log(check.explosion), math.log(check.single_ratio or check.explosion))

    def _follow(self, episode: Episode, index: int) -> None:
        self._advance(episode, float(self.x[index]))
        value = number(self.series.values[index])
        if episode.calm >= self.check.recover_for:
            self.memory.episode = None
            self._sign("resolve", index, self.memory.recovery(self.series.name, episode), episode)
        elif episode.lasting(self.check.critical_after):
            episode.critical, episode.spike = True, False
            text = f"stays up for {max(episode.high, episode.large)} records in a row and is now {value}"
            self._sign("escalate", index, f"{self._since(episode)} {text}", episode)
        elif episode.spike and episode.large >= self.check.points:
            episode.spike = False
            text = f"has not come back for {episode.large} records: more than a spike, now {value}"
            self._sign("update", index, f"{self._since(episode)} {text}", episode)

    def _since(self, episode: Episode) -> str:
        level = number(self.memory.value(episode.level))
        return f"{self.series.name}, above its median {level} since step {episode.since},"

    def _sign(self, action: Action, index: int, text: str, episode: Episode, **more: Any) -> None:
        more.setdefault("evidence", {"records": episode.records, "peak": self.memory.value(episode.peak)})
        self.series.sign(
            action,
            index,
            text,
            severity="critical" if episode.critical else None,
            kind="spike" if episode.spike and self.check.kind == "explosion" else None,
            baseline=self.memory.value(episode.level),
            **more,
        )

    # --- many of them

    def _note_spike(self, index: int, x: float) -> None:
        """The first point of a spike: one more of a cluster."""
        memory, needed = self.memory, self.check.cluster
        if needed is None or memory.streak != 1 or self._deviations(x) < SPIKE:
            return
        memory.spikes = [*memory.spikes, memory.seen][-needed:]
        among = memory.seen - memory.spikes[0]
        if memory.cluster or len(memory.spikes) < needed or among >= self.check.within:
            return
        memory.cluster = True
        step = self.series.step(index)
        text = f"{self.series.name} has jumped up {needed} times in {among} records, the last time at step {step} to "
        evidence = {"formula": f"{needed} spikes within {self.check.within} records", "records": among}
        self._sign_cluster("open", index, text + number(self.series.values[index]), evidence)

    def _calm(self, index: int, taken: int, fresh: NDArray[np.intp] | None = None) -> None:
        """``taken`` points without a suspect, from ``index`` on: after `within` of them a cluster is over."""
        memory = self.memory
        if not memory.cluster:
            return
        needed = self.check.within - (memory.seen - memory.spikes[-1])
        if taken < max(needed, 1):
            return
        memory.cluster, memory.spikes = False, []
        at = index if fresh is None else int(fresh[max(needed, 1) - 1])
        text = f"{self.series.name} has not jumped for {self.check.within} records"
        self._sign_cluster("resolve", at, text, {"records": self.check.within})

    def _sign_cluster(self, action: Action, index: int, text: str, evidence: dict[str, Any]) -> None:
        subject = f"{self.series.name} cluster"
        self.series.sign(action, index, text, subject=subject, kind="spike", evidence=evidence)
