"""One thread owns the database's write side: group commit, a savepoint per job, answers only after the commit.

SQLite has one writer at a time, and a synced commit costs about the same for one job as for a hundred. So every change
is a job, and the jobs that queue up while a commit runs share the next one. A job that fails is rolled back to its
savepoint and leaves the others alone.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from holter_db.database import Connection, Database
from holter_server.errors import ApiError, Overloaded, api_error
from holter_server.notices import Notice, Touch

__all__ = ["Transaction", "WriterThread"]

log = logging.getLogger("holter.server")
T = TypeVar("T")

JOBS_PER_COMMIT = 256


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


@dataclass(slots=True)
class _Entry(Generic[T]):
    job: Callable[[Transaction], T]
    order: str
    weight: int  # bytes held while it waits
    future: Future[T] = field(default_factory=Future)


@dataclass(slots=True)
class _Outcome:
    """What became of the jobs of one commit."""

    done: list[tuple[_Entry[Any], Transaction, Any]] = field(default_factory=list)
    refused: list[tuple[_Entry[Any], Exception]] = field(default_factory=list)  # for a reason the caller can act on
    alone: list[_Entry[Any]] = field(default_factory=list)  # unexpected: to be tried again on their own


class WriterThread:
    """Runs jobs; those of one run in the order in which they were submitted.

    Args:
        database: where the jobs write.
        publish: called in the writer thread with the committed transactions, after their callers were answered.
        announce: called with the transactions of the jobs that succeeded, before they are committed together.
        limit: jobs that may wait; ``limit_bytes``: what their bodies may hold together.
    """

    def __init__(
        self,
        database: Database,
        publish: Callable[[Sequence[Transaction]], None],
        *,
        announce: Callable[[Connection, Sequence[Transaction]], None] | None = None,
        limit: int = 1000,
        limit_bytes: int = 256_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._publish = publish
        self._announce = announce
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._queue: queue.Queue[_Entry[Any] | None] = queue.Queue(maxsize=limit)
        self._lock = threading.Lock()
        self._bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="holter-writer", daemon=True)
        self.commits = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end. Later submissions are refused."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._queue.qsize()

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
        entry = _Entry(job, order, weight)
        with self._lock:
            if self._closed:
                raise ApiError(503, "shutting_down", "The service is shutting down", "Send it again in a few seconds.")
            if self._bytes and self._bytes + weight > self._limit_bytes:
                raise Overloaded
            try:
                self._queue.put_nowait(entry)
            except queue.Full:
                raise Overloaded from None
            self._bytes += weight
        return entry.future

    def call(self, job: Callable[[Transaction], T], *, order: str = "") -> T:
        """Submit ``job`` and wait for its commit."""
        return self.submit(job, order=order).result()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            ended = False
            while len(batch) < JOBS_PER_COMMIT:
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
                if entry is None:
                    ended = True
                    break
                batch.append(entry)
            self._commit(sorted(batch, key=lambda entry: entry.order))
            with self._lock:
                self._bytes -= sum(entry.weight for entry in batch)
            if ended:
                return

    def _commit(self, batch: list[_Entry[Any]]) -> None:
        outcome = _Outcome()
        try:
            with self._database.write() as conn:
                for entry in batch:
                    self._attempt(conn, entry, outcome)
                if self._announce is not None:
                    self._announce(conn, [transaction for _, transaction, _ in outcome.done])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers wait for an answer
            for _, transaction, _ in outcome.done:
                transaction.undo()
            log.warning("A commit of %d jobs failed (%s); trying them one by one", len(batch), error)
            outcome = _Outcome(alone=batch)
        else:
            self.commits += 1
        for entry, cause in outcome.refused:
            entry.future.set_exception(cause)
        for entry, _, result in outcome.done:
            entry.future.set_result(result)
        self._tell([transaction for _, transaction, _ in outcome.done])
        for entry in outcome.alone:
            self._commit_alone(entry)

    def _attempt(self, conn: Connection, entry: _Entry[Any], outcome: _Outcome) -> None:
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
            outcome.done.append((entry, transaction, result))

    def _commit_alone(self, entry: _Entry[Any]) -> None:
        """A transaction of its own for a job that failed in company: if it is at fault, it sinks only itself, and if
        the database is, `Database.write` says so in its own words.
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
            entry.future.set_exception(error)
        else:
            self.commits += 1
            entry.future.set_result(result)
            self._tell([transaction])

    def _tell(self, transactions: list[Transaction]) -> None:
        try:
            self._publish(transactions)
        except Exception:  # the jobs are committed and answered: a fault of a listener must not end the writer
            log.exception("Publishing failed")
