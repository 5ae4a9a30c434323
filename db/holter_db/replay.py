"""A run's records once more, in the order in which they were committed: what the health engine saw when it was live."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Batch
from holter_db.schema import incidents, segments, writers
from holter_db.segments import decode_blocks

__all__ = ["count_incidents", "iter_batches"]

_SEGMENTS_PER_PAGE = 256


def iter_batches(conn: Connection, run_id: str, *, segments_per_page: int = _SEGMENTS_PER_PAGE) -> Iterator[Batch]:
    """Every record of every writer and attempt, as rows and bit for bit.

    The connection must stay open while the batches are read; at most ``segments_per_page`` frames are in memory.

    Raises:
        DatabaseError: a segment is damaged, or was written by a newer version.
    """
    about = sa.and_(writers.c.run_id == segments.c.run_id, writers.c.writer_id == segments.c.writer_id)
    columns = (segments.c.position, segments.c.payload, writers.c.name)
    every = sa.select(*columns).join(writers, about).where(segments.c.run_id == run_id, segments.c.points > 0)
    position = 0
    while True:
        query = every.where(segments.c.position > position).order_by(segments.c.position).limit(segments_per_page)
        rows = conn.execute(query).all()
        for row in rows:
            position = row.position
            for block in decode_blocks(row.payload):
                yield Batch(row.name, block.metrics, block.step_array(), block.time_array(), block.value_matrix())
        if len(rows) < segments_per_page:
            return


def count_incidents(conn: Connection, run_id: str) -> int:
    """How many incidents the run has had, open or not."""
    query = sa.select(sa.func.count()).select_from(incidents).where(incidents.c.run_id == run_id)
    return int(conn.execute(query).scalar_one())
