"""Parts of a curve that several criteria look at: where the treatment enters, windows of 100 steps, stage changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holter.health.roles import Role, role_of
from holter.wire import FloatArray, IntArray
from holter_server.verdict.data import Curve, Record, matches

__all__ = ["WINDOW", "entry_step", "stage_changes", "sustained", "window_medians"]

WINDOW = 100  # steps


def entry_step(records: Sequence[Record], globs: Sequence[str]) -> int | None:
    """The first step at which a metric that fits is above 0 in every run of at least one side; None: never."""
    firsts = []
    for record in records:
        found = [
            int(curve.steps[above[0]])
            for name, curve in record.curves.items()
            if matches(name, globs) and len(above := np.flatnonzero(curve.values > 0))
        ]
        if found:
            firsts.append(min(found))
    return max(firsts) if len(firsts) == len(records) else None


def stage_changes(record: Record) -> IntArray:
    """Steps at which a curriculum's stage changes, ascending."""
    curves = [curve for name, curve in record.curves.items() if role_of(name) is Role.STAGE and len(curve.steps)]
    changes = [curve.steps[1:][np.diff(curve.values) != 0] for curve in curves]
    return np.unique(np.concatenate(changes)) if changes else np.empty(0, dtype=np.int64)


def window_medians(curve: Curve) -> tuple[IntArray, FloatArray]:
    """(first steps, medians of the finite values) of consecutive windows of 100 steps that are at least half full."""
    finite = np.isfinite(curve.values)
    number = curve.steps[finite] // WINDOW
    values = curve.values[finite]
    if not len(values):
        return np.empty(0, dtype=np.int64), np.empty(0)
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    parts = np.split(values, starts[1:])
    typical = max(1, int(np.median([len(part) for part in parts])))
    full = [index for index, part in enumerate(parts) if 2 * len(part) >= typical]
    medians = np.array([np.median(parts[index]) for index in full])
    return number[starts[full]] * WINDOW, medians


def sustained(over: Sequence[bool] | NDArray[np.bool_], count: int) -> int | None:
    """The index at which the first ``count`` consecutive true values begin, or None."""
    flags = np.asarray(over, dtype=bool)
    if len(flags) < count:
        return None
    run = np.convolve(flags.astype(int), np.ones(count, dtype=int), mode="valid")
    found = np.flatnonzero(run == count)
    return int(found[0]) if len(found) else None
