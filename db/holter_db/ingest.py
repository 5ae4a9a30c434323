"""One acknowledged frame becomes one segment; sending it again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Batch
from holter.wire import INT64_MAX, Block, Event, Frame
from holter_db.catalogue import update_catalogue
from holter_db.errors import Conflict, NotFound
from holter_db.schema import attempts, events, runs, segments, writers
from holter_db.segments import encode_blocks
from holter_db.upsert import insert_new
from holter_db.writers import register_attempt, register_writer

__all__ = ["Appended", "append"]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a frame. A duplicate has no batches and no events."""

    duplicate: bool
    seq: int
    writer_id: int
    attempt: int
    late: bool  # the frame belongs to an attempt that is not the run's newest
    batches: list[Batch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a frame belongs."""

    run_id: str
    newest: int
    attempt: int
    writer_id: int
    last_seq: int
    first_step: int | None  # of the attempt


def append(conn: Connection, run_id: str, frame: Frame, now: float) -> Appended:
    """Store a frame that was checked by the wire, keyed (run, attempt, writer, seq).

    Frames may come in any order, late, and more than once. An attempt or writer that is not known yet is opened.

    Args:
        now: seconds, UTC.

    Raises:
        NotFound: there is no such run.
        Conflict: the writer has used up its sequence numbers.
    """
    place = _place(conn, run_id, frame, now)
    seq = frame.seq or place.last_seq + 1
    if seq > INT64_MAX:
        raise Conflict(f"The writer {frame.writer!r} has no sequence number left", "Use another writer's name.")
    late = place.attempt < place.newest
    blocks = [block for block in frame.blocks if block.rows]
    if not _insert_segment(conn, place, seq, blocks, now):
        return Appended(True, seq, place.writer_id, place.attempt, late)
    update_catalogue(conn, run_id, place.writer_id, seq, blocks)
    _insert_events(conn, place, seq, frame.events)
    _note_writer(conn, place, seq, frame, now)
    _note_first_step(conn, place, frame.writer, blocks)
    return Appended(
        False, seq, place.writer_id, place.attempt, late, [_batch(frame.writer, b) for b in blocks], frame.events
    )


def _place(conn: Connection, run_id: str, frame: Frame, now: float) -> _Place:
    """Lock the run, so that positions are given in the order of commits, and find the frame's writer."""
    lock = sa.select(runs.c.attempt).where(runs.c.id == run_id, runs.c.deleted_at.is_(None)).with_for_update()
    newest = conn.scalar(lock)
    if newest is None:
        raise NotFound("run", run_id, "Start it with POST /api/v1/runs first.")
    attempt = newest
    if frame.attempt:
        attempt, opened = register_attempt(conn, run_id, frame.attempt, now)
        if opened:
            conn.execute(sa.update(runs).where(runs.c.id == run_id).values(attempt=attempt))
            newest = attempt
    writer_id = register_writer(conn, run_id, attempt, frame.writer, now)
    query = (
        sa.select(writers.c.last_seq, attempts.c.first_step)
        .select_from(writers)
        .outerjoin(attempts, sa.and_(attempts.c.run_id == run_id, attempts.c.attempt == attempt))
        .where(writers.c.run_id == run_id, writers.c.writer_id == writer_id)
    )
    last_seq, first_step = conn.execute(query).one()
    return _Place(run_id, newest, attempt, writer_id, last_seq, first_step)


def _insert_segment(conn: Connection, place: _Place, seq: int, blocks: list[Block], now: float) -> bool:
    key = sa.and_(segments.c.run_id == place.run_id, segments.c.writer_id == place.writer_id, segments.c.seq == seq)
    if conn.scalar(sa.select(sa.literal(1)).where(sa.exists().where(key))):
        return False
    position = conn.scalar(
        sa.update(runs).where(runs.c.id == place.run_id).values(position=runs.c.position + 1).returning(runs.c.position)
    )
    steps = [block.step_array() for block in blocks]
    values = {
        "run_id": place.run_id,
        "writer_id": place.writer_id,
        "seq": seq,
        "position": position,
        "received_at": now,
        "points": sum(block.rows * len(block.metrics) for block in blocks),
        "first_step": min((int(array.min()) for array in steps), default=None),
        "last_step": max((int(array.max()) for array in steps), default=None),
        "payload": encode_blocks(blocks),
    }
    return insert_new(conn, segments, values, key=("run_id", "writer_id", "seq"))


def _insert_events(conn: Connection, place: _Place, seq: int, happened: list[Event]) -> None:
    if not happened:
        return
    key = {"run_id": place.run_id, "writer_id": place.writer_id, "seq": seq}
    rows = [
        {
            **key,
            "number": number,
            "time": event.time,
            "step": event.step,
            "kind": event.kind,
            "severity": event.severity,
            "text": event.text,
            "data": event.data,
        }
        for number, event in enumerate(happened)
    ]
    conn.execute(sa.insert(events), rows)


def _note_writer(conn: Connection, place: _Place, seq: int, frame: Frame, now: float) -> None:
    this = sa.and_(writers.c.run_id == place.run_id, writers.c.writer_id == place.writer_id)
    dropped = sa.case((writers.c.dropped < frame.dropped, frame.dropped), else_=writers.c.dropped)
    conn.execute(
        sa.update(writers).where(this).values(last_seq=max(seq, place.last_seq), last_seen_at=now, dropped=dropped)
    )


def _note_first_step(conn: Connection, place: _Place, writer: str, blocks: list[Block]) -> None:
    """Keep the attempt's smallest step, from where it shadows older attempts.

    A writer such as "rank0/system" only repeats the newest step it has heard of, so its steps don't count.
    """
    if "/" in writer or not blocks:
        return
    first = min(int(block.step_array().min()) for block in blocks)
    if place.first_step is None or first < place.first_step:
        this = sa.and_(attempts.c.run_id == place.run_id, attempts.c.attempt == place.attempt)
        conn.execute(sa.update(attempts).where(this).values(first_step=first))


def _batch(writer: str, block: Block) -> Batch:
    return Batch(writer, block.metrics, block.step_array(), block.time_array(), block.value_matrix())
