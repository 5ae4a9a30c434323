"""Rows of numbers: accuracy, loss, speed, memory. A winner is named only where the numbers alone can name one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Literal

import numpy as np

from holter.health.roles import Role, role_of
from holter.wire import FloatArray
from holter_server.compare_data import Curve, Record, Row, Winner

__all__ = ["T_QUANTILES", "memory_rows", "quality_rows", "speed_row"]

# Student's t, 97.5 % quantile for 1 to 19 degrees of freedom: the table of the NIST/SEMATECH e-Handbook of
# Statistical Methods, section 1.3.6.7.2.
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
LAST_VALUES = 3
WARM_UP = 50  # steps: compilation, allocation, caches
STEPS_MIN = 10
MUCH_SLOWER = 20.0  # percent: the plan's own threshold
MEMORY_SHARE, MEMORY_GB = 0.05, 0.1
STEP_TIME = "perf/step_time"
_KINDS: dict[Role, Literal["accuracy", "loss"]] = {
    Role.ACCURACY: "accuracy",
    Role.LOSS: "loss",
    Role.COMPONENT: "loss",
    Role.VAL_LOSS: "loss",
}
_LOWER_IS_BETTER = ("ppl", "perplexity", "wer", "cer", "fid")
_MACHINE = ("host", "platform", "cpus", "torch")


def quality_rows(
    baseline: Sequence[Record], candidate: Sequence[Record], last: int | None, matches: Callable[[str], bool]
) -> list[Row]:
    """Mean of the last 3 values at or before the common last step, for every accuracy and loss; accuracies first."""
    names = {name for record in (*baseline, *candidate) for name in record.curves}
    wanted = [name for name in names if role_of(name) in _KINDS and matches(name)]
    ordered = sorted(wanted, key=lambda name: (_KINDS[role_of(name)], name))
    return [_quality(name, baseline, candidate, last) for name in ordered]


def _quality(name: str, baseline: Sequence[Record], candidate: Sequence[Record], last: int | None) -> Row:
    old, new = ([_end(record, name, last) for record in side] for side in (baseline, candidate))
    a, b = _mean(old), _mean(new)
    text = f"mean of the last {LAST_VALUES} values up to step {last}: baseline {_runs(old)}, candidate {_runs(new)}"
    criterion = _KINDS[role_of(name)]
    if a is None or b is None:
        return Row(criterion, name, a, b, None, "undetermined", f"{text}; not every run has it")
    text += f"; difference {b - a:+.6g}"
    winner, why = _by_seeds(name, baseline, candidate, last, is_loss=criterion == "loss")
    return Row(criterion, name, a, b, b - a, winner, f"{text}; {why}")


def _end(record: Record, name: str, last: int | None) -> float | None:
    curve = record.curves.get(name)
    if curve is None or last is None or len(values := curve.until(last).values[-LAST_VALUES:]) < LAST_VALUES:
        return None
    return float(np.mean(values)) if np.isfinite(values).all() else math.nan


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _runs(values: Sequence[float | None]) -> str:
    shown = ", ".join("none" if value is None else f"{value:.6g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"


def _by_seeds(
    name: str, baseline: Sequence[Record], candidate: Sequence[Record], last: int | None, *, is_loss: bool
) -> tuple[Winner, str]:
    """A 95 % t-interval of the differences within seeds, where there are three of them on both sides."""
    old = {repr(record.seed): _end(record, name, last) for record in baseline if record.seed is not None}
    new = {repr(record.seed): _end(record, name, last) for record in candidate if record.seed is not None}
    paired = old.keys() == new.keys() and len(old) == len(baseline) and len(new) == len(candidate)
    if len(old) < 3 or not paired:
        return "undetermined", "run-to-run noise is unknown without 3 or more paired seeds a side"
    pairs = [(old[seed], new[seed]) for seed in old]
    differences = np.array([b - a for a, b in pairs if a is not None and b is not None])
    if not np.isfinite(differences).all():
        return "undetermined", "a value is not finite, so there is no interval"
    low, high = t_interval(differences)
    text = f"95 % t-interval over {len(differences)} paired seeds [{low:+.6g}, {high:+.6g}]"
    if low == high:
        return "undetermined", f"{text}: the seeds don't differ at all, so it says nothing of noise"
    if low <= 0 <= high:
        return "undetermined", f"{text} contains 0"
    if is_loss:
        return "undetermined", f"{text}; a loss has its own unit in each config, so lower need not be better"
    better = high < 0 if any(word in name.lower() for word in _LOWER_IS_BETTER) else low > 0
    return "candidate" if better else "baseline", f"{text} leaves 0 out"


def t_interval(differences: FloatArray) -> tuple[float, float]:
    """mean ± t(97.5 %, n − 1)·s/√n of shape (n,), 2 ≤ n ≤ 20, s with n − 1."""
    n = len(differences)
    centre = float(np.mean(differences))
    half = T_QUANTILES[n - 2] * float(np.std(differences, ddof=1)) / math.sqrt(n)
    return centre - half, centre + half


def speed_row(baseline: Sequence[Record], candidate: Sequence[Record], last: int | None) -> Row:
    """Median seconds per step without the first 50 steps; the difference is the candidate's gain in steps/s, in %."""
    measured = all(STEP_TIME in record.curves for record in (*baseline, *candidate))
    old, new = ([_step_time(record, last, measured=measured) for record in side] for side in (baseline, candidate))
    source = STEP_TIME if measured else "time between records"
    text = (
        f"median {source} in s from {WARM_UP} steps after the first one: baseline {_runs(old)}, candidate {_runs(new)}"
    )
    a, b = _median(old), _median(new)
    if a is None or b is None:
        return Row("speed", source, a, b, None, "undetermined", f"{text}; a run has fewer than {STEPS_MIN} such steps")
    slower: Winner = "candidate" if b > a else "baseline"
    loss = 100 * (1 - min(a, b) / max(a, b))
    text += f"; the {slower} does {loss:.1f} % fewer steps per second"
    rule = f"the threshold is {MUCH_SLOWER:g} %"
    faster: Winner = "baseline" if b > a else "candidate"
    winner, text = _if_same_machine([*baseline, *candidate], text, rule, faster, decided=loss > MUCH_SLOWER)
    return Row("speed", source, a, b, 100 * (a / b - 1), winner, text)


def _step_time(record: Record, last: int | None, *, measured: bool) -> float | None:
    if last is None or record.last_step is None:
        return None
    if measured:
        curve = record.curves[STEP_TIME].until(last)
        seconds = curve.values[curve.steps >= curve.steps[:1].sum() + WARM_UP]
    else:
        seconds = _between_records(record, last)
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    return float(np.median(seconds)) if len(seconds) >= STEPS_MIN else None


def _between_records(record: Record, last: int) -> FloatArray:
    """Seconds per step between consecutive records of the loss that was logged most often."""
    curves = [
        curve.until(last) for name, curve in record.curves.items() if role_of(name) in (Role.LOSS, Role.COMPONENT)
    ]
    curve: Curve | None = max(curves, key=lambda each: len(each.steps), default=None)
    if curve is None or len(curve.steps) < 2:
        return np.empty(0)
    late = curve.steps[:-1] >= curve.steps[0] + WARM_UP
    steps, seconds = np.diff(curve.steps)[late], np.diff(curve.times)[late]
    return np.asarray(seconds[steps > 0] / steps[steps > 0])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def memory_rows(baseline: Sequence[Record], candidate: Sequence[Record], last: int | None) -> list[Row]:
    """Peaks in GB of every memory metric; the median run of a side stands for it."""
    names = {name for record in (*baseline, *candidate) for name in record.curves if _is_used_memory(name)}
    return [_memory(name, baseline, candidate, last) for name in sorted(names)]


def _is_used_memory(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith("system/") and lowered.endswith("_gb") and "total" not in lowered


def _memory(name: str, baseline: Sequence[Record], candidate: Sequence[Record], last: int | None) -> Row:
    old, new = ([_peak(record, name, last) for record in side] for side in (baseline, candidate))
    a, b = _median(old), _median(new)
    text = f"peak in GB up to step {last}: baseline {_runs(old)}, candidate {_runs(new)}"
    if a is None or b is None:
        return Row("memory", name, a, b, None, "undetermined", f"{text}; not every run has it")
    apart = abs(b - a)
    share = apart / max(a, b) if max(a, b) > 0 else 0.0
    text += f"; {apart * 1000:.0f} MB or {share:.1%} apart"
    rule = f"it takes {MEMORY_SHARE:.0%} and {MEMORY_GB * 1000:.0f} MB"
    lower: Winner = "baseline" if a < b else "candidate"
    decided = share > MEMORY_SHARE and apart > MEMORY_GB
    winner, text = _if_same_machine([*baseline, *candidate], text, rule, lower, decided=decided)
    return Row("memory", name, a, b, b - a, winner, text)


def _peak(record: Record, name: str, last: int | None) -> float | None:
    curve = record.curves.get(name)
    if curve is None or last is None:
        return None
    values = curve.until(last).values
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else None


def _if_same_machine(
    records: Sequence[Record], text: str, rule: str, winner: Winner, *, decided: bool
) -> tuple[Winner, str]:
    machines = [{key: record.environment.get(key) for key in _MACHINE} for record in records]
    if any(machine["host"] is None for machine in machines):
        return "undetermined", f"{text}; {rule}; on which machine a run was is not recorded"
    if any(machine != machines[0] for machine in machines):
        return "undetermined", f"{text}; {rule}; the runs were on different machines ({', '.join(_MACHINE)})"
    return (winner, f"{text}; {rule}") if decided else ("tie", f"{text}; {rule}")
