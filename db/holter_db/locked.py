"""Runs whose rows a transaction holds while it writes what came of them: read once, changed in memory, written once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.many import Bulk, Lookup, bound, members, number
from holter_db.schema import runs
from holter_db.types import Double, Words

__all__ = ["LockedRun", "lock_runs", "write_runs"]

RATE_SECONDS = 30.0  # time constant of steps_per_second


@dataclass(slots=True)
class LockedRun:
    """What the ingest needs of a run. `position` and the signs of life are changed here and written by `write_runs`."""

    id: str
    project: str
    state: str
    attempt: int  # the newest one
    position: int  # of the newest segment
    revision: int
    last_seen_at: float
    due_at: float | None
    last_step: int | None
    last_step_at: float | None
    steps_per_second: float | None
    before: int = field(init=False)  # the position when it was locked

    def __post_init__(self) -> None:
        self.before = self.position
        self.due_at = number(self.due_at)  # the only clock value that a client has a say in

    def hear(self, seen_at: float, due_at: float | None) -> None:
        """Take in a sign of life.

        Args:
            seen_at: seconds, UTC, of the service's clock.
            due_at: when the agent promised the next sign at the latest; None leaves the promise as it is.
        """
        self.last_seen_at = max(seen_at, self.last_seen_at)
        if due_at is not None:
            self.due_at = due_at

    def reach(self, step: int, at: float) -> None:
        """Take in a step of the newest attempt."""
        if self.last_step_at is None or self.last_step is None:
            self.last_step, self.last_step_at = step, at
            return
        seconds = at - self.last_step_at
        if step > self.last_step and seconds > 0:
            self.steps_per_second = _smoothed(self.steps_per_second, (step - self.last_step) / seconds, seconds)
        self.last_step, self.last_step_at = max(step, self.last_step), max(at, self.last_step_at)


_COLUMNS = tuple(runs.c[name] for name in LockedRun.__slots__ if name in runs.c)


def lock_runs(conn: Connection, ids: Collection[str]) -> dict[str, LockedRun]:
    """Hold the rows of these runs until the transaction ends; those that don't exist or were deleted are absent.

    Whoever writes rows of runs takes this lock first and takes all locks in the order of the ids, so that two servers
    on one PostgreSQL never wait for each other. What else belongs to a run must be read in later statements: while
    this one waits for a lock, PostgreSQL would read other tables as they were before.
    """
    found = (LockedRun(*row) for row in _LOCK.rows(conn, bound(ids)))
    return {run.id: run for run in found}


def _lock(dialect: str) -> sa.Select[Any]:
    these = (runs.c.id.in_(members(dialect, "ids")), runs.c.deleted_at.is_(None))
    return sa.select(*_COLUMNS).where(*these).order_by(runs.c.id).with_for_update(of=runs)


def write_runs(conn: Connection, locked: Iterable[LockedRun]) -> None:
    """Write the positions and the signs of life down."""
    rows = [
        (run.last_seen_at, run.due_at, run.last_step, run.last_step_at, run.steps_per_second, run.position, run.id)
        for run in locked
    ]
    _WRITE.run(conn, rows)


def _smoothed(before: float | None, rate: float, seconds: float) -> float:
    """An exponentially weighted mean for samples that are ``seconds`` apart."""
    if before is None:
        return rate
    return before + (1 - math.exp(-seconds / RATE_SECONDS)) * (rate - before)


def _write(_dialect: str) -> sa.UpdateBase:
    return (
        sa.update(runs)
        .where(runs.c.id == sa.bindparam("run", type_=Words))
        .values(
            last_seen_at=sa.bindparam("seen_at", type_=Double),
            due_at=sa.bindparam("due", type_=Double),
            last_step=sa.bindparam("step", type_=sa.BigInteger),
            last_step_at=sa.bindparam("step_at", type_=Double),
            steps_per_second=sa.bindparam("rate", type_=Double),
            position=sa.bindparam("new_position", type_=sa.BigInteger),
        )
    )


_LOCK = Lookup(_lock, ("ids",))
_WRITE = Bulk(_write, ("seen_at", "due", "step", "step_at", "rate", "new_position", "run"))
