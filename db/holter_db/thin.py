"""Giving up raw points: of a run that has ended only the pyramid stays, so its charts keep every extreme."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.merge import drop_unused_axes
from holter_db.schema import chunks

__all__ = ["thin_run"]


def thin_run(conn: Connection, run_id: str, at_most: int | None = None) -> int:
    """Drop the values of the chunks of a run that have a pyramid; the number of points that are gone.

    Args:
        at_most: so many chunks, so that others need not wait for long; call it again until nothing is left.

    Small chunks keep their points. Fold and merge a run first. What a chart of some 2,000 pixels shows does not change:
    of every 512 points or so the first, the last, the least, the greatest and up to 16 non-finite ones stay.
    """
    these = sa.and_(chunks.c.run_id == run_id, chunks.c.cells.is_not(None), chunks.c.raw)
    key = (chunks.c.writer_id, chunks.c.axis, chunks.c.metric)
    found = conn.execute(sa.select(*key, chunks.c.count).where(these).order_by(*key).limit(at_most)).all()
    for writer_id, axis, metric, _ in found:
        this = sa.and_(chunks.c.writer_id == writer_id, chunks.c.axis == axis, chunks.c.metric == metric)
        conn.execute(sa.update(chunks).where(these, this).values({"values": None, "raw": False}))
    for writer_id, axis in sorted({(row.writer_id, row.axis) for row in found}):
        drop_unused_axes(conn, {"run_id": run_id, "writer_id": writer_id}, [axis])
    return sum(row[-1] for row in found)
