"""Giving up raw points: of a run that has ended only the pyramid stays, so its charts keep every extreme."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.merge import drop_unused_axes
from holter_db.schema import axes, chunks

__all__ = ["thin_run"]


def thin_run(conn: Connection, run_id: str) -> int:
    """Drop the values of the chunks of a run that have a pyramid; the number of points that are gone.

    Small chunks keep their points. Fold and merge a run first. What a chart of some 2,000 pixels shows does not change:
    of every 512 points or so the first, the last, the least, the greatest and up to 16 non-finite ones stay.
    """
    these = sa.and_(chunks.c.run_id == run_id, chunks.c.cells.is_not(None), chunks.c.raw)
    gone = conn.scalar(sa.select(sa.func.sum(chunks.c.count)).where(these)) or 0
    conn.execute(sa.update(chunks).where(these).values({"values": None, "raw": False}))
    query = sa.select(axes.c.writer_id, axes.c.axis).where(axes.c.run_id == run_id)
    for writer_id, axis in conn.execute(query).all():
        drop_unused_axes(conn, {"run_id": run_id, "writer_id": writer_id}, [axis])
    return int(gone)
