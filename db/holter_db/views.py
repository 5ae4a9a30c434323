"""Which points of a series a chart of some pixels needs.

The buckets of a view are aligned: on the step axis bucket ``j`` of a grid holds the steps from ``j * 2**shift`` to
``(j + 1) * 2**shift - 1``, on the time axes the same in seconds. The shift is the least one at which the range falls
into ``width`` buckets. So equal questions have equal answers, all series of a question share one grid, a curve that
grows keeps its buckets until it has doubled, and the cells of the pyramid (`holter_db.cells`) fill whole buckets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_db.cells import of_points
from holter_db.columns import Points

__all__ = ["Grid", "select", "step_grid", "time_grid"]

_SHIFT_MAX = 63
_SHIFT_MIN = -20  # about a microsecond: below the resolution of a wall clock in float64
_FAR = 2**62


@dataclass(frozen=True, slots=True)
class Grid:
    """Buckets that are ``2**shift`` steps or seconds wide."""

    shift: int

    @property
    def width(self) -> float:
        """Of one bucket."""
        return math.ldexp(1.0, self.shift)

    def of_steps(self, steps: IntArray) -> IntArray:
        """The bucket of each step."""
        return steps >> self.shift

    def of_times(self, times: FloatArray) -> IntArray:
        """The bucket of each time; one that is not finite has the outermost, NaN the last."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.floor(np.ldexp(times, -self.shift))
        found: IntArray = np.clip(np.nan_to_num(scaled, nan=_FAR, posinf=_FAR, neginf=-_FAR), -_FAR, _FAR).astype(
            np.int64
        )
        return found


def step_grid(low: int, high: int, width: int) -> Grid:
    """The finest grid that has at most ``width`` buckets from step ``low`` to ``high`` (two where 0 lies inside).

    >>> step_grid(0, 999_999, 1000)
    Grid(shift=10)
    """
    shift = max(0, ((high - low) // width).bit_length() - 1)
    while shift < _SHIFT_MAX and (high >> shift) - (low >> shift) >= width:
        shift += 1
    return Grid(shift)


def time_grid(low: float, high: float, width: int) -> Grid:
    """The same in seconds, for finite bounds."""
    even = max(high - low, 0.0) / width
    shift = max(_SHIFT_MIN, math.frexp(even)[1] - 1 if even else _SHIFT_MIN)
    while shift < _SHIFT_MAX and math.floor(math.ldexp(high, -shift)) - math.floor(math.ldexp(low, -shift)) >= width:
        shift += 1
    return Grid(shift)


def select(buckets: IntArray, values: FloatArray) -> IntArray:
    """Indices, ascending, of the points that a view must show.

    Contract: of every bucket its first and last point, its first least and first greatest finite value, and its
    non-finite points: all of them, or the first `holter_db.cells.ODD_KEPT` where there are more.

    Args:
        buckets: of each point, shape (n,), ascending.
        values: shape (n,).
    """
    nowhere = np.empty(len(values), np.int64)
    return of_points(Points(nowhere, values, values), buckets).kept()[0]
