"""Rows of values: the mean of a metric's last ones, with intervals over seeds and over examples.

Two kinds of noise are told apart. Another seed would have given other runs: with 3 pairs of runs or more, a t-interval
over the differences within pairs. Other examples would have given other scores: where the runs kept what each example
came to, a bootstrap over examples, both sides of one together. With both, the interval is the hull of the two, and with
fewer runs nothing is claimed of runs that were not made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from holter.health.roles import Role, role_of
from holter.wire import FloatArray
from holter_server.verdict.criteria import Value
from holter_server.verdict.data import ALL_STATES, Record, Row, Sides, State, matches, states_of
from holter_server.verdict.intervals import (
    Interval,
    cluster_bootstrap,
    examples_needed,
    hull,
    paired_t,
    runs_needed,
    welch_t,
)

__all__ = ["value_rows"]

_LOWER_IS_BETTER = ("ppl", "perplexity", "wer", "cer", "fid", "loss", "error", "mae", "rmse", "mse")
_LOSSES = (Role.LOSS, Role.COMPONENT, Role.VAL_LOSS, Role.WEIGHTED)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One metric of both sides, turned so that a gain is positive."""

    sign: float
    margin: float
    estimate: float
    seeds: Interval | None
    examples: Interval | None
    pairs: int
    n_examples: int
    deviation: float


def value_rows(criterion: Value, sides: Sides) -> list[Row]:
    """A row for every metric that fits a glob or, where none does, the first role that any metric has; by name."""
    names = {name for record in sides.everyone for name in record.curves}
    wanted = {name for name in names if matches(name, criterion.metrics)}
    for role in criterion.roles:
        if not wanted:
            wanted = {name for name in names if role_of(name) == role}
    return [_row(criterion, name, sides) for name in sorted(wanted)]


def _row(criterion: Value, name: str, sides: Sides) -> Row:
    count, last, seeds = criterion.last, sides.last, sides.seeds
    old, new = ([_end(record, name, last, count) for record in side] for side in sides.both)
    a, b = _mean(old), _mean(new)
    text = f"mean of the last {count} values up to step {last}: baseline {_shown(old)}, candidate {_shown(new)}"

    def row(states: tuple[State, ...], why: str, interval: Interval | None = None, needs: str = "") -> Row:
        difference = None if a is None or b is None else b - a
        return Row(criterion.id, "value", name, a, b, difference, states, f"{text}; {why}", interval, needs=needs)

    if a is None or b is None:
        return row(ALL_STATES, "not every run has it", needs=f"{count} values of {name} in every run")
    if not (math.isfinite(a) and math.isfinite(b)):
        broken: tuple[State, ...] = ("worse",) if math.isfinite(a) else ("better",) if math.isfinite(b) else ALL_STATES
        return row(broken if criterion.better != "none" else ALL_STATES, "a value is not finite")
    text += f"; difference {b - a:+.6g}"
    sign, margin = _direction(criterion, name, a)
    found = _measure(name, sides, count, sign, margin)
    enough = found.pairs >= seeds
    decisive = hull(found.seeds, found.examples) if found.pairs >= 3 else found.examples if enough else None
    if decisive is None and enough:
        decisive = found.seeds
    why = _explained(found, seeds)
    shown = _turned(decisive or found.examples or found.seeds, sign)
    if criterion.better == "none":
        return row(ALL_STATES, f"{why}; shown, not judged: its unit may differ with the config", shown)
    if decisive is not None and decisive.low == decisive.high and found.n_examples == 0:
        return row(ALL_STATES, f"{why}; the runs don't differ at all, so they say nothing of noise", shown)
    states = states_of(found.estimate, decisive, margin)
    needs = "" if len(states) == 1 else _needs(found, seeds)
    return row(states, f"{why}; margin {margin:.4g}", shown, needs)


def _direction(criterion: Value, name: str, baseline: float) -> tuple[float, float]:
    """(+1 where higher is better, else −1; the margin in the metric's own unit)."""
    if criterion.better != "auto":
        return (-1.0 if criterion.better == "lower" else 1.0), criterion.margin
    lower = role_of(name) in _LOSSES or any(word in name.lower().split("/")[-1] for word in _LOWER_IS_BETTER)
    return (-1.0, criterion.margin * abs(baseline)) if lower else (1.0, criterion.margin)


def _end(record: Record, name: str, last: int | None, count: int) -> float | None:
    curve = record.curves.get(name)
    if curve is None or last is None or len(values := curve.until(last).values[-count:]) < count:
        return None
    return float(np.mean(values)) if np.isfinite(values).all() else math.nan


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _shown(values: Sequence[float | None]) -> str:
    shown = ", ".join("none" if value is None else f"{value:.6g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"


def _measure(name: str, sides: Sides, count: int, sign: float, margin: float) -> _Measured:
    baseline, candidate = sides.both

    def ends(records: Sequence[Record]) -> FloatArray:
        return np.array([_end(record, name, sides.last, count) for record in records], dtype=float)

    pairs = sides.pairs()
    least = min(len(baseline), len(candidate))
    over_seeds, deviation = None, math.nan
    if pairs is not None and len(pairs) >= 3:
        differences = sign * (ends([new for _, new in pairs]) - ends([old for old, _ in pairs]))
        over_seeds, deviation = paired_t(differences), float(np.std(differences, ddof=1))
    elif pairs is None and least >= 3:
        old, new = ends(baseline), ends(candidate)
        over_seeds = welch_t(sign * old, sign * new)
        deviation = math.sqrt(float(np.var(old, ddof=1) + np.var(new, ddof=1)))
    estimate = sign * (float(ends(candidate).mean()) - float(ends(baseline).mean()))
    per_example = _examples(name, sides, count)
    over_examples, n = None, 0
    if per_example is not None:
        weight, difference = per_example
        over_examples, n = cluster_bootstrap(sign * difference, weight, sides.seed), len(weight)
    return _Measured(sign, margin, estimate, over_seeds, over_examples, least, n, deviation)


def _examples(name: str, sides: Sides, count: int) -> tuple[FloatArray, FloatArray] | None:
    """(weights, gains) of the examples, (n,), means over runs; None unless all runs kept the same examples."""
    means = []
    weights = None
    for side in sides.both:
        scores = []
        for record in side:
            kept = record.evaluations.get(name, {})
            steps = sorted(step for step in kept if sides.last is not None and step <= sides.last)[-count:]
            if len(steps) < count:
                return None
            for step in steps:
                weights = kept[step].weight if weights is None else weights
                if not np.array_equal(weights, kept[step].weight):
                    return None
                scores.append(kept[step].score)
        means.append(np.mean(scores, axis=0))
    return None if weights is None else (weights, means[1] - means[0])


def _turned(interval: Interval | None, sign: float) -> Interval | None:
    if interval is None or sign > 0:
        return interval
    return Interval(-interval.high, -interval.low)


def _explained(found: _Measured, seeds: int) -> str:
    parts = []
    if found.seeds is not None:
        parts.append(f"95 % t-interval over {found.pairs} runs a side {_turned(found.seeds, found.sign)}")
    if found.examples is not None:
        parts.append(f"95 % bootstrap over {found.n_examples} examples {_turned(found.examples, found.sign)}")
    if found.pairs < max(seeds, 3):
        parts.append(f"run-to-run noise is unknown from {found.pairs} run(s) a side")
    return "; ".join(parts)


def _needs(found: _Measured, seeds: int) -> str:
    """The numbers of runs and examples with which a difference of the margin would be found in 80 %."""
    if found.pairs < seeds:
        return f"{seeds} or more runs a side with the same seeds"
    parts = []
    if found.seeds is not None:
        runs = runs_needed(found.deviation, found.margin)
        if runs is None or runs > found.pairs:
            parts.append("more than 1,000 runs a side" if runs is None else f"{runs} runs a side")
    if found.examples is not None:
        examples = examples_needed(found.examples.half, found.n_examples, found.margin)
        if examples is not None and examples > found.n_examples:
            parts.append(f"{examples:,} evaluation examples")
    return " and ".join(parts) or f"{found.pairs + 1} or more runs a side"
