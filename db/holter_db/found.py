"""Series as they are found: what is known of each before its points are read, and how they are put to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.cells import GREATEST, LEAST, POINTS, Cells
from holter_db.chunks import Chunk, list_chunks
from holter_db.columns import Points
from holter_db.schema import attempts, series, writers
from holter_db.stretches import Stretch, stretches_of
from holter_db.tail import SeriesKey, load_tails

__all__ = ["ALL_STEPS", "Crowded", "Found", "Series", "find", "with_columns", "with_points", "with_statistics"]

ALL_STEPS = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Crowded:
    """Buckets of a view with more non-finite points than it shows: how many, from which step on; shape (k,)."""

    steps: IntArray
    counts: IntArray


_NOTHING = Crowded(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric of one writer, or the part of it that was asked for.

    ``steps``, ``times`` and ``values`` have shape (n,) and are read-only. The statistics are of all points in the
    range that was asked for, also of those that a view leaves out.
    """

    run_id: str
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
    complete: bool = True  # False where only pyramids are kept of some of its points
    bucket: float | None = None  # steps or seconds that a bucket of the view covers; None: every point is here
    smoothed: FloatArray | None = None  # (n,), where it was asked for
    crowded: Crowded = _NOTHING

    @property
    def non_finite(self) -> int:
        return self.nan + self.positive_infinity + self.negative_infinity


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One series before its points are read."""

    frame: Series  # without points
    stretches: list[Stretch]

    @property
    def complete(self) -> bool:
        return all(chunk.raw for stretch in self.stretches for chunk in stretch.chunks)


def find(
    conn: Connection,
    run_ids: Sequence[str],
    patterns: Sequence[str],
    wanted: Sequence[str] | None = None,
    *,
    steps: tuple[int, int] = ALL_STEPS,
) -> list[Found]:
    """The series that match, by run as asked, metric, attempt and rank; ``wanted``: names of writers.

    Of their chunks those that lie wholly outside ``steps`` may be left out.
    """
    order = {run_id: place for place, run_id in enumerate(dict.fromkeys(run_ids))}
    frames = _frames(conn, list(order), patterns, wanted)
    if not frames:
        return []
    by_series: dict[tuple[str, SeriesKey], list[Chunk]] = defaultdict(list)
    metrics = {metric for _, (_, metric) in frames}
    for chunk in list_chunks(conn, list(order), metrics=metrics, steps=steps):
        by_series[chunk.run_id, (chunk.writer_id, chunk.metric)].append(chunk)
    keys: dict[str, set[SeriesKey]] = defaultdict(set)
    for run_id, key in frames:
        keys[run_id].add(key)
    tails = load_tails(conn, keys)
    found = [
        Found(frame, stretches_of(by_series.get((run_id, key), []), tails.get(run_id, {}).get(key)))
        for (run_id, key), frame in frames.items()
    ]
    return sorted(found, key=lambda item: (order[item.frame.run_id], *_display_order(item.frame)))


def _frames(
    conn: Connection, run_ids: list[str], patterns: Sequence[str], wanted: Sequence[str] | None
) -> Mapping[tuple[str, SeriesKey], Series]:
    query = (
        sa.select(
            series.c.run_id, series.c.writer_id, series.c.metric, writers.c.name, writers.c.attempt, writers.c.rank
        )
        .join(writers, sa.and_(writers.c.run_id == series.c.run_id, writers.c.writer_id == series.c.writer_id))
        .where(series.c.run_id.in_(run_ids))
    )
    if wanted is not None:
        query = query.where(writers.c.name.in_(wanted))
    shadows = _shadows(conn, run_ids)
    frames = {}
    for run_id, writer_id, metric, name, attempt, rank in conn.execute(query):
        if _matches(metric, patterns):
            of_attempts, origin = shadows[run_id]
            nothing = (np.empty(0, np.int64), np.empty(0), np.empty(0))
            frame = Series(run_id, metric, name, rank, attempt, of_attempts.get(attempt), origin, *nothing)
            frames[run_id, (writer_id, metric)] = frame
    return frames


def _display_order(part: Series) -> tuple[str, int, int, str]:
    return part.metric, part.attempt, -1 if part.rank is None else part.rank, part.writer


def _shadows(conn: Connection, run_ids: list[str]) -> dict[str, tuple[dict[int, int], float]]:
    """Of each run: attempt → the least step at which a newer attempt has begun; and the first start, seconds UTC."""
    query = (
        sa.select(attempts.c.run_id, attempts.c.attempt, attempts.c.first_step, attempts.c.started_at)
        .where(attempts.c.run_id.in_(run_ids))
        .order_by(attempts.c.run_id, attempts.c.attempt.desc())
    )
    found: dict[str, tuple[dict[int, int], float]] = {}
    least: dict[str, int | None] = {}
    for run_id, attempt, first_step, started_at in conn.execute(query):
        shadows, _ = found.get(run_id, ({}, 0.0))
        known = least.get(run_id)
        if known is not None:
            shadows[attempt] = known
        if first_step is not None:
            least[run_id] = first_step if known is None else min(known, first_step)
        found[run_id] = shadows, started_at
    return found


def _matches(metric: str, patterns: Sequence[str]) -> bool:
    return any(metric == pattern or fnmatchcase(metric, pattern) for pattern in patterns)


def with_columns(part: Series, points: Points) -> Series:
    return replace(part, steps=points.steps, times=points.times, values=points.values)


def with_points(item: Found, points: Points) -> Series:
    """The series with these points and their statistics."""
    frame = replace(with_columns(item.frame, points), complete=item.complete)
    if not len(points):
        return frame
    values = points.values
    finite = values[np.isfinite(values)]
    return replace(
        frame,
        count=len(values),
        first_step=int(points.steps.min()),
        last_step=int(points.steps.max()),
        last=float(values[-1]),
        min=float(finite.min()) if finite.size else None,
        max=float(finite.max()) if finite.size else None,
        nan=int(np.count_nonzero(np.isnan(values))),
        positive_infinity=int(np.count_nonzero(np.isposinf(values))),
        negative_infinity=int(np.count_nonzero(np.isneginf(values))),
    )


def with_statistics(item: Found, cells: Cells | None) -> Series:
    if cells is None:
        return item.frame
    count, nan, positive, negative = (int(number) for number in cells.counts.sum(axis=1))
    some = cells.counts[POINTS] > cells.odd
    return replace(
        item.frame,
        complete=item.complete,
        count=count,
        first_step=int(cells.steps.min()),
        last_step=int(cells.steps.max()),
        last=float(cells.values[-1, -1]),
        min=float(cells.values[LEAST, some].min()) if some.any() else None,
        max=float(cells.values[GREATEST, some].max()) if some.any() else None,
        nan=nan,
        positive_infinity=positive,
        negative_infinity=negative,
    )
