"""Deleting a run in two steps: hidden at once, and for a while it can be had back; then its rows go, a few at a time.

A run that is being purged is marked first, so that whoever continues after a crash, or beside another server, goes on
where the rows end. The row of the run itself goes last, and its id is remembered: an agent that still has points of the
run would otherwise begin it anew, with what it happens to have left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from holter_db.errors import Conflict, Gone, NotFound
from holter_db.run_rows import RunRow, run_row
from holter_db.schema import axes, chunks, metadata, purged_runs, runs
from holter_db.upsert import insert_new

__all__ = [
    "KEEP_TAG",
    "RETENTION",
    "Purged",
    "absent",
    "begin_purge",
    "delete_run",
    "deleted_run",
    "due_for_purge",
    "purge_some",
    "restore_run",
]

KEEP_TAG = "keep"  # retention leaves runs with this tag alone
RETENTION = "retention: "  # how `deleted_because` begins where retention has deleted the run
ROWS_AT_ONCE = 32  # a segment of the agent's has some 5 kB
LARGE_ROWS_AT_ONCE = 4  # a chunk or an axis may have half a megabyte, and SQLite visits each of its pages


class Purged(NamedTuple):
    """What one piece of work has removed."""

    rows: int
    done: bool  # nothing of the run is left, or it is not to be purged any more
    busy: bool = False  # another server is at it just now


def absent(conn: Connection, run_id: str) -> NotFound:
    """Why there is no such run to be used: never heard of, deleted, or purged. For the caller to raise."""
    gone = sa.exists().where(purged_runs.c.run_id == run_id)
    hidden = sa.select(runs.c.purging_at).where(runs.c.id == run_id, runs.c.deleted_at.is_not(None))
    purged = conn.scalar(sa.select(gone))
    row = None if purged else conn.execute(hidden).one_or_none()
    if purged or (row is not None and row.purging_at is not None):
        return Gone(run_id, "purged", "Its points are removed for good, and its id stays used: take another one.")
    if row is not None:
        return Gone(run_id, "deleted", "`holter restore` brings it back; what an agent has of it, the agent keeps.")
    return NotFound("run", run_id, "`holter runs` lists the runs.")


def delete_run(conn: Connection, run_id: str, now: float, because: str | None = None) -> RunRow:
    """Hide a run from every list, and take nothing more for it. Its rows stay until it is purged.

    Args:
        now: seconds, UTC.
        because: who or what has deleted it, in a few words.

    Raises:
        NotFound: there is no such run, or it is deleted already.
    """
    values = {"deleted_at": now, "deleted_because": because}
    row = conn.execute(
        sa.update(runs).where(runs.c.id == run_id, runs.c.deleted_at.is_(None)).values(values).returning(runs)
    )
    found = row.mappings().one_or_none()
    if found is None:
        raise absent(conn, run_id)
    return run_row(found)


def deleted_run(conn: Connection, run_id: str) -> RunRow:
    """A run that was deleted and of which there still is something.

    Raises:
        NotFound: there is none.
    """
    query = sa.select(runs).where(runs.c.id == run_id, runs.c.deleted_at.is_not(None))
    found = conn.execute(query).mappings().one_or_none()
    if found is None:
        raise absent(conn, run_id)
    return run_row(found)


def restore_run(conn: Connection, run_id: str) -> RunRow:
    """Bring a deleted run back as it was; one that is not deleted stays as it is.

    One that retention had deleted gets the tag `KEEP_TAG`, else retention would delete it again at once.

    Raises:
        Gone: it is being purged, or was.
        NotFound: there is no such run.
    """
    this = sa.and_(runs.c.id == run_id, runs.c.purging_at.is_(None))
    row = conn.execute(sa.select(runs.c.tags, runs.c.deleted_because).where(this).with_for_update()).one_or_none()
    if row is None:
        raise absent(conn, run_id)
    values: dict[str, Any] = {"deleted_at": None, "deleted_because": None}
    if (row.deleted_because or "").startswith(RETENTION) and KEEP_TAG not in row.tags:
        values["tags"] = (*row.tags, KEEP_TAG)
    return run_row(conn.execute(sa.update(runs).where(this).values(values).returning(runs)).mappings().one())


def begin_purge(conn: Connection, run_id: str, now: float) -> None:
    """Give a deleted run up, without waiting for its time to come. From here on it can't be restored.

    Raises:
        Conflict: it is not deleted.
        Gone: it was purged before.
        NotFound: there is no such run.
    """
    row = conn.execute(sa.select(runs.c.deleted_at).where(runs.c.id == run_id).with_for_update()).one_or_none()
    if row is None:
        raise absent(conn, run_id)
    if row.deleted_at is None:
        raise Conflict(f"Run {run_id!r} is not deleted", "Only deleted runs can be purged: delete it first.")
    this = sa.and_(runs.c.id == run_id, runs.c.purging_at.is_(None))
    conn.execute(sa.update(runs).where(this).values(purging_at=now))


def due_for_purge(conn: Connection, deleted_before: float | None, limit: int = 100) -> list[str]:
    """Runs whose rows are to go, those first that were begun.

    Args:
        deleted_before: seconds, UTC; None: only those that somebody has given up.
    """
    due: list[sa.ColumnElement[bool]] = [runs.c.purging_at.is_not(None)]
    if deleted_before is not None:
        due.append(runs.c.deleted_at <= deleted_before)
    order = (runs.c.purging_at.is_(None), runs.c.deleted_at, runs.c.id)
    query = sa.select(runs.c.id).where(runs.c.deleted_at.is_not(None), sa.or_(*due)).order_by(*order).limit(limit)
    return list(conn.scalars(query))


def purge_some(
    conn: Connection, run_id: str, now: float, *, deleted_before: float | None, more: Callable[[], bool]
) -> Purged:
    """Remove rows of a run for as long as ``more`` says, at least a few; the run itself with the last of them.

    Each call is a transaction of its own. Calls may be repeated, and any number of servers may make them.

    Args:
        deleted_before: as `due_for_purge` was asked; a run that was restored since then is left alone.
    """
    # Two servers on one PostgreSQL share the work instead of waiting for each other; on SQLite this says nothing.
    query = sa.select(runs.c.deleted_at, runs.c.purging_at).where(runs.c.id == run_id).with_for_update(skip_locked=True)
    row = conn.execute(query).one_or_none()
    if row is None:
        there = conn.scalar(sa.select(runs.c.id).where(runs.c.id == run_id))
        return Purged(0, done=there is None, busy=there is not None)
    if row.purging_at is None:
        if row.deleted_at is None or deleted_before is None or row.deleted_at > deleted_before:
            return Purged(0, done=True)
        conn.execute(sa.update(runs).where(runs.c.id == run_id).values(purging_at=now))
    removed = 0
    for table in _tables():
        while taken := _remove(conn, table, run_id):
            removed += taken
            if not more():
                return Purged(removed, done=False)
    insert_new(conn, purged_runs, {"run_id": run_id, "purged_at": now}, key=("run_id",))
    conn.execute(sa.delete(runs).where(runs.c.id == run_id))
    return Purged(removed + 1, done=True)


def _tables() -> list[Table]:
    """Every table that has rows of runs."""
    return [table for table in metadata.sorted_tables if "run_id" in table.c and table is not purged_runs]


def _remove(conn: Connection, table: Table, run_id: str) -> int:
    """Remove the run's first rows in the order of the key; how many."""
    these: list[sa.ColumnElement[bool]] = [table.c.run_id == run_id]
    key = [column for column in table.primary_key if column.name != "run_id"]
    if key:
        rows = LARGE_ROWS_AT_ONCE if table in (axes, chunks) else ROWS_AT_ONCE
        query = sa.select(*key).where(*these).order_by(*key).offset(rows - 1).limit(1)
        if (last := conn.execute(query).one_or_none()) is not None:
            bound = (sa.literal(value, column.type) for value, column in zip(last, key, strict=True))
            these.append(sa.tuple_(*key) <= sa.tuple_(*bound))
    return conn.execute(sa.delete(table).where(*these)).rowcount
