"""What puts a finding right. Each repair writes only what follows from rows that are there.

It looks again, in its own transaction, whether these are still as they were: a service may be writing meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Event
from holter_db.captures import capture_rows
from holter_db.check.model import Repair
from holter_db.incidents import keep_health
from holter_db.schema import captures, events, runs, series
from holter_db.summaries import summarize
from holter_db.upsert import insert_for

__all__ = ["EVENT_KEY", "Mark", "captured", "health_counted", "if_unmoved", "rewritten", "statement"]

EVENT_KEY = ("writer_id", "seq", "number")


class Mark(NamedTuple):
    """How far a run had come when its points were read."""

    run_id: str
    position: int
    folds: int

    def unmoved(self, conn: Connection) -> bool:
        """Whether it has the same points still; holds its row until the transaction ends."""
        query = sa.select(runs.c.position, runs.c.folds).where(runs.c.id == self.run_id).with_for_update()
        row = conn.execute(query).one_or_none()
        return row is not None and (row.position, row.folds) == (self.position, self.folds)


def statement(change: sa.Executable) -> Repair:
    """A change that is right whenever it comes."""

    def repair(conn: Connection) -> bool:
        conn.execute(change)
        return True

    return repair


def if_unmoved(mark: Mark, change: sa.Executable) -> Repair:
    """A change that was computed from all points of a run."""

    def repair(conn: Connection) -> bool:
        if not mark.unmoved(conn):
            return False
        conn.execute(change)
        summarize(conn, mark.run_id)
        return True

    return repair


def rewritten(mark: Mark, key: tuple[int, str], row: dict[str, Any]) -> Repair:
    """The row of the catalogue of a series, of which ``row`` has all columns that are known."""
    this = sa.and_(series.c.run_id == mark.run_id, series.c.writer_id == key[0], series.c.metric == key[1])

    def repair(conn: Connection) -> bool:
        if not mark.unmoved(conn):
            return False
        if not conn.execute(sa.update(series).where(this).values(row)).rowcount:
            conn.execute(sa.insert(series).values(run_id=mark.run_id, writer_id=key[0], metric=key[1], **row))
        summarize(conn, mark.run_id)
        return True

    return repair


def health_counted(run_id: str) -> Repair:
    """The run's health and open incidents, from its incidents."""

    def repair(conn: Connection) -> bool:
        if conn.execute(sa.select(runs.c.id).where(runs.c.id == run_id).with_for_update()).one_or_none() is None:
            return False
        keep_health(conn, run_id)
        return True

    return repair


def captured(run_id: str, key: Mapping[str, Any]) -> Repair:
    """The capture of an event."""
    place = {"run_id": run_id, **{name: key[name] for name in EVENT_KEY}}

    def repair(conn: Connection) -> bool:
        this = sa.and_(*(events.c[name] == value for name, value in place.items()))
        row = conn.execute(sa.select(events).where(this)).mappings().one_or_none()
        if row is None:
            return False
        about = {name: row[name] for name in ("time", "kind", "text", "step", "severity", "data")}
        [(_, values)] = capture_rows([Event(**about)])
        conn.execute(insert_for(conn.dialect.name, captures).values(place | values).on_conflict_do_nothing())
        return True

    return repair
