"""Smoothness: how far a loss strays from its own rolling median, in its own unit.

1.4826·MAD is the standard deviation of a normal distribution and does not mind single spikes (F. R. Hampel, The
Influence Curve and its Role in Robust Estimation, JASA 69, 1974). It is to be a loss that both sides count in the same
unit: on its own auxiliary loss, one that is ten times smaller looks ten times smoother.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import median_filter

from holter.wire import FloatArray
from holter_server.verdict.criteria import Smoothness
from holter_server.verdict.data import ALL_STATES, Curve, Record, Row, Sides, State, matches
from holter_server.verdict.intervals import Interval, block_indices, blocks_in, hull, paired_t, percentiles
from holter_server.verdict.windows import stage_changes

__all__ = ["BLOCK", "MEDIAN_WINDOW", "residuals", "roughness", "roughness_ratio", "smoothness_rows"]

MEDIAN_WINDOW = 101  # steps
BLOCK = 50  # steps; residuals of neighbours are correlated
SETTLING = 100  # steps after the treatment has entered
MARGIN_OF_STAGES = 50  # steps cut on both sides of a change of stage
STEPS_MIN = 200
MAD_TO_DEVIATION = 1.4826
RESAMPLES = 1_000


def residuals(values: FloatArray) -> FloatArray:
    """Shape (n,): each value less the median of the 101 around it."""
    return np.asarray(values - median_filter(values, size=MEDIAN_WINDOW, mode="nearest"))


def roughness(residual: FloatArray) -> FloatArray:
    """1.4826·MAD along the last axis."""
    centre = np.median(residual, axis=-1, keepdims=True)
    return np.asarray(MAD_TO_DEVIATION * np.median(np.abs(residual - centre), axis=-1))


def roughness_ratio(
    pairs: Sequence[tuple[FloatArray, FloatArray]], seed: int, resamples: int = RESAMPLES
) -> tuple[float, Interval]:
    """Candidate over baseline: geometric mean of the pairs' ratios and its interval.

    The interval is a paired block bootstrap over steps; with 3 pairs or more, its hull with the t-interval over pairs.

    Args:
        pairs: residuals (baseline, candidate) of equal shape (n,), the same steps on both sides.
    """
    logs = np.array([np.log(roughness(new) / roughness(old)) for old, new in pairs])
    drawn = np.zeros(resamples)
    for index, (old, new) in enumerate(pairs):
        at = block_indices(len(old), BLOCK, seed + index, resamples)
        drawn += np.log(roughness(new[at]) / roughness(old[at])) / len(pairs)
    blocks = sum(blocks_in(len(old), BLOCK) for old, _ in pairs)
    whole = hull(percentiles(drawn, blocks), paired_t(logs) if len(pairs) >= 3 else None)
    assert whole is not None
    return float(np.exp(logs.mean())), Interval(float(np.exp(whole.low)), float(np.exp(whole.high)))


def smoothness_rows(criterion: Smoothness, sides: Sides) -> list[Row]:
    """A row for every metric that fits, by name."""
    names = {name for record in sides.everyone for name in record.curves if matches(name, criterion.metrics)}
    return [_row(criterion, name, sides) for name in sorted(names)]


def _row(criterion: Smoothness, name: str, sides: Sides) -> Row:
    pairs, last, entry = sides.pairs(), sides.last, sides.entry
    unpaired = "runs that are paired by seed"
    if pairs is None:
        return Row(criterion.id, "smoothness", name, None, None, None, ALL_STATES, f"needs {unpaired}", needs=unpaired)
    since = (0 if entry is None else entry) + SETTLING
    found = [_common(old, new, name, since, last) for old, new in pairs]
    usable = [pair for pair in found if pair is not None]
    if len(usable) < len(found):
        why = f"fewer than {STEPS_MIN} finite common steps from {since} to {last} that differ from their median"
        needs = f"{STEPS_MIN} or more common steps of {name}"
        return Row(criterion.id, "smoothness", name, None, None, None, ALL_STATES, why, needs=needs)
    ratio, interval = roughness_ratio(usable, sides.seed)
    old, new = (float(np.mean([roughness(pair[side]) for pair in usable])) for side in (0, 1))
    each = ", ".join(f"{float(roughness(b) / roughness(a)):.3f}" for a, b in usable)
    text = (
        f"1.4826·MAD around the rolling median of {MEDIAN_WINDOW}, steps {since} to {last}, "
        f"{len(usable[0][0])} of them: baseline {old:.4g}, candidate {new:.4g}; ratios {each}; "
        f"95 % paired block bootstrap [{interval.low:.3f}, {interval.high:.3f}]; smoother below "
        f"{criterion.smoother:g}, rougher above {criterion.rougher:g}"
    )
    states = _states(interval, criterion)
    needs = "" if len(states) == 1 else "more steps after the treatment has entered, or more seeds"
    return Row(
        criterion.id, "smoothness", name, old, new, ratio, states, text, interval, "ratio", needs=needs
    )  # fmt: skip


def _states(interval: Interval, criterion: Smoothness) -> tuple[State, ...]:
    found: list[State] = []
    if interval.low < criterion.smoother:
        found.append("better")
    if interval.low < criterion.rougher and interval.high > criterion.smoother:
        found.append("equivalent")
    if interval.high > criterion.rougher:
        found.append("worse")
    return tuple(found)


def _common(old: Record, new: Record, name: str, since: int, last: int | None) -> tuple[FloatArray, FloatArray] | None:
    """Residuals of both runs at the steps that both have, stage changes cut out."""
    curves = old.curves.get(name), new.curves.get(name)
    if last is None or curves[0] is None or curves[1] is None:
        return None
    a, b = (_finite(curve.once().until(last)) for curve in curves if curve is not None)
    if min(len(a.steps), len(b.steps)) < STEPS_MIN:
        return None
    ours, theirs = (Curve(each.steps, each.times, residuals(each.values)).since(since) for each in (a, b))
    steps, at_ours, at_theirs = np.intersect1d(ours.steps, theirs.steps, assume_unique=True, return_indices=True)
    changes = np.concatenate([stage_changes(old), stage_changes(new)])
    kept = np.ones(len(steps), dtype=bool)
    for change in changes:
        kept &= np.abs(steps - change) > MARGIN_OF_STAGES
    pair = ours.values[at_ours][kept], theirs.values[at_theirs][kept]
    if len(pair[0]) < STEPS_MIN or min(float(roughness(each)) for each in pair) <= 0:
        return None
    return pair


def _finite(curve: Curve) -> Curve:
    finite = np.isfinite(curve.values)
    return Curve(curve.steps[finite], curve.times[finite], curve.values[finite])
