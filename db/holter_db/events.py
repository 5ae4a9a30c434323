"""What happened in a run: stage changes, notes, alerts of the user's, exceptions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import INT64_MAX
from holter_db.errors import NotFound
from holter_db.schema import captures, events, segments, writers

__all__ = ["EventRow", "event_id", "events_between", "get_event", "list_events", "of_writer", "same_event"]

_ID = re.compile(r"(\d{1,9})-(\d{1,19})-(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event and who reported it."""

    id: str  # unique within the run
    time: float
    step: int | None
    kind: str
    severity: str
    text: str
    data: dict[str, Any]
    writer: str
    attempt: int


def event_id(writer_id: int, seq: int, number: int) -> str:
    """What the API calls the event of a frame."""
    return f"{writer_id}-{seq}-{number}"


def list_events(conn: Connection, run_id: str, kind: str | None = None) -> list[EventRow]:
    """The events of a run in the order of their times; ``data`` of a capture (`holter_db.captures`) is its summary.

    Args:
        kind: only those of this kind.
    """
    query = _select_short().where(events.c.run_id == run_id, *(() if kind is None else (events.c.kind == kind,)))
    return [_row(row) for row in conn.execute(query.order_by(events.c.time, *_KEY))]


def events_between(conn: Connection, run_id: str, first: int, last: int) -> list[EventRow]:
    """The same of the segments at the positions ``first`` to ``last``, in the order in which they were stored."""
    same_frame = (segments.c[name] == events.c[name] for name in ("run_id", "writer_id", "seq"))
    query = (
        _select_short()
        .join(segments, sa.and_(*same_frame))
        .where(segments.c.run_id == run_id, segments.c.position.between(first, last))
        .order_by(segments.c.position, events.c.number)
    )
    return [_row(row) for row in conn.execute(query)]


def get_event(conn: Connection, run_id: str, id: str) -> EventRow:
    """One event with all of its data.

    Raises:
        NotFound: the run has no such event.
    """
    writer_id, seq, number = _parts(id)
    this = (events.c.run_id == run_id, events.c.writer_id == writer_id, events.c.seq == seq, events.c.number == number)
    row = conn.execute(_select(events.c.data).where(*this)).one_or_none()
    if row is None:
        raise NotFound("event", id, "GET /api/v1/runs/{id}/events lists them.")
    return _row(row)


def _parts(id: str) -> tuple[int, int, int]:
    match = _ID.fullmatch(id)
    writer_id, seq, number = (int(part) for part in match.groups()) if match else (0, 0, 0)
    return (writer_id, seq, number) if seq <= INT64_MAX else (0, 0, 0)  # no writer has the id 0


_KEY = (events.c.writer_id, events.c.seq, events.c.number)


def _select(data: sa.ColumnElement[Any]) -> sa.Select[Any]:
    what = (events.c.time, events.c.step, events.c.kind, events.c.severity, events.c.text)
    return sa.select(*_KEY, *what, data, writers.c.name, writers.c.attempt).join(writers, of_writer(events))


def _select_short() -> sa.Select[Any]:
    data = sa.case((captures.c.run_id.is_(None), events.c.data), else_=captures.c.summary)
    labelled = sa.type_coerce(data, events.c.data.type).label("data")
    return _select(labelled).outerjoin(captures, same_event(captures))


def of_writer(table: sa.Table) -> sa.ColumnElement[bool]:
    """Joins ``table`` with the writer of its rows."""
    return sa.and_(writers.c.run_id == table.c.run_id, writers.c.writer_id == table.c.writer_id)


def same_event(table: sa.Table) -> sa.ColumnElement[bool]:
    """Joins ``table`` with the event of its rows."""
    return sa.and_(*(table.c[name] == events.c[name] for name in ("run_id", "writer_id", "seq", "number")))


def _row(row: sa.Row[Any]) -> EventRow:
    plain = {name: getattr(row, name) for name in ("time", "step", "kind", "severity", "text", "data", "attempt")}
    return EventRow(id=event_id(row.writer_id, row.seq, row.number), writer=row.name, **plain)
