"""The catalogue: per series how many points there are, their range, the last value, and what was not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Block, FloatArray
from holter_db.many import Bulk, double
from holter_db.schema import series, writers
from holter_db.upsert import insert_for

__all__ = ["Added", "MetricInfo", "SeriesInfo", "catalogue", "update_catalogue"]


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One metric of one writer. ``min`` and ``max`` are over finite values, None where there is none."""

    writer: str
    attempt: int
    rank: int | None
    count: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    last: float
    min: float | None
    max: float | None
    nan: int
    positive_infinity: int
    negative_infinity: int

    @property
    def non_finite(self) -> int:
        return self.nan + self.positive_infinity + self.negative_infinity


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric over all its writers. ``last`` is of the newest attempt's greatest step, lowest rank first."""

    name: str
    writers: tuple[str, ...]
    count: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    last: float
    min: float | None
    max: float | None
    non_finite: int
    series: tuple[SeriesInfo, ...]


def catalogue(conn: Connection, run_id: str) -> list[MetricInfo]:
    """Every metric of a run, by name."""
    columns = [series.c[name] for name in SeriesInfo.__slots__ if name in series.c]
    query = (
        sa.select(series.c.metric, writers.c.name.label("writer"), writers.c.attempt, writers.c.rank, *columns)
        .join(writers, sa.and_(writers.c.run_id == series.c.run_id, writers.c.writer_id == series.c.writer_id))
        .where(series.c.run_id == run_id)
        .order_by(writers.c.attempt, sa.func.coalesce(writers.c.rank, 0), writers.c.name)
    )
    by_metric: dict[str, list[SeriesInfo]] = {}
    for row in conn.execute(query).mappings():
        info = SeriesInfo(**{name: row[name] for name in SeriesInfo.__slots__})
        by_metric.setdefault(row["metric"], []).append(info)
    return [_metric(name, by_metric[name]) for name in sorted(by_metric)]


def _metric(name: str, parts: list[SeriesInfo]) -> MetricInfo:
    newest = max(parts, key=lambda part: (part.attempt, part.last_step, -(part.rank or 0)))
    return MetricInfo(
        name=name,
        writers=tuple(dict.fromkeys(part.writer for part in parts)),
        count=sum(part.count for part in parts),
        first_step=min(part.first_step for part in parts),
        last_step=max(part.last_step for part in parts),
        first_time=min(part.first_time for part in parts),
        last_time=max(part.last_time for part in parts),
        last=newest.last,
        min=min((part.min for part in parts if part.min is not None), default=None),
        max=max((part.max for part in parts if part.max is not None), default=None),
        non_finite=sum(part.non_finite for part in parts),
        series=tuple(parts),
    )


@dataclass(frozen=True, slots=True)
class Added:
    """The points of one new segment."""

    run_id: str
    writer_id: int
    seq: int
    blocks: Sequence[Block]


# Of some points of one series, in the order of the table's columns: count, first and last step, first and last time,
# last value and its segment, min, max, and how many are NaN, +Inf, -Inf. A bare tuple: there are 20,000 a second.
_Statistics = tuple[int, int, int, float, float, float, int, float | None, float | None, int, int, int]


def update_catalogue(conn: Connection, added: Iterable[Added]) -> None:
    """Add the points of new segments. The result does not depend on the order in which segments arrive."""
    found: dict[tuple[str, int, str], _Statistics] = {}
    for segment in added:
        for block in segment.blocks:
            of_block = _of_one_row if block.rows == 1 else _of_rows
            for metric, new in zip(block.metrics, of_block(block, segment.seq), strict=True):
                key = (segment.run_id, segment.writer_id, metric)
                known = found.get(key)
                found[key] = new if known is None else _joined(known, new)
    bind = double(conn)
    # Sorted, so that two servers on one PostgreSQL lock the rows in the same order.
    _UPSERT.run(conn, [key + _bound(found[key], bind) for key in sorted(found)])


def _bound(one: _Statistics, bind: Callable[[float], float | str]) -> tuple[Any, ...]:
    if not math.isnan(one[3] + one[4] + one[5]):
        return one
    return (*one[:3], bind(one[3]), bind(one[4]), bind(one[5]), *one[6:])


def _joined(old: _Statistics, new: _Statistics) -> _Statistics:
    """Of both: ``new`` came after ``old``, in the same segment or in another one."""
    last, seq = new[5:7] if (new[2], new[6]) >= (old[2], old[6]) else old[5:7]
    low = old[7] if new[7] is None else new[7] if old[7] is None else min(old[7], new[7])
    high = old[8] if new[8] is None else new[8] if old[8] is None else max(old[8], new[8])
    steps = min(old[1], new[1]), max(old[2], new[2])
    times = _low(old[3], new[3]), _high(old[4], new[4])
    odd = old[9] + new[9], old[10] + new[10], old[11] + new[11]
    return (old[0] + new[0], *steps, *times, last, seq, low, high, *odd)


def _of_one_row(block: Block, seq: int) -> Iterator[_Statistics]:
    """What a training sends that is watched live; by way of arrays it would take ten times as long."""
    step, time = int(block.step_array()[0]), float(block.time_array()[0])
    for value in block.value_matrix()[0].tolist():
        if -math.inf < value < math.inf:
            yield 1, step, step, time, time, value, seq, value, value, 0, 0, 0
        else:
            odd = int(math.isnan(value)), int(value == math.inf), int(value == -math.inf)
            yield 1, step, step, time, time, value, seq, None, None, *odd


def _of_rows(block: Block, seq: int) -> Iterator[_Statistics]:
    steps, times, matrix = block.step_array(), block.time_array(), block.value_matrix()
    newest = len(steps) - 1 - int(np.argmax(steps[::-1]))  # the last one of equal steps
    count, first, last = len(steps), int(steps.min()), int(steps[newest])
    begin, end = float(times.min()), float(times.max())
    for value, low, high, *odd in zip(matrix[newest].tolist(), *_extremes(matrix), strict=True):
        extremes = (low, high) if low <= high else (None, None)
        yield count, first, last, begin, end, value, seq, *extremes, *odd


def _extremes(matrix: FloatArray) -> tuple[list[Any], ...]:
    """Of each column: least and greatest finite value (+Inf and -Inf where there is none), NaN, +Inf, -Inf counts."""
    finite = np.isfinite(matrix)
    if finite.all():
        none = [0] * matrix.shape[1]
        return matrix.min(axis=0).tolist(), matrix.max(axis=0).tolist(), none, none, none
    lows = np.where(finite, matrix, np.inf).min(axis=0)
    highs = np.where(finite, matrix, -np.inf).max(axis=0)
    odd = (np.isnan(matrix), np.isposinf(matrix), np.isneginf(matrix))
    return lows.tolist(), highs.tolist(), *(np.count_nonzero(which, axis=0).tolist() for which in odd)


def _low(old: float, new: float) -> float:
    """The smaller one; a NaN is greater than every number, as in the databases."""
    return old if math.isnan(new) or old <= new else new


def _high(old: float, new: float) -> float:
    return old if math.isnan(old) or old >= new else new


def _upsert(dialect: str) -> sa.UpdateBase:
    insert = insert_for(dialect, series)
    old, new = series.c, insert.excluded
    newer = sa.or_(new.last_step > old.last_step, sa.and_(new.last_step == old.last_step, new.last_seq > old.last_seq))

    def low(name: str) -> sa.ColumnElement[Any]:
        return sa.case((sa.or_(new[name].is_(None), old[name] <= new[name]), old[name]), else_=new[name])

    def high(name: str) -> sa.ColumnElement[Any]:
        return sa.case((sa.or_(new[name].is_(None), old[name] >= new[name]), old[name]), else_=new[name])

    def total(name: str) -> sa.ColumnElement[Any]:
        return old[name] + new[name]

    changes = {
        **{name: total(name) for name in ("count", "nan", "positive_infinity", "negative_infinity")},
        **{name: low(name) for name in ("first_step", "first_time", "min")},
        **{name: high(name) for name in ("last_step", "last_time", "max")},
        **{name: sa.case((newer, new[name]), else_=old[name]) for name in ("last", "last_seq")},
    }
    return insert.on_conflict_do_update(index_elements=["run_id", "writer_id", "metric"], set_=changes)


_UPSERT = Bulk(_upsert, [column.name for column in series.c])
