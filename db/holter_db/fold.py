"""Folding: segments become chunks. The compactor's first half; `holter_db.merge` is the second.

`prepare` reads and computes without a lock, `commit` writes: the chunks come and the segments go in one transaction, so
a crash in between changes nothing, and a reader sees one or the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.chunk_rows import Places, axis_row, chunk_row
from holter_db.chunks import CHUNK_POINTS
from holter_db.codec import pack_ints, unpack_ints
from holter_db.rule_state import saved_position
from holter_db.schema import axes, chunks, folds, runs, segments
from holter_db.segments import decode_blocks
from holter_db.summaries import summarize

__all__ = [
    "Fold",
    "Pending",
    "commit",
    "foldable_position",
    "folded_seqs",
    "insert_chunks",
    "join_folds",
    "pending",
    "prepare",
]

VALUES_PER_FOLD = 2_000_000  # decoded at a time: some 50 MB
SEQS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class Pending:
    """What of one writer waits to be folded."""

    run_id: str
    writer_id: int
    segments: int
    points: int


@dataclass(slots=True)
class Fold:
    """A writer's oldest segments as chunks, ready to be committed."""

    run_id: str
    writer_id: int
    seqs: IntArray  # of the segments that it replaces, ascending
    points: int
    axes: list[dict[str, Any]] = field(default_factory=list)  # numbered from 0: their numbers are given at the commit
    chunks: list[dict[str, Any]] = field(default_factory=list)


def foldable_position(conn: Connection, run_id: str) -> int:
    """The greatest position whose segment the health rules won't need again: what comes later may be replayed."""
    return saved_position(conn, run_id)


def pending(conn: Connection, run_id: str, up_to: int) -> list[Pending]:
    """What waits in segments with a position of at most ``up_to``."""
    query = (
        sa.select(segments.c.writer_id, sa.func.count(), sa.func.sum(segments.c.points))
        .where(segments.c.run_id == run_id, segments.c.position <= up_to)
        .group_by(segments.c.writer_id)
        .order_by(segments.c.writer_id)
    )
    return [Pending(run_id, writer_id, count, int(points)) for writer_id, count, points in conn.execute(query)]


def prepare(conn: Connection, waiting: Pending, up_to: int) -> Fold | None:
    """Compute the fold of a writer's oldest segments, as many as hold `VALUES_PER_FOLD` points; None if there is none.

    Raises:
        DamagedData: a segment is damaged.
    """
    seqs: list[int] = []
    records: list[_Records] = []
    taken = 0
    with closing(_segments(conn, waiting, up_to)) as found:
        for seq, position, points, payload in found:
            if seqs and taken + points > VALUES_PER_FOLD:
                break
            seqs.append(seq)
            taken += points
            records += _records(seq, position, payload)
    if not seqs:
        return None
    fold = Fold(waiting.run_id, waiting.writer_id, np.array(seqs), taken)
    for metrics, parts in _by_axis(records).items():
        _add(fold, metrics, parts)
    return fold


def commit(conn: Connection, fold: Fold) -> bool:
    """Put the chunks in the place of the segments. False, and nothing is changed, if another server was first.

    The connection must be one that writes; its transaction holds the run's row afterwards.
    """
    locked = conn.execute(sa.select(runs.c.folds).where(runs.c.id == fold.run_id).with_for_update()).one_or_none()
    if locked is None or not _all_there(conn, fold):
        return False
    key = {"run_id": fold.run_id, "writer_id": fold.writer_id}
    for some in _slices(fold.seqs.tolist()):
        conn.execute(sa.delete(segments).where(*_these(segments, key), segments.c.seq.in_(some)))
    conn.execute(sa.insert(folds), {**key, **_fold_row(fold.seqs)})
    insert_chunks(conn, key, fold.axes, fold.chunks)
    conn.execute(sa.update(runs).where(runs.c.id == fold.run_id).values(folds=locked.folds + 1))
    summarize(conn, fold.run_id)
    return True


def insert_chunks(
    conn: Connection, key: dict[str, Any], new_axes: Sequence[dict[str, Any]], new_chunks: Sequence[dict[str, Any]]
) -> None:
    """Insert rows whose axes are numbered from 0 under the writer's next numbers. The run's row must be locked."""
    if not new_axes:
        return
    highest = max(
        conn.scalar(sa.select(sa.func.max(table.c.axis)).where(*_these(table, key))) or 0 for table in (axes, chunks)
    )
    conn.execute(sa.insert(axes), [{**key, **row, "axis": highest + 1 + number} for number, row in enumerate(new_axes)])
    conn.execute(sa.insert(chunks), [{**key, **row, "axis": highest + 1 + row["axis"]} for row in new_chunks])


def join_folds(conn: Connection, run_id: str) -> None:
    """One row for each writer of a run: what a run that has ended needs. The connection must be one that writes."""
    conn.execute(sa.select(runs.c.id).where(runs.c.id == run_id).with_for_update()).one_or_none()
    columns = (folds.c.writer_id, folds.c.first_seq, folds.c.last_seq, folds.c.seqs)
    by_writer: dict[int, list[IntArray]] = defaultdict(list)
    for writer_id, first, last, seqs in conn.execute(sa.select(*columns).where(folds.c.run_id == run_id)):
        by_writer[writer_id].append(np.arange(first, last + 1) if seqs is None else unpack_ints(seqs))
    for writer_id, parts in by_writer.items():
        if len(parts) > 1:
            key = {"run_id": run_id, "writer_id": writer_id}
            conn.execute(sa.delete(folds).where(*_these(folds, key)))
            conn.execute(sa.insert(folds), {**key, **_fold_row(np.unique(np.concatenate(parts)))})


def _fold_row(seqs: IntArray) -> dict[str, Any]:
    first, last = int(seqs[0]), int(seqs[-1])
    return {"first_seq": first, "last_seq": last, "seqs": None if last - first + 1 == len(seqs) else pack_ints(seqs)}


def folded_seqs(conn: Connection, run_id: str, writer_id: int, seqs: Iterable[int]) -> set[int]:
    """Those of a writer's sequence numbers whose segments have been folded."""
    found: set[int] = set()
    for seq in seqs:
        row = conn.execute(
            sa.select(folds.c.first_seq, folds.c.last_seq, folds.c.seqs).where(
                folds.c.run_id == run_id,
                folds.c.writer_id == writer_id,
                folds.c.first_seq <= seq,
                folds.c.last_seq >= seq,
            )
        ).all()
        if any(entry.seqs is None or seq in unpack_ints(entry.seqs) for entry in row):
            found.add(seq)
    return found


def _these(table: sa.Table, key: dict[str, Any]) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.run_id == key["run_id"], table.c.writer_id == key["writer_id"]


def _all_there(conn: Connection, fold: Fold) -> bool:
    """Segments are only ever taken away by a fold, so their number tells whether another one was first."""
    here = _these(segments, {"run_id": fold.run_id, "writer_id": fold.writer_id})
    counted = 0
    for some in _slices(fold.seqs.tolist()):
        counted += (
            conn.scalar(sa.select(sa.func.count()).select_from(segments).where(*here, segments.c.seq.in_(some))) or 0
        )
    return counted == len(fold.seqs)


def _slices(seqs: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(seqs), SEQS_PER_QUERY):
        yield seqs[start : start + SEQS_PER_QUERY]


def _segments(conn: Connection, waiting: Pending, up_to: int) -> Generator[Any]:
    query = (
        sa.select(segments.c.seq, segments.c.position, segments.c.points, segments.c.payload)
        .where(
            segments.c.run_id == waiting.run_id,
            segments.c.writer_id == waiting.writer_id,
            segments.c.position <= up_to,
        )
        .order_by(segments.c.seq)
    )
    with conn.execute(query.execution_options(yield_per=64)) as rows:
        yield from rows


# --- segments as columns ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Records:
    """Records of one block: places (n,) and a matrix of values (n, m)."""

    metrics: tuple[str, ...]
    places: Places
    matrix: FloatArray


def _records(seq: int, position: int, payload: bytes) -> Iterator[_Records]:
    start = 0
    for block in decode_blocks(payload):
        count = block.rows
        places = Places(
            block.step_array(),
            np.full(count, seq),
            np.arange(start, start + count),
            np.full(count, position),
            block.time_array(),
        )
        start += count
        yield _Records(block.metrics, places, block.value_matrix())


def _by_axis(records: list[_Records]) -> dict[tuple[str, ...], list[_Records]]:
    """The metrics that were always logged together, and the records that they are in."""
    layouts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    by_layout: dict[tuple[str, ...], list[_Records]] = defaultdict(list)
    for record in records:
        by_layout[record.metrics].append(record)
    for layout in by_layout:
        for metric in layout:
            layouts[metric].append(layout)
    together: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for metric, found in layouts.items():
        together[tuple(found)].append(metric)
    return {
        tuple(metrics): [record for layout in found for record in by_layout[layout]]
        for found, metrics in together.items()
    }


def _add(fold: Fold, metrics: tuple[str, ...], parts: list[_Records]) -> None:
    places = Places.joined([part.places for part in parts])
    columns = {
        metric: np.concatenate([part.matrix[:, part.metrics.index(metric)] for part in parts]) for metric in metrics
    }
    order = places.order()
    if order is not None:
        places = places.take(order)
        columns = {metric: column[order] for metric, column in columns.items()}
    for start in range(0, len(places), CHUNK_POINTS):
        some = slice(start, start + CHUNK_POINTS)
        cut = places.take(some)
        for metric, column in columns.items():
            fold.chunks.append({"metric": metric, "axis": len(fold.axes), **chunk_row(cut, column[some])})
        fold.axes.append(axis_row(cut))
