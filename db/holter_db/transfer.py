"""A whole database from one address to another, between SQLite and PostgreSQL in either direction.

All or nothing: the target's rows are written in one transaction, read back, compared, and committed only if they are
equal. The source is read in one snapshot and never written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
from sqlalchemy import Table

from holter_db.database import parse_url
from holter_db.errors import DatabaseError
from holter_db.raw_rows import Checksum, RawRows, Row
from holter_db.schema import REVISION, metadata
from holter_db.transfer_ends import changed, pulse, pulse_now, reading, refuse_rows, refuse_same, writing

__all__ = ["CopiedTable", "Progress", "Transferred", "transfer"]

Progress = Callable[[str, str, int, int], None]  # ("copy" or "check", table, rows done, rows in all)

EVERY_ROWS = 1_000  # rows between two words of progress
_DRIVERS = (sqlite3.Error, psycopg.Error, OverflowError)


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """One table, equal on both sides. ``checksum``: see `holter_db.raw_rows.Checksum`."""

    table: str
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was copied. ``source_changed``: somebody has written to the source since the snapshot that was read."""

    tables: tuple[CopiedTable, ...]
    revision: str
    source_changed: bool

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


def transfer(
    source: str,
    target: str,
    *,
    replace: bool = False,
    snapshot: bool = False,
    progress: Progress = lambda _stage, _table, _done, _all: None,
) -> Transferred:
    """Copy every row of ``source`` into ``target``, whose tables are made or brought up to date first.

    Args:
        replace: delete what the target holds; otherwise a target that holds anything is refused.
        snapshot: copy although a service works on the source; what it takes in meanwhile is not copied.
        progress: called every now and then.

    Raises:
        DatabaseError: with what is in the way. The target holds the rows that it held before.
    """
    here, there = parse_url(source), parse_url(target)
    with ExitStack() as stack:
        conn, read = stack.enter_context(reading(here, snapshot))
        before = pulse(conn)
        refuse_same(here, there, conn)
        written = stack.enter_context(writing(there))
        if replace:
            written.clear(metadata.sorted_tables)
        else:
            refuse_rows(there, written)
        tables = [_copy(read, written, table, progress) for table in metadata.sorted_tables]
        for copied in tables:
            _compare(written, copied, progress)
        moved_on = pulse_now(here) != before
        if moved_on and not snapshot:
            raise changed(here)
    return Transferred(tuple(tables), REVISION, moved_on)


def _copy(source: RawRows, target: RawRows, table: Table, progress: Progress) -> CopiedTable:
    checksum = Checksum(table)
    rows = checksum.passing(_source_rows(source, table))
    try:
        target.write(table, _counted(rows, "copy", table.name, source.count(table), progress))
    except _DRIVERS as error:
        raise DatabaseError(
            f"The target does not take what the table {table.name} holds: {_first_line(error)}", "Nothing was copied."
        ) from error
    return CopiedTable(table.name, checksum.rows, checksum.text)


def _source_rows(source: RawRows, table: Table) -> Iterator[Row]:
    try:
        yield from source.read(table)
    except _DRIVERS as error:
        raise DatabaseError(
            f"The table {table.name} can't be read: {_first_line(error)}", "Nothing was copied."
        ) from error


def _compare(target: RawRows, copied: CopiedTable, progress: Progress) -> None:
    table = metadata.tables[copied.table]
    checksum = Checksum(table)
    for _ in _counted(checksum.passing(target.read(table)), "check", table.name, copied.rows, progress):
        pass
    if (checksum.rows, checksum.text) != (copied.rows, copied.checksum):
        raise DatabaseError(
            f"The table {table.name} reads back {checksum.rows:,} rows with checksum {checksum.text}, "
            f"not the {copied.rows:,} with {copied.checksum} that were written",
            "Nothing was copied. Check the target's disk and memory, and report this if it happens again.",
        )


def _counted(rows: Iterator[Row], stage: str, table: str, total: int, progress: Progress) -> Iterator[Row]:
    done = 0
    progress(stage, table, 0, total)
    for done, row in enumerate(rows, 1):
        yield row
        if not done % EVERY_ROWS:
            progress(stage, table, done, max(done, total))
    progress(stage, table, done, done)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
