"""Reading what another server has just committed (`holter_db.notifications`)."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Block
from holter_db.events import of_writer
from holter_db.schema import segments, writers
from holter_db.segments import decode_blocks

__all__ = ["NewSegment", "segments_between"]


@dataclass(frozen=True, slots=True)
class NewSegment:
    """The points of one acknowledged frame and whose they are."""

    position: int
    writer: str
    attempt: int
    blocks: list[Block]


_BETWEEN = (
    sa.select(segments.c.position, writers.c.name, writers.c.attempt, segments.c.payload)
    .join(writers, of_writer(segments))
    .where(
        segments.c.run_id == sa.bindparam("run"),
        segments.c.position.between(sa.bindparam("first"), sa.bindparam("last")),
    )
    .order_by(segments.c.position)
)


def segments_between(conn: Connection, run_id: str, first: int, last: int) -> list[NewSegment] | None:
    """The segments of a run at the positions ``first`` to ``last``, or None once one of them is folded into chunks."""
    rows = conn.execute(_BETWEEN, {"run": run_id, "first": first, "last": last}).all()
    if len(rows) != last - first + 1:
        return None
    return [NewSegment(position, name, attempt, decode_blocks(payload)) for position, name, attempt, payload in rows]
