"""The points that are not in chunks yet: segments, decoded once for all who look at a live run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.columns import BYTES_PER_POINT, Column, Points
from holter_db.schema import runs, segments
from holter_db.segments import decode_blocks

__all__ = ["SeriesKey", "TailCache", "load_tails"]

SeriesKey = tuple[int, str]  # writer_id, metric


class _Run:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.folds = -1
        self.position = 0  # of the newest segment in `columns`
        self.columns: dict[SeriesKey, Column] = {}

    def begin(self, folds: int) -> None:
        self.folds, self.position, self.columns = folds, 0, {}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in list(self.columns.values()))


class TailCache:
    """Tails of runs, least recently used first out, within ``limit`` bytes.

    A segment is absorbed once: segments of a run are numbered by position in the order of their commits, and a
    read asks only for those beyond the newest position it has. A fold begins a new tail.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def load(self, conn: Connection, run_id: str, folds: int) -> dict[SeriesKey, Column] | None:
        """The tail as the connection's snapshot sees it, or newer; None if it is not worth keeping."""
        with self._lock:
            run = self._runs.setdefault(run_id, _Run())
            self._runs.move_to_end(run_id)
        with run.lock:
            if run.folds > folds or (run.folds < folds and not self._takes(conn, run_id)):
                return None
            if run.folds < folds:
                run.begin(folds)
            for position, key, seq, points in _segment_columns(conn, run_id, run.position):
                run.columns.setdefault(key, Column()).add(seq, points.steps, points.times, points.values)
                run.position = position
            found = {key: column.copy() for key, column in run.columns.items()}
        self._evict()
        return found

    def _takes(self, conn: Connection, run_id: str) -> bool:
        """Whether so many points are worth keeping; half the room stays for others."""
        query = sa.select(sa.func.sum(segments.c.points)).where(segments.c.run_id == run_id)
        return int(conn.scalar(query) or 0) * BYTES_PER_POINT * 2 <= self._limit

    def _evict(self) -> None:
        with self._lock:
            used = {run_id: run.nbytes for run_id, run in self._runs.items()}
            total = sum(used.values())
            while total > self._limit and self._runs:
                run_id, _ = self._runs.popitem(last=False)
                total -= used[run_id]


def load_tails(conn: Connection, wanted: Mapping[str, Container[SeriesKey]]) -> dict[str, dict[SeriesKey, Column]]:
    """The unfolded points of some series of each run; from the connection's `TailCache` where it has one."""
    cache: TailCache | None = conn.get_execution_options().get("tail_cache")
    unfolded = sa.exists().where(segments.c.run_id == runs.c.id, segments.c.points > 0)
    query = sa.select(runs.c.id, runs.c.folds).where(runs.c.id.in_(list(wanted)), unfolded)
    tails = {}
    for run_id, folds in conn.execute(query).all():
        keys = wanted[run_id]
        kept = None if cache is None else cache.load(conn, run_id, folds)
        found = _load(conn, run_id, keys) if kept is None else kept
        tails[run_id] = {key: column for key, column in found.items() if key in keys}
    return tails


def _load(conn: Connection, run_id: str, wanted: Container[SeriesKey]) -> dict[SeriesKey, Column]:
    columns: dict[SeriesKey, Column] = {}
    for _, key, seq, points in _segment_columns(conn, run_id, 0, wanted):
        columns.setdefault(key, Column()).add(seq, points.steps, points.times, points.values)
    return columns


def _segment_columns(
    conn: Connection, run_id: str, beyond: int, wanted: Container[SeriesKey] | None = None
) -> Iterator[tuple[int, SeriesKey, int, Points]]:
    query = (
        sa.select(segments.c.position, segments.c.writer_id, segments.c.seq, segments.c.payload)
        .where(segments.c.run_id == run_id, segments.c.position > beyond)
        .order_by(segments.c.position)
    )
    for position, writer_id, seq, payload in conn.execute(query.execution_options(yield_per=256)):
        for block in decode_blocks(payload):
            matrix = block.value_matrix()
            steps, times = block.step_array(), block.time_array()
            for index, metric in enumerate(block.metrics):
                key = (writer_id, metric)
                if wanted is None or key in wanted:
                    yield position, key, seq, Points(steps, times, matrix[:, index])
