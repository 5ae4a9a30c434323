"""What the stored points of one series say of themselves: the same figures as a row of the catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_db.cells import GREATEST, LAST, LEAST, NAN, NEGATIVE, POINTS, POSITIVE, Cells

__all__ = ["Tally", "newest_at"]

COUNTS = ("count", "nan", "positive_infinity", "negative_infinity")


@dataclass(slots=True)
class Tally:
    """Figures of a series, point by point or chunk by chunk in any order. ``last`` is of the greatest key."""

    count: int = 0
    nan: int = 0
    positive_infinity: int = 0
    negative_infinity: int = 0
    first_step: int | None = None
    first_time: float | None = None
    last_time: float | None = None
    min: float | None = None
    max: float | None = None
    last: float = 0.0
    key: tuple[int, int, int] | None = None  # step, seq and row of `last`
    times_known: bool = True  # False where a thinned chunk, or a time that is no number, leaves the bounds open

    def add(self, key: tuple[int, int, int], steps: IntArray, times: FloatArray, values: FloatArray) -> None:
        """Points as they were logged, three arrays of shape (n,); ``key`` is of the one at `newest_at`."""
        finite = values[np.isfinite(values)]
        self.count += len(values)
        self.nan += int(np.count_nonzero(np.isnan(values)))
        self.positive_infinity += int(np.count_nonzero(np.isposinf(values)))
        self.negative_infinity += int(np.count_nonzero(np.isneginf(values)))
        self._bound(int(steps.min()), finite)
        self._time(times)
        self._newest(key, float(values[newest_at(steps)]))

    def add_cells(self, key: tuple[int, int, int], first_step: int, times: FloatArray | None, cells: Cells) -> None:
        """A chunk of which only the pyramid is kept; ``times``: of its first and last point, where they are known."""
        counts = cells.counts.sum(axis=1)
        self.count += int(counts[POINTS])
        self.nan += int(counts[NAN])
        self.positive_infinity += int(counts[POSITIVE])
        self.negative_infinity += int(counts[NEGATIVE])
        extremes = cells.values[LEAST : GREATEST + 1].ravel()
        self._bound(first_step, extremes[np.isfinite(extremes)])
        if times is None:
            self.times_known = False
        else:
            self._time(times)
        self._newest(key, float(cells.values[LAST, -1]))

    def differs(self, row: Any) -> list[str]:
        """The columns in which a row of the catalogue says something else."""
        wanted = self.row()
        return [name for name, value in wanted.items() if not _same(row[name], value)]

    def row(self) -> dict[str, Any]:
        """The columns of the catalogue that are known from the points."""
        assert self.key is not None
        row: dict[str, Any] = {name: getattr(self, name) for name in COUNTS}
        row |= {"first_step": self.first_step, "last_step": self.key[0], "min": self.min, "max": self.max}
        row |= {"last": self.last, "last_seq": self.key[1]}
        if self.times_known:
            row |= {"first_time": self.first_time, "last_time": self.last_time}
        return row

    def _bound(self, step: int, finite: FloatArray) -> None:
        self.first_step = step if self.first_step is None else min(self.first_step, step)
        if finite.size:
            low, high = float(finite.min()), float(finite.max())
            self.min = low if self.min is None else min(self.min, low)
            self.max = high if self.max is None else max(self.max, high)

    def _time(self, times: FloatArray) -> None:
        if not np.isfinite(times).all():
            self.times_known = False
            return
        low, high = float(times.min()), float(times.max())
        self.first_time = low if self.first_time is None else min(self.first_time, low)
        self.last_time = high if self.last_time is None else max(self.last_time, high)

    def _newest(self, key: tuple[int, int, int], value: float) -> None:
        if self.key is None or key >= self.key:
            self.key, self.last = key, value


def newest_at(steps: IntArray) -> int:
    """Where the last one of the greatest steps is."""
    return len(steps) - 1 - int(np.argmax(steps[::-1]))


def _same(stored: Any, wanted: Any) -> bool:
    if isinstance(stored, float) and isinstance(wanted, float) and math.isnan(stored):
        return math.isnan(wanted)
    return bool(stored == wanted)
