"""The buckets of a view of one series, from as few points as can be: pyramids where they fill whole buckets, points
at the ends of the range and where the buckets are finer than the cells.

On the step axis a view of ``w`` buckets reads the points of some ``w / 128`` chunks at most, however long it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_db.cell_codec import unpack_few
from holter_db.cells import Cells, concatenate, of_points, union
from holter_db.chunks import Chunk, ChunkReader
from holter_db.columns import Points
from holter_db.stretches import Stretch
from holter_db.views import Grid

__all__ = ["Ordered", "StepView", "TimeView", "along_time"]

TIME_POINTS = (
    4_000_000  # read for the exact edges of time buckets; beyond, a cell lies in the bucket of its first point
)


@dataclass(frozen=True, slots=True, eq=False)
class Ordered:
    """The points in the range of a question, in the order of its axis, and each one's place in the series."""

    points: Points
    at: IntArray


class StepView:
    """One series on the step axis, between two steps that are both included."""

    def __init__(self, stretches: Sequence[Stretch], low: int, high: int, grid: Grid) -> None:
        self._grid, self._low, self._high = grid, low, high
        self._parts = [part for part in _placed(stretches) if part[1].last_step >= low and part[1].first_step <= high]

    @property
    def at_most(self) -> int:
        """Points in the range; those at its ends are counted with their whole chunks."""
        return sum(stretch.count for _, stretch in self._parts)

    def needs(self, whole: bool) -> tuple[list[Chunk], list[Chunk]]:
        """The chunks whose values, and those whose cells, will be read."""
        raw = [stretch for _, stretch in self._parts if whole or self._source(stretch) == "points"]
        cells = [stretch for _, stretch in self._parts if not whole and self._source(stretch) == "cells"]
        return [chunk for stretch in raw for chunk in stretch.chunks], [
            chunk for stretch in cells for chunk in stretch.chunks
        ]

    def points(self, reader: ChunkReader) -> Ordered:
        """Every point in the range."""
        return _ordered((base, *self._cut(stretch.points(reader))) for base, stretch in self._parts)

    def part(self, reader: ChunkReader, which: slice) -> tuple[Points, bool]:
        """The points at these indices of the range, and whether there are more; chunks before them are not read."""
        pieces, skip, room = [], which.start, which.stop - which.start
        for _, stretch in self._parts:
            if skip >= stretch.count and self._inside(stretch) and all(chunk.raw for chunk in stretch.chunks):
                skip -= stretch.count
                continue
            points, _ = self._cut(stretch.points(reader))
            pieces.append(points.take(slice(skip, skip + room)))
            if len(points) > skip + room:
                return _joined(pieces), True
            room -= len(pieces[-1])
            skip = max(0, skip - len(points))
        return _joined(pieces), False

    def cells(self, reader: ChunkReader) -> Cells | None:
        """One cell for each bucket that has a point; None if there is none."""
        found = []
        for coarse, group in groupby(self._parts, key=lambda part: self._source(part[1]) == "coarse"):
            if coarse:
                packed = [(stretch.chunk.coarse, base) for base, stretch in group if stretch.chunk is not None]
                found.append(unpack_few(packed, self._grid.shift))
            else:
                found += [self._cells(base, stretch, reader) for base, stretch in group]
        parts = [part for part in found if len(part)]
        return union(concatenate(parts)) if parts else None

    def _cells(self, base: int, stretch: Stretch, reader: ChunkReader) -> Cells:
        chunk = stretch.chunk
        if chunk is None or self._source(stretch) == "points":
            points, start = self._cut(stretch.points(reader))
            return of_points(points, self._grid.of_steps(points.steps)).shifted(base + start)
        return reader.cells(chunk).coarser(self._grid.shift - chunk.level).shifted(base)

    def _source(self, stretch: Stretch) -> str:
        chunk = stretch.chunk
        if chunk is None or not chunk.coarse or not self._inside(stretch):
            return "points"
        if chunk.coarse_level <= self._grid.shift:
            return "coarse"
        return "cells" if chunk.level <= self._grid.shift else "points"

    def _inside(self, stretch: Stretch) -> bool:
        return self._low <= stretch.first_step and stretch.last_step <= self._high

    def _cut(self, points: Points) -> tuple[Points, int]:
        start = int(np.searchsorted(points.steps, self._low, side="left"))
        end = int(np.searchsorted(points.steps, self._high, side="right"))
        return points.take(slice(start, end)), start


class TimeView:
    """One series on a time axis, whose stretches follow one another in time as they do in steps.

    Args:
        low, high: seconds UTC, both included.
        buckets: of times in seconds UTC.
    """

    def __init__(
        self, stretches: Sequence[Stretch], low: float, high: float, buckets: Callable[[FloatArray], IntArray]
    ) -> None:
        self._low, self._high, self._buckets = low, high, buckets
        self._parts = [
            (base, stretch)
            for base, stretch in _placed(stretches)
            if stretch.times is not None and stretch.times[1] >= low and stretch.times[0] <= high
        ]

    @property
    def at_most(self) -> int:
        """As of `StepView`."""
        return sum(stretch.count for _, stretch in self._parts)

    def points(self, reader: ChunkReader) -> Ordered:
        """Every point in the range."""
        reader.fetch(raw=[chunk for _, stretch in self._parts for chunk in stretch.chunks])
        return _ordered((base, *self._cut(stretch.points(reader))) for base, stretch in self._parts)

    def cells(self, reader: ChunkReader) -> Cells | None:
        """One cell for each bucket that has a point; None if there is none."""
        ready = {base: cells for base, stretch in self._parts if (cells := self._coarse(stretch)) is not None}
        rest = [(base, stretch) for base, stretch in self._parts if base not in ready]
        exact = sum(stretch.count for _, stretch in rest) <= TIME_POINTS
        raw = [(base, stretch) for base, stretch in rest if exact or not self._has_cells(stretch)]
        reader.fetch(raw=[chunk for _, stretch in raw for chunk in stretch.chunks])
        found = []
        for base, stretch in self._parts:
            if base in ready:
                found.append(ready[base].shifted(base))
            elif stretch.chunk is not None and (base, stretch) not in raw:
                cells = reader.cells(stretch.chunk)
                found.append(cells.renamed(self._buckets(cells.times[0])).shifted(base))
            else:
                points, start = self._cut(stretch.points(reader))
                found.append(of_points(points, self._buckets(points.times)).shifted(base + start))
        parts = [part for part in found if len(part)]
        return union(concatenate(parts)) if parts else None

    def _coarse(self, stretch: Stretch) -> Cells | None:
        """Its coarse cells under the numbers of buckets, if each of them lies in one."""
        if stretch.chunk is None or not stretch.chunk.coarse or not self._inside(stretch):
            return None
        cells = unpack_few([(stretch.chunk.coarse, 0)])
        first, last = self._buckets(cells.times[0]), self._buckets(cells.times[3])
        return cells.renamed(first) if bool(np.all(first == last)) else None

    def _has_cells(self, stretch: Stretch) -> bool:
        return stretch.chunk is not None and bool(stretch.chunk.coarse) and self._inside(stretch)

    def _inside(self, stretch: Stretch) -> bool:
        return stretch.times is not None and self._low <= stretch.times[0] and stretch.times[1] <= self._high

    def _cut(self, points: Points) -> tuple[Points, int]:
        start = int(np.searchsorted(points.times, self._low, side="left"))
        end = int(np.searchsorted(points.times, self._high, side="right"))
        return points.take(slice(start, end)), start


def along_time(stretches: Sequence[Stretch], reader: ChunkReader, low: float | None, high: float | None) -> Ordered:
    """Every point between two times in the order of time, whatever the order of steps; NaN last, where unbounded."""
    reader.fetch(raw=[chunk for stretch in stretches for chunk in stretch.chunks])
    points = _joined([stretch.points(reader) for stretch in stretches])
    at = np.argsort(points.times, kind="stable")
    times = points.times[at]
    start = 0 if low is None else int(np.searchsorted(times, low, side="left"))
    end = len(times) if high is None else int(np.searchsorted(times, high, side="right"))
    at = at[start:end]
    return Ordered(points.take(at), at)


def _ordered(cut: Iterable[tuple[int, Points, int]]) -> Ordered:
    """Pieces of stretches, each with its stretch's place in the series and its own in the stretch."""
    pieces, places = [], [np.empty(0, np.int64)]
    for base, points, start in cut:
        pieces.append(points)
        places.append(np.arange(base + start, base + start + len(points)))
    return Ordered(_joined(pieces), np.concatenate(places))


def _placed(stretches: Sequence[Stretch]) -> list[tuple[int, Stretch]]:
    """Each stretch with the place of its first point in the series."""
    bases = np.cumsum([0, *(stretch.count for stretch in stretches)]).tolist()
    return list(zip(bases, stretches, strict=False))


def _joined(pieces: Sequence[Points]) -> Points:
    if len(pieces) == 1:
        return pieces[0]
    nothing = (np.empty(0, np.int64), np.empty(0), np.empty(0))
    columns = (
        np.concatenate([empty, *(getattr(piece, name) for piece in pieces)])
        for name, empty in zip(Points.__slots__, nothing, strict=True)
    )
    return Points(*columns)
