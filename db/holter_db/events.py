"""What happened in a run: stage changes, notes, alerts of the user's, exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.schema import events, writers

__all__ = ["EventRow", "list_events"]


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event and who reported it."""

    time: float
    step: int | None
    kind: str
    severity: str
    text: str
    data: dict[str, Any]
    writer: str
    attempt: int


def list_events(conn: Connection, run_id: str) -> list[EventRow]:
    """The events of a run in the order of their times."""
    query = (
        sa.select(
            events.c.time,
            events.c.step,
            events.c.kind,
            events.c.severity,
            events.c.text,
            events.c.data,
            writers.c.name,
            writers.c.attempt,
        )
        .join(writers, sa.and_(writers.c.run_id == events.c.run_id, writers.c.writer_id == events.c.writer_id))
        .where(events.c.run_id == run_id)
        .order_by(events.c.time, events.c.writer_id, events.c.seq, events.c.number)
    )
    return [EventRow(*row) for row in conn.execute(query)]
