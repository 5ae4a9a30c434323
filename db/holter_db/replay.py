"""A run's records once more, in the order in which they were committed: what the health engine saw when it was live."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Batch
from holter.wire import Block, FloatArray, IntArray
from holter_db.codec import unpack_floats, unpack_ints
from holter_db.schema import axes, chunks, incidents, segments, writers
from holter_db.segments import decode_blocks

__all__ = ["count_incidents", "iter_batches", "iter_unobserved"]

VALUES_PER_WINDOW = 2_000_000
VALUES_PER_PIECE = 500_000
SEGMENTS_AT_ONCE = 8
_ROW_BITS = 20  # a frame has fewer records than 2**20


def iter_batches(conn: Connection, run_id: str, *, values: int = VALUES_PER_WINDOW) -> Iterator[Batch]:
    """Every record of every writer and attempt, whole and bit for bit; how records are cut into batches means nothing.

    Args:
        values: about how many are in memory at a time, where they were logged in the order of their steps.

    Raises:
        DamagedData: a segment or a chunk is damaged, or was written by a newer version.
    """
    names = {row.writer_id: row.name for row in conn.execute(_writers(run_id))}
    extents = _extents(conn, run_id)
    for first, last in _windows(extents, values):
        layers = [
            layer
            for extent in extents
            if extent.last >= first and extent.first <= last
            for layer in extent.layers(conn, run_id, first, last)
        ]
        yield from _batches([layer for layer in layers if len(layer.keys)], names)


def iter_unobserved(
    conn: Connection, run_id: str, after: int, up_to: int
) -> Generator[tuple[int, list[Batch]], None, None]:
    """The records of the segments with a position beyond ``after``, in pieces, each with the position that it reaches.

    What is in chunks is not among them: only what an engine's saved memory holds is folded. A generator that is not
    read to its end has to be closed.

    Raises:
        DatabaseError: a segment is damaged, or was written by a newer version.
    """
    of_writer = sa.and_(writers.c.run_id == segments.c.run_id, writers.c.writer_id == segments.c.writer_id)
    query = (
        sa.select(segments.c.position, segments.c.points, segments.c.payload, writers.c.name)
        .join(writers, of_writer)
        .where(segments.c.run_id == run_id, segments.c.position > after, segments.c.position <= up_to)
        .order_by(segments.c.position)
    )
    blocks: list[tuple[str, Block]] = []
    values = 0
    with conn.execute(query.execution_options(yield_per=SEGMENTS_AT_ONCE)) as rows:
        for position, points, payload, name in rows:
            blocks += ((name, block) for block in decode_blocks(payload))
            values += points
            if values >= VALUES_PER_PIECE:
                yield position, _joined(blocks)
                blocks, values = [], 0
    yield up_to, _joined(blocks)


def _joined(blocks: list[tuple[str, Block]]) -> list[Batch]:
    """Neighbours of the same writer and metrics as one batch: an engine takes 64 rows in little more time than one."""
    batches = []
    for (name, metrics), group in groupby(blocks, lambda entry: (entry[0], entry[1].metrics)):
        some = [block for _, block in group]
        steps = np.concatenate([block.step_array() for block in some])
        times = np.concatenate([block.time_array() for block in some])
        batches.append(Batch(name, metrics, steps, times, np.concatenate([block.value_matrix() for block in some])))
    return batches


def count_incidents(conn: Connection, run_id: str) -> int:
    """How many incidents the run has had, open or not."""
    query = sa.select(sa.func.count()).select_from(incidents).where(incidents.c.run_id == run_id)
    return int(conn.execute(query).scalar_one())


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Metrics of one writer that share their records: a matrix of shape (n, m). ``keys`` (n,) ascend."""

    writer_id: int
    metrics: tuple[str, ...]
    keys: IntArray  # position and row of each record
    steps: IntArray
    times: FloatArray
    matrix: FloatArray


@dataclass(frozen=True, slots=True)
class _Extent:
    """An axis or a segment, and the positions that it holds."""

    writer_id: int
    number: int  # of the axis, or the segment's seq
    folded: bool
    first: int
    last: int
    values: int

    def layers(self, conn: Connection, run_id: str, first: int, last: int) -> Iterator[_Layer]:
        """Its records with a position in the window."""
        if self.folded:
            yield self._of_axis(conn, run_id, first, last)
        else:
            yield from self._of_segment(conn, run_id)

    def _of_axis(self, conn: Connection, run_id: str, first: int, last: int) -> _Layer:
        this = (axes.c.run_id == run_id, axes.c.writer_id == self.writer_id, axes.c.axis == self.number)
        row = conn.execute(sa.select(axes.c.positions, axes.c.rows, axes.c.steps, axes.c.times).where(*this)).one()
        positions = unpack_ints(row.positions)
        inside = np.flatnonzero((positions >= first) & (positions <= last))
        keys = _keys(positions[inside], unpack_ints(row.rows)[inside])
        inside, keys = inside[np.argsort(keys, kind="stable")], np.sort(keys)
        these = (chunks.c.run_id == run_id, chunks.c.writer_id == self.writer_id, chunks.c.axis == self.number)
        query = sa.select(chunks.c.metric, chunks.c["values"]).where(*these, chunks.c.raw)
        columns = {
            metric: unpack_floats(data)[inside] for metric, data in conn.execute(query.order_by(chunks.c.metric))
        }
        matrix = np.column_stack([np.empty((len(keys), 0)), *columns.values()])
        steps, times = unpack_ints(row.steps)[inside], unpack_ints(row.times).view(np.float64)[inside]
        return _Layer(self.writer_id, tuple(columns), keys, steps, times, matrix)

    def _of_segment(self, conn: Connection, run_id: str) -> Iterator[_Layer]:
        this = (segments.c.run_id == run_id, segments.c.writer_id == self.writer_id, segments.c.seq == self.number)
        payload = conn.execute(sa.select(segments.c.payload).where(*this)).scalar_one()
        start = 0
        for block in decode_blocks(payload):
            rows = np.arange(start, start + block.rows)
            keys = _keys(np.full(block.rows, self.first), rows)
            matrix = block.value_matrix()
            yield _Layer(self.writer_id, block.metrics, keys, block.step_array(), block.time_array(), matrix)
            start += block.rows


def _keys(positions: IntArray, rows: IntArray) -> IntArray:
    keys: IntArray = (positions << _ROW_BITS) | rows
    return keys


def _writers(run_id: str) -> sa.Select[tuple[int, str]]:
    return sa.select(writers.c.writer_id, writers.c.name).where(writers.c.run_id == run_id)


def _extents(conn: Connection, run_id: str) -> list[_Extent]:
    """In the order of their first positions."""
    of_axes = (
        sa.select(
            axes.c.writer_id, axes.c.axis, axes.c.first_position, axes.c.last_position, axes.c.count, sa.func.count()
        )
        .join(
            chunks,
            sa.and_(
                chunks.c.run_id == axes.c.run_id,
                chunks.c.writer_id == axes.c.writer_id,
                chunks.c.axis == axes.c.axis,
                chunks.c.raw,
            ),
        )
        .where(axes.c.run_id == run_id)
        .group_by(axes.c.writer_id, axes.c.axis, axes.c.first_position, axes.c.last_position, axes.c.count)
    )
    found = [
        _Extent(writer_id, axis, True, first, last, count * metrics)
        for writer_id, axis, first, last, count, metrics in conn.execute(of_axes)
    ]
    of_segments = sa.select(segments.c.writer_id, segments.c.seq, segments.c.position, segments.c.points).where(
        segments.c.run_id == run_id, segments.c.points > 0
    )
    found += [
        _Extent(writer_id, seq, False, position, position, points)
        for writer_id, seq, position, points in conn.execute(of_segments)
    ]
    return sorted(found, key=lambda extent: (extent.first, extent.last))


def _windows(extents: Sequence[_Extent], values: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions, one after the other, each of about so many values."""
    if not extents:
        return
    start, end = extents[0].first, max(extent.last for extent in extents)
    while start <= end:
        width = end - start + 1
        while width > 1 and _inside(extents, start, start + width - 1) > values:
            width = (width + 1) // 2
        yield start, start + width - 1
        start += width


def _inside(extents: Sequence[_Extent], first: int, last: int) -> float:
    """About how many values have a position in the range."""
    total = 0.0
    for extent in extents:
        shared = min(extent.last, last) - max(extent.first, first) + 1
        if shared > 0:
            total += extent.values * shared / (extent.last - extent.first + 1)
    return total


def _batches(layers: Sequence[_Layer], names: dict[int, str]) -> Iterator[Batch]:
    """Records put together from the layers that hold parts of them; neighbours of the same metrics are one batch."""
    if not layers:
        return
    keys = np.unique(np.concatenate([layer.keys for layer in layers]))
    member = np.zeros((len(keys), len(layers)), np.bool_)
    for column, layer in enumerate(layers):
        member[np.searchsorted(keys, layer.keys), column] = True
    changed = np.any(member[1:] != member[:-1], axis=1)
    for start, end in zip(
        np.flatnonzero(np.append(True, changed)), np.flatnonzero(np.append(changed, True)) + 1, strict=True
    ):
        here = [layers[column] for column in np.flatnonzero(member[start]).tolist()]
        places = [slice(*np.searchsorted(layer.keys, (keys[start], keys[end - 1] + 1))) for layer in here]
        metrics = tuple(metric for layer in here for metric in layer.metrics)
        values = np.hstack([layer.matrix[place] for layer, place in zip(here, places, strict=True)])
        first = here[0]
        yield Batch(names[first.writer_id], metrics, first.steps[places[0]], first.times[places[0]], values)
