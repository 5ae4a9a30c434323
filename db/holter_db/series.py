"""Reading points back: whole series, views for a chart, and everything for an export."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.catalogue import MetricInfo, SeriesInfo, catalogue
from holter_db.columns import Points
from holter_db.errors import QueryError
from holter_db.schema import attempts, segments, series, writers
from holter_db.segments import decode_blocks
from holter_db.series_cache import SeriesCache, SeriesKey, load_points
from holter_db.views import select

__all__ = [
    "Axis",
    "MetricInfo",
    "PointChunk",
    "Series",
    "SeriesInfo",
    "axis_range",
    "catalogue",
    "check_view",
    "iter_points",
    "load_series",
    "read_series",
    "view_series",
]

Axis = Literal["step", "time", "relative"]
_SEGMENTS_PER_CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric of one writer, or the part of it that was asked for.

    ``steps``, ``times`` and ``values`` have shape (n,) and are read-only. The statistics are of all points in the
    range that was asked for, also of those that a view leaves out.
    """

    metric: str
    writer: str
    rank: int | None
    attempt: int
    shadowed_from: int | None  # a newer attempt began here: points at this step and beyond are superseded
    origin: float  # seconds, UTC: the run's first start, from which relative time counts
    steps: IntArray
    times: FloatArray
    values: FloatArray
    count: int = 0
    first_step: int | None = None
    last_step: int | None = None
    last: float | None = None
    min: float | None = None  # over finite values
    max: float | None = None
    nan: int = 0
    positive_infinity: int = 0
    negative_infinity: int = 0

    @property
    def non_finite(self) -> int:
        return self.nan + self.positive_infinity + self.negative_infinity


@dataclass(frozen=True, slots=True, eq=False)
class PointChunk:
    """A part of one series at full resolution, in the order in which the points were logged."""

    attempt: int
    writer: str
    rank: int | None
    metric: str
    steps: IntArray
    times: FloatArray
    values: FloatArray


def read_series(
    conn: Connection,
    run_id: str,
    patterns: Sequence[str],
    *,
    first_step: int | None = None,
    last_step: int | None = None,
    writers: Sequence[str] | None = None,
) -> list[Series]:
    """Every point of the metrics that match a glob, by metric, attempt and writer; both bounds are included.

    Points are ordered by step and, among equal steps, as they were logged. Series without a point in the range are
    left out.
    """
    found = []
    for part in load_series(conn, run_id, patterns, writers):
        start, end = axis_range(part.steps, *_step_bounds(first_step, last_step))
        if end > start:
            found.append(_cut(part, slice(start, end)))
    return found


def view_series(
    conn: Connection,
    run_id: str,
    patterns: Sequence[str],
    *,
    first: float | None = None,
    last: float | None = None,
    writers: Sequence[str] | None = None,
    width: int = 1000,
    x: Axis = "step",
) -> list[Series]:
    """The points that a chart ``width`` pixels wide needs; see `holter_db.views.select` for what is kept.

    All series share the buckets, which lie between ``first`` and ``last`` or, where these are None, between the
    least and the greatest x of all points. Points are ordered by x.

    Args:
        first, last: bounds, included, in the axis' own unit: steps, seconds UTC, or seconds since the first start.

    Raises:
        QueryError: the width or the axis can't be.
    """
    check_view(width, x, first, last)
    parts = []
    for part in load_series(conn, run_id, patterns, writers):
        ordered, axis = _along(part, x)
        bounds = _step_bounds(first, last) if x == "step" else (first, last)
        start, end = axis_range(axis, *bounds)
        if end > start:
            parts.append((_cut(ordered, slice(start, end)), axis[start:end].astype(np.float64)))
    if not parts:
        return []
    low, high = _extent([axis for _, axis in parts], first, last)
    return [_thin(part, select(axis, part.values, low, high, width)) for part, axis in parts]


def check_view(width: int, x: str, first: float | None, last: float | None) -> None:
    """Raise `QueryError` unless there can be such a view."""
    if not 1 <= width <= 100_000:
        raise QueryError(f"A view is 1 to 100000 pixels wide, not {width}", "Ask for 1000, for example.")
    if x not in ("step", "time", "relative"):
        raise QueryError(f"x can't be {x!r}", "Use step, time or relative.")
    if any(bound is not None and math.isnan(bound) for bound in (first, last)):
        raise QueryError("A bound of a view can't be NaN", "Send numbers, or leave the bounds away.")


def iter_points(
    conn: Connection, run_id: str, patterns: Sequence[str], *, segments_per_chunk: int = _SEGMENTS_PER_CHUNK
) -> Iterator[PointChunk]:
    """Every point of every writer and attempt, in pieces that fit into memory: by writer, then as shipped.

    The connection must stay open while the pieces are read.
    """
    about = _writers_of(conn, run_id)
    for writer_id, (writer, attempt, rank) in about.items():
        for rows in _pages(conn, run_id, writer_id, segments_per_chunk):
            pieces: dict[str, list[Points]] = {}
            for payload in rows:
                for block in decode_blocks(payload):
                    steps, times, matrix = block.step_array(), block.time_array(), block.value_matrix()
                    for index, metric in enumerate(block.metrics):
                        if _matches(metric, patterns):
                            pieces.setdefault(metric, []).append(Points(steps, times, matrix[:, index]))
            for metric, parts in pieces.items():
                columns = (np.concatenate([getattr(part, name) for part in parts]) for name in Points.__slots__)
                yield PointChunk(attempt, writer, rank, metric, *columns)


def _writers_of(conn: Connection, run_id: str) -> dict[int, tuple[str, int, int | None]]:
    """writer_id → (name, attempt, rank), in the order in which the writers appeared."""
    query = (
        sa.select(writers.c.writer_id, writers.c.name, writers.c.attempt, writers.c.rank)
        .where(writers.c.run_id == run_id)
        .order_by(writers.c.writer_id)
    )
    return {row.writer_id: (row.name, row.attempt, row.rank) for row in conn.execute(query)}


def _pages(conn: Connection, run_id: str, writer_id: int, size: int) -> Iterator[Sequence[bytes]]:
    seq = 0
    while True:
        query = (
            sa.select(segments.c.seq, segments.c.payload)
            .where(segments.c.run_id == run_id, segments.c.writer_id == writer_id, segments.c.seq > seq)
            .order_by(segments.c.seq)
            .limit(size)
        )
        rows = conn.execute(query).all()
        if not rows:
            return
        yield [row.payload for row in rows]
        seq = rows[-1].seq


def load_series(
    conn: Connection, run_id: str, patterns: Sequence[str], wanted: Sequence[str] | None = None
) -> list[Series]:
    """Whole series without their statistics, by metric, attempt and rank; ``wanted``: names of writers."""
    about = _writers_of(conn, run_id)
    query = sa.select(series.c.writer_id, series.c.metric, series.c["count"]).where(series.c.run_id == run_id)
    rows = conn.execute(query).all()
    keys: list[SeriesKey] = [
        (writer_id, metric)
        for writer_id, metric, _ in rows
        if _matches(metric, patterns) and (wanted is None or about[writer_id][0] in wanted)
    ]
    if not keys:
        return []
    cache: SeriesCache | None = conn.get_execution_options().get("series_cache")
    if cache is not None and cache.takes(sum(count for _, _, count in rows)):
        found = cache.load(conn, run_id, keys)
    else:
        found = load_points(conn, run_id, keys)
    shadows, origin = _shadows(conn, run_id)
    parts = []
    for (writer_id, metric), points in found.items():
        writer, attempt, rank = about[writer_id]
        columns = (points.steps, points.times, points.values)
        parts.append(Series(metric, writer, rank, attempt, shadows.get(attempt), origin, *columns))
    return sorted(parts, key=_display_order)


def _display_order(part: Series) -> tuple[str, int, int, str]:
    return part.metric, part.attempt, -1 if part.rank is None else part.rank, part.writer


def _shadows(conn: Connection, run_id: str) -> tuple[dict[int, int], float]:
    """attempt → the least step at which a newer attempt has begun; and the first start, seconds UTC."""
    query = (
        sa.select(attempts.c.attempt, attempts.c.first_step, attempts.c.started_at)
        .where(attempts.c.run_id == run_id)
        .order_by(attempts.c.attempt.desc())
    )
    shadows: dict[int, int] = {}
    least: int | None = None
    origin = 0.0
    for attempt, first_step, started_at in conn.execute(query):
        if least is not None:
            shadows[attempt] = least
        if first_step is not None:
            least = first_step if least is None else min(least, first_step)
        origin = started_at
    return shadows, origin


def _matches(metric: str, patterns: Sequence[str]) -> bool:
    return any(metric == pattern or fnmatchcase(metric, pattern) for pattern in patterns)


def _along(part: Series, x: Axis) -> tuple[Series, Any]:
    """The series in the order of the axis, and its x, shape (n,)."""
    if x == "step":
        return part, part.steps
    if np.any(part.times[1:] < part.times[:-1]) or np.isnan(part.times).any():
        order = np.argsort(part.times, kind="stable")
        part = replace(part, steps=part.steps[order], times=part.times[order], values=part.values[order])
    return part, part.times - part.origin if x == "relative" else part.times


def _step_bounds(first: float | None, last: float | None) -> tuple[int | None, int | None]:
    """The same bounds as whole steps; one beyond int64 holds for every step."""
    low, high = -(2**63), 2**63 - 1
    lower = None if first is None else math.ceil(min(max(first, low), high))
    upper = None if last is None else math.floor(min(max(last, low), high))
    return lower, upper


def axis_range(axis: Any, first: float | None, last: float | None) -> tuple[int, int]:
    """Indices [start, end) of the ascending ``axis`` between the bounds, both included."""
    start = 0 if first is None else int(np.searchsorted(axis, first, side="left"))
    end = len(axis) if last is None else int(np.searchsorted(axis, last, side="right"))
    return start, end


def _extent(axes: list[FloatArray], first: float | None, last: float | None) -> tuple[float, float]:
    finite = [axis[np.isfinite(axis)] for axis in axes]
    low = min((float(axis[0]) for axis in finite if axis.size), default=0.0) if first is None else float(first)
    high = max((float(axis[-1]) for axis in finite if axis.size), default=0.0) if last is None else float(last)
    return low, high


def _cut(part: Series, which: slice) -> Series:
    """A part of a series, with its statistics."""
    steps, times, values = part.steps[which], part.times[which], part.values[which]
    finite = values[np.isfinite(values)]
    return replace(
        part,
        steps=steps,
        times=times,
        values=values,
        count=len(values),
        first_step=int(steps.min()),
        last_step=int(steps.max()),
        last=float(values[-1]),
        min=float(finite.min()) if finite.size else None,
        max=float(finite.max()) if finite.size else None,
        nan=int(np.count_nonzero(np.isnan(values))),
        positive_infinity=int(np.count_nonzero(np.isposinf(values))),
        negative_infinity=int(np.count_nonzero(np.isneginf(values))),
    )


def _thin(part: Series, kept: IntArray) -> Series:
    if len(kept) == part.count:
        return part
    return replace(part, steps=part.steps[kept], times=part.times[kept], values=part.values[kept])
