"""One acknowledged frame becomes one segment; sending it again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Batch
from holter.wire import INT64_MAX, Block, Event, Frame
from holter_db.captures import capture_rows
from holter_db.catalogue import update_catalogue
from holter_db.deletion import absent
from holter_db.errors import Conflict
from holter_db.fold import folded_seqs
from holter_db.schema import attempts, captures, events, runs, segments, writers
from holter_db.segments import encode_blocks
from holter_db.types import Double, Words
from holter_db.writers import register_attempt, register_writer

__all__ = ["Appended", "append", "note_sign_of_life"]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a frame. A duplicate has no batches and no events."""

    duplicate: bool
    seq: int
    writer_id: int
    attempt: int
    late: bool  # the frame belongs to an attempt that is not the run's newest
    dropped: int | None = None  # points that the writer has given up so far, where these have become more
    batches: list[Batch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a frame belongs."""

    run_id: str
    position: int  # of the next segment
    newest: int
    attempt: int
    first_step: int | None  # of the attempt
    writer_id: int
    last_seq: int
    dropped: int
    known: bool  # there is already a segment with the frame's seq


# Built once: on the way of every frame, building a statement costs more than running it.
_RUN, _SEQ = sa.bindparam("run", type_=Words), sa.bindparam("number", type_=sa.BigInteger)
_KEY, _NEWEST = sa.bindparam("key", type_=Words), sa.bindparam("newest", type_=sa.Integer)
_LOCK = (
    sa.select(runs.c.attempt, runs.c.position).where(runs.c.id == _RUN, runs.c.deleted_at.is_(None)).with_for_update()
)
_FIND = (
    sa.select(
        attempts.c.attempt,
        attempts.c.first_step,
        writers.c.writer_id,
        writers.c.last_seq,
        writers.c.dropped,
        segments.c.seq.is_not(None).label("known"),
    )
    .select_from(attempts)
    .join(writers, sa.and_(writers.c.run_id == attempts.c.run_id, writers.c.attempt == attempts.c.attempt))
    .outerjoin(
        segments,
        sa.and_(
            segments.c.run_id == writers.c.run_id, segments.c.writer_id == writers.c.writer_id, segments.c.seq == _SEQ
        ),
    )
    .where(
        attempts.c.run_id == _RUN,
        sa.case((_KEY == "", attempts.c.attempt == _NEWEST), else_=attempts.c.key == _KEY),
        writers.c.name == sa.bindparam("name", type_=Words),
    )
)
_INSERT = sa.insert(segments)
_ADVANCE = sa.update(runs).where(runs.c.id == _RUN).values(position=sa.bindparam("at", type_=sa.BigInteger))
_SEEN = (
    sa.update(writers)
    .where(writers.c.run_id == _RUN, writers.c.writer_id == sa.bindparam("writer", type_=sa.Integer))
    .values(
        last_seen_at=sa.bindparam("at", type_=Double),
        last_seq=sa.bindparam("seq", type_=sa.BigInteger),
        dropped=sa.bindparam("gave_up", type_=sa.BigInteger),
        due_at=sa.func.coalesce(sa.bindparam("due", type_=Double), writers.c.due_at),
    )
)


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
    if place.known or (0 < frame.seq <= place.last_seq and folded_seqs(conn, run_id, place.writer_id, [frame.seq])):
        return Appended(True, seq, place.writer_id, place.attempt, late)
    blocks = [block for block in frame.blocks if block.rows]
    _insert_segment(conn, place, seq, blocks, now)
    update_catalogue(conn, run_id, place.writer_id, seq, blocks)
    _insert_events(conn, place, seq, frame.events)
    _note_writer(conn, place, seq, frame, now)
    _note_first_step(conn, place, frame.writer, blocks)
    return Appended(
        duplicate=False,
        seq=seq,
        writer_id=place.writer_id,
        attempt=place.attempt,
        late=late,
        dropped=_dropped(place, frame),
        batches=[_batch(frame.writer, block) for block in blocks],
        events=frame.events,
    )


def note_sign_of_life(conn: Connection, run_id: str, frame: Frame, now: float) -> Appended:
    """Write down that a writer is alive and what it promises; a frame that holds no more than that is not kept.

    Raises:
        NotFound: there is no such run.
    """
    place = _place(conn, run_id, frame, now)
    _note_writer(conn, place, 0, frame, now)
    late = place.attempt < place.newest
    return Appended(False, frame.seq, place.writer_id, place.attempt, late, _dropped(place, frame))


def _dropped(place: _Place, frame: Frame) -> int | None:
    return frame.dropped if frame.dropped > place.dropped else None


def _place(conn: Connection, run_id: str, frame: Frame, now: float) -> _Place:
    """Lock the run, so that positions are given in the order of commits, and find the frame's writer.

    Two statements: while the first waits for a lock, PostgreSQL would read the other tables as they were before.
    """
    run = conn.execute(_LOCK, {"run": run_id}).one_or_none()
    if run is None:
        raise absent(conn, run_id)
    where = {"run": run_id, "newest": run.attempt, "key": frame.attempt, "name": frame.writer, "number": frame.seq}
    found = conn.execute(_FIND, where).one_or_none()
    if found is None:
        where["newest"] = _register(conn, run_id, run.attempt, frame, now)
        found = conn.execute(_FIND, where).one()
    return _Place(run_id, position=run.position + 1, newest=where["newest"], **found._mapping)


def _register(conn: Connection, run_id: str, newest: int, frame: Frame, now: float) -> int:
    """Open the frame's attempt and writer; the number of the run's newest attempt."""
    attempt = newest
    if frame.attempt:
        attempt, opened = register_attempt(conn, run_id, frame.attempt, now)
        if opened:
            conn.execute(sa.update(runs).where(runs.c.id == run_id).values(attempt=attempt))
            newest = attempt
    register_writer(conn, run_id, attempt, frame.writer, now)
    return newest


def _insert_segment(conn: Connection, place: _Place, seq: int, blocks: list[Block], now: float) -> None:
    steps = [block.step_array() for block in blocks]
    values = {
        "run_id": place.run_id,
        "writer_id": place.writer_id,
        "seq": seq,
        "position": place.position,
        "received_at": now,
        "points": sum(block.rows * len(block.metrics) for block in blocks),
        "first_step": min((int(array.min()) for array in steps), default=None),
        "last_step": max((int(array.max()) for array in steps), default=None),
        "payload": encode_blocks(blocks),
    }
    conn.execute(_INSERT, values)
    conn.execute(_ADVANCE, {"run": place.run_id, "at": place.position})


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
    if captured := [{**key, "number": number, **about} for number, about in capture_rows(happened)]:
        conn.execute(sa.insert(captures), captured)


def _note_writer(conn: Connection, place: _Place, seq: int, frame: Frame, now: float) -> None:
    values = {"at": now, "seq": max(seq, place.last_seq), "gave_up": max(frame.dropped, place.dropped)}
    due = None if frame.promise is None else now + frame.promise
    conn.execute(_SEEN, {"run": place.run_id, "writer": place.writer_id, "due": due, **values})


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
