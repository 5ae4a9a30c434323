"""Changes that a training makes on purpose, after which a loss may stand elsewhere: a stage, a restarted rate."""

from __future__ import annotations

import msgspec
import numpy as np

from holter.health.roles import Role
from holter.health.rules.contract import FloatArray, Scan

__all__ = ["Schedule"]

RESTART_FACTOR = 3.0  # a learning rate that rises so much in one record is restarted


class Schedule(msgspec.Struct):
    """The curriculum's stage and the learning rate, as last logged."""

    stage: float | None = None
    rate: float | None = None

    def changes(self, scan: Scan) -> list[int]:
        """Rows at which the stage is another than before, or the learning rate has jumped up; in order."""
        jumps = self._jumps(scan)
        stages = self.stage_changes(scan)
        return sorted({*stages, *jumps}) if stages and jumps else stages or jumps

    def stage_changes(self, scan: Scan) -> list[int]:
        """Rows at which the stage is another than before."""
        if Role.STAGE not in scan.roles:
            return []
        column = scan.roles.index(Role.STAGE)
        last, self.stage = self.stage, float(scan.values[column, -1])
        if _is_all(scan, column, self.stage if last is None else last):
            return []
        stages = scan.values[column]
        before = _before(stages, last)
        return [int(row) for row in np.flatnonzero((stages != before) & np.isfinite(stages))]

    def _jumps(self, scan: Scan) -> list[int]:
        if Role.LR not in scan.roles:
            return []
        column = scan.roles.index(Role.LR)
        last, self.rate = self.rate, float(scan.values[column, -1])
        if _is_all(scan, column, self.rate if last is None else last):
            return []
        if scan.few is not None:
            return _few_jumps(scan.few[column], last)
        rates = scan.values[column]
        before = _before(rates, last)
        return [int(row) for row in np.flatnonzero((rates > RESTART_FACTOR * before) & (before > 0))]


def _is_all(scan: Scan, column: int, value: float) -> bool:
    """Whether all of the column's values are that one."""
    if scan.few is None:
        return bool((scan.values[column] == value).all())
    return scan.few[column].count(value) == scan.rows


def _few_jumps(rates: list[float], last: float | None) -> list[int]:
    before, rows = rates[0] if last is None else last, []
    for row, rate in enumerate(rates):
        if rate > RESTART_FACTOR * before and before > 0:
            rows.append(row)
        before = rate
    return rows


def _before(values: FloatArray, last: float | None) -> FloatArray:
    return np.concatenate([[values[0] if last is None else last], values[:-1]])
