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
        rows = set(self.stage_changes(scan))
        if Role.LR in scan.roles:
            rates = scan.values[scan.roles.index(Role.LR)]
            before = _before(rates, self.rate)
            self.rate = float(rates[-1])
            rows.update(np.flatnonzero((rates > RESTART_FACTOR * before) & (before > 0)).tolist())
        return sorted(rows)

    def stage_changes(self, scan: Scan) -> list[int]:
        """Rows at which the stage is another than before."""
        if Role.STAGE not in scan.roles:
            return []
        stages = scan.values[scan.roles.index(Role.STAGE)]
        before = _before(stages, self.stage)
        self.stage = float(stages[-1])
        return [int(row) for row in np.flatnonzero((stages != before) & np.isfinite(stages))]


def _before(values: FloatArray, last: float | None) -> FloatArray:
    return np.concatenate([[values[0] if last is None else last], values[:-1]])
