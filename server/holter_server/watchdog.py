"""Looks at the signs of life of every live run, once a second: a run that says nothing can't report its own silence.

One look is three queries, whatever the number of runs. Most runs need nothing: their engines say until when, if nothing
new is heard, and the others' rows say whether there is anything to look at. Only the rest get a tick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

from holter.health.model import Vitals
from holter_db import rule_sets, rule_state, runs
from holter_db.database import Connection, Database
from holter_db.errors import NotFound
from holter_db.runs import LiveRun
from holter_server.errors import ApiError, Overloaded
from holter_server.ingest import Pipeline
from holter_server.vital_signs import with_ranks
from holter_server.writing import WriterThread

__all__ = ["Watchdog"]

log = logging.getLogger("holter.server")
T = TypeVar("T")
PATIENCE_S = 30.0  # a round that takes longer means that the writer is busy; the next one will look again
QUIET_S = 10.0  # without a step: a run whose engine is not in this process is looked at from here on
SETTLED_AFTER_S = 30.0  # without a frame: what the engine has observed is saved, so that it can be compacted
SETTLE_S = 5.0  # between two rounds of that
SEARCH_S = 600.0  # between two searches for runs that a server left unsaved that is no more
SETTLED_AT_ONCE = 20  # runs in one round
SETTLED_POINTS = 1_000_000  # of one run in one transaction, in which everybody waits: a tenth of a second

_Asked = tuple[LiveRun, int, Vitals]  # a run, the version of its project's rules, its signs of life
_Seen = tuple[int, int, int, Vitals]  # what a run's next moment depends on: position, revision, rules, signs of life


class Watchdog:
    """Any number of servers may run one: incidents are keyed, and a second opinion changes nothing."""

    def __init__(self, database: Database, writer: WriterThread, pipeline: Pipeline, interval_s: float) -> None:
        self._database = database
        self._writer = writer
        self._pipeline = pipeline
        self._interval_s = interval_s
        self._asleep: dict[str, tuple[_Seen, float]] = {}
        self._settle_at = self._search_at = 0.0  # monotonic
        self._stuck: set[str] = set()  # runs whose records can't be read
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
                if time.monotonic() >= self._settle_at:
                    self.settle()
                    self._settle_at = time.monotonic() + SETTLE_S
                self._failing = False
            except Overloaded:  # frames go first; the next round will look again
                continue
            except Exception as error:  # the watchdog has to outlive a database that is away for a while
                if not self._failing:  # said once per outage
                    log.exception("The watchdog could not look at the live runs: %s", error)
                self._failing = True

    def look(self) -> None:
        """One round over all live runs."""
        with self._database.read() as conn:
            live = _live(conn, time.time())
        failed = self._have_done(self._pipeline.tick, self._due(live))
        if failed:
            raise next(iter(failed.values()))

    def settle(self) -> None:
        """Have the memory of quiet engines saved, and of those that nobody has in memory."""
        quiet = time.time() - SETTLED_AFTER_S
        unsaved = self._ask(lambda: self._pipeline.unsaved(quiet))
        if not unsaved and time.monotonic() >= self._search_at:
            with self._database.read() as conn:
                unsaved = rule_state.behind(conn, quiet, SETTLED_AT_ONCE + len(self._stuck))
            if not unsaved:
                self._search_at = time.monotonic() + SEARCH_S
        these = [run_id for run_id in unsaved if run_id not in self._stuck][:SETTLED_AT_ONCE]
        for run_id, error in self._have_done(partial(self._pipeline.settle, points=SETTLED_POINTS), these).items():
            log.error("The rules' memory of run %s can't be saved: %s", run_id, error)
            self._stuck.add(run_id)

    def _due(self, live: list[_Asked]) -> list[str]:
        """The runs that need a tick now."""
        seen = {run.id: (run.position, run.revision, rules, replace(signs, now=0.0)) for run, rules, signs in live}
        self._asleep = {
            run_id: entry for run_id, entry in self._asleep.items() if run_id in seen and entry[0] == seen[run_id]
        }
        awake = [entry for entry in live if not self._sleeps(entry[0].id, entry[2].now)]
        wakes = self._ask(lambda: self._pipeline.wake(awake)) if awake else {}
        due = []
        for run, _, signs in awake:
            wake = wakes[run.id]
            if (wake is None and _restless(signs)) or (wake is not None and wake <= signs.now):
                due.append(run.id)
            elif wake is not None:
                self._asleep[run.id] = seen[run.id], wake
        return due

    def _sleeps(self, run_id: str, now: float) -> bool:
        entry = self._asleep.get(run_id)
        return entry is not None and now < entry[1]

    def _have_done(self, work: Callable[..., object], run_ids: Iterable[str]) -> dict[str, Exception]:
        """Have the work done for each of the runs; where it failed, and why."""
        pending: dict[str, Future[object]] = {}
        for run_id in run_ids:
            try:
                pending[run_id] = self._writer.submit(partial(work, run_id=run_id), order=run_id)
            except ApiError:  # the queue is full: frames go first, and the next round will look again
                break
        failed = {}
        for run_id, future in pending.items():
            try:
                future.result(PATIENCE_S)
            except NotFound:  # deleted since the look
                continue
            except Exception as error:  # noqa: BLE001 - the others are done none the less
                failed[run_id] = error
        return failed

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the engines, which live in the writer thread."""
        return self._writer.submit(lambda _: question()).result(PATIENCE_S)


def _live(conn: Connection, now: float) -> list[_Asked]:
    live = runs.live_runs(conn)
    ranks = runs.live_ranks(conn)
    rules: Mapping[str, int] = rule_sets.versions(conn, {run.project for run in live})
    return [(run, rules.get(run.project, 0), with_ranks(run.vitals(now), ranks.get(run.id, ()))) for run in live]


def _restless(signs: Vitals) -> bool:
    """Whether a run whose engine is not at hand has to be looked at: it may be late, silent, or back."""
    late = signs.due_at is not None and signs.due_at < signs.now
    quiet = signs.last_step_at is not None and signs.now - signs.last_step_at > QUIET_S
    return signs.state != "running" or late or quiet
