"""Compresses what was acknowledged, in the background: segments into chunks, small chunks into large ones.

It reads and computes beside the ingest and commits through the writer thread, like any other job. Any number of servers
may run one on a PostgreSQL: who commits second finds its segments gone and drops its work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from holter_db import compaction, fold, merge
from holter_db.compaction import Unfolded
from holter_db.database import Database
from holter_db.errors import DamagedData
from holter_server.errors import ApiError
from holter_server.writing import Transaction, WriterThread

__all__ = ["Compactor"]

T = TypeVar("T")
log = logging.getLogger("holter.server")

SEGMENTS_RIPE = 256  # of one writer; more would make a live run's first view slow
POINTS_RIPE = 1_000_000  # over all metrics: what is folded at once need not be merged so often
SEGMENTS_WORTH_A_LOOK = 3  # one holds at most half as many points
SEGMENTS_BETWEEN_LOOKS = 64  # at most
SCAN_S = 600.0  # between two looks at all runs, for those that other servers have left
PAUSE_S = 0.005  # between two live runs: a thousand looks in a row kept the frames waiting for most of a second
BUSY_WAIT_S = 0.05  # frames go first
BUSY_WAITS = 20
TRIM_PAGES = 500  # given back in one commit
TRIM_FREE = 2_000  # pages that may stay free while there are segments: new ones take them
TRIM_FREE_IDLE = 100


class Compactor:
    """Args:
    interval_s: between two looks.
    """

    def __init__(self, database: Database, writer: WriterThread, interval_s: float) -> None:
        self._database = database
        self._writer = writer
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._failing = False
        self._damaged: set[str] = set()
        self._watched: set[str] = set()  # runs that may have to be finished
        self._seen: dict[str, int] = {}  # segments of a run at the last look at it
        self._scanned_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="holter-compactor", daemon=True)
        self.waiting = 0  # segments that are not folded

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End within moments: what was not committed is computed again next time."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self.look()
                self._failing = False
            except Exception as error:  # the compactor has to outlive a database that is away for a while
                if not self._failing:  # said once
                    log.exception("Compacting failed: %s", error)
                self._failing = True

    def look(self) -> None:
        """One round over all runs."""
        with self._database.read() as conn:
            waiting = compaction.unfolded(conn)
            if time.monotonic() - self._scanned_at > SCAN_S:
                self._watched.update(compaction.ripe(conn, time.time()))
                self._scanned_at = time.monotonic()
            self._watched.update(item.run_id for item in waiting)
            done = compaction.ripe(conn, time.time(), self._watched)
        self.waiting = sum(item.segments for item in waiting)
        for run_id in self._worth_folding(waiting, done):
            self._guarded(run_id, partial(self._compact, run_id, final=False))
            if self._ended.wait(PAUSE_S):
                return
        for run_id, position in done.items():
            self._guarded(run_id, partial(self._finish, run_id, position))
        self._trim()

    def _guarded(self, run_id: str, work: Callable[[], None]) -> None:
        """A damaged run must not hold the others up; it is said once, and left as it is."""
        if run_id in self._damaged or self._ended.is_set():
            return
        try:
            work()
        except DamagedData as error:
            self._damaged.add(run_id)
            log.error("The points of run %s can't be compacted: %s %s", run_id, error, error.hint)

    def _worth_folding(self, waiting: list[Unfolded], done: dict[str, int]) -> list[str]:
        """Runs that may have something ripe. A thousand live runs of small frames mostly have not, and a look at one
        takes a millisecond: it comes when they have twice as many segments as at the last one.
        """
        by_run: dict[str, int] = defaultdict(int)
        for item in waiting:
            by_run[item.run_id] = max(by_run[item.run_id], item.segments)
        self._seen = {run_id: seen for run_id, seen in self._seen.items() if by_run.get(run_id, 0) >= seen}
        worth = [run_id for run_id, most in by_run.items() if run_id not in done and most >= self._next_look(run_id)]
        self._seen.update((run_id, by_run[run_id]) for run_id in worth)
        return worth

    def _next_look(self, run_id: str) -> int:
        """The number of segments at which the next look is due."""
        seen = self._seen.get(run_id, 0)
        return min(max(SEGMENTS_WORTH_A_LOOK, seen + min(seen, SEGMENTS_BETWEEN_LOOKS)), SEGMENTS_RIPE)

    def _finish(self, run_id: str, position: int) -> None:
        self._compact(run_id, final=True)
        with self._database.read() as conn:
            left = fold.pending(conn, run_id, position)
        if not left and not self._ended.is_set():
            self._commit(run_id, lambda tx: compaction.mark_compacted(tx.conn, run_id, position))
            self._watched.discard(run_id)

    def _compact(self, run_id: str, *, final: bool) -> None:
        folded = self._fold(run_id, final)
        if folded:
            self._seen.pop(run_id, None)
        if folded or final:
            self._merge(run_id, final)

    def _fold(self, run_id: str, final: bool) -> bool:
        folded = False
        while not self._ended.is_set():
            with self._database.read() as conn:
                up_to = fold.foldable_position(conn, run_id)
                ripe = [
                    item
                    for item in fold.pending(conn, run_id, up_to)
                    if final or item.segments >= SEGMENTS_RIPE or item.points >= POINTS_RIPE
                ]
                if not ripe:
                    return folded
                prepared = fold.prepare(conn, ripe[0], up_to)
            if prepared is None or not self._commit(run_id, partial(_fold_job, prepared)):
                return folded
            folded = True
        return folded

    def _merge(self, run_id: str, final: bool) -> None:
        while not self._ended.is_set():
            with self._database.read() as conn:
                planned = merge.plan(conn, run_id, final=final)
            for item in planned:
                with self._database.read() as conn:
                    for merged in merge.prepare(conn, item):
                        if self._ended.is_set() or not self._commit(run_id, partial(_merge_job, merged)):
                            return
            if not planned:
                return

    def _trim(self) -> None:
        while not self._ended.is_set():
            with self._database.read() as conn:
                free, pages = compaction.free_pages(conn)
            if free <= (max(TRIM_FREE, pages // 20) if self.waiting else TRIM_FREE_IDLE):
                return
            self._commit("", lambda tx: compaction.trim(tx.conn, TRIM_PAGES))

    def _commit(self, run_id: str, job: Callable[[Transaction], T]) -> T | None:
        """The job's result once it is committed; None if the writer does not take it."""
        for _ in range(BUSY_WAITS):
            if not self._writer.waiting or self._ended.wait(BUSY_WAIT_S):
                break
        try:
            return self._writer.call(job, order=run_id)
        except ApiError:  # its queue is full, or it has ended: the next round is soon enough
            return None


def _fold_job(prepared: fold.Fold, tx: Transaction) -> bool:
    return fold.commit(tx.conn, prepared)


def _merge_job(merged: merge.Merged, tx: Transaction) -> bool:
    return merge.commit(tx.conn, merged)
