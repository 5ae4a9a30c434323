"""Reading points back: whole series, views for a chart, pages, and everything for an export."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.catalogue import MetricInfo, SeriesInfo, catalogue
from holter_db.cells import ODD_KEPT, POINTS, Cells, of_points
from holter_db.chunks import ChunkReader
from holter_db.errors import QueryError
from holter_db.found import ALL_STEPS, Crowded, Found, Series, find, with_columns, with_points, with_statistics
from holter_db.pyramid import Ordered, StepView, TimeView, along_time
from holter_db.smoothing import Smoother
from holter_db.stretches import Stretch
from holter_db.views import Grid, step_grid, time_grid

__all__ = [
    "Axis",
    "Crowded",
    "MetricInfo",
    "PointChunk",
    "Series",
    "SeriesInfo",
    "axis_range",
    "catalogue",
    "check_view",
    "iter_points",
    "load_series",
    "read_page",
    "read_series",
    "view_runs",
    "view_series",
    "whole_steps",
]

Axis = Literal["step", "time", "relative"]


@dataclass(frozen=True, slots=True, eq=False)
class PointChunk:
    """A part of one series at full resolution, in the order of steps and, among equal ones, as they were logged."""

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
    reader = ChunkReader(conn)
    low, high = whole_steps(first_step, last_step)
    found = []
    for item in find(conn, [run_id], patterns, writers, steps=(low, high)):
        view = StepView(item.stretches, low, high, Grid(0))
        reader.fetch(raw=view.needs(whole=True)[0])
        points = view.points(reader).points
        if len(points):
            found.append(with_points(item, points))
    return found


def load_series(
    conn: Connection, run_id: str, patterns: Sequence[str], wanted: Sequence[str] | None = None
) -> list[Series]:
    """`read_series` of everything; ``wanted``: names of writers."""
    return read_series(conn, run_id, patterns, writers=wanted)


def view_series(conn: Connection, run_id: str, patterns: Sequence[str], **view: Any) -> list[Series]:
    """`view_runs` of one run."""
    return view_runs(conn, [run_id], patterns, **view)


def view_runs(
    conn: Connection,
    run_ids: Sequence[str],
    patterns: Sequence[str],
    *,
    first: float | None = None,
    last: float | None = None,
    writers: Sequence[str] | None = None,
    width: int = 1000,
    x: Axis = "step",
    smooth: float | None = None,
) -> list[Series]:
    """The points that a chart ``width`` pixels wide needs, by run, metric, attempt and writer, ordered by x.

    A series that has at most ``width`` points in the range is whole. Of any other one, every bucket's first, last,
    first least and first greatest point is there, and its non-finite points: all, or the first `ODD_KEPT` and, in
    ``crowded``, their count. On the step axis all series share the buckets of `holter_db.views.step_grid` between
    ``first`` and ``last`` or, where these are None, between the least and the greatest step of all. On a time axis the
    buckets are those of `holter_db.views.time_grid`; where exact edges would cost more than
    `holter_db.pyramid.TIME_POINTS` points, some 512 neighbours may lie in the bucket of the first of them.

    Args:
        first, last: bounds, included, in the axis' own unit: steps, seconds UTC, or seconds since the first start.
        smooth: weight of an exponential moving average, 0 (none) to below 1, computed from all points of the series,
            also those before ``first``.

    Raises:
        QueryError: the width, the axis or the weight can't be.
    """
    check_view(width, x, first, last, smooth)
    asked = _View(conn, first, last, width, smooth)
    steps = whole_steps(first, last) if x == "step" and smooth is None else ALL_STEPS
    found = find(conn, run_ids, patterns, writers, steps=steps)
    answers = asked.by_step(found) if x == "step" else asked.by_time(found, relative=x == "relative")
    return [answer for answer in answers if answer.count]


def check_view(width: int, x: str, first: float | None, last: float | None, smooth: float | None = None) -> None:
    """Raise `QueryError` unless there can be such a view."""
    if not 1 <= width <= 100_000:
        raise QueryError(f"A view is 1 to 100000 pixels wide, not {width}", "Ask for 1000, for example.")
    if x not in ("step", "time", "relative"):
        raise QueryError(f"x can't be {x!r}", "Use step, time or relative.")
    if any(bound is not None and math.isnan(bound) for bound in (first, last)):
        raise QueryError("A bound of a view can't be NaN", "Send numbers, or leave the bounds away.")
    if smooth is not None and not 0 <= smooth < 1:
        raise QueryError(f"Smoothing has a weight from 0 to below 1, not {smooth}", "Send 0.9, for example.")


class _View:
    """One question for views, and how it is answered from stretches."""

    def __init__(
        self, conn: Connection, first: float | None, last: float | None, width: int, smooth: float | None
    ) -> None:
        self._reader = ChunkReader(conn)
        self._first, self._last, self._width, self._smooth = first, last, width, smooth

    def by_step(self, found: list[Found]) -> Iterator[Series]:
        low, high = whole_steps(self._first, self._last)
        spans = [(part.first_step, part.last_step) for item in found for part in item.stretches]
        if not spans or low > high:
            return
        least = min(first for first, _ in spans) if self._first is None else low
        most = max(last for _, last in spans) if self._last is None else high
        grid = step_grid(least, max(least, most), self._width)
        views = [StepView(item.stretches, low, high, grid) for item in found]
        self._fetch(views)
        for item, view in zip(found, views, strict=True):
            cells = None if view.at_most <= self._width else view.cells(self._reader)
            if cells is None or cells.counts[POINTS].sum() <= self._width:
                yield self._whole(item, view.points(self._reader))
            else:
                yield self._thin(item, cells, grid)

    def _fetch(self, views: list[StepView]) -> None:
        needs = [view.needs(whole=view.at_most <= self._width) for view in views]
        self._reader.fetch(
            raw=[chunk for raw, _ in needs for chunk in raw], cells=[chunk for _, cells in needs for chunk in cells]
        )

    def by_time(self, found: list[Found], *, relative: bool) -> Iterator[Series]:
        spans = [span for item in found for span in self._time_span(item, relative)]
        low = min((span[0] for span in spans), default=0.0) if self._first is None else self._first
        high = max((span[1] for span in spans), default=0.0) if self._last is None else self._last
        grid = time_grid(low, max(low, high), self._width)
        for item in found:
            yield self._along_time(item, grid, item.frame.origin if relative else 0.0)

    def _time_span(self, item: Found, relative: bool) -> Iterator[tuple[float, float]]:
        origin = item.frame.origin if relative else 0.0
        for stretch in item.stretches:
            if stretch.times is not None:
                yield stretch.times[0] - origin, stretch.times[1] - origin
            else:
                times = stretch.points(self._reader).times
                times = times[np.isfinite(times)] - origin
                if times.size:
                    yield float(times.min()), float(times.max())

    def _along_time(self, item: Found, grid: Grid, origin: float) -> Series:
        def buckets(times: FloatArray) -> IntArray:
            return grid.of_times(times - origin)

        low = None if self._first is None else self._first + origin
        high = None if self._last is None else self._last + origin
        if not _follow_in_time(item.stretches):
            ordered = along_time(item.stretches, self._reader, low, high)
            if len(ordered.at) <= self._width:
                return self._whole(item, ordered)
            cells = of_points(ordered.points, buckets(ordered.points.times))
            return self._thin(item, cells, grid, ordered.at)
        view = TimeView(item.stretches, -math.inf if low is None else low, math.inf if high is None else high, buckets)
        cells_or_none = None if view.at_most <= self._width else view.cells(self._reader)
        if cells_or_none is None or cells_or_none.counts[POINTS].sum() <= self._width:
            return self._whole(item, view.points(self._reader))
        return self._thin(item, cells_or_none, grid)

    def _whole(self, item: Found, ordered: Ordered) -> Series:
        return replace(with_points(item, ordered.points), smoothed=self._smoothed(item, ordered.at))

    def _thin(self, item: Found, cells: Cells, grid: Grid, places: IntArray | None = None) -> Series:
        at, points = cells.kept()
        crowded = np.flatnonzero(cells.odd > ODD_KEPT)
        first_odd = np.searchsorted(cells.owner, crowded, side="left")
        return replace(
            with_columns(with_statistics(item, cells), points),
            bucket=grid.width,
            smoothed=self._smoothed(item, at if places is None else places[at]),
            crowded=Crowded(cells.odd_steps[first_odd], cells.odd[crowded]),
        )

    def _smoothed(self, item: Found, at: IntArray) -> FloatArray | None:
        """The average at some places of the series, (n,): from all of its points, a stretch at a time."""
        if self._smooth is None:
            return None
        found, smoother, base = np.empty(len(at)), Smoother(self._smooth), 0
        reached = int(at.max(initial=-1))
        for stretch in item.stretches:
            if base > reached:
                break
            here = np.flatnonzero((at >= base) & (at < base + stretch.count))
            means = smoother.feed(stretch.points(self._reader).values)
            found[here] = means[np.minimum(at[here] - base, len(means) - 1)]
            base += stretch.count
        return found


def _follow_in_time(stretches: Sequence[Stretch]) -> bool:
    reached = -math.inf
    for stretch in stretches:
        if stretch.times is None or stretch.times[0] < reached:
            return False
        reached = stretch.times[1]
    return True


def iter_points(conn: Connection, run_id: str, patterns: Sequence[str]) -> Iterator[PointChunk]:
    """Every point of every writer and attempt, in pieces that fit into memory: by metric, attempt and writer.

    The connection must stay open while the pieces are read.
    """
    reader = ChunkReader(conn)
    for item in find(conn, [run_id], patterns):
        about = item.frame
        for stretch in item.stretches:
            points = stretch.points(reader)
            columns = (points.steps, points.times, points.values)
            yield PointChunk(about.attempt, about.writer, about.rank, about.metric, *columns)


def read_page(
    conn: Connection,
    run_id: str,
    patterns: Sequence[str],
    *,
    first_step: int | None,
    last_step: int | None,
    start: tuple[str, str, int, int],
    limit: int,
) -> tuple[list[Series], tuple[str, str, int, int] | None]:
    """At most ``limit`` points at full resolution in the order (metric, writer, attempt, index), and where to go on.

    Of the chunks inside the range only those that hold the page are read.

    Args:
        start: (metric, writer, attempt, index) of the first point, the index within the range; ("", "", 0, 0) begins.
    """
    reader = ChunkReader(conn)
    low, high = whole_steps(first_step, last_step)
    page: list[Series] = []
    found = find(conn, [run_id], patterns, steps=(low, high))
    for item in sorted(found, key=_place):
        if _place(item) < start[:3]:
            continue
        skip = start[3] if _place(item) == start[:3] else 0
        behind = StepView(item.stretches, low, high, Grid(0))
        points, more = behind.part(reader, slice(skip, skip + limit))
        if len(points):
            all_in_one = StepView(item.stretches, low, high, Grid(63)).cells(reader)
            page.append(with_columns(with_statistics(item, all_in_one), points))
        limit -= len(points)
        if more:
            return page, (*_place(item), skip + len(points))
    return page, None


def _place(item: Found) -> tuple[str, str, int]:
    return item.frame.metric, item.frame.writer, item.frame.attempt


def whole_steps(first: float | None, last: float | None) -> tuple[int, int]:
    """The same bounds as whole steps; one beyond int64 holds for every step."""
    low, high = ALL_STEPS
    lower = low if first is None else math.ceil(min(max(first, low), high))
    upper = high if last is None else math.floor(min(max(last, low), high))
    return lower, upper


def axis_range(axis: Any, first: float | None, last: float | None) -> tuple[int, int]:
    """Indices [start, end) of the ascending ``axis`` between the bounds, both included."""
    start = 0 if first is None else int(np.searchsorted(axis, first, side="left"))
    end = len(axis) if last is None else int(np.searchsorted(axis, last, side="right"))
    return start, end
