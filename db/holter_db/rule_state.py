"""The health engine's memory of a run, saved now and then: what came after its position is observed again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import Conflict
from holter_db.many import Lookup, bound, members
from holter_db.schema import rule_state, runs
from holter_db.upsert import insert_new

__all__ = ["NOTHING", "Saved", "behind", "load", "marks", "save", "saved_position"]


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved memory. ``state`` is None where it was never saved, and where only the mark was asked for."""

    version: int  # counts from 1; 0: never saved
    position: int  # of the newest segment in it
    rules: int  # version of the project's rules that made it; 0: it had none
    state: bytes | None = None


NOTHING = Saved(0, 0, 0)

_MARK = (rule_state.c.version, rule_state.c.position, rule_state.c.rules)


def load(conn: Connection, run_id: str) -> Saved:
    """What was saved last, with its state; `NOTHING` for a new run."""
    query = sa.select(*_MARK, rule_state.c.state).where(rule_state.c.run_id == run_id)
    row = conn.execute(query).one_or_none()
    return NOTHING if row is None else Saved(*row)


def marks(conn: Connection, run_ids: Collection[str]) -> dict[str, Saved]:
    """What was saved last of each run, without the states; runs of which nothing was saved are absent."""
    rows = _MARKS.rows(conn, bound(run_ids))
    return {run_id: Saved(version, position, rules) for run_id, version, position, rules in rows}


def _marks(dialect: str) -> sa.Select[Any]:
    return sa.select(rule_state.c.run_id, *_MARK).where(rule_state.c.run_id.in_(members(dialect, "runs")))


def save(conn: Connection, run_id: str, saved: Saved) -> Saved:
    """Replace what was loaded or saved as ``saved.version`` by the rest of ``saved``. The run's row must be locked.

    Raises:
        Conflict: another transaction has saved in between.
    """
    now = Saved(saved.version + 1, saved.position, saved.rules)
    values = {"version": now.version, "position": now.position, "rules": now.rules, "state": saved.state}
    if saved.version == 0:
        written = insert_new(conn, rule_state, {"run_id": run_id, **values}, key=("run_id",))
    else:
        this = (rule_state.c.run_id == run_id, rule_state.c.version == saved.version)
        written = conn.execute(sa.update(rule_state).where(*this).values(values)).rowcount == 1
    if not written:
        raise Conflict(f"The rule state of run {run_id!r} has moved on", "Load it again and repeat the transaction.")
    return now


def saved_position(conn: Connection, run_id: str) -> int:
    """The position up to which the run's segments are in the saved memory: only these may be folded into chunks."""
    return conn.scalar(sa.select(rule_state.c.position).where(rule_state.c.run_id == run_id)) or 0


def behind(conn: Connection, before: float, limit: int) -> list[str]:
    """Runs with segments that are not in the saved memory, and of which nothing was heard since ``before``.

    Args:
        before: seconds, UTC.
        limit: at most so many.
    """
    query = (
        sa.select(runs.c.id)
        .outerjoin(rule_state, rule_state.c.run_id == runs.c.id)
        .where(
            runs.c.position > sa.func.coalesce(rule_state.c.position, 0),
            runs.c.last_seen_at < before,
            runs.c.deleted_at.is_(None),
        )
        .order_by(runs.c.id)
        .limit(limit)
    )
    return list(conn.scalars(query))


_MARKS = Lookup(_marks, ("runs",))
