"""A gradient that is gone while there is still something to learn."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.baseline import median
from holter.health.rules.contract import Check, FiniteSeries, FloatArray, Scan, Sign, State, number

__all__ = ["Vanishing"]

Count = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(gt=1)]
BLOCK = 16  # gradient norms that a level is taken from
LOSS_OF = 10  # values of a loss that its level is taken from


class Series(msgspec.Struct, array_like=True):
    """One gradient norm."""

    block: list[float] = []  # values since the last level
    level: float = 0.0  # the highest median of a block: what is normal here
    streak: int = 0  # values in a row far below it, or that are nothing
    losses: dict[str, float] = {}  # the losses when it was normal
    open: bool = False
    back: int = 0


class VanishingState(State):
    """Memory of `Vanishing`."""

    losses: dict[str, list[float]] = msgspec.field(default_factory=dict)  # the last values of each training loss
    series: dict[str, Series] = msgspec.field(default_factory=dict)


class Vanishing(Check, frozen=True, kw_only=True):
    """Fires when a gradient norm is below 1/`ratio` of the highest median of 16 it has had, or below `floor`, for
    `records` values in a row, and no training loss has come down below `learned` times its level of that time.

    A loss that has been learned has no gradient, either: that is the end of a training and not a fault of it. Resolves
    when the norm is above a tenth of its normal level for 5 values. An absolute limit alone would not do: some losses
    are scaled so that 1e-7 is their healthy norm.
    """

    kind: ClassVar[Kind] = "vanishing"
    memory: ClassVar[type[State]] = VanishingState

    ratio: Ratio = 1000.0
    floor: Annotated[float, Meta(ge=0)] = 1e-12
    records: Count = 50
    learned: Annotated[float, Meta(gt=0, le=1)] = 0.9
    recover_for: Count = 5

    def observe(self, scan: Scan, state: VanishingState, signs: list[Sign]) -> None:
        losses = Losses(scan, state)
        for column in scan.columns:
            if scan.roles[column] is Role.GRAD_NORM:
                series = scan.series(column, signs)
                self._watch(series, state.series.setdefault(series.name, Series()), losses)
        losses.keep()

    def _watch(self, series: FiniteSeries, memory: Series, losses: Losses) -> None:
        values = series.tolist()
        start = 0
        while start < len(values):
            stop = min(start + BLOCK - len(memory.block), len(values))
            part = values[start:stop]
            low = max(memory.level / self.ratio, self.floor)
            if memory.open or memory.streak or min(part) <= low:
                self._one(series, memory, start, losses)
                start += 1
                continue
            self._normal(memory, part, series.row(stop - 1), losses)
            start = stop

    def _low(self, value: float, memory: Series) -> bool:
        return value <= max(memory.level / self.ratio, self.floor)

    def _one(self, series: FiniteSeries, memory: Series, index: int, losses: Losses) -> None:
        value = float(series.values[index])
        if memory.open:
            self._until_back(series, memory, index, value)
        elif self._low(value, memory):
            memory.streak += 1
            if memory.streak >= self.records:
                levels = losses.levels(series.row(index))
                if self._unlearned(memory, levels):
                    self._open(series, memory, index, levels)
        else:
            memory.streak = 0
            self._normal(memory, [value], series.row(index), losses)

    @staticmethod
    def _normal(memory: Series, values: list[float], row: int, losses: Losses) -> None:
        """Values that are not low, at most as many as the block still takes."""
        memory.block.extend(values)
        if len(memory.block) < BLOCK:
            return
        level = median(memory.block)
        memory.block.clear()
        memory.level = max(memory.level, level)
        if level > memory.level / 10:
            memory.losses = losses.levels(row)

    def _unlearned(self, memory: Series, levels: dict[str, float]) -> bool:
        """There is a loss to be learned, and it has not been."""
        known = memory.losses.keys() & levels.keys()
        return bool(known) and all(levels[name] >= self.learned * memory.losses[name] for name in known)

    def _open(self, series: FiniteSeries, memory: Series, index: int, levels: dict[str, float]) -> None:
        memory.open, memory.back = True, 0
        value, step = float(series.values[index]), series.step(index)
        text = f"{series.name} is {number(value)} at step {step}, and has been below a {self.ratio:g}th of its normal "
        text += f"{number(memory.level)} for {memory.streak} records; the loss does not come down"
        evidence: dict[str, Any] = {
            "formula": f"norm < highest median of {BLOCK} / {self.ratio:g}, {self.records} records in a row",
            "normal": memory.level,
            "records": memory.streak,
            "losses_then": dict(memory.losses),
            "losses_now": levels,
        }
        threshold = max(memory.level / self.ratio, self.floor)
        series.sign("open", index, text, threshold=threshold, baseline=memory.level, evidence=evidence)

    def _until_back(self, series: FiniteSeries, memory: Series, index: int, value: float) -> None:
        memory.back = memory.back + 1 if value > max(memory.level / 10, self.floor) else 0
        if memory.back < self.recover_for:
            return
        memory.open, memory.streak = False, 0
        series.sign("resolve", index, f"{series.name} is back at {number(value)} at step {series.step(index)}")


class Losses:
    """The training losses of a scan, after those that are remembered."""

    __slots__ = ("losses", "state")

    def __init__(self, scan: Scan, state: VanishingState) -> None:
        columns = [column for column in scan.columns if scan.roles[column] is Role.LOSS]
        self.losses = [(scan.names[column], scan.values[column], scan.finite[column]) for column in columns]
        self.state = state

    def levels(self, row: int) -> dict[str, float]:
        """The median of each loss's last values, that of ``row`` included."""
        known = dict(self.state.losses)
        known |= {name: self._last(name, values[: row + 1], finite=finite) for name, values, finite in self.losses}
        return {name: median(values) for name, values in known.items() if values}

    def keep(self) -> None:
        for name, values, finite in self.losses:
            self.state.losses[name] = self._last(name, values, finite=finite)

    def _last(self, name: str, values: FloatArray, *, finite: bool) -> list[float]:
        newest = values[-LOSS_OF:].tolist() if finite else values[np.isfinite(values)][-LOSS_OF:].tolist()
        return newest if len(newest) == LOSS_OF else [*self.state.losses.get(name, []), *newest][-LOSS_OF:]
