"""One thread owns the database's write side: group commit, answers only after it, nothing that one failure takes along.

SQLite has one writer at a time, and a synced commit costs about the same for one job as for a hundred. So every change
is a job, and the jobs that queue up while a commit runs share the next one. Frames, of which there are most, are
written all at once, by a few statements; every other job has a savepoint of its own. If anything unexpected happens,
the transaction is rolled back and each job gets one of its own, so that one that fails leaves the others alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from holter.wire import Frame, Receipt
from holter_db.database import Connection, Database
from holter_db.errors import StoreError
from holter_db.locked import lock_runs
from holter_server.errors import ApiError, Overloaded, api_error
from holter_server.notices import Notice, Touch
from holter_server.pace import Pace

__all__ = ["TakeFrames", "Transaction", "WriterThread"]

log = logging.getLogger("holter.server")
T = TypeVar("T")

JOBS_PER_COMMIT = 256
BYTES_PER_COMMIT = 16_000_000
ALONE_FOR_S = 60.0  # a run whose frame has failed in a way that nobody expected: its next ones harm no others


@dataclass(slots=True)
class Transaction:
    """What a job works with. What it tells is published after the commit, and never when there was none."""

    conn: Connection
    now: float  # seconds, UTC
    notices: list[Notice] = field(default_factory=list)
    touched: list[Touch] = field(default_factory=list)
    messages: int = 0  # put into the outbox
    frames: int = 0  # kept, duplicates left out
    points: int = 0
    _undo: list[Callable[[], object]] = field(default_factory=list)

    def tell(self, notice: Notice) -> None:
        self.notices.append(notice)

    def touch(self, run_id: str, position: int = 0, points: int = 0) -> None:
        """Note that the run has changed; ``position`` and ``points`` of its new segment, if there is one."""
        self.touched.append(Touch(run_id, position, points))

    def on_rollback(self, action: Callable[[], object]) -> None:
        """Have ``action`` called if this transaction does not commit: for state that is kept in memory."""
        self._undo.append(action)

    def undo(self) -> None:
        for action in self._undo:
            action()


TakeFrames = Callable[[Transaction, Sequence[tuple[str, Frame]]], Sequence[Receipt | StoreError]]


@dataclass(slots=True, eq=False)
class _Entry:
    """A job, or a frame for the run ``order``."""

    order: str
    weight: int  # bytes held while it waits
    job: Callable[[Transaction], Any]
    frame: Frame | None = None
    future: Future[Any] | asyncio.Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Outcome:
    """What became of the jobs of one commit."""

    done: list[tuple[_Entry, Any]] = field(default_factory=list)
    refused: list[tuple[_Entry, Exception]] = field(default_factory=list)  # for a reason the caller can act on
    alone: list[_Entry] = field(default_factory=list)  # unexpected: to be tried again on their own
    transactions: list[Transaction] = field(default_factory=list)


class WriterThread:
    """Runs jobs; those of one run in the order in which they were submitted.

    Args:
        database: where the jobs write.
        publish: called in the writer thread with the committed transactions, after their callers were answered.
        take: writes many frames; needed by `ship`.
        announce: called with the transactions of the jobs that succeeded, before they are committed together.
        limit: jobs that may wait; ``limit_bytes``: what their bodies may hold together.
    """

    def __init__(
        self,
        database: Database,
        publish: Callable[[Sequence[Transaction]], None],
        take: TakeFrames | None = None,
        *,
        announce: Callable[[Connection, Sequence[Transaction]], None] | None = None,
        limit: int = 5000,
        limit_bytes: int = 96_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._publish = publish
        self._take = take or _take_nothing
        self._announce = announce
        self._limit, self._limit_bytes = limit, limit_bytes
        self._clock = clock
        self._queue: deque[_Entry] = deque()
        self._bytes = 0  # of what waits and of what is being written
        self._pace = Pace()
        self._hurry = False  # somebody waits for an answer and would not gain by company
        self._closed = False
        self._changed = threading.Condition()
        self._alone: dict[str, float] = {}  # run → until when
        self._thread = threading.Thread(target=self._run, name="holter-writer", daemon=True)
        self.commits = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end. Later submissions are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Callable[[Transaction], T], *, order: str = "", weight: int = 0) -> Future[T]:
        """Queue ``job``; the future has its result once it is committed and synced.

        Args:
            order: the id of the run (or incident) whose rows it locks, or a space and the project. The jobs of one
                commit run in this order, so that two servers on one PostgreSQL lock rows in the same one: else each
                may wait for the other.
            weight: bytes that it holds while it waits.

        Raises:
            Overloaded: too much waits already.
        """
        future: Future[T] = Future()
        self._put(_Entry(order, weight, job, future=future))
        return future

    def call(self, job: Callable[[Transaction], T], *, order: str = "") -> T:
        """Submit ``job`` and wait for its commit."""
        return self.submit(job, order=order).result()

    def ship(self, run: str, frame: Frame, weight: int) -> asyncio.Future[Receipt]:
        """Queue a frame for the run of this name; the future, of the running event loop, has its receipt.

        A caller that hangs up does not take back what was accepted.

        Raises:
            Overloaded: too much waits already.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._put(_Entry(run, weight, lambda tx: _only(self._take(tx, [(run, frame)])), frame, future))
        return future

    def _put(self, entry: _Entry) -> None:
        with self._changed:
            if self._closed:
                raise ApiError(503, "shutting_down", "The service is shutting down", "Send it again in a few seconds.")
            too_many = len(self._queue) >= self._limit
            if too_many or (self._bytes and self._bytes + entry.weight > self._limit_bytes):
                raise Overloaded
            self._bytes += entry.weight
            self._queue.append(entry)
            hurry = entry.frame is None or self._pace.arrive(entry.order, time.monotonic())
            self._hurry = self._hurry or hurry
            if hurry or len(self._queue) in (1, JOBS_PER_COMMIT):
                self._changed.notify()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            self._commit(sorted(batch, key=lambda entry: entry.order))
            with self._changed:
                self._bytes -= sum(entry.weight for entry in batch)
                frames = [entry.order for entry in batch if entry.frame is not None]
                self._pace.answer(frames, time.monotonic())

    def _next_batch(self) -> list[_Entry]:
        """What the next commit holds; nothing once the thread has to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if pause := self._pace.pause(time.monotonic()):
                full = JOBS_PER_COMMIT
                self._changed.wait_for(lambda: self._hurry or self._closed or len(self._queue) >= full, pause)
            self._hurry = False
            batch: list[_Entry] = []
            held = 0
            while self._queue and len(batch) < JOBS_PER_COMMIT and held < BYTES_PER_COMMIT:
                batch.append(self._queue.popleft())
                held += batch[-1].weight
            return batch

    def _commit(self, batch: list[_Entry]) -> None:
        outcome = _Outcome()
        try:
            with self._database.write() as conn:
                self._attempt_all(conn, batch, outcome)
                if self._announce is not None:
                    self._announce(conn, outcome.transactions)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers wait for an answer
            for transaction in outcome.transactions:
                transaction.undo()
            if len(batch) > 1:
                log.warning("A commit of %d jobs failed (%s); trying them one by one", len(batch), error)
            outcome = _Outcome(alone=batch)
        else:
            self.commits += 1
        _answer([*outcome.done, *outcome.refused])
        self._tell(outcome.transactions)
        self._commit_apart(outcome.alone)

    def _commit_apart(self, batch: list[_Entry]) -> None:
        failed = [entry for entry in batch if not self._commit_alone(entry)]
        if len(failed) < len(batch):  # else it was the database
            until = time.monotonic() + ALONE_FOR_S
            self._alone |= {entry.order: until for entry in failed if entry.frame is not None}

    def _attempt_all(self, conn: Connection, batch: list[_Entry], outcome: _Outcome) -> None:
        together, others = self._split(batch)
        if others and self._database.dialect == "postgresql":  # in one order, before any of them is locked by a job
            lock_runs(conn, {entry.order for entry in batch})
        if together:
            transaction = Transaction(conn, self._clock())
            outcome.transactions.append(transaction)
            receipts = self._take(transaction, [(entry.order, entry.frame) for entry in together if entry.frame])
            for entry, receipt in zip(together, receipts, strict=True):
                if isinstance(receipt, StoreError):
                    outcome.refused.append((entry, receipt))
                else:
                    outcome.done.append((entry, receipt))
        for entry in others:
            self._attempt(conn, entry, outcome)

    def _split(self, batch: list[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
        """The frames that can be written at once, and what comes after them.

        A frame behind another job of its run keeps its place; one of a run that is in trouble is tried by itself.
        """
        now = time.monotonic()
        self._alone = {run: until for run, until in self._alone.items() if until > now}
        apart = set(self._alone)
        together, others = [], []
        for entry in batch:
            if entry.frame is None or entry.order in apart:
                apart.add(entry.order)
                others.append(entry)
            else:
                together.append(entry)
        return together, others

    def _attempt(self, conn: Connection, entry: _Entry, outcome: _Outcome) -> None:
        transaction = Transaction(conn, self._clock())
        savepoint = conn.begin_nested()
        try:
            result = entry.job(transaction)
            savepoint.commit()
        except Exception as error:  # noqa: BLE001 - one job's failure is its own
            transaction.undo()
            # A full disk makes SQLite roll the whole transaction back: then this raises, and the batch has failed.
            savepoint.rollback()
            if api_error(error) is None:
                outcome.alone.append(entry)
            else:
                outcome.refused.append((entry, error))
        else:
            outcome.done.append((entry, result))
            outcome.transactions.append(transaction)

    def _commit_alone(self, entry: _Entry) -> bool:
        """A transaction of its own for a job that failed in company: if it is at fault, it sinks only itself, and if
        the database is, `Database.write` says so in its own words. False for a failure that is not the caller's.
        """
        transaction: Transaction | None = None
        try:
            with self._database.write() as conn:
                transaction = Transaction(conn, self._clock())
                result = entry.job(transaction)
                if self._announce is not None:
                    self._announce(conn, [transaction])
        except Exception as error:  # noqa: BLE001 - as above
            if transaction is not None:
                transaction.undo()
            _answer([(entry, error)])
            known = api_error(error)
            return known is not None and known.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        self.commits += 1
        _answer([(entry, result)])
        self._tell([transaction])
        return True

    def _tell(self, transactions: list[Transaction]) -> None:
        try:
            self._publish(transactions)
        except Exception:  # the jobs are committed and answered: a fault of a listener must not end the writer
            log.exception("Publishing failed")


def _take_nothing(_tx: Transaction, _shipped: Sequence[tuple[str, Frame]]) -> Sequence[Receipt | StoreError]:
    raise TypeError("This writer was made without a way to take frames")


def _only(receipts: Sequence[Receipt | StoreError]) -> Receipt:
    (receipt,) = receipts
    if isinstance(receipt, StoreError):
        raise receipt
    return receipt


def _answer(answers: Iterable[tuple[_Entry, Any]]) -> None:
    """Give each its result or exception. An event loop is woken once for all of its futures: each time is 10 µs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for entry, answer in answers:
        if isinstance(entry.future, asyncio.Future):
            by_loop.setdefault(entry.future.get_loop(), []).append((entry.future, answer))
        elif isinstance(answer, Exception):
            entry.future.set_exception(answer)
        else:
            entry.future.set_result(answer)
    for loop, some in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, some)


def _settle(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in answers:
        if future.done():  # its caller has hung up
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
