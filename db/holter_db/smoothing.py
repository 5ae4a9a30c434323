"""The exponential moving average of all points of a series, with its bias corrected.

``m_0 = 0``, ``m_i = w m_(i-1) + (1 - w) x_i``, and ``m_i / (1 - w**i)`` is shown: the average with exponential weights
over the points so far, as Adam (Kingma and Ba, 2015, section 3) and TensorBoard correct it. Points that are not finite
are left out: the average goes on behind them as if they had not been.
"""

from __future__ import annotations

import math

import numpy as np

from holter.wire import FloatArray

__all__ = ["Smoother"]

_BLOCK = 64


class Smoother:
    """Feed it a series piece by piece; how it is cut makes no difference beyond rounding.

    >>> Smoother(0.5).feed(np.array([1.0, np.nan, 4.0])).tolist()
    [1.0, 1.0, 3.0]
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._mean = 0.0  # biased
        self._seen = 0
        self._least, self._greatest = math.inf, -math.inf

    def feed(self, values: FloatArray) -> FloatArray:
        """The corrected average behind each value, shape (n,); NaN before the first finite one."""
        finite = np.isfinite(values)
        count = self._seen + np.cumsum(finite)
        means = _average(values[finite], self._weight, self._mean)
        everywhere = np.concatenate([[self._mean], means])[count - self._seen]
        with np.errstate(invalid="ignore", divide="ignore"):
            # 1 - w**n without cancellation
            norm = -np.expm1(count * math.log(self._weight)) if self._weight else (count > 0).astype(np.float64)
            found: FloatArray = np.asarray(everywhere / norm)
        # Rounding may carry an average past equal values, and a chart of a constant would show nothing else.
        low = np.minimum.accumulate(np.append(self._least, np.where(finite, values, np.inf)))[1:]
        high = np.maximum.accumulate(np.append(self._greatest, np.where(finite, values, -np.inf)))[1:]
        known = count > 0
        found[known] = np.clip(found[known], low[known], high[known])
        if len(values):
            self._least, self._greatest = float(low[-1]), float(high[-1])
            self._mean, self._seen = float(everywhere[-1]), int(count[-1])
        return found


def _average(values: FloatArray, weight: float, before: float) -> FloatArray:
    """The biased average behind each value: blocks of `_BLOCK` by one matrix product, their ends by the same rule."""
    count = len(values)
    if count <= _BLOCK:
        return _directly(values, weight, before)
    whole = count // _BLOCK * _BLOCK
    powers = weight ** np.arange(_BLOCK + 1)
    distance = np.subtract.outer(np.arange(_BLOCK), np.arange(_BLOCK))
    kernel = np.where(distance >= 0, (1 - weight) * powers[np.maximum(distance, 0)], 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        inside = values[:whole].reshape(-1, _BLOCK) @ kernel.T
        ends = _ends(inside[:, -1], powers[-1], before)
        inside += np.concatenate([[before], ends[:-1]])[:, None] * powers[1:]
    return np.concatenate([inside.ravel(), _directly(values[whole:], weight, float(ends[-1]))])


def _ends(added: FloatArray, decay: float, before: float) -> FloatArray:
    """``e_i = decay * e_(i-1) + added_i``."""
    ends = np.empty(len(added))
    for place, value in enumerate(added.tolist()):
        before = ends[place] = decay * before + value
    return ends


def _directly(values: FloatArray, weight: float, before: float) -> FloatArray:
    found = np.empty(len(values))
    for place, value in enumerate(values.tolist()):
        before = found[place] = weight * before + (1 - weight) * value
    return found
