"""Intervals and the sample sizes that would decide: 95 % unless said otherwise, seeded, vectorised.

Sources:
    - B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 (blocks) and 13 (percentiles).
    - T. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69 (2015), section 5:
      the percentile interval is too narrow by √((n−1)/n) and by z in place of t; it is expanded here accordingly.
    - H. R. Künsch, The Jackknife and the Bootstrap for General Stationary Observations, Annals of Statistics 17
      (1989): blocks that move, so that what is correlated stays together.
    - B. L. Welch, Biometrika 34 (1947), for two sides whose runs are not paired.
    - J. Cohen, Statistical Power Analysis (1988), chapter 2, for the sample size: (t(1−α/2) + t(power))·s/√n = margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from holter.wire import FloatArray, IntArray

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Interval",
    "block_indices",
    "blocks_in",
    "cluster_bootstrap",
    "examples_needed",
    "hull",
    "paired_t",
    "percentiles",
    "runs_needed",
    "welch_t",
]

LEVEL = 0.95
RESAMPLES = 2_000
POWER = 0.8
RUNS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval around an estimate."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:+.4g}, {self.high:+.4g}]"

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def hull(*intervals: Interval | None) -> Interval | None:
    """The least interval that holds all that are given: each of them allows for another kind of noise."""
    known = [each for each in intervals if each is not None]
    return Interval(min(each.low for each in known), max(each.high for each in known)) if known else None


def paired_t(differences: FloatArray, level: float = LEVEL) -> Interval:
    """mean ± t·s/√n of differences within pairs, shape (n,), n ≥ 2."""
    n = len(differences)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(np.std(differences, ddof=1)) / math.sqrt(n)
    centre = float(np.mean(differences))
    return Interval(centre - half, centre + half)


def welch_t(baseline: FloatArray, candidate: FloatArray, level: float = LEVEL) -> Interval:
    """Of mean(candidate) − mean(baseline), shapes (n,) and (m,), both ≥ 2; the variances may differ."""
    centre = float(np.mean(candidate) - np.mean(baseline))
    a, b = (float(np.var(each, ddof=1)) / len(each) for each in (baseline, candidate))
    if a + b == 0:  # neither side varies
        return Interval(centre, centre)
    freedom = (a + b) ** 2 / (a**2 / (len(baseline) - 1) + b**2 / (len(candidate) - 1))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(a + b)
    return Interval(centre - half, centre + half)


def cluster_bootstrap(
    difference: FloatArray, weight: FloatArray, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Of Σ difference / Σ weight when whole examples are drawn anew, both sides of an example together.

    Args:
        difference: (n,) of what the candidate got right more than the baseline in each example, tokens for instance.
        weight: (n,) of how much there was to get right in it.
    """
    n = len(difference)
    if n < 2:
        return Interval(-math.inf, math.inf)
    at = np.random.default_rng(seed).integers(0, n, size=(resamples, n))  # multinomial() takes five times as long
    drawn = difference[at].sum(axis=1) / weight[at].sum(axis=1)
    return percentiles(drawn, n, level)


def _tail(n: int, level: float) -> float:
    """The probability beyond the quantile of ``n`` draws that stands for t's: less than (1 − level)/2."""
    reach = math.sqrt(n / (n - 1)) * float(stats.t.ppf((1 + level) / 2, n - 1))
    return float(stats.norm.cdf(-reach))


def blocks_in(n: int, block: int) -> int:
    """How many blocks a series of n steps is put together from."""
    return math.ceil(n / max(1, min(block, n)))


def block_indices(n: int, block: int, seed: int, resamples: int = RESAMPLES) -> IntArray:
    """Indices of n consecutive steps when blocks of them are drawn anew, shape (resamples, n).

    Both sides of a pair are to be read at the same indices: they saw the same data at the same step.
    """
    block = max(1, min(block, n))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - block + 1, size=(resamples, blocks_in(n, block)))
    return np.asarray((starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :n])


def percentiles(drawn: FloatArray, n: int, level: float = LEVEL) -> Interval:
    """The percentile interval of a statistic that was drawn anew, expanded for the number of units drawn.

    Args:
        drawn: (resamples,).
        n: how many examples or blocks each of them consists of, at least 2: with few, the interval is too narrow.
    """
    tail = _tail(max(n, 2), level)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high))


def runs_needed(deviation: float, margin: float) -> int | None:
    """Pairs of runs with which a difference of ``margin`` is found in 80 %; None: more than 1,000, or no margin."""
    if margin <= 0 or not math.isfinite(deviation):
        return None
    for n in range(3, RUNS_MAX + 1):
        quantiles = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) + stats.t.ppf(POWER, n - 1))
        if quantiles * deviation / math.sqrt(n) <= margin:
            return n
    return None


def examples_needed(half: float, n: int, margin: float) -> int | None:
    """Examples with which a difference of ``margin`` is found in 80 %, where n gave an interval ± ``half``."""
    if margin <= 0 or not math.isfinite(half):
        return None
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))
    return math.ceil(n * ((quantile + float(stats.norm.ppf(POWER))) / quantile * half / margin) ** 2)
