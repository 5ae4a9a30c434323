"""The health engine's state of a run, saved with the points that changed it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import Conflict
from holter_db.schema import rule_state
from holter_db.upsert import insert_new

__all__ = ["load", "peek", "save"]


def load(conn: Connection, run_id: str) -> tuple[int, bytes | None]:
    """Version and bytes of the saved state, (0, None) for a new run.

    Needs a connection that writes: on PostgreSQL the row is locked until the transaction ends, so that two servers
    can't advance the same run's state from the same point.
    """
    insert_new(conn, rule_state, {"run_id": run_id, "version": 0, "state": None}, key=("run_id",))
    query = sa.select(rule_state.c.version, rule_state.c.state).where(rule_state.c.run_id == run_id)
    version, state = conn.execute(query.with_for_update()).one()
    return version, state


def peek(conn: Connection, run_id: str) -> tuple[int, bytes | None]:
    """The same without the lock, for a connection that only reads."""
    query = sa.select(rule_state.c.version, rule_state.c.state).where(rule_state.c.run_id == run_id)
    row = conn.execute(query).one_or_none()
    return (0, None) if row is None else (row.version, row.state)


def save(conn: Connection, run_id: str, state: bytes, expected_version: int) -> int:
    """Replace the state that was loaded as ``expected_version``; the new version.

    Raises:
        Conflict: another transaction has saved in between.
    """
    saved = conn.execute(
        sa.update(rule_state)
        .where(rule_state.c.run_id == run_id, rule_state.c.version == expected_version)
        .values(version=expected_version + 1, state=state)
    )
    if saved.rowcount != 1:
        raise Conflict(f"The rule state of run {run_id!r} has moved on", "Load it again and repeat the transaction.")
    return expected_version + 1
