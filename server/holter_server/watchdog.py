"""Looks at the signs of life of every live run, once a second: a run that says nothing can't report its own silence."""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import Future
from functools import partial

from holter_db.database import Database
from holter_db.errors import NotFound
from holter_db.runs import live_runs
from holter_server.errors import ApiError
from holter_server.ingest import Pipeline
from holter_server.writing import Transaction, WriterThread

__all__ = ["Watchdog"]

log = logging.getLogger("holter.server")
PATIENCE_S = 30.0  # a round that takes longer means that the writer is busy; the next one will look again


class Watchdog:
    """Any number of servers may run one: incidents are keyed, and a second opinion changes nothing."""

    def __init__(self, database: Database, writer: WriterThread, pipeline: Pipeline, interval_s: float) -> None:
        self._database = database
        self._writer = writer
        self._pipeline = pipeline
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="holter-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self.look()
                self._failing = False
            except Exception as error:  # the watchdog has to outlive a database that is away for a while
                if not self._failing:  # said once per outage
                    log.exception("The watchdog could not look at the live runs: %s", error)
                self._failing = True

    def look(self) -> None:
        """One round over all live runs."""
        with self._database.read() as conn:
            live = live_runs(conn)
        ticks: list[Future[None]] = []
        for run in live:
            try:
                ticks.append(self._writer.submit(partial(self._tick, run.id), order=run.id))
            except ApiError:  # the queue is full: frames go first, and each of them looks at its run too
                break
        for tick in ticks:
            tick.result(PATIENCE_S)

    def _tick(self, run_id: str, tx: Transaction) -> None:
        with contextlib.suppress(NotFound):  # deleted since the look
            self._pipeline.tick(tx, run_id)
