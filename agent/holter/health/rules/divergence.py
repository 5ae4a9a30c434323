"""A loss that climbs away from the best level it has had, too slowly to be a jump."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.lib.stride_tricks import sliding_window_view

from holter.health.model import Action, Kind
from holter.health.roles import Role
from holter.health.rules.baseline import MAD_TO_DEVIATION, median, medians, noise
from holter.health.rules.contract import FEW, Check, FiniteSeries, FloatArray, Scan, Sign, State, number
from holter.health.rules.episode import exp, offset
from holter.health.rules.schedule import Schedule

__all__ = ["Divergence"]

Ratio = Annotated[float, Meta(gt=1)]
Deviations = Annotated[float, Meta(gt=0)]
SHORT, LONG = 10, 64  # points that the current level is taken from
STRIDE = 5  # points between two looks at the median of 10
SEAL = 20  # points between two looks at the median of 64 and at the noise
SHORT_FROM, LONG_FROM = 20, 128  # points from which on each is compared
SHORT_LOOKS, LONG_LOOKS, CONFIRMED_LOOKS = 2, 3, 3  # in a row
NOISE_FLOOR = 0.003  # on the log scale
VAL_RISE = 1.01  # of the validation loss above its best: it goes up, too


class Evaluation(msgspec.Struct, array_like=True):
    """The validation losses of the run: each one's best, and whether the newest is one."""

    best: dict[str, float] = {}
    last: dict[str, float] = {}
    improved: int = 0  # points of training that had been seen when the newest one improved on its best
    told: int = 0  # points of training that had been seen at the newest evaluation

    def take(self, name: str, value: float, seen: int) -> None:
        if value == self.last.get(name):
            return  # only repeated
        if value < self.best.get(name, math.inf):
            self.best[name] = value
            self.improved = seen
        self.last[name], self.told = value, seen

    def improved_since(self, seen: int) -> bool:
        """The newest evaluation is the best so far, and came after that point of training."""
        return self.improved == self.told and self.improved > seen

    def rises(self) -> bool:
        """Most of them stand above their best by more than noise."""
        up = [value > VAL_RISE * self.best[name] for name, value in self.last.items() if self.best[name] > 0]
        return bool(up) and 2 * sum(up) > len(up)


class Series(msgspec.Struct, array_like=True):
    """One training loss. Levels are logarithms."""

    offset: float | None = None
    recent: list[float] = []  # the last 64 points
    last: float = math.nan  # the newest value
    seen: int = 0
    began: int = 0  # points seen when it was last started anew
    best: float = math.inf  # of the medians of 10
    best_at: int = 0  # points seen
    best_step: int = 0
    best_long: float = math.inf  # of the medians of 64
    noise: float = math.inf  # at the last seal
    looks: tuple[int, int, int] = (0, 0, 0)  # in a row that were above: short, long, confirmed
    negative: bool = False
    open: bool = False
    base: float = 0.0  # the best when it opened
    back: int = 0  # looks in a row that were back
    high: int = 0  # looks in a row above the critical ratio
    critical: bool = False

    def restart(self) -> None:
        """What comes is not to be compared with what was."""
        self.recent, self.best, self.best_long, self.looks = [], math.inf, math.inf, (0, 0, 0)
        self.began = self.best_at = self.seen


class DivergenceState(State):
    """Memory of `Divergence`."""

    schedule: Schedule = msgspec.field(default_factory=Schedule)
    evaluation: Evaluation = msgspec.field(default_factory=Evaluation)
    series: dict[str, Series] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look compares: levels and noise on the log scale."""

    index: int
    seen: int  # points
    short: float
    noise: float
    long: float | None = None  # where there is a look at it


class Divergence(Check, frozen=True, kw_only=True):
    """Compares the median of a loss's last 10 points with the lowest such median before, every 5 points.

    A value that is only repeated, as an epoch's loss is on each row, is no point.

    Fires when it is above by `ratio` and by `z` times the noise (median step from point to point, over √2) in 2 looks
    in a row; or the same for the median of 64, by `ratio` and `z_long`, in 6 looks, for a loss too noisy for 10 points;
    or by `ratio_confirmed` and `z` in 3 looks while the validation losses rise, too. Silent as long as a validation
    loss has reached a new best since the training loss had its own: then the training data have become harder. A
    change of the curriculum's stage, or a learning rate that is restarted, starts anew. Becomes critical when the
    median has stayed above `critical_ratio` times the best for 10 looks.
    """

    kind: ClassVar[Kind] = "divergence"
    memory: ClassVar[type[State]] = DivergenceState

    ratio: Ratio = 1.08
    z: Deviations = 4.0
    z_long: Deviations = 2.5
    ratio_confirmed: Ratio = 1.025
    critical_ratio: Ratio = 2.0

    def observe(self, scan: Scan, state: DivergenceState, signs: list[Sign]) -> None:
        losses = [column for column in scan.columns if scan.roles[column] is Role.LOSS]
        evaluations = [column for column in scan.columns if scan.roles[column] is Role.VAL_LOSS]
        changes = state.schedule.changes(scan)
        start = 0
        for row in sorted({*changes, *_finite_rows(scan, evaluations)}) if changes or evaluations else ():
            self._losses(scan, losses, state, signs, (start, row))
            if row in changes:
                for series in state.series.values():
                    series.restart()
            self._evaluate(scan, evaluations, state, row)
            start = row
        self._losses(scan, losses, state, signs, (start, scan.rows))

    @staticmethod
    def _evaluate(scan: Scan, columns: list[int], state: DivergenceState, row: int) -> None:
        seen = max((series.seen for series in state.series.values()), default=0)
        for column in columns:
            value = float(scan.values[column, row])
            if math.isfinite(value):
                state.evaluation.take(scan.names[column], value, seen)

    def _losses(
        self, scan: Scan, columns: list[int], state: DivergenceState, signs: list[Sign], rows: tuple[int, int]
    ) -> None:
        """The rows from the first of ``rows`` to before the second; neither schedule nor evaluations change there."""
        start, stop = rows
        if start == stop:
            return
        for column in columns:
            series = scan.series(column, signs)
            if stop - start < scan.rows:
                known = np.arange(scan.rows) if series.rows is None else series.rows
                first, last = np.searchsorted(known, [start, stop]).tolist()
                series = series.part(first, last)
            memory = state.series.setdefault(series.name, Series())
            if len(series.values) and not memory.negative:
                self._watch(series, memory, state.evaluation)

    def _watch(self, series: FiniteSeries, memory: Series, evaluation: Evaluation) -> None:
        if series.lowest() < 0:
            index = int(np.argmax(series.values < 0))
            if index:
                self._watch(series.part(0, index), memory, evaluation)
            memory.negative = True
            if memory.open:
                memory.open = False
                series.sign("resolve", index, f"{series.name} has become negative: it has no ratio any more")
            return
        if memory.offset is None:
            positive = np.flatnonzero(series.values > 0)
            if not len(positive):
                return
            series = series.part(int(positive[0]), len(series.values))
            memory.offset = offset(float(series.values[0]))
        last, memory.last = memory.last, float(series.values[-1])
        series = series.fresh(last)
        for look in _looks(np.log(series.values + memory.offset), memory):
            self._look(series, memory, look, evaluation)

    def _look(self, series: FiniteSeries, memory: Series, look: Look, evaluation: Evaluation) -> None:
        if look.short < memory.best:
            memory.best, memory.best_at, memory.best_step = look.short, look.seen, series.step(look.index)
        if look.long is not None:
            memory.best_long = min(memory.best_long, look.long)
        if memory.open:
            self._follow(series, memory, look)
            return
        up, known = look.short - memory.best, look.seen - memory.began >= SHORT_FROM
        noisy = self.z * look.noise
        short = known and up > max(math.log(self.ratio), noisy)
        confirmed = known and up > max(math.log(self.ratio_confirmed), noisy) and evaluation.rises()
        before = memory.looks
        long_looks = before[1] if look.long is None else before[1] + 1 if self._long(memory, look) else 0
        memory.looks = (before[0] + 1 if short else 0, long_looks, before[2] + 1 if confirmed else 0)
        needed = (SHORT_LOOKS, LONG_LOOKS, CONFIRMED_LOOKS)
        reasons = [index for index in range(3) if memory.looks[index] >= needed[index]]
        if reasons and not evaluation.improved_since(memory.best_at):
            self._open(series, memory, look, reasons[0], evaluation)

    def _long(self, memory: Series, look: Look) -> bool:
        if look.long is None or look.seen - memory.began < LONG_FROM:
            return False
        return look.long - memory.best_long > max(math.log(self.ratio), self.z_long * look.noise)

    def _open(self, series: FiniteSeries, memory: Series, look: Look, reason: int, evaluation: Evaluation) -> None:
        memory.open, memory.looks = True, (0, 0, 0)
        level, best, width = look.short, memory.best, SHORT
        if reason == 1 and look.long is not None:
            level, best, width = look.long, memory.best_long, LONG
        memory.base = best
        ratio = (self.ratio, self.ratio, self.ratio_confirmed)[reason]
        z = (self.z, self.z_long, self.z)[reason]
        limit = exp(best + max(math.log(ratio), z * look.noise)) - (memory.offset or 0.0)
        step, too = series.step(look.index), ", and the validation loss rises, too" if reason == 2 else ""
        now, was = (exp(x) - (memory.offset or 0.0) for x in (level, best))
        times = now / was if was > 0 else exp(level - best)
        text = (
            f"{series.name} has climbed to {number(now)} at step {step} (median of {width}), {number(times)} times "
            f"its best {number(was)} at step {memory.best_step}{too}"
        )
        evidence: dict[str, Any] = {
            "formula": f"median of {width} - best > max(ln {number(ratio)}, {number(z)} x noise)",
            "ratio": times,
            "z": (level - best) / look.noise,
            "noise": look.noise,
            "best_step": memory.best_step,
        }
        if reason == 2:
            evidence["validation"] = {name: [evaluation.best[name], last] for name, last in evaluation.last.items()}
        self._sign(series, memory, look, "open", text, value=now, threshold=limit, evidence=evidence)

    def _follow(self, series: FiniteSeries, memory: Series, look: Look) -> None:
        up = look.short - memory.base
        memory.back = memory.back + 1 if up <= math.log(self.ratio_confirmed) / 2 else 0
        memory.high = memory.high + 1 if up > math.log(self.critical_ratio) else 0
        now = exp(look.short) - (memory.offset or 0.0)
        words = f"{series.name} is {number(now)} at step {series.step(look.index)} (median of {SHORT})"
        if memory.back >= SHORT_LOOKS:
            self._sign(series, memory, look, "resolve", f"{words}, near its best again", value=now)
            memory.open, memory.back, memory.high, memory.critical = False, 0, 0, False
        elif memory.high >= 2 * SHORT and not memory.critical:
            memory.critical = True
            often = f"{number(exp(up))} times its best, and above {number(self.critical_ratio)} times for "
            self._sign(series, memory, look, "escalate", f"{words}, {often}{memory.high * STRIDE} records", value=now)

    @staticmethod
    def _sign(series: FiniteSeries, memory: Series, look: Look, action: Action, text: str, **more: Any) -> None:
        severity = "critical" if memory.critical else None
        baseline = exp(memory.base) - (memory.offset or 0.0)
        series.sign(action, look.index, text, severity=severity, baseline=baseline, **more)


def _finite_rows(scan: Scan, columns: list[int]) -> list[int]:
    if not columns:
        return []
    finite = np.isfinite(scan.values[columns]).any(axis=0)
    return [int(row) for row in np.flatnonzero(finite)]


def _looks(x: FloatArray, memory: Series) -> Iterator[Look]:
    """Take in the points ``x``, and say what each look at them compares."""
    if len(x) <= FEW:
        yield from _looks_one_by_one(x, memory)
        return
    points = np.concatenate([memory.recent, x])
    kept, seen = len(memory.recent), memory.seen
    memory.recent, memory.seen = points[-LONG:].tolist(), seen + len(x)
    counts = np.arange(STRIDE - seen % STRIDE, len(x) + 1, STRIDE)  # points of ``x`` before each look
    counts = counts[counts + kept >= SHORT]
    if not len(counts):
        return
    short = medians(sliding_window_view(points, SHORT)[counts + kept - SHORT]).tolist()
    seals = {count: order for order, count in enumerate(counts[(counts + seen) % SEAL == 0].tolist())}
    early = [count for count in seals if count + kept < LONG]
    late = np.array([count for count in seals if count + kept >= LONG], dtype=np.intp)
    windows = sliding_window_view(points, LONG)[late + kept - LONG] if len(late) else np.empty((0, LONG))
    long = medians(windows).tolist()
    noises = (medians(np.abs(np.diff(windows, axis=1))) / math.sqrt(2)).tolist()
    for count, level in zip(counts.tolist(), short, strict=True):
        newest = None
        if count in seals:
            order = seals[count] - len(early)
            if order < 0:
                memory.noise = _scale(noise(points[: count + kept].tolist()))
            else:
                newest, memory.noise = long[order], _scale(noises[order])
        yield Look(count - 1, seen + count, level, memory.noise, newest)


def _looks_one_by_one(x: FloatArray, memory: Series) -> Iterator[Look]:
    """As `_looks`, without what a block costs."""
    recent = memory.recent
    for index, point in enumerate(x.tolist()):
        recent.append(point)
        if len(recent) > LONG:
            del recent[0]
        memory.seen += 1
        if memory.seen % STRIDE or len(recent) < SHORT:
            continue
        newest = None
        if memory.seen % SEAL == 0:
            memory.noise = _scale(noise(recent))
            newest = median(recent) if len(recent) == LONG else None
        yield Look(index, memory.seen, median(recent[-SHORT:]), memory.noise, newest)


def _scale(step: float) -> float:
    return max(MAD_TO_DEVIATION * step, NOISE_FLOOR)
