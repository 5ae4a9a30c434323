"""Changes that a training makes on purpose, after which a loss may stand elsewhere: a stage, a restarted rate."""

from __future__ import annotations

import msgspec
import numpy as np

from holter.health.roles import Role
from holter.health.rules.contract import FloatArray, Scan

__all__ = ["Schedule"]

FEW = 32
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
        stages = scan.values[scan.roles.index(Role.STAGE)]
        last, self.stage = self.stage, float(stages[-1])
        if _is_all(stages, self.stage if last is None else last):
            return []
        before = _before(stages, last)
        return [int(row) for row in np.flatnonzero((stages != before) & np.isfinite(stages))]

    def _jumps(self, scan: Scan) -> list[int]:
        if Role.LR not in scan.roles:
            return []
        rates = scan.values[scan.roles.index(Role.LR)]
        last, self.rate = self.rate, float(rates[-1])
        if _is_all(rates, self.rate if last is None else last):
            return []
        before = _before(rates, last)
        return [int(row) for row in np.flatnonzero((rates > RESTART_FACTOR * before) & (before > 0))]


def _is_all(values: FloatArray, value: float) -> bool:
    """Whether all are that one; of a few values that is sooner seen in a list."""
    return values.tolist().count(value) == len(values) if len(values) <= FEW else bool((values == value).all())


def _before(values: FloatArray, last: float | None) -> FloatArray:
    return np.concatenate([[values[0] if last is None else last], values[:-1]])
