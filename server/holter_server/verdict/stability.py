"""Stability, lexicographic: what breaks a training counts before what shakes it, and each only on common steps.

1. Terminal: losses or gradient norm are non-finite to the end (kind C).
2. Explosion: a limit is exceeded by the medians of 3 windows of 100 steps in a row.
3. Non-finite values from which the run came back (kinds A and B).
4. The share of steps whose gradient norm is above a limit.
5. Spikes of the reference loss: more than 6 robust standard deviations above the trailing median of 101 steps; both
   sides had the same steps, so how they fall is a fair coin (C. J. Clopper, E. S. Pearson, Biometrika 26, 1934).

The first level on which the sides differ decides. Levels 4 and 5 decide at 99 %, so that two looks stay within 5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

from holter.health.roles import Role, role_of
from holter.wire import FloatArray, IntArray
from holter_server.verdict.criteria import Stability
from holter_server.verdict.data import ALL_STATES, Curve, Record, Row, Sides, State, matches
from holter_server.verdict.intervals import Interval, block_indices, blocks_in, percentiles
from holter_server.verdict.windows import sustained, window_medians

__all__ = ["EXPLODED", "spikes", "stability_rows", "terminal"]

TERMINAL = "terminal non-finite"
EXPLODED = "explosion"
WINDOWS = 3
TRAILING = 101  # steps
SPIKE_DEVIATIONS = 6.0
ALPHA = 0.01
SHARE_MARGIN = 0.01
RESAMPLES = 1_000
BLOCK = 50
DEAD_STEPS = 3
_SIGNALS = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.GRAD_NORM)


@dataclass(frozen=True, slots=True)
class _Level:
    metric: str
    baseline: float | None
    candidate: float | None
    states: tuple[State, ...]
    arithmetic: str
    interval: Interval | None = None


def stability_rows(criterion: Stability, sides: Sides) -> list[Row]:
    """One row a level; those after the one that decides are shown and called equivalent for the tree's sake."""
    last = sides.last
    if last is None or not all(_signals(record) for record in sides.everyone):
        why = "a run logs neither loss nor gradient norm" if last is not None else "there is no common step"
        needs = "losses and gradient norms of every run"
        return [Row(criterion.id, "stability", TERMINAL, None, None, None, ALL_STATES, why, needs=needs)]
    levels = [
        _counted(TERMINAL, lambda record: terminal(record, last), sides),
        _explosions(criterion, sides, last),
        _counted("passing non-finite", lambda record: _passing(record, last), sides),
    ]
    if criterion.grad_norm_above is not None:
        levels.append(_grad_norms(criterion.grad_norm_above, sides, last))
    levels.append(_spikes(criterion, sides, last))
    return _lexicographic(criterion.id, levels)


def _lexicographic(criterion: str, levels: Sequence[_Level]) -> list[Row]:
    rows, decided = [], ""
    for level in levels:
        states, why = level.states, level.arithmetic
        if decided and states != ("equivalent",):
            why += f"; shown only: {decided} decides before it"
            states = ("equivalent",)
        elif states != ("equivalent",):
            decided = level.metric
        difference = None if level.baseline is None or level.candidate is None else level.candidate - level.baseline
        needs = "" if len(states) == 1 else "more runs a side"
        rows.append(
            Row(criterion, "stability", level.metric, level.baseline, level.candidate, difference, states, why,
                level.interval, needs=needs)
        )  # fmt: skip
    return rows


def _signals(record: Record) -> list[str]:
    return [name for name in record.curves if role_of(name) in _SIGNALS]


def terminal(record: Record, last: int) -> str:
    """Where a run ended in non-finite values for good, up to a step; nothing where it did not."""
    for trouble in record.troubles:
        if trouble.terminal and trouble.step is not None and trouble.step <= last:
            return f"{trouble.metric} at step {trouble.step}"
    for name in sorted(_signals(record), key=lambda name: role_of(name) is not Role.GRAD_NORM):
        if role_of(name) not in (Role.LOSS, Role.GRAD_NORM):
            continue
        curve = record.curves[name].until(last)
        dead = len(curve.values) - _after_last_finite(curve.values)
        grad = [each for each in record.curves if role_of(each) is Role.GRAD_NORM]
        # A loss may be infinite where the gradient is finite, and the training goes on (kind A).
        alive = role_of(name) is Role.LOSS and any(
            np.isfinite(record.curves[each].until(last).values[-1:]).any() for each in grad
        )
        if dead >= DEAD_STEPS and not alive:
            return f"{name} from step {int(curve.steps[-dead])} to the end"
    return ""


def _after_last_finite(values: FloatArray) -> int:
    finite = np.flatnonzero(np.isfinite(values))
    return int(finite[-1]) + 1 if len(finite) else 0


def _passing(record: Record, last: int) -> str:
    if terminal(record, last):
        return ""
    for name in _signals(record):
        curve = record.curves[name].until(last)
        odd = np.flatnonzero(~np.isfinite(curve.values))
        if len(odd):
            return f"{len(odd)} steps of {name} from {int(curve.steps[odd[0]])}"
    return ""


def _counted(metric: str, found_in: Callable[[Record], str], sides: Sides) -> _Level:
    """A level that counts runs; one side differs when at its rate the other one would have shown it, too."""
    hits = [[(record.id, text) for record in side if (text := found_in(record))] for side in sides.both]
    old, new = (len(found) for found in hits)
    sizes = len(sides.baseline), len(sides.candidate)
    listed = [
        f"{side} {len(found)} of {size} run(s)" + "".join(f" ({run}: {text})" for run, text in found)
        for side, found, size in zip(("baseline", "candidate"), hits, sizes, strict=True)
    ]
    text = "; ".join(listed)
    if not old and not new:
        return _Level(metric, 0.0, 0.0, ("equivalent",), text)
    if old and new:
        share = old / sizes[0], new / sizes[1]
        states: tuple[State, ...] = ("equivalent",) if share[0] == share[1] else ("better", "equivalent", "worse")
        return _Level(metric, float(old), float(new), states, f"{text}; both sides have it")
    failed, affected, clean = (new, sizes[1], sizes[0]) if new else (old, sizes[0], sizes[1])
    expected = failed / affected * clean
    state: State = "worse" if new else "better"
    if expected < 1:
        why = f"{text}; at that rate {expected:.2g} of the other side's runs would have had it"
        return _Level(metric, float(old), float(new), ("equivalent", state), why)
    return _Level(metric, float(old), float(new), (state,), f"{text}; only one side has it")


def _explosions(criterion: Stability, sides: Sides, last: int) -> _Level:
    level = _reference_level(criterion, sides.baseline, last)

    def exploded(record: Record) -> str:
        for globs, limit in ((criterion.total, criterion.total_above), (criterion.weighted, criterion.weighted_above)):
            for name in (name for name in sorted(record.curves) if matches(name, globs)):
                if limit is not None and (at := _above(record.curves[name].until(last), limit)) is not None:
                    return f"{name} above {limit:g} from step {at}"
        for name in (name for name in sorted(record.curves) if matches(name, criterion.reference)):
            if criterion.reference_above is not None and level is not None:
                steps, medians = window_medians(record.curves[name].until(last))
                over = medians > np.interp(steps, level[0], level[1]) + criterion.reference_above
                if (first := sustained(over, WINDOWS)) is not None:
                    return f"{name} more than {criterion.reference_above:g} over the baseline from step {steps[first]}"
        return ""

    return _counted(EXPLODED, exploded, sides)


def _above(curve: Curve, limit: float) -> int | None:
    steps, medians = window_medians(curve)
    first = sustained(medians > limit, WINDOWS)
    return None if first is None else int(steps[first])


def _reference_level(criterion: Stability, baseline: Sequence[Record], last: int) -> tuple[IntArray, FloatArray] | None:
    """The baseline's median reference loss in each window."""
    found = [
        window_medians(record.curves[name].until(last))
        for record in baseline
        for name in record.curves
        if matches(name, criterion.reference)
    ]
    found = [each for each in found if len(each[0])]
    if not found:
        return None
    steps = max((each[0] for each in found), key=len)
    return steps, np.median([np.interp(steps, *each) for each in found], axis=0)


def _grad_norms(limit: float, sides: Sides, last: int) -> _Level:
    metric = f"share of steps with gradient norm > {limit:g}"
    found = [[_over(record, limit, last, sides.entry) for record in side] for side in sides.both]
    if any(flags is None for side in found for flags in side):
        return _Level(metric, None, None, ("equivalent",), "not every run logs a gradient norm; not judged")
    old, new = ([flags for flags in side if flags is not None] for side in found)
    shares = [float(np.mean([flags.mean() for flags in side])) for side in (old, new)]
    drawn = np.zeros(RESAMPLES)
    for number, (flags, sign, size) in enumerate(
        [*((each, -1.0, len(old)) for each in old), *((each, 1.0, len(new)) for each in new)]
    ):
        drawn += sign * flags[block_indices(len(flags), BLOCK, sides.seed + number, RESAMPLES)].mean(axis=-1) / size
    blocks = min(sum(blocks_in(len(flags), BLOCK) for flags in side) for side in (old, new))
    interval = percentiles(drawn, blocks, 1 - ALPHA)
    difference = shares[1] - shares[0]
    text = f"baseline {shares[0]:.2%}, candidate {shares[1]:.2%}; difference {difference:+.2%}, 99 % block bootstrap "
    text += f"[{interval.low:+.2%}, {interval.high:+.2%}]; it takes {SHARE_MARGIN:.0%} and an interval without 0"
    state: State = "equivalent"
    if abs(difference) >= SHARE_MARGIN and (interval.low > 0 or interval.high < 0):
        state = "worse" if difference > 0 else "better"
    return _Level(metric, shares[0], shares[1], (state,), text, interval)


def _over(record: Record, limit: float, last: int, entry: int | None) -> FloatArray | None:
    for name in sorted(record.curves):
        if role_of(name) is Role.GRAD_NORM:
            curve = record.curves[name].once().until(last).since(entry or 0)
            if len(curve.values):
                return np.asarray(~(curve.values <= limit), dtype=float)  # NaN is not below it
    return None


def spikes(values: FloatArray) -> IntArray:
    """Indices at which a value lies more than 6 robust standard deviations above the trailing median of 101."""
    if len(values) <= TRAILING:
        return np.empty(0, dtype=np.int64)
    before = np.median(sliding_window_view(values[:-1], TRAILING), axis=-1)
    residual = values[TRAILING:] - before
    centre = np.median(residual)
    deviation = 1.4826 * np.median(np.abs(residual - centre))
    return np.flatnonzero(residual - centre > SPIKE_DEVIATIONS * deviation) + TRAILING if deviation > 0 else np.empty(
        0, dtype=np.int64
    )  # fmt: skip


def _spikes(criterion: Stability, sides: Sides, last: int) -> _Level:
    counts = [[_spiked(record, criterion, last, sides.entry) for record in side] for side in sides.both]
    if any(found is None for side in counts for found in side):
        why = "not every run has the loss, or 200 steps of it; not judged"
        return _Level("spikes", None, None, ("equivalent",), why)
    (old, exposed_old), (new, exposed_new) = (
        tuple(np.sum([found for found in side if found is not None], axis=0)) for side in counts
    )
    # Spikes within 50 steps of one another are one event, or a single rough stretch would pass for many.
    share = exposed_new / (exposed_old + exposed_new)
    total = int(old + new)
    p = float(stats.binomtest(int(new), total, share).pvalue) if total else 1.0
    text = f"baseline {int(old)} in {int(exposed_old):,} steps, candidate {int(new)} in {int(exposed_new):,}; "
    text += f"exact binomial p = {p:.3g}, it takes {ALPHA:g}"
    state: State = "equivalent"
    if p < ALPHA:
        state = "worse" if new / max(exposed_new, 1) > old / max(exposed_old, 1) else "better"
    return _Level("spikes", float(old), float(new), (state,), text)


def _spiked(record: Record, criterion: Stability, last: int, entry: int | None) -> tuple[int, int] | None:
    """(spikes, steps looked at) of the reference loss, or of the loss as a whole."""
    names = [name for name in sorted(record.curves) if matches(name, criterion.reference)]
    names = names or [name for name in sorted(record.curves) if role_of(name) is Role.LOSS]
    if not names:
        return None
    curve = record.curves[names[0]].once().until(last).since(entry or 0)
    values = curve.values[np.isfinite(curve.values)]
    if len(values) < 2 * TRAILING:
        return None
    at = spikes(values)
    events = int(np.count_nonzero(np.diff(at, prepend=-10 * BLOCK) > BLOCK))
    return events, len(values) - TRAILING
