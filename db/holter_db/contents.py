"""What a database holds and what it takes: the figures of `holter db info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.database import Database
from holter_db.migrate import revision_of
from holter_db.schema import REVISION, metadata, runs, series

__all__ = ["Contents", "look"]


@dataclass(frozen=True, slots=True)
class Contents:
    """The field names are those of its JSON; sizes are in bytes."""

    database: str  # its address, without a password
    revision: str
    newest_revision: str  # that this Holter knows
    size: int  # with indexes and, on SQLite, with its log
    free: int  # of it, room that rows have left behind and others will take; 0 on PostgreSQL, which does not tell
    rows: dict[str, int]  # by table
    runs: dict[str, int]  # by state, deleted ones left out
    deleted_runs: int
    points: int  # of all runs, deleted ones too
    bytes_per_point: float | None
    oldest_run: float | None  # when it was created, seconds UTC
    newest_run: float | None


def look(database: Database) -> Contents:
    """Count everything. Also of a database of an older revision, as far as it goes.

    Raises:
        DatabaseError: the database holds no tables of Holter's, or can't be read.
    """
    with database.read() as conn:
        found = revision_of(conn)
        there = set(sa.inspect(conn).get_table_names())
        rows = {name: _count(conn, table) for name, table in sorted(metadata.tables.items()) if name in there}
        size, free = _size(conn)
        points = int(conn.scalar(sa.select(sa.func.sum(series.c["count"]))) or 0) if "series" in there else 0
        by_state, deleted, first, last = _runs(conn) if "runs" in there else ({}, 0, None, None)
    return Contents(
        database=database.url,
        revision=found or "none",
        newest_revision=REVISION,
        size=size,
        free=free,
        rows=rows,
        runs=by_state,
        deleted_runs=deleted,
        points=points,
        bytes_per_point=size / points if points else None,
        oldest_run=first,
        newest_run=last,
    )


def _count(conn: Connection, table: sa.Table) -> int:
    return conn.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def _runs(conn: Connection) -> tuple[dict[str, int], int, float | None, float | None]:
    alive = sa.select(runs.c.state, sa.func.count()).where(runs.c.deleted_at.is_(None)).group_by(runs.c.state)
    by_state: dict[str, int] = dict(conn.execute(alive.order_by(runs.c.state)).all())
    deleted = sa.select(sa.func.count()).select_from(runs).where(runs.c.deleted_at.is_not(None))
    first, last = conn.execute(sa.select(sa.func.min(runs.c.created_at), sa.func.max(runs.c.created_at))).one()
    return by_state, conn.scalar(deleted) or 0, first, last


def _size(conn: Connection) -> tuple[int, int]:
    if conn.dialect.name == "postgresql":
        return int(conn.scalar(sa.select(sa.func.pg_database_size(sa.func.current_database()))) or 0), 0
    pages, page, free = (
        int(conn.scalar(sa.text(f"PRAGMA {name}")) or 0) for name in ("page_count", "page_size", "freelist_count")
    )
    log = Path(f"{conn.engine.url.database}-wal")
    return pages * page + (log.stat().st_size if log.exists() else 0), free * page
