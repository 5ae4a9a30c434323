"""A robust baseline of a series: the level of its newest accepted points and their noise, sealed at fixed counts.

Sealing at fixed counts (every point up to 64; afterwards every 4th for the level, every 16th for the noise) makes a
whole block comparable with its baselines in one vectorised pass, and makes the outcome the same however the points were
cut into blocks.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["ACTIVE_FROM", "MAD_TO_DEVIATION", "WINDOW", "Baseline", "median", "medians", "noise"]

FloatArray = NDArray[np.float64]

WINDOW = 64  # accepted points that the noise is taken from
LOCAL = 16  # of these, the newest, that the level is taken from: a falling loss is not compared with its past
ACTIVE_FROM = 10  # accepted points: short runs (13 of 238 real logs have under 30 rows) must not stay unwatched
STRIDE = 4  # accepted points between two seals of a full window's level
NOISE_STRIDE = 16  # the same for its noise, which changes less and costs more
SCALE_FLOOR = 0.005  # on the log scale: a smooth series would make any step look like many deviations
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
SMALL = 64  # points that are faster sealed one window at a time than all windows at once


class Baseline(msgspec.Struct, array_like=True):
    """Level and robust scale of the accepted points. Suspected points are the caller's to leave out.

    The scale is the larger of two estimates: the median step from one point to the next, over √2, which no trend
    enters, and the MAD around the level, which sees a slow wandering that the steps don't.

    >>> baseline = Baseline()
    >>> for x in [0.0, 0.1] * 10:
    ...     _ = baseline.accept(x)
    >>> baseline.level, round(baseline.scale, 3)
    (0.05, 0.105)
    """

    window: list[float] = []
    accepted: int = 0
    level: float = 0.0
    scale: float = SCALE_FLOOR
    noise: float = 0.0

    @property
    def active(self) -> bool:
        return self.accepted >= ACTIVE_FROM

    def limit(self, floor: float, deviations: float) -> float:
        """The lowest value that is suspect: above the level by ``floor`` and by ``deviations`` scales, both."""
        return self.level + max(floor, deviations * self.scale) if self.active else math.inf

    def accept(self, x: float) -> bool:
        """Take one point in; says whether the limits may have changed."""
        window = self.window
        window.append(x)
        if len(window) > WINDOW:
            del window[0]
        self.accepted += 1
        if self.accepted < WINDOW or self.accepted % STRIDE == 0:
            self._seal()
            return True
        return False

    def until_seal(self) -> int:
        """How many points can be taken in before the limits change."""
        return 1 if self.accepted < WINDOW else STRIDE - self.accepted % STRIDE

    def extend(self, points: list[float]) -> None:
        """Take in points, at most `until_seal` of them."""
        window = self.window
        window += points
        if len(window) > WINDOW:
            del window[:-WINDOW]
        self.accepted += len(points)
        if self.accepted < WINDOW or self.accepted % STRIDE == 0:
            self._seal()

    def advance(self, x: FloatArray, floor: float, deviations: float) -> int:
        """Take in the points of ``x`` (n,) before the first suspect one, and say how many these were."""
        taken = 0
        while taken < len(x) and self.accepted < WINDOW:
            if x[taken] > self.limit(floor, deviations):
                return taken
            self.accept(float(x[taken]))
            taken += 1
        while taken < len(x):
            rest = x[taken:]
            first = STRIDE - self.accepted % STRIDE  # points until the next seal
            if len(rest) > SMALL:
                return taken + self._advance_over_seals(rest, first, floor, deviations)
            n = self._advance_to_seal(rest[:first], floor, deviations)
            taken += n
            if n < min(first, len(rest)):
                return taken
        return taken

    def restart(self) -> None:
        """Forget everything: the level has changed for good."""
        self.window, self.accepted, self.level, self.scale, self.noise = [], 0, 0.0, SCALE_FLOOR, 0.0

    def _seal(self) -> None:
        local = self.window[-LOCAL:]
        self.level = median(local)
        around = median([abs(x - self.level) for x in local])
        if self.accepted < WINDOW or self.accepted % NOISE_STRIDE == 0:
            self.noise = noise(self.window)
        self.scale = max(MAD_TO_DEVIATION * max(around, self.noise), SCALE_FLOOR)

    def _advance_to_seal(self, x: FloatArray, floor: float, deviations: float) -> int:
        suspects = np.flatnonzero(x > self.limit(floor, deviations))
        n = int(suspects[0]) if len(suspects) else len(x)
        self._take(x[:n])
        if n and self.accepted % STRIDE == 0:
            self._seal()
        return n

    def _advance_over_seals(self, x: FloatArray, first: int, floor: float, deviations: float) -> int:
        """As if no point were suspect: every seal of the block at once, then every comparison at once."""
        points = np.concatenate([self.window, x])
        counts = np.arange(first, len(x) + 1, STRIDE)  # points taken in before each seal
        levels, around = _levels(sliding_window_view(points, LOCAL)[counts + len(self.window) - LOCAL])
        noises = self._noises(points, counts)
        scales = np.maximum(MAD_TO_DEVIATION * np.maximum(around, noises[1:]), SCALE_FLOOR)
        levels = np.concatenate([[self.level], levels])
        scales = np.concatenate([[self.scale], scales])
        segment = (np.arange(len(x)) - first) // STRIDE + 1
        limits = levels + np.maximum(floor, deviations * scales)
        suspects = np.flatnonzero(x > limits[segment])
        n = int(suspects[0]) if len(suspects) else len(x)
        sealed = (n - first) // STRIDE + 1  # by the points taken in; the last point's own seal included
        self.level, self.scale, self.noise = float(levels[sealed]), float(scales[sealed]), float(noises[sealed])
        self._take(x[:n])
        return n

    def _noises(self, points: FloatArray, counts: NDArray[np.intp]) -> FloatArray:
        """The noise as it is known now and at each seal."""
        fresh = (self.accepted + counts) % NOISE_STRIDE == 0
        windows = sliding_window_view(points, WINDOW)[counts[fresh] + len(self.window) - WINDOW]
        steps = medians(np.abs(np.diff(windows, axis=1))) / math.sqrt(2)
        known = np.concatenate([[self.noise], steps])
        return np.asarray(known[np.concatenate([[0], np.cumsum(fresh)])])

    def _take(self, x: FloatArray) -> None:
        self.window.extend(x[-WINDOW:].tolist())
        del self.window[:-WINDOW]
        self.accepted += len(x)


def median(values: list[float]) -> float:
    """The median of at least one value, by the same operations as `medians`."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def medians(rows: FloatArray) -> FloatArray:
    """The median of each row of ``rows`` (k, n)."""
    width = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    return np.asarray((ordered[:, (width - 1) // 2] + ordered[:, width // 2]) / 2)


def noise(window: list[float]) -> float:
    """Median step from one point to the next, over √2: times `MAD_TO_DEVIATION` a deviation, whatever the trend."""
    steps = [abs(after - before) for before, after in pairwise(window)]
    return median(steps) / math.sqrt(2) if steps else 0.0


def _levels(windows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median of each row of ``windows`` (k, 16), and the median distance from it."""
    levels = medians(windows)
    return levels, medians(np.abs(windows - levels[:, None]))
