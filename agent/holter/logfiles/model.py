"""What every log file becomes: rows of numbers with a step, whichever tool has written them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from holter.health import Batch

__all__ = [
    "STEP_MAX",
    "WRITER",
    "LogFile",
    "Point",
    "Row",
    "Unreadable",
    "flatten",
    "parsed",
    "points_of",
    "rows_of",
]

WRITER = "rank0"
STEPS = ("step", "global_step", "_step", "train_step", "iteration", "iter", "it", "batch_idx", "epoch")
TIMES = ("_timestamp", "timestamp", "wall_time", "walltime", "unix_time", "ts")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
STEP_MAX = 2**62


class Unreadable(Exception):
    """A file that is no log, or none that can be read. ``hint`` says what would be one."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class Row:
    """What was logged at once. ``time`` is NaN where the file does not tell it; ``values`` has no gaps."""

    step: int
    values: dict[str, float]
    time: float = math.nan
    writer: str = WRITER


class Point(NamedTuple):
    """One value of one metric."""

    step: int
    writer: str
    metric: str
    time: float
    value: float


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log file in the order in which it was written."""

    path: str
    format: str
    rows: list[Row] = field(repr=False)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Its rows as the engine takes them, each batch with the index of its first row; empty rows are left out."""
        start = 0
        for stop in range(1, len(self.rows) + 1):
            if stop < len(self.rows) and _alike(self.rows[start], self.rows[stop]):
                continue
            if self.rows[start].values:
                yield start, _batch(self.rows[start:stop])
            start = stop

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Row numbers and values of one metric."""
        found = [(index, row.values[metric]) for index, row in enumerate(self.rows) if metric in row.values]
        return [index for index, _ in found], [value for _, value in found]


def _alike(one: Row, other: Row) -> bool:
    return one.values.keys() == other.values.keys() and one.writer == other.writer


def _batch(rows: list[Row]) -> Batch:
    metrics = tuple(rows[0].values)
    return Batch(
        rows[0].writer,
        metrics,
        np.array([row.step for row in rows], dtype=np.int64),
        np.array([row.time for row in rows]),
        np.array([[row.values[metric] for metric in metrics] for row in rows]),
    )


def parsed(value: Any) -> float | None:
    """A number as files write it, "NaN", "inf" and "-Infinity" included; None for what is none.

    >>> parsed("2.5e-4"), parsed(" -inf "), parsed("12 s"), parsed(True)
    (0.00025, -inf, None, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    sign = -1.0 if text.startswith("-") else 1.0
    word = _WORDS.get(text.lstrip("+-").lower())
    return None if word is None else sign * word


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, by names with "/"."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            number = parsed(value)
            if number is not None:
                yield f"{prefix}{key}", number


def column_of(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the ``wanted`` names that is there, whatever its case; of one after a "/" the last part counts."""
    by_name = {name.strip().lower(): name for name in reversed(list(names))}
    last = {name.rsplit("/", 1)[-1]: original for name, original in by_name.items()}
    for want in wanted:
        if want in by_name:
            return by_name[want]
    return next((last[want] for want in wanted[:3] if want in last), None)


def _all_whole(records: list[dict[str, float]], name: str) -> bool:
    return all(record[name].is_integer() for record in records if name in record)


def points_of(points: Iterable[Point]) -> list[Row]:
    """Rows from single points: those of one step and writer are one row, in the order of the steps."""
    rows = []
    for (step, writer), group in groupby(sorted(points, key=_place), key=_place):
        together = list(group)
        values = {point.metric: point.value for point in together}
        rows.append(Row(step, values, max(point.time for point in together), writer))
    return rows


def _place(point: Point) -> tuple[int, str]:
    return point.step, point.writer


def rows_of(records: Iterable[dict[str, float]]) -> list[Row]:
    """Rows from mappings of names to numbers: the step and the time are looked for among them."""
    kept = list(records)
    names = dict.fromkeys(name for record in kept for name in record)
    step_name, time_name = column_of(names, STEPS), column_of(names, TIMES)
    if step_name is not None and step_name.lower().endswith("epoch") and not _all_whole(kept, step_name):
        step_name = None  # parts of an epoch
    rows = []
    step = -1
    for record in kept:
        told = record.get(step_name, math.nan) if step_name is not None else math.nan
        step = int(told) if abs(told) < STEP_MAX else step if step_name is not None and step >= 0 else step + 1
        time = record.get(time_name, math.nan) if time_name is not None else math.nan
        # An epoch that stands in for the step is still a metric, and does no harm as one.
        leave_out = {time_name} if step_name is None or step_name.lower().endswith("epoch") else {time_name, step_name}
        rows.append(Row(step, {name: value for name, value in record.items() if name not in leave_out}, time))
    return rows
