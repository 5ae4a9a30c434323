"""One metric of several ranks as one curve: mean, least and greatest value of every step, and who was not finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.series import Axis, Series, axis_range, check_view, load_series, whole_steps
from holter_db.views import select, step_grid, time_grid

__all__ = ["NonFinite", "RankSeries", "across", "read_across", "view_across"]


@dataclass(frozen=True, slots=True, eq=False)
class NonFinite:
    """The points of one rank that are NaN or ±Inf; ``steps`` and ``values`` have shape (k,)."""

    writer: str
    rank: int | None
    steps: IntArray
    values: FloatArray

    def between(self, first: int, last: int) -> NonFinite:
        """Those at the steps from ``first`` to ``last``, both included."""
        inside = (self.steps >= first) & (self.steps <= last)
        return replace(self, steps=self.steps[inside], values=self.values[inside])


@dataclass(frozen=True, slots=True, eq=False)
class RankSeries:
    """One metric of one attempt across its ranks; every array has shape (n,), one entry for each step.

    A rank without a point at a step does not count there; of several points at one step its last one does. ``mean``
    is not finite where any rank is not. ``min`` and ``max`` are over the finite values, NaN where there is none.
    """

    metric: str
    attempt: int
    writers: tuple[str, ...]  # by rank
    shadowed_from: int | None  # as in `holter_db.series.Series`
    origin: float
    steps: IntArray
    times: FloatArray  # seconds, UTC: of the last rank to reach the step
    mean: FloatArray
    min: FloatArray
    max: FloatArray
    count: IntArray  # ranks with a point at the step
    non_finite: tuple[NonFinite, ...]  # of every rank that has such points, in the range that was asked for

    def take(self, kept: slice | IntArray) -> RankSeries:
        """Some of the steps; ``non_finite`` stays as it is."""
        names = ("steps", "times", "mean", "min", "max", "count")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def page(self, start: int, end: int) -> RankSeries:
        """The steps with the indices from ``start`` to ``end`` - 1, and what was not finite at them."""
        part = self.take(slice(start, end))
        if not len(part.steps):
            return replace(part, non_finite=())
        odd = (entry.between(int(part.steps[0]), int(part.steps[-1])) for entry in self.non_finite)
        return replace(part, non_finite=tuple(entry for entry in odd if len(entry.steps)))


def across(parts: Sequence[Series]) -> RankSeries:
    """The series of several ranks, ordered by step as `read_series` gives them, as one.

    Its memory is that of one rank's series, however many ranks there are.
    """
    ranks = [_last_of_step(part) for part in parts]
    steps = np.unique(np.concatenate([part.steps for part in ranks]))
    places = [np.searchsorted(steps, part.steps) for part in ranks]
    count = np.zeros(len(steps), np.int64)
    for at in places:
        count[at] += 1
    mean, times = np.zeros(len(steps)), np.full(len(steps), -np.inf)
    low, high = np.full(len(steps), np.inf), np.full(len(steps), -np.inf)
    with np.errstate(invalid="ignore"):  # Inf - Inf is NaN, which is what it is
        for part, at in zip(ranks, places, strict=True):
            mean[at] += part.values / count[at]  # divided first, so that great values don't overflow
            times[at] = np.fmax(times[at], part.times)
            finite = np.isfinite(part.values)
            here, values = at[finite], part.values[finite]
            low[here], high[here] = np.minimum(low[here], values), np.maximum(high[here], values)
    nothing = low > high
    low[nothing] = high[nothing] = np.nan
    known = np.isfinite(mean)
    mean[known] = np.clip(mean[known], low[known], high[known])  # rounding may carry it past equal values
    first = parts[0]
    return RankSeries(
        metric=first.metric,
        attempt=first.attempt,
        writers=tuple(part.writer for part in parts),
        shadowed_from=first.shadowed_from,
        origin=first.origin,
        steps=steps,
        times=times,
        mean=mean,
        min=low,
        max=high,
        count=count,
        non_finite=tuple(entry for entry in map(_odd, ranks) if len(entry.steps)),
    )


def read_across(
    conn: Connection,
    run_id: str,
    patterns: Sequence[str],
    *,
    first_step: int | None = None,
    last_step: int | None = None,
) -> list[RankSeries]:
    """Every step of the metrics that match a glob, across the ranks of each attempt; both bounds are included."""
    found = []
    for whole in _across_all(conn, run_id, patterns):
        start, end = axis_range(whole.steps, first_step, last_step)
        if end > start:
            found.append(whole.page(start, end))
    return found


def view_across(
    conn: Connection,
    run_id: str,
    patterns: Sequence[str],
    *,
    first: float | None = None,
    last: float | None = None,
    width: int = 1000,
    x: Axis = "step",
) -> list[RankSeries]:
    """The steps that a chart ``width`` pixels wide needs to show mean, least and greatest value.

    Of each of the three, every bucket's first, last, least and greatest point is kept, and the steps at which it is not
    finite as `holter_db.views.select` says; ``non_finite`` names all of them. Arguments as in
    `holter_db.series.view_runs`.

    Raises:
        QueryError: the width or the axis can't be.
    """
    check_view(width, x, first, last)
    parts = []
    for whole in _across_all(conn, run_id, patterns):
        ordered, axis = _along(whole, x)
        start, end = axis_range(axis, first, last)
        if end > start:
            inside = ordered.page(start, end) if x == "step" else _within(ordered, start, end)
            parts.append((inside, axis[start:end]))
    if not parts:
        return []
    low = min(float(axis[0]) for _, axis in parts) if first is None else float(first)
    high = max(float(axis[-1]) for _, axis in parts) if last is None else float(last)
    grid = step_grid(*whole_steps(low, max(low, high)), width) if x == "step" else time_grid(low, max(low, high), width)
    return [part if len(axis) <= width else _thin(part, grid.of_times(axis)) for part, axis in parts]


def _thin(part: RankSeries, buckets: IntArray) -> RankSeries:
    curves = (part.mean, part.min, part.max)
    return part.take(np.unique(np.concatenate([select(buckets, curve) for curve in curves])))


def _across_all(conn: Connection, run_id: str, patterns: Sequence[str]) -> list[RankSeries]:
    """By metric and attempt; what is sampled beside the ranks, and what is no rank, are curves of their own."""
    groups: dict[tuple[str, int, bool, str], list[Series]] = defaultdict(list)
    for part in load_series(conn, run_id, patterns):
        alone = part.writer if part.rank is None else ""
        groups[part.metric, part.attempt, "/" in part.writer, alone].append(part)
    return [across(parts) for _, parts in sorted(groups.items())]


def _along(whole: RankSeries, x: Axis) -> tuple[RankSeries, FloatArray]:
    """The series in the order of the axis, and its x, shape (n,)."""
    if x == "step":
        return whole, whole.steps.astype(np.float64)
    if np.any(whole.times[1:] < whole.times[:-1]):
        whole = whole.take(np.argsort(whole.times, kind="stable"))
    return whole, whole.times - whole.origin if x == "relative" else whole.times


def _within(whole: RankSeries, start: int, end: int) -> RankSeries:
    """A part along the time axis, on which steps need not ascend."""
    part = whole.take(slice(start, end))
    odd = []
    for entry in whole.non_finite:
        inside = np.isin(entry.steps, part.steps)
        odd.append(replace(entry, steps=entry.steps[inside], values=entry.values[inside]))
    return replace(part, non_finite=tuple(entry for entry in odd if len(entry.steps)))


def _last_of_step(part: Series) -> Series:
    last = np.append(part.steps[1:] != part.steps[:-1], True)
    if last.all():
        return part
    return replace(part, steps=part.steps[last], times=part.times[last], values=part.values[last])


def _odd(part: Series) -> NonFinite:
    odd = ~np.isfinite(part.values)
    return NonFinite(part.writer, part.rank, part.steps[odd], part.values[odd])
