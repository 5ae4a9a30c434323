"""Upkeep: deletes or thins what projects no longer keep whole, and removes the rows of runs whose time is up.

All of it beside the ingest: rows go in slices of some 10 ms, each a job among the others of the writer thread, with
pauses between them. A service that is stopped or killed goes on when it starts again, and any number of servers may do
this on one database: a run is deleted once, and whoever holds a run's row removes its rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

from holter_db.database import Database
from holter_db.deletion import Purged, due_for_purge, purge_some
from holter_db.retention import DAY, Due, Policy, carry_out, due_runs, policies
from holter_server.errors import ApiError
from holter_server.settings import Settings
from holter_server.writing import Transaction, WriterThread

__all__ = ["Upkeep", "default_policy"]

log = logging.getLogger("holter.server")

SLICE_S = 0.01  # of one commit: what waits with it waits so much longer
PAUSE_S = 0.05  # at least, in which the writer belongs to the others
PAUSES = 3  # times what the slice and its commit took: on a busy machine the others get as much more
RUNS_AT_ONCE = 100
PATIENCE_S = 30.0  # for one job; the writer is busy then, and the next round goes on


def default_policy(settings: Settings) -> Policy:
    """What a project keeps that says nothing itself."""
    return Policy(settings.retention_days, settings.retention_runs, settings.retention_raw_days)


class Upkeep:
    """A thread that looks when the service starts, at intervals, and when it is woken."""

    def __init__(
        self, database: Database, writer: WriterThread, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._writer = writer
        self._default = default_policy(settings)
        self._grace_days = settings.purge_after_days
        self._interval_s = settings.upkeep_interval_s
        self._clock = clock
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="holter-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """There is something to do: somebody has given a run up."""
        self._wake.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.retire()
                self.purge()
                self._failing = False
            except Exception as error:  # it has to outlive a database that is away for a while
                if not self._failing:  # said once per outage
                    log.exception("Upkeep has to wait: %s", error)
                self._failing = True
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def retire(self) -> None:
        """Delete, or thin, every run that its project no longer keeps as it is."""
        changed: set[Due] = set()
        while not self._ended.is_set():
            done = self._carry_out(self._due())
            changed |= done
            if not done:
                break
        for (project, deed), count in sorted(Counter((due.project, due.deed) for due in changed).items()):
            log.info("Retention of %r: %s", project, _DONE[deed].format(count))

    def _due(self) -> list[Due]:
        now = self._clock()
        with self._database.read() as conn:
            kept = policies(conn, self._default)
            return [
                due
                for project, policy in kept.items()
                if not policy.off
                for due in due_runs(conn, project, policy, now, RUNS_AT_ONCE)
            ]

    def _carry_out(self, due: Iterable[Due]) -> set[Due]:
        jobs: list[tuple[Due, Future[bool]]] = []
        for item in due:
            try:
                jobs.append((item, self._writer.submit(partial(_carry_out, item), order=item.run)))
            except ApiError:  # the queue is full: frames go first
                break
        return {item for item, job in jobs if job.result(PATIENCE_S)}

    def purge(self) -> None:
        """Remove the rows of every run whose time is up."""
        while not self._ended.is_set():
            before = None if self._grace_days is None else self._clock() - self._grace_days * DAY
            with self._database.read() as conn:
                due = due_for_purge(conn, before, RUNS_AT_ONCE)
            done = [self._purge(run_id, before) for run_id in due]
            if not any(done):
                return

    def _purge(self, run_id: str, before: float | None) -> bool:
        """True once nothing of the run is left."""
        rows = 0
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                slice_ = self._writer.call(partial(_purge, run_id, before), order=run_id)
            except ApiError:  # the queue is full, or the service is stopping: the next round goes on
                return False
            rows += slice_.rows
            if slice_.done:
                log.info("Run %s is purged: %d rows", run_id, rows)
                return True
            if slice_.busy:
                return False
            self._ended.wait(max(PAUSE_S, PAUSES * (time.monotonic() - began)))
        return False


_DONE = {"delete": "deleted {} runs; `holter runs --deleted` lists them", "thin": "dropped the raw points of {} runs"}


def _carry_out(due: Due, tx: Transaction) -> bool:
    return carry_out(tx.conn, due, tx.now)


def _purge(run_id: str, before: float | None, tx: Transaction) -> Purged:
    end = time.perf_counter() + SLICE_S
    return purge_some(tx.conn, run_id, tx.now, deleted_before=before, more=lambda: time.perf_counter() < end)
