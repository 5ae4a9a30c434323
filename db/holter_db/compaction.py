"""What the compactor has to know and to write down: which runs have points in segments, and which are done with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.fold import join_folds
from holter_db.run_rows import LIVE_STATES
from holter_db.schema import runs, segments

__all__ = ["Unfolded", "free_pages", "mark_compacted", "ripe", "trim", "unfolded"]

_IDS_PER_QUERY = 500
QUIET_S = 3600.0  # a run that has said nothing for so long is compacted like one that has ended


@dataclass(frozen=True, slots=True)
class Unfolded:
    """Segments of one writer."""

    run_id: str
    writer_id: int
    segments: int


def unfolded(conn: Connection) -> list[Unfolded]:
    """Every writer that has segments. Counted in the key's index alone: some milliseconds for 1,000 live runs."""
    key = (segments.c.run_id, segments.c.writer_id)
    return [Unfolded(*row) for row in conn.execute(sa.select(*key, sa.func.count()).group_by(*key))]


def ripe(conn: Connection, now: float, run_ids: Collection[str] | None = None) -> dict[str, int]:
    """Runs that have ended, or been quiet for `QUIET_S`, and are not wholly compacted: run → its newest position.

    Args:
        now: seconds, UTC.
        run_ids: of these only; None looks at every run.
    """
    over = sa.or_(runs.c.state.not_in(LIVE_STATES), runs.c.last_seen_at < now - QUIET_S)
    query = sa.select(runs.c.id, runs.c.position).where(over, runs.c.compacted < runs.c.position)
    if run_ids is None:
        return {row.id: row.position for row in conn.execute(query)}
    found: dict[str, int] = {}
    wanted = sorted(run_ids)
    for start in range(0, len(wanted), _IDS_PER_QUERY):
        some = query.where(runs.c.id.in_(wanted[start : start + _IDS_PER_QUERY]))
        found |= {row.id: row.position for row in conn.execute(some)}
    return found


def mark_compacted(conn: Connection, run_id: str, position: int) -> None:
    """Write down that everything up to ``position`` is in full chunks; of each writer one row of `folds` stays."""
    join_folds(conn, run_id)
    conn.execute(sa.update(runs).where(runs.c.id == run_id).values(compacted=position))


def free_pages(conn: Connection) -> tuple[int, int]:
    """Free pages and all pages of an SQLite file; (0, 0) elsewhere, and for a file that can't give them back."""
    if conn.dialect.name != "sqlite" or conn.exec_driver_sql("PRAGMA auto_vacuum").scalar() != 2:
        return 0, 0
    free = conn.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return int(free), int(conn.exec_driver_sql("PRAGMA page_count").scalar_one())


def trim(conn: Connection, pages: int) -> None:
    """Give so many free pages of an SQLite file back to the file system; the connection must be one that writes."""
    cursor = conn.connection.cursor()
    for _ in range(pages):  # Python's sqlite3 stops behind the first page of a statement, however many it asks for
        cursor.execute("PRAGMA incremental_vacuum(1)")
    cursor.close()
