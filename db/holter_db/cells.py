"""The pyramid: what is known of a stretch of a series without reading its points.

A cell of level ``k`` covers the steps from ``j * 2**k`` to ``(j + 1) * 2**k - 1``, whatever chunk its points lie in. So
cells nest: those of a coarser level, and the buckets of a view, are unions of finer ones, and what a view shows does
not depend on how the points were cut into chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_db.columns import Points

__all__ = ["GREATEST", "LEAST", "ODD_KEPT", "POINTS", "Cells", "concatenate", "of_points", "union"]

ODD_KEPT = 16  # non-finite points that a cell, or a bucket of a view, keeps; of more, the count and the first
FIRST, LEAST, GREATEST, LAST = range(4)
POINTS, NAN, POSITIVE, NEGATIVE = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """``n`` cells that hold at least one point, in ascending order.

    Of every cell four points are kept, in the rows of the arrays of shape (4, n): the first one, the first least and
    the first greatest finite one, and the last one. Without a finite point the two in the middle repeat the first. Up
    to `ODD_KEPT` non-finite points of each cell are kept besides, from its first one on: arrays of shape (k,).
    """

    index: IntArray  # (n,): the cell's number; its steps >> its level, or a bucket of a view
    counts: IntArray  # (4, n): points; those that are NaN, Inf and -Inf
    total: FloatArray  # (n,): sum of the finite values
    at: IntArray  # (4, n): the points' places in the series or chunk, for their order
    steps: IntArray
    times: FloatArray
    values: FloatArray
    owner: IntArray  # (k,): the cell of a non-finite point, as a position in `index`
    odd_at: IntArray
    odd_steps: IntArray
    odd_times: FloatArray
    odd_values: FloatArray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def odd(self) -> IntArray:
        """How many points of each cell are not finite, (n,)."""
        counted: IntArray = self.counts[NAN:].sum(axis=0)
        return counted

    def shifted(self, by: int) -> Cells:
        """The same cells of a chunk whose first point has the place ``by`` in the series."""
        return _replace(self, at=self.at + by, odd_at=self.odd_at + by)

    def coarser(self, by: int) -> Cells:
        """The cells of a level higher by ``by``."""
        return union(_replace(self, index=self.index >> by)) if by else self

    def renamed(self, index: IntArray) -> Cells:
        """The same cells under other, ascending numbers; equal neighbours are still apart."""
        return _replace(self, index=index)

    def kept(self) -> tuple[IntArray, Points]:
        """Every kept point once, in order: their places and the points."""
        at = np.concatenate([self.at.ravel(), self.odd_at])
        at, which = np.unique(at, return_index=True)
        columns = (
            np.concatenate([four.ravel(), odd])[which]
            for four, odd in (
                (self.steps, self.odd_steps),
                (self.times, self.odd_times),
                (self.values, self.odd_values),
            )
        )
        return at, Points(*columns)


def _replace(cells: Cells, **changed: IntArray) -> Cells:
    return Cells(**{name: changed.get(name, getattr(cells, name)) for name in Cells.__slots__})


def of_points(points: Points, index: IntArray) -> Cells:
    """The cells of points whose cells are ``index``, (n,), equal ones side by side; places count from 0."""
    values = points.values
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1)) if len(index) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(index))
    finite = np.isfinite(values)
    all_finite = bool(finite.all())
    at = np.empty((4, len(starts)), np.int64)
    at[FIRST], at[LAST] = starts, ends - 1
    at[LEAST] = _first_extremes(values if all_finite else np.where(finite, values, np.inf), starts, np.minimum)
    at[GREATEST] = _first_extremes(values if all_finite else np.where(finite, values, -np.inf), starts, np.maximum)
    counts = np.zeros((4, len(starts)), np.int64)
    counts[POINTS] = ends - starts
    total = values
    odd = owner = np.empty(0, np.int64)
    if not all_finite:
        for row, kind in ((NAN, np.isnan), (POSITIVE, np.isposinf), (NEGATIVE, np.isneginf)):
            counts[row] = np.add.reduceat(kind(values).astype(np.int64), starts)
        without = counts[POINTS] == counts[NAN:].sum(axis=0)
        at[LEAST:LAST, without] = starts[without]
        total = np.where(finite, values, 0.0)
        odd = np.flatnonzero(~finite)
        owner = np.searchsorted(starts, odd, side="right") - 1
        odd, owner = _leading(odd, owner)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(total, starts) if len(starts) else np.empty(0)
    return Cells(
        index[starts],
        counts,
        sums,
        at,
        points.steps[at],
        points.times[at],
        values[at],
        owner,
        odd,
        points.steps[odd],
        points.times[odd],
        values[odd],
    )


def union(cells: Cells) -> Cells:
    """Neighbours of the same number as one cell."""
    starts = np.flatnonzero(np.diff(cells.index, prepend=cells.index[0] - 1)) if len(cells) else np.empty(0, np.int64)
    if len(starts) == len(cells):
        return cells
    with_finite = cells.counts[POINTS] > cells.odd
    which = np.empty((4, len(starts)), np.int64)  # the cell that each of the four points comes from
    which[FIRST], which[LAST] = starts, np.append(starts[1:], len(cells)) - 1
    low = np.where(with_finite, cells.values[LEAST], np.inf)
    high = np.where(with_finite, cells.values[GREATEST], -np.inf)
    which[LEAST] = _first_extremes(low, starts, np.minimum)
    which[GREATEST] = _first_extremes(high, starts, np.maximum)
    counts = np.add.reduceat(cells.counts, starts, axis=1)
    rows = np.arange(4)[:, None]
    without = counts[POINTS] == counts[NAN:].sum(axis=0)
    from_row = np.repeat(rows, len(starts), axis=1)
    from_row[LEAST:LAST, without], which[LEAST:LAST, without] = FIRST, starts[without]
    owner = np.searchsorted(starts, cells.owner, side="right") - 1
    chosen, owner = _leading(np.arange(len(owner)), owner)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduceat(cells.total, starts)
    four = {name: getattr(cells, name)[from_row, which] for name in ("at", "steps", "times", "values")}
    odd = {name: getattr(cells, name)[chosen] for name in ("odd_at", "odd_steps", "odd_times", "odd_values")}
    return Cells(index=cells.index[starts], counts=counts, total=total, owner=owner, **four, **odd)


def concatenate(parts: Sequence[Cells]) -> Cells:
    """Cells of stretches that follow one another."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(part) for part in parts[:-1])])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
        for name in Cells.__slots__
        if name != "owner"
    }
    owners = [part.owner + count for part, count in zip(parts, before, strict=True)]
    return Cells(**columns, owner=np.concatenate(owners))


def _first_extremes(values: FloatArray, starts: IntArray, choose: np.ufunc) -> IntArray:
    """Where the first extreme of every run of values that begins at ``starts`` is."""
    if not len(starts):
        return np.empty(0, np.int64)
    lengths = np.diff(starts, append=len(values))
    hits = np.flatnonzero(values == np.repeat(choose.reduceat(values, starts), lengths))
    first: IntArray = hits[np.searchsorted(hits, starts)]
    return first


def _leading(items: IntArray, owner: IntArray) -> tuple[IntArray, IntArray]:
    """The first `ODD_KEPT` items of every owner; ``owner``, (k,), ascends."""
    if not len(owner):
        return items, owner
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    rank = np.arange(len(owner)) - np.repeat(starts, np.diff(starts, append=len(owner)))
    few = rank < ODD_KEPT
    return items[few], owner[few]
