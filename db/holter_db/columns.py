"""One series in memory: growing columns, ordered by step and, among equal steps, as they were logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holter.wire import FloatArray, IntArray

__all__ = ["Column", "Points"]

BYTES_PER_POINT = 32


@dataclass(frozen=True, slots=True)
class Points:
    """Three read-only arrays of shape (n,): int64 steps, float64 seconds UTC, float64 values."""

    steps: IntArray
    times: FloatArray
    values: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, which: slice | IntArray) -> Points:
        """The points at a slice or at indices."""
        return Points(self.steps[which], self.times[which], self.values[which])


class Column:
    """The points of one series, appended segment by segment in any order.

    The arrays double when they are full, and what `points` handed out is never written again, so a reader keeps
    its arrays without a copy while more points come.

    >>> column = Column()
    >>> column.add(2, np.array([10]), np.array([0.5]), np.array([2.0]))
    >>> column.add(1, np.array([9]), np.array([0.4]), np.array([1.0]))
    >>> column.points().values.tolist()
    [1.0, 2.0]
    """

    def __init__(self) -> None:
        self._steps = np.empty(64, np.int64)
        self._seqs = np.empty(64, np.int64)
        self._times = np.empty(64, np.float64)
        self._values = np.empty(64, np.float64)
        self._size = 0
        self._sorted = True

    @property
    def nbytes(self) -> int:
        """What the arrays take, with the room to grow."""
        return len(self._steps) * BYTES_PER_POINT

    def add(self, seq: int, steps: IntArray, times: FloatArray, values: FloatArray) -> None:
        """Append rows of the segment ``seq``, arrays of shape (n,) in the order in which they were logged."""
        start, end = self._size, self._size + len(steps)
        if end > len(self._steps):
            self._grow(end)
        in_order = bool(np.all(steps[1:] >= steps[:-1])) if len(steps) > 1 else True
        if start and len(steps):
            last, first = (self._steps[start - 1], self._seqs[start - 1]), (steps[0], seq)
            in_order = in_order and last <= first
        self._sorted = self._sorted and in_order
        self._steps[start:end], self._seqs[start:end] = steps, seq
        self._times[start:end], self._values[start:end] = times, values
        self._size = end

    def __len__(self) -> int:
        return self._size

    def points(self) -> Points:
        """All points; the arrays are read-only and stay as they are."""
        if not self._sorted:
            self._sort()
        size = self._size
        return Points(_frozen(self._steps, size), _frozen(self._times, size), _frozen(self._values, size))

    def seqs(self) -> IntArray:
        """The segment of each point, in the order of `points`; read-only."""
        if not self._sorted:
            self._sort()
        return _frozen(self._seqs, self._size)

    def copy(self) -> Column:
        """What is there now, without a copy of the arrays; it stays as it is while the original grows."""
        if not self._sorted:
            self._sort()
        twin = Column.__new__(Column)
        twin.__dict__.update(self.__dict__)
        return twin

    def _sort(self) -> None:
        # lexsort is stable, so rows of one segment with equal steps stay as they were logged.
        order = np.lexsort((self._seqs[: self._size], self._steps[: self._size]))
        for name in ("_steps", "_seqs", "_times", "_values"):
            setattr(self, name, getattr(self, name)[order])
        self._sorted = True

    def _grow(self, needed: int) -> None:
        capacity = max(needed, 2 * len(self._steps))
        for name in ("_steps", "_seqs", "_times", "_values"):
            old = getattr(self, name)
            new = np.empty(capacity, old.dtype)
            new[: self._size] = old[: self._size]
            setattr(self, name, new)


Number = TypeVar("Number", np.int64, np.float64)


def _frozen(array: NDArray[Number], size: int) -> NDArray[Number]:
    view = array[:size]
    view.flags.writeable = False
    return view
