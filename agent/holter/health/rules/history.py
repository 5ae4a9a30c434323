"""A whole series in at most 64 means: the past of a run in constant memory, however long it gets."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from holter.health.rules.baseline import MAD_TO_DEVIATION, median, noise
from holter.health.rules.contract import FEW, FloatArray

__all__ = ["BUCKETS", "History"]

BUCKETS = 64
LOOK = BUCKETS * 3 // 4
MEDIAN_ERROR = 1.2533  # standard error of a median, in standard errors of a mean (normal distribution)


class History(msgspec.Struct, array_like=True):
    """Means of `size` points each, from the first point on; when there are 64, pairs of them are merged.

    >>> history = History()
    >>> history.fill(np.arange(100.0))
    [47, 63, 95]
    >>> history.size, len(history.means), history.means[:2]
    (2, 50, [0.5, 2.5])
    """

    means: list[float] = []
    size: int = 1
    sum: float = 0.0  # of the bucket that is being filled
    filled: int = 0

    def until_look(self) -> int:
        """Points until the next look: when three quarters of the buckets are full, or all of them."""
        if len(self.means) == BUCKETS:
            self._merge()
        target = BUCKETS if len(self.means) >= LOOK else LOOK
        return (target - len(self.means)) * self.size - self.filled

    def add(self, x: FloatArray) -> None:
        """Take in the points ``x`` (n,), at most `until_look` of them."""
        if len(self.means) == BUCKETS:
            self._merge()
        if len(x) <= FEW:
            self._add_each(x.tolist())
            return
        # A running sum point by point, so that it does not depend on how the points were cut into blocks.
        start = 0
        while start < len(x):
            part = x[start : start + self.size - self.filled]
            self.sum = float(np.cumsum(np.concatenate([[self.sum], part]))[-1])
            self.filled += len(part)
            start += len(part)
            if self.filled == self.size:
                self.means.append(self.sum / self.size)
                self.sum, self.filled = 0.0, 0

    def _add_each(self, points: list[float]) -> None:
        """As `add`, without what a block costs."""
        for point in points:
            self.sum += point
            self.filled += 1
            if self.filled == self.size:
                self.means.append(self.sum / self.size)
                self.sum, self.filled = 0.0, 0

    def fill(self, x: FloatArray) -> list[int]:
        """Take in any number of points; returns the indices at which there was a look."""
        looks, start = [], 0
        while start < len(x):
            stop = start + self.until_look()
            self.add(x[start:stop])
            if stop <= len(x):
                looks.append(stop - 1)
            start = stop
        return looks

    def quarter(self, number: int) -> float:
        """The median of a quarter of the run so far; 0 is the first, 3 the newest."""
        n = len(self.means) // 4
        return median(self.means[number * n : (number + 1) * n] if number < 3 else self.means[-n:])

    def deviation(self) -> float:
        """Of the buckets' means, from the steps between them, which no trend enters."""
        return MAD_TO_DEVIATION * noise(self.means)

    def quarter_error(self) -> float:
        """The standard error of the difference of two quarters."""
        return MEDIAN_ERROR * self.deviation() * math.sqrt(2 / (len(self.means) // 4))

    def _merge(self) -> None:
        pairs = zip(self.means[::2], self.means[1::2], strict=True)
        self.means, self.size = [(first + second) / 2 for first, second in pairs], 2 * self.size
