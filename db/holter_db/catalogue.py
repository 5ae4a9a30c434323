"""The catalogue: per series how many points there are, their range, the last value, and what was not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Block, FloatArray
from holter_db.schema import series, writers
from holter_db.upsert import insert_for

__all__ = ["MetricInfo", "SeriesInfo", "catalogue", "update_catalogue"]


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


def update_catalogue(conn: Connection, run_id: str, writer_id: int, seq: int, blocks: Sequence[Block]) -> None:
    """Add the points of a new segment. The result does not depend on the order in which segments arrive."""
    rows: dict[str, dict[str, Any]] = {}
    for block in blocks:
        matrix = block.value_matrix()
        for column, metric in enumerate(block.metrics):
            added = _statistics(block, matrix[:, column])
            rows[metric] = _merged(rows[metric], added) if metric in rows else added
    key = {"run_id": run_id, "writer_id": writer_id, "last_seq": seq}
    if rows:
        upsert = _upsert(conn.dialect.name)
        # Sorted, so that two servers on one PostgreSQL lock the rows in the same order.
        conn.execute(upsert, [{**key, "metric": metric, **rows[metric]} for metric in sorted(rows)])


def _statistics(block: Block, values: FloatArray) -> dict[str, Any]:
    steps, times = block.step_array(), block.time_array()
    finite = values[np.isfinite(values)]
    newest = len(steps) - 1 - int(np.argmax(steps[::-1]))  # the last one of equal steps
    return {
        "count": len(values),
        "first_step": int(steps.min()),
        "last_step": int(steps[newest]),
        "first_time": float(times.min()),
        "last_time": float(times.max()),
        "last": float(values[newest]),
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "nan": int(np.count_nonzero(np.isnan(values))),
        "positive_infinity": int(np.count_nonzero(np.isposinf(values))),
        "negative_infinity": int(np.count_nonzero(np.isneginf(values))),
    }


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    counts = {name: old[name] + new[name] for name in ("count", "nan", "positive_infinity", "negative_infinity")}
    lows = {name: _least(old[name], new[name], min) for name in ("first_step", "first_time", "min")}
    highs = {name: _least(old[name], new[name], max) for name in ("last_step", "last_time", "max")}
    last = new["last"] if new["last_step"] >= old["last_step"] else old["last"]
    return {**counts, **lows, **highs, "last": last}


def _least(old: Any, new: Any, choose: Any) -> Any:
    if old is None or new is None:
        return new if old is None else old
    return choose(old, new)


@cache
def _upsert(dialect: str) -> sa.Executable:
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
