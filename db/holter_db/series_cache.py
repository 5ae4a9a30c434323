"""Decoded series of the runs that are being looked at, so that a live page doesn't decode a run again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.columns import BYTES_PER_POINT, Column, Points
from holter_db.schema import segments
from holter_db.segments import decode_blocks

__all__ = ["SeriesCache", "SeriesKey", "load_points"]

SeriesKey = tuple[int, str]  # writer_id, metric


class _Run:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.position = 0  # of the newest segment in `columns`
        self.columns: dict[SeriesKey, Column] = {}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


class SeriesCache:
    """Whole runs, least recently used first out, within ``limit`` bytes.

    A segment is absorbed once: segments of a run are numbered by position in the order of their commits, and a
    read asks only for those beyond the newest position it has.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def takes(self, points: int) -> bool:
        """Whether a run of so many points is worth keeping; half the room stays for others."""
        return points * BYTES_PER_POINT * 2 <= self._limit

    def load(self, conn: Connection, run_id: str, keys: Iterable[SeriesKey]) -> dict[SeriesKey, Points]:
        """The points of these series as the connection's snapshot sees them, or newer."""
        with self._lock:
            run = self._runs.setdefault(run_id, _Run())
            self._runs.move_to_end(run_id)
        with run.lock:
            for position, key, seq, points in _segment_columns(conn, run_id, run.position):
                run.columns.setdefault(key, Column()).add(seq, points.steps, points.times, points.values)
                run.position = position
            found = {key: run.columns[key].points() for key in keys if key in run.columns}
        self._evict()
        return found

    def _evict(self) -> None:
        with self._lock:
            used = {run_id: run.nbytes for run_id, run in self._runs.items()}
            total = sum(used.values())
            while total > self._limit and self._runs:
                run_id, _ = self._runs.popitem(last=False)
                total -= used[run_id]


def load_points(conn: Connection, run_id: str, keys: Iterable[SeriesKey]) -> dict[SeriesKey, Points]:
    """The points of these series, decoded for this question alone."""
    wanted = set(keys)
    columns: dict[SeriesKey, Column] = {}
    for _, key, seq, points in _segment_columns(conn, run_id, 0, wanted):
        columns.setdefault(key, Column()).add(seq, points.steps, points.times, points.values)
    return {key: column.points() for key, column in columns.items()}


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
