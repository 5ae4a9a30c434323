"""Which points of a series a chart of some pixels needs: pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holter.wire import FloatArray, IntArray

__all__ = ["bucket_of", "select"]


def bucket_of(x: NDArray[np.float64], low: float, high: float, width: int) -> IntArray:
    """The bucket, 0 … width-1, of every x: ``floor((x - low) / (high - low) * width)``, cut to that range.

    It never falls where x rises. An x that is not finite belongs to the nearest end; NaN to the last bucket.
    """
    if not high > low:
        return np.zeros(len(x), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (x - low) / (high - low) * width
    return np.clip(np.nan_to_num(scaled, nan=width, posinf=width, neginf=0), 0, width - 1).astype(np.int64)


def select(x: NDArray[np.float64], values: FloatArray, low: float, high: float, width: int) -> IntArray:
    """Indices, ascending, of the points that a chart ``width`` buckets wide must show.

    Contract: of every bucket its first and last point, its first least and first greatest finite value, and every
    non-finite point. A series of at most ``width`` points is kept whole. Equal questions have equal answers.

    Args:
        x: shape (n,), ascending; NaN last.
        values: shape (n,).
        low, high: the x where the first bucket begins and the last one ends.
    """
    if len(x) <= width:
        return np.arange(len(x), dtype=np.int64)
    bucket = bucket_of(x, low, high, width)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    finite = np.isfinite(values)
    kept = np.zeros(len(x), np.bool_)
    kept[starts] = True
    kept[np.append(starts[1:], len(x)) - 1] = True
    kept |= ~finite
    kept[_first_extremes(np.where(finite, values, np.inf), starts, np.minimum)] = True
    kept[_first_extremes(np.where(finite, values, -np.inf), starts, np.maximum)] = True
    return np.flatnonzero(kept)


def _first_extremes(values: FloatArray, starts: IntArray, choose: np.ufunc) -> IntArray:
    """The index of the first extreme of every run of points that begins at ``starts``."""
    lengths = np.diff(starts, append=len(values))
    extreme = np.repeat(choose.reduceat(values, starts), lengths)
    hits = np.flatnonzero(values == extreme)
    owner = np.repeat(np.arange(len(starts)), lengths)[hits]
    first: IntArray = hits[np.flatnonzero(np.diff(owner, prepend=-1))]
    return first
