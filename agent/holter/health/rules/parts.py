"""A total that is not the sum of its weighted parts: what is optimised is not what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from holter.health.model import Kind
from holter.health.roles import Role
from holter.health.rules.contract import Check, FloatArray, Scan, Sign, State, number

__all__ = ["PartsMismatch"]

Count = Annotated[int, Meta(ge=1)]


class Total(msgspec.Struct, array_like=True):
    """One total: records in a row that don't add up, or, while open, that do."""

    streak: int = 0
    since: int = 0  # step
    open: bool = False
    agreed: int = 0  # records in which unweighted parts have added up, and none in which they have not


class PartsState(State):
    """Memory of `PartsMismatch`."""

    totals: dict[str, Total] = msgspec.field(default_factory=dict)


class PartsMismatch(Check, frozen=True, kw_only=True):
    """Fires when |total − Σ weighted| > `tolerance` · Σ|weighted| in `points` records in a row.

    Needs the total and at least two weighted parts in one record; records with non-finite values don't count. Where a
    record has no weighted parts, its unweighted ones count once they have added up in `agreed` records without fail.
    """

    kind: ClassVar[Kind] = "parts_mismatch"
    memory: ClassVar[type[State]] = PartsState

    tolerance: Annotated[float, Meta(gt=0)] = 0.001
    points: Count = 3
    clear_for: Count = 20
    agreed: Count = 64

    def concerns(self, roles: Sequence[Role]) -> bool:
        return max(roles.count(Role.WEIGHTED), roles.count(Role.COMPONENT)) >= 2

    def observe(self, scan: Scan, state: PartsState, signs: list[Sign]) -> None:
        totals = [column for column in scan.columns if scan.roles[column] is Role.LOSS]
        parts = [column for column in scan.columns if scan.roles[column] is Role.WEIGHTED]
        learned = len(parts) < 2
        if learned:
            parts = [column for column in scan.columns if scan.roles[column] is Role.COMPONENT]
        if len(parts) < 2 or not totals:
            return
        # Weighted and unweighted parts of the same total are two questions.
        memory = state.totals.setdefault(scan.names[totals[0]] + ("?" if learned else ""), Total())
        sums = _Sums(scan, totals[0], parts)
        wrong = sums.apart > self.tolerance * sums.size
        rows = self._learn(sums.rows, wrong, memory) if learned else sums.rows
        if not memory.open and not wrong[rows].any():
            memory.streak = 0 if len(rows) else memory.streak
            return
        for row in rows.tolist():
            self._step(sums, memory, row, bool(wrong[row]), signs)

    def _learn(self, rows: NDArray[np.intp], wrong: NDArray[np.bool_], memory: Total) -> NDArray[np.intp]:
        """The rows that count: those after the parts have been seen to add up."""
        missing = self.agreed - memory.agreed
        if missing <= 0 or memory.agreed < 0:
            return rows if missing <= 0 else rows[:0]
        first, rest = rows[:missing], rows[missing:]
        # Once they have not added up, they are no sum, and are not asked again.
        memory.agreed = -1 if wrong[first].any() else memory.agreed + len(first)
        return rest if memory.agreed >= self.agreed else rows[:0]

    def _step(self, sums: _Sums, memory: Total, row: int, wrong: bool, signs: list[Sign]) -> None:
        memory.streak = memory.streak + 1 if wrong is not memory.open else 0
        if memory.streak == 1 and not memory.open:
            memory.since = sums.scan.step(row)
        if memory.streak >= (self.clear_for if memory.open else self.points):
            memory.open, memory.streak = not memory.open, 0
            signs.append(self._sign(sums, memory, row))

    def _sign(self, sums: _Sums, memory: Total, row: int) -> Sign:
        scan, expected = sums.scan, float(sums.expected[row])
        name, value = scan.names[sums.total], float(scan.values[sums.total, row])
        evidence: dict[str, Any] = {
            "formula": f"|total - sum of weighted| > {self.tolerance:g} x sum of |weighted|",
            "sum": expected,
            "difference": value - expected,
            "parts": {scan.names[part]: float(scan.values[part, row]) for part in sums.parts},
            "since_step": memory.since,
        }
        if not memory.open:
            text = f"{name} is the sum of its weighted parts again: {number(value)} at step {scan.step(row)}"
            return Sign("resolve", name, text, row=row, value=value, baseline=expected, evidence=evidence)
        text = f"{name} is {number(value)} at step {scan.step(row)}, but its weighted parts add up to "
        text += f"{number(expected)}, since step {memory.since}"
        return Sign("open", name, text, row=row, value=value, baseline=expected, evidence=evidence)


class _Sums:
    """What the weighted parts of each record add up to; ``rows`` are those in which all of it is finite."""

    __slots__ = ("apart", "expected", "parts", "rows", "scan", "size", "total")

    def __init__(self, scan: Scan, total: int, parts: list[int]) -> None:
        self.scan, self.total, self.parts = scan, total, parts
        self.expected: FloatArray = np.zeros(scan.rows)
        self.size: FloatArray = np.zeros(scan.rows)
        with np.errstate(invalid="ignore", over="ignore"):  # inf − inf, in records that don't count
            for part in parts:
                self.expected = self.expected + scan.values[part]
                self.size = self.size + np.abs(scan.values[part])
            self.apart: FloatArray = np.abs(scan.values[total] - self.expected)
        self.rows = np.flatnonzero(np.isfinite(self.apart) & np.isfinite(self.size))
