"""Merging: small and overlapping chunks become large ones that follow one another. The compactor's second half.

Chunks of one series grow like the digits of a binary counter: a chunk is merged with the one before it once that is no
larger. So a live series has few chunks, a point is written anew some nine times before it lies in a full one, and a run
that has ended is put into full chunks once and for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray
from holter_db.chunk_rows import Places, axis_row, chunk_row
from holter_db.chunks import CHUNK_POINTS, Chunk, list_chunks
from holter_db.codec import unpack_floats, unpack_ints
from holter_db.fold import insert_chunks
from holter_db.schema import axes, chunks, runs

__all__ = ["Merge", "Merged", "commit", "drop_unused_axes", "plan", "prepare"]

VALUES_PER_MERGE = 4_000_000  # decoded at a time: some 100 MB with what is made of them
FULL = CHUNK_POINTS * 3 // 4  # a chunk of so many points is not written anew for its size alone
OVERLAP_MAX = 32 * CHUNK_POINTS  # beyond, chunks that overlap stay as they are: readers order their points


@dataclass(frozen=True, slots=True)
class Merge:
    """Metrics of one writer, and the axes whose chunks are to become one stretch."""

    run_id: str
    writer_id: int
    metrics: tuple[str, ...]
    axes: tuple[int, ...]
    count: int  # points of each metric


@dataclass(slots=True)
class Merged:
    """The same, ready to be committed."""

    merge: Merge
    axes: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)


def plan(conn: Connection, run_id: str, *, final: bool) -> list[Merge]:
    """What should be merged now; with ``final`` everything that is not in full chunks yet."""
    by_series: dict[tuple[int, str], list[Chunk]] = defaultdict(list)
    for chunk in list_chunks(conn, [run_id], coarse=False):
        by_series[chunk.writer_id, chunk.metric].append(chunk)
    together: dict[tuple[int, tuple[int, ...], int], list[str]] = defaultdict(list)
    for (writer_id, metric), found in by_series.items():
        for group in _groups(found, final=final):
            numbers = tuple(chunk.axis for chunk in group)
            together[writer_id, numbers, sum(chunk.count for chunk in group)].append(metric)
    return [
        Merge(run_id, writer_id, tuple(metrics), numbers, count)
        for (writer_id, numbers, count), metrics in together.items()
    ]


def _groups(found: Sequence[Chunk], *, final: bool) -> Iterator[list[Chunk]]:
    """Neighbouring chunks of one series that should become one."""
    for stretch in _raw_stretches(found):
        groups = _overlapping(stretch) or [_unfull(stretch) if final else _grown(stretch)]
        yield from (group for group in groups if len(group) > 1)


def _raw_stretches(found: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """What lies between chunks of which only the pyramid is kept."""
    stretch: list[Chunk] = []
    for chunk in found:
        if chunk.raw:
            stretch.append(chunk)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _overlapping(found: list[Chunk]) -> list[list[Chunk]]:
    groups: list[list[Chunk]] = []
    reached: tuple[int, int] | None = None
    for chunk in found:
        if reached is not None and chunk.first_key < reached:
            groups[-1].append(chunk)
            reached = max(reached, chunk.last_key)
        else:
            groups.append([chunk])
            reached = chunk.last_key
    return [group for group in groups if len(group) > 1 and sum(chunk.count for chunk in group) <= OVERLAP_MAX]


def _grown(found: list[Chunk]) -> list[Chunk]:
    """The newest chunks, from the last one that is no larger than those behind it together."""
    size, start = 0, len(found)
    while start and found[start - 1].count < FULL and (not size or found[start - 1].count <= size):
        start -= 1
        size += found[start].count
        if size >= CHUNK_POINTS:
            break
    return found[start:]


def _unfull(found: list[Chunk]) -> list[Chunk]:
    """From the first chunk that is not full to the end."""
    start = next((place for place, chunk in enumerate(found) if chunk.count < FULL), len(found))
    return found[start : start + OVERLAP_MAX // CHUNK_POINTS]


def prepare(conn: Connection, merge: Merge) -> Iterator[Merged]:
    """Compute the new chunks, a part of the metrics at a time.

    Raises:
        DamagedData: a chunk is damaged.
    """
    here = {"run_id": merge.run_id, "writer_id": merge.writer_id}
    places = _places(conn, here, merge.axes)
    order = places.order()
    if order is not None:
        places = places.take(order)
    size = max(1, VALUES_PER_MERGE // max(1, merge.count))
    for start in range(0, len(merge.metrics), size):
        metrics = merge.metrics[start : start + size]
        part = Merge(merge.run_id, merge.writer_id, metrics, merge.axes, merge.count)
        yield _merged(conn, part, places, order)


def _merged(conn: Connection, merge: Merge, places: Places, order: Any) -> Merged:
    merged = Merged(merge)
    cuts = [slice(start, start + CHUNK_POINTS) for start in range(0, len(places), CHUNK_POINTS)]
    merged.axes = [axis_row(places.take(cut)) for cut in cuts]
    for metric in merge.metrics:
        values = _values(conn, merge, metric)
        values = values if order is None else values[order]
        merged.chunks += [
            {"metric": metric, "axis": number, **chunk_row(places.take(cut), values[cut])}
            for number, cut in enumerate(cuts)
        ]
    return merged


def commit(conn: Connection, merged: Merged) -> bool:
    """Put the new chunks in the place of the old ones. False, and nothing is changed, if another server was first."""
    merge = merged.merge
    key = {"run_id": merge.run_id, "writer_id": merge.writer_id}
    if conn.execute(sa.select(runs.c.id).where(runs.c.id == merge.run_id).with_for_update()).one_or_none() is None:
        return False
    old = sa.and_(
        chunks.c.run_id == merge.run_id,
        chunks.c.writer_id == merge.writer_id,
        chunks.c.metric.in_(merge.metrics),
        chunks.c.axis.in_(merge.axes),
    )
    there = conn.scalar(sa.select(sa.func.count()).select_from(chunks).where(old, chunks.c.raw))
    if there != len(merge.metrics) * len(merge.axes):
        return False
    conn.execute(sa.delete(chunks).where(old))
    insert_chunks(conn, key, merged.axes, merged.chunks)
    drop_unused_axes(conn, key, merge.axes)
    return True


def drop_unused_axes(conn: Connection, key: dict[str, Any], numbers: Sequence[int]) -> None:
    """Delete those of a writer's axes that no chunk with points lies on any more."""
    this = (axes.c.run_id == key["run_id"], axes.c.writer_id == key["writer_id"], axes.c.axis.in_(numbers))
    used = sa.exists().where(
        chunks.c.run_id == axes.c.run_id,
        chunks.c.writer_id == axes.c.writer_id,
        chunks.c.axis == axes.c.axis,
        chunks.c.raw,
    )
    conn.execute(sa.delete(axes).where(*this, ~used))


def _places(conn: Connection, key: dict[str, Any], numbers: Sequence[int]) -> Places:
    query = sa.select(axes.c.axis, *(axes.c[name] for name in Places.__slots__)).where(
        axes.c.run_id == key["run_id"], axes.c.writer_id == key["writer_id"], axes.c.axis.in_(numbers)
    )
    found = {
        row.axis: Places(
            unpack_ints(row.steps),
            unpack_ints(row.seqs),
            unpack_ints(row.rows),
            unpack_ints(row.positions),
            unpack_ints(row.times).view(np.float64),
        )
        for row in conn.execute(query)
    }
    return Places.joined([found[number] for number in numbers])


def _values(conn: Connection, merge: Merge, metric: str) -> FloatArray:
    query = sa.select(chunks.c.axis, chunks.c["values"]).where(
        chunks.c.run_id == merge.run_id,
        chunks.c.writer_id == merge.writer_id,
        chunks.c.metric == metric,
        chunks.c.axis.in_(merge.axes),
    )
    found = {number: unpack_floats(data) for number, data in conn.execute(query)}
    return np.concatenate([found[number] for number in merge.axes])
