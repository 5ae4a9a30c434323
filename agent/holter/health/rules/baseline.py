"""A robust baseline of a series: median and MAD of the last 64 accepted points, sealed at fixed counts.

Sealing at fixed counts (every point up to 64, every 16th afterwards) makes a whole block comparable with its
baselines in one vectorised pass, and makes the outcome the same however the points were cut into blocks.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["ACTIVE_FROM", "WINDOW", "Baseline"]

FloatArray = NDArray[np.float64]

WINDOW = 64  # accepted points
ACTIVE_FROM = 10  # accepted points: short runs (13 of 238 real logs have under 30 rows) must not stay unwatched
STRIDE = 16  # accepted points between two seals of a full window
SCALE_FLOOR = 0.01  # on the log scale: a smooth series would make any step look like many deviations
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


class Baseline(msgspec.Struct, array_like=True):
    """Median and robust scale of the accepted points. Suspected points are the caller's to leave out.

    >>> baseline = Baseline()
    >>> for x in [0.0, 0.1] * 10:
    ...     baseline.accept(x)
    >>> baseline.median, round(baseline.scale, 3)
    (0.05, 0.074)
    """

    window: list[float] = []
    accepted: int = 0
    median: float = 0.0
    scale: float = SCALE_FLOOR

    @property
    def active(self) -> bool:
        return self.accepted >= ACTIVE_FROM

    def limit(self, floor: float, deviations: float) -> float:
        """The lowest value that is suspect: above the median by ``floor`` and by ``deviations`` scales, both."""
        return self.median + max(floor, deviations * self.scale) if self.active else math.inf

    def accept(self, x: float) -> None:
        """Take one point in."""
        self.window.append(x)
        if self.accepted >= WINDOW:
            del self.window[:-WINDOW]
        self.accepted += 1
        if self.accepted < WINDOW or self.accepted % STRIDE == 0:
            self._seal()

    def take(self, x: float, floor: float, deviations: float) -> bool:
        """Take in one point unless it is suspect, and say whether it was taken."""
        if self.accepted >= ACTIVE_FROM and x > self.median + max(floor, deviations * self.scale):
            return False
        self.accept(x)
        return True

    def advance(self, x: FloatArray, floor: float, deviations: float) -> int:
        """Take in the points of ``x`` (n,) before the first suspect one, and say how many these were."""
        taken = 0
        while taken < len(x) and self.accepted < WINDOW:
            if x[taken] > self.limit(floor, deviations):
                return taken
            self.accept(float(x[taken]))
            taken += 1
        return taken + self._advance_full(x[taken:], floor, deviations) if taken < len(x) else taken

    def restart(self) -> None:
        """Forget everything: the level has changed for good."""
        self.window, self.accepted, self.median, self.scale = [], 0, 0.0, SCALE_FLOOR

    def _seal(self) -> None:
        # The arithmetic of `_robust`, to the bit, in a quarter of its time for one window.
        ordered = sorted(self.window)
        self.median = median = _middle(ordered)
        deviation = _middle(sorted([abs(x - median) for x in ordered]))  # falls, then rises: soon sorted
        self.scale = max(MAD_TO_DEVIATION * deviation, SCALE_FLOOR)

    def _advance_full(self, x: FloatArray, floor: float, deviations: float) -> int:
        first = STRIDE - self.accepted % STRIDE  # points until the next seal
        if len(x) < first:
            suspects = np.flatnonzero(x > self.limit(floor, deviations))
            n = int(suspects[0]) if len(suspects) else len(x)
            self._take(x[:n])
            return n
        return self._advance_over_seals(x, first, floor, deviations)

    def _advance_over_seals(self, x: FloatArray, first: int, floor: float, deviations: float) -> int:
        """As if no point were suspect: every seal of the block at once, then every comparison at once."""
        medians, scales = _robust(sliding_window_view(np.concatenate([self.window, x]), WINDOW)[first::STRIDE])
        medians = np.concatenate([[self.median], medians])
        scales = np.concatenate([[self.scale], scales])
        segment = (np.arange(len(x)) - first) // STRIDE + 1
        limits = medians + np.maximum(floor, deviations * scales)
        suspects = np.flatnonzero(x > limits[segment])
        n = int(suspects[0]) if len(suspects) else len(x)
        sealed = (n - first) // STRIDE + 1  # by the points taken in; the last point's own seal included
        self.median, self.scale = float(medians[sealed]), float(scales[sealed])
        self._take(x[:n])
        return n

    def _take(self, x: FloatArray) -> None:
        self.window.extend(x[-WINDOW:].tolist())
        del self.window[:-WINDOW]
        self.accepted += len(x)


def _robust(windows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median and scale of each row of ``windows`` (k, w); the scale is 1.4826 MAD, at least `SCALE_FLOOR`."""
    medians = _median(windows)
    deviations = _median(np.abs(windows - medians[:, None]))
    return medians, np.maximum(MAD_TO_DEVIATION * deviations, SCALE_FLOOR)


def _median(rows: FloatArray) -> FloatArray:
    width = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    return np.asarray((ordered[:, (width - 1) // 2] + ordered[:, width // 2]) / 2)


def _middle(ordered: list[float]) -> float:
    width = len(ordered)
    return (ordered[(width - 1) // 2] + ordered[width // 2]) / 2
