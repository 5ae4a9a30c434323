"""Validation losses that rise for good while the training loss goes on falling."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.baseline import MAD_TO_DEVIATION, median, noise
from holter.health.rules.contract import FEW, Check, FloatArray, Scan, Sign, State, number

__all__ = ["Overfitting"]

Count = Annotated[int, Meta(ge=1)]
TRAIN_MEDIAN_OF = 10  # points of the training loss
NOISE_OF = 16  # evaluations that the noise is taken from
CURVATURE_TO_DEVIATION = MAD_TO_DEVIATION / math.sqrt(6)  # of second differences, which no steady rise enters
CLEAR = 0.4  # of the rise that fires: below it the validation loss is back


class Evaluation(msgspec.Struct, array_like=True):
    """One validation loss."""

    recent: list[float] = []  # the last values
    curvature: list[float] = []  # the sizes of the last second differences, on the log scale
    best: float = math.inf  # of the medians of three: the lowest of many noisy values is not what it could reach
    best_step: int = 0
    seen: int = 0
    train: dict[str, float] = {}  # the level of each training loss at the best evaluation
    risen: bool = False

    def take(self, value: float, step: int, keep: int, train: dict[str, Training]) -> None:
        if not self.recent:
            self.recent = [value]  # so that the first value is a median of three, too
        self.recent = [*self.recent, value][-max(keep, 3) :]
        self.seen += 1
        if self.seen >= 3:
            first, second, third = (math.log(value) for value in self.recent[-3:])
            self.curvature = [*self.curvature, abs(third - 2 * second + first)][-NOISE_OF:]
        level = median(self.recent[-3:])
        if level < self.best:
            self.best, self.best_step = level, step
            self.train = {name: training.level for name, training in train.items()}

    @property
    def noise(self) -> float:
        return CURVATURE_TO_DEVIATION * median(self.curvature) if self.curvature else math.inf


class Training(msgspec.Struct, array_like=True):
    """One training loss: its last points."""

    whole: bool  # and not a part of it
    recent: list[float] = []

    def take_one(self, value: float) -> None:
        """As `take`, a single value without an array around it."""
        recent = self.recent
        if not recent or recent[-1] != value:
            recent.append(value)
            if len(recent) > TRAIN_MEDIAN_OF:
                del recent[0]

    def take(self, values: FloatArray) -> None:
        """Values that are only repeated, as an epoch's loss on each row, are one."""
        before = self.recent[-1] if self.recent else math.nan
        if len(values) > FEW:
            values = values[values != np.concatenate([[before], values[:-1]])][-TRAIN_MEDIAN_OF:]
        for value in values.tolist():
            if value != before:
                self.recent.append(value)
            before = value
        del self.recent[:-TRAIN_MEDIAN_OF]

    @property
    def level(self) -> float:
        return median(self.recent)

    def below(self, then: float, factor: float) -> bool:
        """It is below ``factor`` times what it was then, and by more than its noise."""
        if len(self.recent) < 2:
            return False
        error = 2 * MAD_TO_DEVIATION * noise(self.recent) * math.sqrt(2 / len(self.recent)) * 1.2533
        wanted = factor * then if then > 0 else then / factor
        return self.level < min(wanted, then - error)


class OverfittingState(State):
    """Memory of `Overfitting`."""

    train: dict[str, Training] = msgspec.field(default_factory=dict)
    evaluations: dict[str, Evaluation] = msgspec.field(default_factory=dict)
    off: list[str] = msgspec.field(default_factory=list)  # metrics that have been 0 or negative
    open: str = ""  # the metric that the incident is about


class Overfitting(Check, frozen=True, kw_only=True):
    """Fires when the last `evaluations` values of a validation loss are all above its best one by `rise` and by `z`
    times its noise, and still go up, while a training loss is below `fall` times its level at that best evaluation.

    If all of them are above by `steep`, three are enough. Needs `at_least` evaluations. Of several validation losses in
    one record, more than half must have risen: a single one of five is not the model. Where only parts of a training
    loss are logged, more than half of them must have fallen.
    """

    kind: ClassVar[Kind] = "overfitting"
    memory: ClassVar[type[State]] = OverfittingState

    rise: Annotated[float, Meta(gt=0)] = 0.05
    steep: Annotated[float, Meta(gt=0)] = 0.2
    z: Annotated[float, Meta(gt=0)] = 3.0
    evaluations: Annotated[int, Meta(ge=3)] = 5
    at_least: Annotated[int, Meta(ge=4)] = 5
    fall: Annotated[float, Meta(gt=0, lt=1)] = 0.95

    def observe(self, scan: Scan, state: OverfittingState, signs: list[Sign]) -> None:
        losses = [column for column in scan.columns if scan.roles[column] in (Role.LOSS, Role.COMPONENT)]
        columns = [column for column in scan.columns if scan.roles[column] is Role.VAL_LOSS]
        start = 0
        if columns:
            for row in np.flatnonzero(np.isfinite(scan.values[columns]).any(axis=0)).tolist():
                self._train(scan, losses, state, start, row + 1)
                self._evaluate(scan, columns, state, row, signs)
                start = row + 1
        self._train(scan, losses, state, start, scan.rows)

    @staticmethod
    def _train(scan: Scan, losses: list[int], state: OverfittingState, start: int, stop: int) -> None:
        if scan.few is not None and scan.rows == stop == 1:
            for column in losses:
                if scan.finite[column]:
                    training = state.train.get(scan.names[column])
                    if training is None:
                        training = state.train[scan.names[column]] = Training(scan.roles[column] is Role.LOSS)
                    training.take_one(scan.few[column][0])
            return
        for column in losses:
            values = scan.values[column, start:stop]
            values = values if scan.finite[column] else values[np.isfinite(values)]
            if len(values):
                whole = scan.roles[column] is Role.LOSS
                state.train.setdefault(scan.names[column], Training(whole)).take(values)

    def _evaluate(self, scan: Scan, columns: list[int], state: OverfittingState, row: int, signs: list[Sign]) -> None:
        known = []
        for column in columns:
            name, value = scan.names[column], float(scan.values[column, row])
            if not math.isfinite(value) or name in state.off:
                continue
            if value <= 0:
                state.off.append(name)
                state.evaluations.pop(name, None)
                continue
            memory = state.evaluations.setdefault(name, Evaluation())
            if memory.recent and value == memory.recent[-1]:
                continue  # only repeated
            memory.take(value, scan.step(row), self.evaluations, state.train)
            memory.risen = self._risen(memory)
            known.append(name)
        if known:
            self._judge(scan, state, row, known, signs)

    def _risen(self, memory: Evaluation) -> bool:
        if memory.seen < self.at_least:
            return False
        needed = max(self.rise, math.expm1(self.z * memory.noise)) if memory.noise < 10 else math.inf
        still = memory.recent[-1] >= median(memory.recent[-3:])
        long = memory.seen > self.evaluations and min(memory.recent) / memory.best - 1 > needed
        last = min(memory.recent[-3:]) / memory.best - 1
        return still and (long or last > max(self.steep, needed))

    def _judge(self, scan: Scan, state: OverfittingState, row: int, known: list[str], signs: list[Sign]) -> None:
        risen = [name for name in known if state.evaluations[name].risen]
        if not state.open and 2 * len(risen) > len(known):
            name = max(risen, key=lambda name: state.evaluations[name].recent[-1] / state.evaluations[name].best)
            self._open(scan, state, row, name, signs)
        elif state.open in known:
            memory = state.evaluations[state.open]
            value = memory.recent[-1]
            if value <= memory.best * (1 + CLEAR * self.rise):
                text = f"{state.open} is {number(value)} at step {scan.step(row)}, near its best {number(memory.best)}"
                signs.append(Sign("resolve", state.open, text, row=row, subject="overfitting", value=value))
                state.open = ""

    def _open(self, scan: Scan, state: OverfittingState, row: int, name: str, signs: list[Sign]) -> None:
        memory = state.evaluations[name]
        known = [loss for loss in memory.train if state.train[loss].whole]
        parts = known or list(memory.train)
        fallen = {
            loss: (memory.train[loss], state.train[loss].level)
            for loss in parts
            if state.train[loss].below(memory.train[loss], self.fall)
        }
        if not fallen or (not known and 2 * len(fallen) <= len(parts)):
            return
        state.open = name
        value, step = memory.recent[-1], scan.step(row)
        loss, (then, now) = next(iter(fallen.items()))
        text = (
            f"{name} is {number(value)} at step {step}, {100 * (value / memory.best - 1):.0f} % above its best "
            f"{number(memory.best)} at step {memory.best_step}, while {loss} fell from {number(then)} to {number(now)}"
        )
        evidence: dict[str, Any] = {
            "formula": f"the last values / best - 1 > max({self.rise:g}, {self.z:g} x noise), training falls",
            "best_step": memory.best_step,
            "recent": list(memory.recent),
            "noise": memory.noise,
            "training": {name: list(levels) for name, levels in fallen.items()},
        }
        signs.append(
            Sign(
                "open",
                name,
                text,
                row=row,
                subject="overfitting",
                value=value,
                threshold=memory.best * (1 + self.rise),
                baseline=memory.best,
                evidence=evidence,
            )
        )
