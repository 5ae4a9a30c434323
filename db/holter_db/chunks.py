"""Chunks as they are read: what is known of each without its points, and its columns when they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.cell_codec import decode_cells
from holter_db.cells import Cells
from holter_db.codec import unpack_floats, unpack_ints
from holter_db.columns import Points
from holter_db.errors import DamagedData
from holter_db.schema import axes, chunks

__all__ = [
    "CHUNK_POINTS",
    "Chunk",
    "ChunkReader",
    "cell_level",
    "coarse_level",
    "list_chunks",
]

CHUNK_POINTS = 131_072  # of a full chunk; 0.3 MB of values, unpacked in 0.3 ms
CELL_POINTS = 512  # of a cell, on average and where steps are even
COARSE_CELLS = 8
PYRAMID_FROM = 4096  # points; a smaller chunk is read as fast as its pyramid would be

_AXES_KEPT = 64
_Key = tuple[str, int, str, int]
_Place = tuple[str, int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk without its columns."""

    run_id: str
    writer_id: int
    metric: str
    axis: int
    count: int
    first_step: int
    first_seq: int
    last_step: int
    last_seq: int
    first_time: float | None  # seconds, UTC; None where the times don't ascend with the steps
    last_time: float | None
    coarse: bytes
    raw: bool  # its points are there; else only its pyramid is

    @property
    def key(self) -> _Key:
        return self.run_id, self.writer_id, self.metric, self.axis

    @property
    def place(self) -> _Place:
        """Of its axis."""
        return self.run_id, self.writer_id, self.axis

    @property
    def first_key(self) -> tuple[int, int]:
        return self.first_step, self.first_seq

    @property
    def last_key(self) -> tuple[int, int]:
        return self.last_step, self.last_seq

    @property
    def level(self) -> int:
        """Of its cells."""
        return cell_level(self.count, self.first_step, self.last_step)

    @property
    def coarse_level(self) -> int:
        return coarse_level(self.first_step, self.last_step)


def cell_level(count: int, first_step: int, last_step: int) -> int:
    """The least level at which a chunk of so many points has about `CELL_POINTS` in a cell, if its steps are even.

    >>> cell_level(131_072, 0, 131_071)
    9
    """
    return _level(first_step, last_step, max(1, count // CELL_POINTS))


def coarse_level(first_step: int, last_step: int) -> int:
    """The least level at which these steps fall into `COARSE_CELLS` cells, or one more."""
    return _level(first_step, last_step, COARSE_CELLS)


def _level(first_step: int, last_step: int, most: int) -> int:
    return max(0, ((last_step - first_step) // most).bit_length())


_META = [chunks.c[name] for name in Chunk.__slots__]
_WITHOUT_COARSE = [
    sa.literal(b"", sa.LargeBinary).label("coarse") if column.name == "coarse" else column for column in _META
]


def list_chunks(
    conn: Connection,
    run_ids: Collection[str],
    *,
    writer_id: int | None = None,
    metrics: Collection[str] | None = None,
    steps: tuple[int | None, int | None] = (None, None),
    coarse: bool = True,
) -> list[Chunk]:
    """The chunks of some runs in the order of their series and, within one, of their first points.

    Args:
        metrics: of these only; None means all.
        steps: leave out chunks that lie wholly before the first or behind the last of these steps.
        coarse: with their pyramids; False leaves these empty.
    """
    query = sa.select(*(_META if coarse else _WITHOUT_COARSE)).where(chunks.c.run_id.in_(run_ids))
    if writer_id is not None:
        query = query.where(chunks.c.writer_id == writer_id)
    if metrics is not None:
        query = query.where(chunks.c.metric.in_(metrics))
    low, high = steps
    if low is not None:
        query = query.where(chunks.c.last_step >= low)
    if high is not None:
        query = query.where(chunks.c.first_step <= high)
    found = [Chunk(**row) for row in conn.execute(query).mappings()]
    return sorted(found, key=lambda chunk: (chunk.run_id, chunk.writer_id, chunk.metric, chunk.first_key, chunk.axis))


class ChunkReader:
    """Reads columns of chunks, several in one query, and keeps none but shared axes while it lives."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._axes: dict[_Place, tuple[IntArray, FloatArray]] = {}
        self._values: dict[_Key, bytes] = {}
        self._cells: dict[_Key, bytes] = {}

    def fetch(self, raw: Iterable[Chunk] = (), cells: Iterable[Chunk] = ()) -> None:
        """Have the values and axes of some chunks and the cells of others at hand.

        One query a column for all the runs of which the same chunks are wanted, as they are when runs are compared.
        """
        raw = list(raw)
        with_values = [chunk for chunk in raw if chunk.raw]
        of_cells = [*cells, *(chunk for chunk in raw if not chunk.raw)]
        self._values.update(self._columns(chunks.c["values"], with_values))
        self._cells.update(self._columns(chunks.c.cells, of_cells))
        self._fetch_axes({chunk.place for chunk in with_values} - set(self._axes))

    def _columns(self, column: sa.Column[bytes], wanted: Iterable[Chunk]) -> Iterator[tuple[_Key, bytes]]:
        by_run: dict[str, set[tuple[int, str, int]]] = defaultdict(set)
        for chunk in wanted:
            by_run[chunk.run_id].add((chunk.writer_id, chunk.metric, chunk.axis))
        for run_ids, keys in _alike(by_run):
            writer_ids, metrics, numbers = (set(part) for part in zip(*keys, strict=True))
            query = sa.select(chunks.c.run_id, chunks.c.writer_id, chunks.c.metric, chunks.c.axis, column).where(
                chunks.c.run_id.in_(run_ids),
                chunks.c.writer_id.in_(writer_ids),
                chunks.c.metric.in_(metrics),
                chunks.c.axis.in_(numbers),
            )
            for run_id, *key, data in self._conn.execute(query):
                if tuple(key) in keys and data is not None:
                    yield (run_id, *key), data

    def _fetch_axes(self, places: set[_Place]) -> None:
        by_run: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for run_id, *place in places:
            by_run[run_id].add((place[0], place[1]))
        if len(places) > _AXES_KEPT:  # they are read when their turn comes, and let go again
            return
        columns = (axes.c.run_id, axes.c.writer_id, axes.c.axis, axes.c.steps, axes.c.times)
        for run_ids, keys in _alike(by_run):
            writer_ids, numbers = (set(part) for part in zip(*keys, strict=True))
            query = sa.select(*columns).where(
                axes.c.run_id.in_(run_ids), axes.c.writer_id.in_(writer_ids), axes.c.axis.in_(numbers)
            )
            for run_id, writer_id, axis, steps, times in self._conn.execute(query):
                if (writer_id, axis) in keys:
                    self._keep_axis((run_id, writer_id, axis), steps, times)

    def points(self, chunk: Chunk) -> Points:
        """The points of a chunk, or what its pyramid keeps of them; read-only arrays.

        Raises:
            DamagedData: the chunk is damaged.
        """
        if not chunk.raw:
            return self.cells(chunk).kept()[1]
        if chunk.key not in self._values:
            self.fetch(raw=[chunk])
        steps, times = self._axis(chunk)
        values = unpack_floats(self._values.pop(chunk.key, b""))
        values.flags.writeable = False
        if len(values) != len(steps):
            raise _damaged(chunk)
        return Points(steps, times, values)

    def cells(self, chunk: Chunk) -> Cells:
        """Its cells of `Chunk.level`; a chunk of less than `PYRAMID_FROM` points has none while it has its points.

        Raises:
            DamagedData: the chunk is damaged.
        """
        if chunk.key not in self._cells:
            self.fetch(cells=[chunk])
        data = self._cells.pop(chunk.key, None)
        if data is None:
            raise _damaged(chunk)
        return decode_cells(data)[1]

    def seqs(self, chunk: Chunk) -> IntArray:
        """The number of the segment that each point came in, (n,)."""
        query = sa.select(axes.c.seqs).where(*_this_axis(chunk))
        return unpack_ints(self._conn.execute(query).scalar_one())

    def _axis(self, chunk: Chunk) -> tuple[IntArray, FloatArray]:
        if chunk.place not in self._axes:
            row = self._conn.execute(sa.select(axes.c.steps, axes.c.times).where(*_this_axis(chunk))).one_or_none()
            if row is None:
                raise _damaged(chunk)
            if len(self._axes) >= _AXES_KEPT:
                self._axes.clear()
            self._keep_axis(chunk.place, row.steps, row.times)
        return self._axes[chunk.place]

    def _keep_axis(self, place: _Place, steps: bytes, times: bytes) -> None:
        found = unpack_ints(steps), unpack_ints(times).view(np.float64)
        for column in found:
            column.flags.writeable = False
        self._axes[place] = found


def _alike(by_run: Mapping[str, set[T]]) -> Iterator[tuple[list[str], set[T]]]:
    """The runs of which the same is wanted, and what that is."""
    groups: dict[frozenset[T], list[str]] = defaultdict(list)
    for run_id, keys in by_run.items():
        groups[frozenset(keys)].append(run_id)
    for shared, run_ids in groups.items():
        yield run_ids, set(shared)


def _this_axis(chunk: Chunk) -> Sequence[sa.ColumnElement[bool]]:
    return axes.c.run_id == chunk.run_id, axes.c.writer_id == chunk.writer_id, axes.c.axis == chunk.axis


def _damaged(chunk: Chunk) -> DamagedData:
    return DamagedData(
        f"A chunk of {chunk.metric!r} of run {chunk.run_id!r} is damaged, from step {chunk.first_step} on",
        "Restore the database from a backup.",
    )
