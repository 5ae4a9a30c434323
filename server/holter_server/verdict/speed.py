"""Speed and memory, between runs of the same machine, batch size and threads only."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from holter.health.roles import Role, role_of
from holter.wire import FloatArray
from holter_server.verdict.criteria import Memory, Speed
from holter_server.verdict.data import ALL_STATES, Curve, Record, Row, Sides, State, flat
from holter_server.verdict.intervals import Interval, block_indices, blocks_in, hull, paired_t, percentiles, welch_t

__all__ = ["CPU_TIME", "STEP_TIME", "memory_rows", "slowdown", "speed_row"]

STEP_TIME, CPU_TIME = "perf/step_time", "perf/step_cpu_time"
WARM_UP = 50  # steps: compilation, allocation, caches
BLOCK = 50
STEPS_MIN = 10
RATIO_APART = 0.1  # of wall to CPU time: beyond it the machine was busier during one of the runs
RESAMPLES = 1_000
_MACHINE = ("host", "platform", "cpus", "torch")
_LOAD = ("batch_size", "threads", "device", "num_workers", "world_size")


def slowdown(old: Sequence[FloatArray], new: Sequence[FloatArray], seed: int) -> tuple[float, Interval]:
    """1 − its_new/its_old from median step times, and its interval.

    Within runs by a block bootstrap of the medians; with 3 runs a side or more, the hull with a t-interval over runs.

    Args:
        old, new: step times in seconds of each run, (n,) each.
    """
    sides = [[float(np.log(np.median(each))) for each in side] for side in (old, new)]
    drawn = np.zeros(RESAMPLES)
    number = 0
    for side, sign in ((old, -1.0), (new, 1.0)):
        for times in side:
            at = block_indices(len(times), BLOCK, seed + number, RESAMPLES)
            drawn += sign * np.log(np.median(times[at], axis=-1)) / len(side)
            number += 1
    blocks = min(sum(blocks_in(len(each), BLOCK) for each in side) for side in (old, new))
    over_runs = None
    if min(map(len, sides)) >= 3:
        a, b = np.array(sides[0]), np.array(sides[1])
        over_runs = paired_t(b - a) if len(a) == len(b) else welch_t(a, b)
    whole = hull(percentiles(drawn, blocks), over_runs)
    assert whole is not None
    estimate = float(np.mean(sides[1]) - np.mean(sides[0]))
    return 1 - float(np.exp(-estimate)), Interval(1 - float(np.exp(-whole.low)), 1 - float(np.exp(-whole.high)))


def speed_row(criterion: Speed, sides: Sides) -> Row:
    """Median seconds per step since the treatment has entered; the difference is the share of steps/s lost."""
    everyone, last, entry = sides.everyone, sides.last, sides.entry
    source, remark = _source(everyone, last, entry)
    old, new = ([_times(record, source, last, entry) for record in side] for side in sides.both)
    start = "the first step" if entry is None else f"step {entry}"
    text = f"median {source} in s from {WARM_UP} steps after {start} to {last}: baseline {_medians(old)}, "
    text += f"candidate {_medians(new)}{remark}"

    def row(states: tuple[State, ...], why: str, needs: str = "", interval: Interval | None = None) -> Row:
        a, b = (_median_of(side) for side in (old, new))
        lost = None if a is None or b is None else 1 - a / b
        why = f"{text}; {why}"
        return Row(criterion.id, "speed", source, a, b, lost, states, why, interval, "slowdown", "s", needs)

    if any(len(times) < STEPS_MIN for times in (*old, *new)):
        return row(ALL_STATES, f"a run has fewer than {STEPS_MIN} such steps", f"{STEPS_MIN} or more steps")
    lost, interval = slowdown(old, new, sides.seed)
    said = f"{lost:.1%} fewer steps per second" if lost >= 0 else f"{-lost:.1%} more steps per second"
    why = f"the candidate does {said}, 95 % [{interval.low:.1%}, {interval.high:.1%}]; "
    why += f"a tie within {criterion.margin:.0%}, much slower beyond {criterion.much:.0%}"
    unlike = _unlike(everyone)
    if unlike:
        anything: tuple[State, ...] = (*ALL_STATES, "much_worse")
        return row(anything, f"{why}; {unlike}", "runs on the same machine, one at a time", interval)
    states = _states(interval, criterion)
    needs = "" if len(states) == 1 else "more steps, on a machine with no other load"
    return row(states, why, needs, interval)


def _states(interval: Interval, criterion: Speed) -> tuple[State, ...]:
    found: list[State] = []
    if interval.low < -criterion.margin:
        found.append("better")
    if interval.low < criterion.margin and interval.high > -criterion.margin:
        found.append("equivalent")
    if interval.low < criterion.much and interval.high > criterion.margin:
        found.append("worse")
    if interval.high > criterion.much:
        found.append("much_worse")
    return tuple(found)


def _source(records: Sequence[Record], last: int | None, entry: int | None) -> tuple[str, str]:
    """What to compare, and why: CPU time where the ratios of wall to CPU time say that the load was not the same."""
    if not all(STEP_TIME in record.curves for record in records):
        return "time between records", ""
    if not all(CPU_TIME in record.curves for record in records):
        return STEP_TIME, ""
    ratios = []
    for record in records:
        wall, cpu = (_times(record, name, last, entry) for name in (STEP_TIME, CPU_TIME))
        if min(len(wall), len(cpu)) < STEPS_MIN:
            return STEP_TIME, ""
        ratios.append(float(np.median(wall) / np.median(cpu)))
    if max(ratios) / min(ratios) - 1 > RATIO_APART:
        return CPU_TIME, (
            f"; wall time is {min(ratios):.2f} to {max(ratios):.2f} times CPU time in these runs, so the machine "
            "was not equally busy and CPU time counts"
        )
    return STEP_TIME, ""


def _times(record: Record, source: str, last: int | None, entry: int | None) -> FloatArray:
    if last is None:
        return np.empty(0)
    if source in record.curves:
        curve = record.curves[source].until(last)
        first = int(curve.steps[0]) if len(curve.steps) else 0
        seconds = curve.since(max(first, entry or 0) + WARM_UP).values
    else:
        seconds = _between_records(record, last, entry)
    return np.asarray(seconds[np.isfinite(seconds) & (seconds > 0)])


def _between_records(record: Record, last: int, entry: int | None) -> FloatArray:
    """Seconds per step between consecutive records of the loss that was logged most often."""
    curves = [
        curve.until(last) for name, curve in record.curves.items() if role_of(name) in (Role.LOSS, Role.COMPONENT)
    ]
    curve: Curve | None = max(curves, key=lambda each: len(each.steps), default=None)
    if curve is None or len(curve.steps) < 2:
        return np.empty(0)
    late = curve.steps[:-1] >= max(int(curve.steps[0]), entry or 0) + WARM_UP
    steps, seconds = np.diff(curve.steps)[late], np.diff(curve.times)[late]
    return np.asarray(seconds[steps > 0] / steps[steps > 0])


def _median_of(runs: Sequence[FloatArray]) -> float | None:
    known = [float(np.median(times)) for times in runs if len(times)]
    return median(known) if known and len(known) == len(runs) else None


def _medians(runs: Sequence[FloatArray]) -> str:
    shown = ", ".join(f"{np.median(times):.4g}" if len(times) else "none" for times in runs)
    return shown if len(runs) == 1 else f"({shown})"


def memory_rows(criterion: Memory, sides: Sides) -> list[Row]:
    """Peaks in GB of every memory metric; the median run of a side stands for it."""
    names = {name for record in sides.everyone for name in record.curves if _is_used_memory(name)}
    return [_memory(criterion, name, sides) for name in sorted(names)]


def _is_used_memory(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith("system/") and lowered.endswith("_gb") and "total" not in lowered


def _memory(criterion: Memory, name: str, sides: Sides) -> Row:
    last = sides.last
    old, new = ([_peak(record, name, last) for record in side] for side in sides.both)
    a, b = _known_median(old), _known_median(new)
    text = f"peak in GB up to step {last}: baseline {_peaks(old)}, candidate {_peaks(new)}"
    if a is None or b is None:
        why = f"{text}; not every run has it"
        return Row(criterion.id, "memory", name, a, b, None, ALL_STATES, why, unit="GB", needs=f"{name} of every run")
    apart = abs(b - a)
    share = apart / max(a, b) if max(a, b) > 0 else 0.0
    text += f"; {apart * 1000:.0f} MB or {share:.1%} apart; it takes {criterion.share:.0%} and "
    text += f"{criterion.megabytes:g} MB"
    unlike = _unlike(sides.everyone)
    if unlike:
        why = f"{text}; {unlike}"
        return Row(criterion.id, "memory", name, a, b, b - a, ALL_STATES, why, unit="GB",
                   needs="runs on the same machine")  # fmt: skip
    decided = share > criterion.share and apart * 1000 > criterion.megabytes
    state: State = "equivalent" if not decided else "worse" if b > a else "better"
    return Row(criterion.id, "memory", name, a, b, b - a, (state,), text, unit="GB")


def _peaks(values: Sequence[float | None]) -> str:
    shown = ", ".join("none" if value is None else f"{value:.4g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"


def _known_median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def _peak(record: Record, name: str, last: int | None) -> float | None:
    curve = record.curves.get(name)
    if curve is None or last is None:
        return None
    # A machine's metrics have steps of their own; what was sampled before the last common step's time counts.
    values = curve.until(last).values
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else None


def _unlike(records: Sequence[Record]) -> str:
    """Why speed and memory can't be compared, or nothing."""
    machines = [{key: record.environment.get(key) for key in _MACHINE} for record in records]
    if any(machine["host"] is None for machine in machines):
        return "on which machine a run was is not recorded"
    if any(machine != machines[0] for machine in machines):
        return f"the runs were on different machines ({', '.join(_MACHINE)})"
    loads = [
        {key: repr(value) for key, value in flat(record.config) if key.split(".")[-1] in _LOAD} for record in records
    ]
    if any(load != loads[0] for load in loads):
        keys = sorted({key for load in loads for key in {*load, *loads[0]} if load.get(key) != loads[0].get(key)})
        return f"the runs differ in {', '.join(keys)}"
    return ""
