"""Acknowledged frames become segments, many in one transaction; sending one again changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Batch
from holter.wire import INT64_MAX, Block, Event, Frame
from holter_db.captures import capture_rows
from holter_db.catalogue import Added, update_catalogue
from holter_db.deletion import absent
from holter_db.errors import Conflict
from holter_db.fold import folded_seqs
from holter_db.locked import LockedRun, lock_runs, write_runs
from holter_db.many import Bulk
from holter_db.places import Attempt, Places, Writer
from holter_db.schema import captures, events, segments
from holter_db.segments import encode_blocks

__all__ = ["Appended", "Shipment", "append", "append_all", "known_seqs", "note_sign_of_life"]

SEQS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class Shipment:
    """A frame for a run whose row is locked. One that is not ``kept`` only says that its writer is alive."""

    run: LockedRun
    frame: Frame
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a frame. A duplicate has no batches and no events."""

    duplicate: bool
    seq: int
    writer_id: int
    attempt: int
    late: bool  # the frame belongs to an attempt that is not the run's newest
    dropped: int | None = None  # points that the writer has given up so far, where these have become more
    position: int = 0  # of the segment; 0: there is none
    batches: list[Batch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def append(conn: Connection, run_id: str, frame: Frame, now: float) -> Appended:
    """Store a frame that was checked by the wire, keyed (run, attempt, writer, seq).

    Frames may come in any order, late, and more than once. An attempt or writer that is not known yet is opened.

    Args:
        now: seconds, UTC.

    Raises:
        NotFound: there is no such run.
        Conflict: the writer has used up its sequence numbers.
    """
    return _append_one(conn, run_id, frame, now, kept=True)


def note_sign_of_life(conn: Connection, run_id: str, frame: Frame, now: float) -> Appended:
    """Write down that a writer is alive and what it promises; a frame that holds no more than that is not kept.

    Raises:
        NotFound: there is no such run.
    """
    return _append_one(conn, run_id, frame, now, kept=False)


def append_all(conn: Connection, shipments: Sequence[Shipment], now: float) -> list[Appended | Conflict]:
    """Store many frames as `append` does one, in their order; a frame that can't be stored leaves the others alone.

    The positions of the runs move on in memory: `holter_db.locked.write_runs` has to write them down.
    """
    return _Storing(conn, now).take(shipments)


def known_seqs(conn: Connection, run_id: str, writer_id: int, seqs: Collection[int]) -> set[int]:
    """Those of a writer's sequence numbers that are stored already, as segments or in chunks."""
    here = (segments.c.run_id == run_id, segments.c.writer_id == writer_id)
    listed, found = list(seqs), set()
    for start in range(0, len(listed), SEQS_PER_QUERY):
        some = segments.c.seq.in_(listed[start : start + SEQS_PER_QUERY])
        found |= set(conn.scalars(sa.select(segments.c.seq).where(*here, some)))
    return found | folded_seqs(conn, run_id, writer_id, set(listed) - found)


def _append_one(conn: Connection, run_id: str, frame: Frame, now: float, *, kept: bool) -> Appended:
    run = lock_runs(conn, [run_id]).get(run_id)
    if run is None:
        raise absent(conn, run_id)
    (appended,) = append_all(conn, [Shipment(run, frame, kept)], now)
    write_runs(conn, [run])
    if isinstance(appended, Conflict):
        raise appended
    return appended


@dataclass(slots=True)
class _Rows:
    """What is to be inserted."""

    segments: list[tuple[Any, ...]] = field(default_factory=list)
    added: list[Added] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    captures: list[dict[str, Any]] = field(default_factory=list)

    def insert(self, conn: Connection) -> None:
        _INSERT.run(conn, self.segments)
        update_catalogue(conn, self.added)
        if self.events:
            conn.execute(sa.insert(events), self.events)
        if self.captures:
            conn.execute(sa.insert(captures), self.captures)


class _Storing:
    """Frames of one transaction on their way into the tables."""

    def __init__(self, conn: Connection, now: float) -> None:
        self._conn = conn
        self._now = now
        self._places = Places(conn, now)
        self._rows = _Rows()
        self._stored: dict[int, set[int]] = {}  # numbers of each writer, by identity
        self._heard: dict[int, Writer] = {}  # by identity: a writer's row is written once
        self._begun: dict[int, Attempt] = {}

    def take(self, shipments: Sequence[Shipment]) -> list[Appended | Conflict]:
        self._places.look_up((shipment.run, shipment.frame) for shipment in shipments)
        self._look_up_seqs(shipments)
        # One after the other: a frame may open the attempt that makes the ones behind it late.
        appended = [self._take(shipment, self._places.place(shipment.run, shipment.frame)) for shipment in shipments]
        self._rows.insert(self._conn)
        self._places.write(list(self._heard.values()), list(self._begun.values()))
        return appended

    def _look_up_seqs(self, shipments: Sequence[Shipment]) -> None:
        """Which numbers of these frames are stored already; those beyond their writer's greatest can't be."""
        asked: dict[int, tuple[Writer, set[int]]] = {}
        for shipment in shipments:
            writer = self._places.known(shipment.run, shipment.frame)
            if writer is not None and shipment.kept and 0 < shipment.frame.seq <= writer.last_seq:
                asked.setdefault(id(writer), (writer, set()))[1].add(shipment.frame.seq)
        for key, (writer, seqs) in asked.items():
            self._stored[key] = known_seqs(self._conn, writer.attempt.run_id, writer.writer_id, seqs)

    def _take(self, shipment: Shipment, writer: Writer) -> Appended | Conflict:
        run, frame = shipment.run, shipment.frame
        seq = frame.seq
        if shipment.kept:
            seq = frame.seq or writer.last_seq + 1
            if seq > INT64_MAX:
                hint = "Use another writer's name."
                return Conflict(f"The writer {frame.writer!r} has no sequence number left", hint)
            stored = self._stored.setdefault(id(writer), set())
            if seq in stored:
                return self._appended(run, writer, seq, duplicate=True)
            stored.add(seq)
        dropped = frame.dropped if frame.dropped > writer.dropped else None
        writer.hear(seq if shipment.kept else 0, frame, self._now)
        self._heard[id(writer)] = writer
        if not shipment.kept:
            return self._appended(run, writer, seq, dropped=dropped)
        blocks = [block for block in frame.blocks if block.rows]
        self._store(run, writer, seq, blocks, frame)
        batches = [_batch(frame.writer, block) for block in blocks]
        return self._appended(
            run, writer, seq, dropped=dropped, position=run.position, batches=batches, events=frame.events
        )

    @staticmethod
    def _appended(run: LockedRun, writer: Writer, seq: int, *, duplicate: bool = False, **more: Any) -> Appended:
        attempt = writer.attempt.number
        return Appended(duplicate, seq, writer.writer_id, attempt, attempt < run.attempt, **more)

    def _store(self, run: LockedRun, writer: Writer, seq: int, blocks: list[Block], frame: Frame) -> None:
        run.position += 1
        first, last = _extent(blocks)
        points = sum(block.rows * len(block.metrics) for block in blocks)
        payload = encode_blocks(blocks)
        key = (run.id, writer.writer_id, seq)
        self._rows.segments.append((*key, run.position, self._now, points, first, last, payload))
        if blocks:
            self._rows.added.append(Added(*key, blocks))
        # A writer such as "rank0/system" only repeats the newest step it has heard of, so its steps don't count.
        if first is not None and "/" not in frame.writer and writer.attempt.begin(first):
            self._begun[id(writer.attempt)] = writer.attempt
        if frame.events:
            self._keep_events({"run_id": run.id, "writer_id": writer.writer_id, "seq": seq}, frame.events)

    def _keep_events(self, key: Mapping[str, Any], happened: list[Event]) -> None:
        plain = ("time", "step", "kind", "severity", "text", "data")
        for number, event in enumerate(happened):
            self._rows.events.append({**key, "number": number, **{name: getattr(event, name) for name in plain}})
        self._rows.captures += ({**key, "number": number, **about} for number, about in capture_rows(happened))


def _extent(blocks: Sequence[Block]) -> tuple[int | None, int | None]:
    """The least and the greatest step."""
    steps = [block.step_array() for block in blocks]
    first = min((int(array.min()) for array in steps), default=None)
    return first, max((int(array.max()) for array in steps), default=None)


def _batch(writer: str, block: Block) -> Batch:
    return Batch(writer, block.metrics, block.step_array(), block.time_array(), block.value_matrix())


def _insert(_dialect: str) -> sa.UpdateBase:
    return sa.insert(segments)


_INSERT = Bulk(_insert, [column.name for column in segments.c])
