"""Losses that are nothing: exactly zero in record after record, or a part too small to have a say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.contract import Check, FiniteSeries, FloatArray, Scan, Sign, State, maybe_rounded, number

__all__ = ["FadedPart", "ZeroLoss"]

Count = Annotated[int, Meta(ge=1)]
FIRST = 10  # records of a part that tell how large it is meant to be


class Zero(msgspec.Struct, array_like=True):
    """One loss."""

    first: float = 0.0  # positive value
    last: float = 0.0  # positive value
    zeros: int = 0  # in a row
    off: bool = False  # it has been negative
    open: bool = False
    back: int = 0


class ZeroLossState(State):
    """Memory of `ZeroLoss`."""

    series: dict[str, Zero] = msgspec.field(default_factory=dict)


class ZeroLoss(Check, frozen=True, kw_only=True):
    """Fires when a loss is exactly 0 for `records` values in a row, having never been negative.

    A loss that had come down to `learned` of its first value before, or to a small number with one or two digits, is
    one that was learned, and rounded when it was written: that is not told. Resolves after 3 values that are not 0.
    """

    kind: ClassVar[Kind] = "dead"
    memory: ClassVar[type[State]] = ZeroLossState

    records: Count = 10
    learned: Annotated[float, Meta(ge=0, lt=1)] = 0.01
    recover_for: Count = 3

    def observe(self, scan: Scan, state: ZeroLossState, signs: list[Sign]) -> None:
        for column in scan.columns:
            memory = state.series.setdefault(scan.names[column], Zero())
            if memory.off:
                continue
            series = scan.series(column, signs)
            if len(series.values) and (memory.open or not self._plain(series, memory)):
                self._watch(series, memory)

    @staticmethod
    def _plain(series: FiniteSeries, memory: Zero) -> bool:
        """Take in positive values, as nearly all are; False if it has to be looked at."""
        if not series.lowest() > 0:
            return False
        memory.first = memory.first or float(series.values[0])
        memory.last, memory.zeros = float(series.values[-1]), 0
        return True

    def _watch(self, series: FiniteSeries, memory: Zero) -> None:
        for index, value in enumerate(series.values.tolist()):
            if value < 0:
                memory.off = True
                if memory.open:
                    memory.open = False
                    series.sign("resolve", index, f"{series.name} is {number(value)} at step {series.step(index)}")
                return
            self._step(series, memory, index, value)

    def _step(self, series: FiniteSeries, memory: Zero, index: int, value: float) -> None:
        if value > 0:
            memory.first, memory.last, memory.zeros = memory.first or value, value, 0
            memory.back += 1
            if memory.open and memory.back >= self.recover_for:
                memory.open = False
                series.sign("resolve", index, f"{series.name} is {number(value)} at step {series.step(index)}")
            return
        memory.zeros, memory.back = memory.zeros + 1, 0
        learned = memory.last <= self.learned * memory.first or maybe_rounded(memory.last)
        if memory.open or memory.zeros != self.records or (memory.last > 0 and learned):
            return
        memory.open = True
        was = f"it was {number(memory.last)} before" if memory.last else "and was never anything else"
        text = f"{series.name} is exactly 0 at step {series.step(index)}, for {memory.zeros} records; {was}"
        evidence: dict[str, Any] = {
            "formula": f"value == 0 in {self.records} records in a row",
            "first": memory.first,
            "last_before": memory.last,
        }
        series.sign("open", index, text, baseline=memory.last, threshold=0.0, evidence=evidence)


class Part(msgspec.Struct, array_like=True):
    """One part of the loss: records in a row in which it had no say, or, while open, in which it had."""

    streak: int = 0
    open: bool = False
    seen: int = 0  # of its first records
    first: float = 0.0  # its largest share in them


class FadedPartState(State):
    """Memory of `FadedPart`."""

    parts: dict[str, Part] = msgspec.field(default_factory=dict)


class FadedPart(Check, frozen=True, kw_only=True):
    """Fires when a part of the loss is below `share` of the total, and below 1/`fallen` of its share in its first 10
    records, in `records` records in a row.

    Nothing is learned from it any more. A part that was as small from the beginning is a small weight (of a
    regularisation, say), and one that is exactly 0 is switched off on purpose.
    """

    kind: ClassVar[Kind] = "dead"
    memory: ClassVar[type[State]] = FadedPartState

    share: Annotated[float, Meta(gt=0, lt=1)] = 0.0001
    fallen: Annotated[float, Meta(ge=1)] = 10.0
    records: Count = 64

    def concerns(self, roles: Sequence[Role]) -> bool:
        return Role.LOSS in roles and len(set(roles)) > 1

    def observe(self, scan: Scan, state: FadedPartState, signs: list[Sign]) -> None:
        if Role.LOSS not in scan.roles:
            return
        whole = scan.roles.index(Role.LOSS)
        total = np.abs(scan.values[whole])
        for column in scan.columns:
            if scan.roles[column] is Role.LOSS:
                continue
            part = state.parts.setdefault(scan.names[column], Part())
            if self._plain(scan, column, whole, part):
                continue
            size = np.abs(scan.values[column])
            usable = np.isfinite(total) & np.isfinite(size) & (total > 0) & (size > 0)
            usable = self._after_first(part, size, total, usable)
            faint = size < min(self.share, part.first / self.fallen) * total
            if not part.open and not faint.any():
                part.streak = 0 if usable.any() else part.streak
                continue
            series = FiniteSeries(scan, scan.names[column], scan.values[column], None, signs)
            for row in np.flatnonzero(usable).tolist():
                self._step(series, part, row, faint=bool(faint[row]))

    def _plain(self, scan: Scan, column: int, whole: int, part: Part) -> bool:
        """Whether a few records have nothing to be counted."""
        if scan.few is None or part.open or part.streak or part.seen < FIRST:
            return False
        limit = min(self.share, part.first / self.fallen)
        pairs = zip(scan.few[column], scan.few[whole], strict=True)
        return not any(abs(value) < limit * abs(total) for value, total in pairs)

    @staticmethod
    def _after_first(part: Part, size: FloatArray, total: FloatArray, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Note the share of the first records, which are not judged."""
        if part.seen >= FIRST:
            return usable
        rows = np.flatnonzero(usable)[: FIRST - part.seen]
        part.seen += len(rows)
        if len(rows):
            part.first = max(part.first, float((size[rows] / total[rows]).max()))
            usable = usable.copy()
            usable[: rows[-1] + 1] = False
        return usable if part.seen >= FIRST else np.zeros_like(usable)

    def _step(self, series: FiniteSeries, part: Part, row: int, *, faint: bool) -> None:
        part.streak = part.streak + 1 if faint is not part.open else 0
        if part.streak < self.records:
            return
        part.open, part.streak = not part.open, 0
        value, step = number(series.values[row]), series.step(row)
        text = f"{series.name} is {value} at step {step}: it has been below {100 * self.share:g} % of the loss for "
        text += f"{self.records} records"
        if not part.open:
            series.sign("resolve", row, f"{series.name} is {value} at step {step}, a part of the loss again")
            return
        evidence: dict[str, Any] = {"formula": f"|part| / |total| < {self.share:g}", "records": self.records}
        series.sign("open", row, text, threshold=self.share, evidence=evidence)
