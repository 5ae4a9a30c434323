"""Where frames belong: the attempts and writers of many frames, found at once, opened where they are new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Frame
from holter_db.locked import LockedRun
from holter_db.many import Bulk, Lookup
from holter_db.schema import attempts, runs, writers
from holter_db.types import Double, Words, stored
from holter_db.writers import register_attempt, register_writer

__all__ = ["Attempt", "Places", "Writer"]


@dataclass(slots=True)
class Attempt:
    """An attempt of a run whose row is locked."""

    run_id: str
    number: int
    first_step: int | None  # smallest step of its points

    def begin(self, step: int) -> bool:
        """Take in a step; True if it is the smallest so far."""
        if self.first_step is not None and self.first_step <= step:
            return False
        self.first_step = step
        return True


@dataclass(slots=True)
class Writer:
    """A writer of an attempt, with what this transaction's frames make of it."""

    attempt: Attempt
    writer_id: int
    last_seq: int
    dropped: int
    due_at: float | None = None  # as promised by these frames; None: they promise nothing

    def hear(self, seq: int, frame: Frame, now: float) -> None:
        """Take in a frame's number (0 for one that is not kept), its promise and what it says of lost points."""
        self.last_seq = max(self.last_seq, seq)
        self.dropped = max(self.dropped, frame.dropped)
        if frame.promise is not None:
            self.due_at = now + frame.promise


_Named = tuple[str, str, str]  # run, attempt as the agent calls it ("": the run's newest), writer


class Places:
    """The writers of the frames of one transaction. The rows of their runs must be locked."""

    def __init__(self, conn: Connection, now: float) -> None:
        self._conn = conn
        self._now = now
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._numbers: dict[tuple[str, str], int] = {}  # of the attempts that have names
        self._writers: dict[tuple[str, int, str], Writer] = {}

    def look_up(self, wanted: Iterable[tuple[LockedRun, Frame]]) -> None:
        """Read what is known of these frames' writers: two statements, however many there are."""
        named, newest = set(), set()
        for run, frame in wanted:
            writer = stored(frame.writer)
            if frame.attempt:
                named.add((run.id, stored(frame.attempt), writer))
            else:
                newest.add((run.id, run.attempt, writer))
        for by_key, keys in ((True, named), (False, newest)):
            if keys:
                self._enter(by_key, sorted(keys))

    def known(self, run: LockedRun, frame: Frame) -> Writer | None:
        """The frame's writer, if it is one of those that were looked up."""
        number = self._numbers.get((run.id, stored(frame.attempt))) if frame.attempt else run.attempt
        return None if number is None else self._writers.get((run.id, number, stored(frame.writer)))

    def place(self, run: LockedRun, frame: Frame) -> Writer:
        """The frame's writer. An attempt or a writer that is new is opened, and the run moves on to the attempt."""
        number, name = self._number(run, stored(frame.attempt)), stored(frame.writer)
        known = self._writers.get((run.id, number, name))
        if known is None:
            register_writer(self._conn, run.id, number, name, self._now)
            self._enter(False, [(run.id, number, name)])
            known = self._writers[run.id, number, name]
        return known

    def write(self, heard: Sequence[Writer], begun: Sequence[Attempt]) -> None:
        """Write down what became of the writers, and the first steps of attempts."""
        now = self._now
        _SEEN.run(
            self._conn,
            [
                (one.last_seq, now, one.dropped, one.due_at, one.attempt.run_id, one.writer_id)
                for one in sorted(heard, key=lambda one: (one.attempt.run_id, one.writer_id))
            ],
        )
        _BEGUN.run(
            self._conn,
            [
                (one.first_step, one.run_id, one.number)
                for one in sorted(begun, key=lambda one: (one.run_id, one.number))
            ],
        )

    def _number(self, run: LockedRun, key: str) -> int:
        if not key:
            return run.attempt
        if (run.id, key) not in self._numbers:
            number, opened = register_attempt(self._conn, run.id, key, self._now)
            self._numbers[run.id, key] = number
            if opened:
                self._conn.execute(sa.update(runs).where(runs.c.id == run.id).values(attempt=number))
                run.attempt = number
        return self._numbers[run.id, key]

    def _enter(self, by_key: bool, wanted: Sequence[tuple[str, Any, str]]) -> None:
        lookup = _BY_KEY if by_key else _BY_NUMBER
        rows = lookup.rows(self._conn, msgspec.json.encode(wanted).decode())
        for run_id, key, number, first_step, name, *about in rows:
            self._numbers[run_id, key] = number
            attempt = self._attempts.setdefault((run_id, number), Attempt(run_id, number, first_step))
            self._writers[run_id, number, name] = Writer(attempt, *about)


def _find(dialect: str, by_key: bool) -> sa.Select[Any]:
    run, attempt, name, source = _wanted(dialect, by_key)
    of_attempt = attempts.c.key if by_key else attempts.c.attempt
    these = (writers.c.run_id == attempts.c.run_id, writers.c.attempt == attempts.c.attempt, writers.c.name == name)
    return (
        sa.select(
            attempts.c.run_id,
            attempts.c.key,
            attempts.c.attempt,
            attempts.c.first_step,
            writers.c.name,
            writers.c.writer_id,
            writers.c.last_seq,
            writers.c.dropped,
        )
        .select_from(source)
        .join(attempts, sa.and_(attempts.c.run_id == run, of_attempt == attempt))
        .join(writers, sa.and_(*these))
    )


def _wanted(dialect: str, by_key: bool) -> tuple[Any, Any, Any, sa.FromClause]:
    """The columns of the bound list of (run, attempt, writer), and where they are selected from."""
    if dialect == "postgresql":
        listed = sa.cast(sa.bindparam("wanted", type_=sa.Text), sa.JSON)
        each = sa.func.json_array_elements(listed).table_valued(sa.column("value", sa.JSON), name="wanted")
        parts: list[Any] = [each.c.value.op("->>")(sa.literal_column(str(index))) for index in range(3)]
        return parts[0], parts[1] if by_key else sa.cast(parts[1], sa.Integer), parts[2], each
    each = sa.func.json_each(sa.bindparam("wanted", type_=sa.Text)).table_valued("value", name="wanted")
    paths: list[Any] = [sa.literal_column(f"'$[{index}]'") for index in range(3)]
    run, attempt, name = (sa.func.json_extract(each.c.value, path) for path in paths)
    return run, attempt, name, each


def _seen(_dialect: str) -> sa.UpdateBase:
    return (
        sa.update(writers)
        .where(
            writers.c.run_id == sa.bindparam("run", type_=Words),
            writers.c.writer_id == sa.bindparam("writer", type_=sa.Integer),
        )
        .values(
            last_seq=sa.bindparam("seq", type_=sa.BigInteger),
            last_seen_at=sa.bindparam("at", type_=Double),
            dropped=sa.bindparam("gave_up", type_=sa.BigInteger),
            due_at=sa.func.coalesce(sa.bindparam("due", type_=Double), writers.c.due_at),
        )
    )


def _begun(_dialect: str) -> sa.UpdateBase:
    return (
        sa.update(attempts)
        .where(
            attempts.c.run_id == sa.bindparam("run", type_=Words),
            attempts.c.attempt == sa.bindparam("number", type_=sa.Integer),
        )
        .values(first_step=sa.bindparam("step", type_=sa.BigInteger))
    )


_SEEN = Bulk(_seen, ("seq", "at", "gave_up", "due", "run", "writer"))
_BEGUN = Bulk(_begun, ("step", "run", "number"))
_BY_KEY = Lookup(lambda dialect: _find(dialect, True), ("wanted",))
_BY_NUMBER = Lookup(lambda dialect: _find(dialect, False), ("wanted",))
