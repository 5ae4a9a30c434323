"""Orders of runs, as stretches that follow one another, each of which an index gives in order.

Whatever the direction: numbers, then texts, then NaN, then the runs that lack the value; equal ones by id. So no
expression in ORDER BY keeps an index from being used, and neither database's place for NULL and NaN matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holter_db.cursors import after
from holter_db.schema import config_values, metric_summaries, runs
from holter_db.search.conditions import condition, is_nan
from holter_db.search.dialects import in_set
from holter_db.search.syntax import ConfigKey, MetricValue, Node, Operand, RunField
from holter_db.summaries import behind, fresh
from holter_db.types import Double, Words

__all__ = ["Place", "Stretch", "page", "stretches"]

# Runs in order that are looked at one by one before a condition is asked of all runs at once. Some milliseconds.
PROBES = 2_000

Conditions = Sequence[sa.ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the last page ended, within a stretch."""

    value: float | int | str | None
    id: str


@dataclass(frozen=True, slots=True)
class _Branch:
    """Rows that an index gives in the stretch's order."""

    id: sa.ColumnElement[str]
    value: sa.ColumnElement[Any] | None  # None: by id alone
    where: tuple[sa.ColumnElement[bool], ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Runs whose values are of one kind; several branches are merged."""

    kind: type[float | int | str] | None  # of the values; None where all are alike
    branches: tuple[_Branch, ...]


def stretches(operand: Operand) -> list[Stretch]:
    """The parts of the order by ``operand``, in their order."""
    match operand:
        case RunField(name):
            return _of_column(runs.c[name])
        case ConfigKey(key):
            return _of_leaf(key)
        case MetricValue(function, metric):
            return _of_metric(function, metric)
    raise ValueError(f"no order by {operand}")  # `parse_sort` refuses it


def _of_column(column: sa.Column[Any]) -> list[Stretch]:
    kind = str if isinstance(column.type, Words) else float if isinstance(column.type, Double) else int
    known = Stretch(kind, (_Branch(runs.c.id, column, (column.is_not(None),) if column.nullable else ()),))
    return [known, _without(column.is_(None))] if column.nullable else [known]


def _of_leaf(key: str) -> list[Stretch]:
    run_id, number, text = (config_values.c[name] for name in ("run_id", "number", "text"))
    here, nan = config_values.c.key == key, is_nan(number)
    has_value = sa.or_(number.is_not(None), text.is_not(None))
    return [
        Stretch(float, (_Branch(run_id, number, (here, number.is_not(None), sa.not_(nan))),)),
        Stretch(str, (_Branch(run_id, text, (here, text.is_not(None), number.is_(None))),)),
        Stretch(None, (_Branch(run_id, None, (here, nan)),)),
        _without(~sa.exists().where(run_id == runs.c.id, here, has_value).correlate_except(config_values)),
    ]


def _of_metric(function: str, metric: str) -> list[Stretch]:
    written, computed, now = metric_summaries.c[function], fresh.c[function], fresh.c.metric == metric
    run_id = metric_summaries.c.run_id
    up_to_date = (metric_summaries.c.metric == metric, ~behind(run_id))
    numbers = (
        _Branch(run_id, written, (*up_to_date, written.is_not(None), sa.not_(is_nan(written)))),
        _Branch(fresh.c.run_id, computed, (now, computed.is_not(None), sa.not_(is_nan(computed)))),
    )
    nans = (
        _Branch(run_id, None, (*up_to_date, is_nan(written))),
        _Branch(fresh.c.run_id, None, (now, is_nan(computed))),
    )
    has_value = (
        sa.exists().where(run_id == runs.c.id, *up_to_date, written.is_not(None)).correlate_except(metric_summaries)
    )
    lacking = sa.not_(
        sa.or_(
            has_value, in_set(runs.c.id, sa.select(fresh.c.run_id).where(now, computed.is_not(None)).correlate(None))
        )
    )
    kind = int if isinstance(written.type, sa.BigInteger) else float
    return [Stretch(kind, numbers), Stretch(None, nans), _without(lacking)]


def _without(condition: sa.ColumnElement[bool]) -> Stretch:
    return Stretch(None, (_Branch(runs.c.id, None, (condition,)),))


def page(
    stretch: Stretch,
    *,
    start: Place | None,
    descending: bool,
    limit: int,
    of_row: Conditions,
    further: Sequence[Node],
    probed: bool,
    deleted: bool = False,
) -> sa.Select[Any]:
    """Ids and values, in order, of the first ``limit`` runs of a stretch that follow ``start``.

    Args:
        of_row: conditions on the run's own row.
        further: what needs more than that.
        probed: ask ``further`` of the first `PROBES` runs only.
        deleted: of the deleted runs, instead of those that were not.
    """
    there = runs.c.deleted_at.is_not(None) if deleted else runs.c.deleted_at.is_(None)
    parts = [_branch(branch, start, descending, [there, *of_row]) for branch in stretch.branches]
    found = [
        _narrowed(part, branch.id, descending, limit, further, probed=probed)
        for part, branch in zip(parts, stretch.branches, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    both = sa.union_all(*(sa.select(part.subquery()) for part in found)).subquery()
    return _sorted(sa.select(both), both.c.value, both.c.id, descending).limit(limit)


def _branch(branch: _Branch, start: Place | None, descending: bool, of_row: Conditions) -> sa.Select[Any]:
    value = sa.null() if branch.value is None else branch.value
    query = sa.select(branch.id.label("id"), value.label("value"))
    if branch.id is not runs.c.id:
        query = query.join(runs, runs.c.id == branch.id)
    query = query.where(*branch.where, *of_row)
    if start is not None:
        query = query.where(_following(branch, start, descending))
    return _sorted(query, branch.value, branch.id, descending)


def _following(branch: _Branch, start: Place, descending: bool) -> sa.ColumnElement[bool]:
    if branch.value is None:
        return branch.id < start.id if descending else branch.id > start.id
    return after(branch.value, branch.id, start.value, start.id, descending=descending)


def _narrowed(
    query: sa.Select[Any],
    id: sa.ColumnElement[str],
    descending: bool,
    limit: int,
    further: Sequence[Node],
    *,
    probed: bool,
) -> sa.Select[Any]:
    if not further:
        return query.limit(limit)
    if probed:
        some = query.limit(max(PROBES, 2 * limit)).subquery()
        hits = sa.select(some.c.id, some.c.value).join(runs, runs.c.id == some.c.id)
        hits = hits.where(*(condition(node, "probe", some.c.id) for node in further))
        return _sorted(hits, some.c.value, some.c.id, descending).limit(limit)
    # PostgreSQL must not hope that the first runs of the order will do: they did not when they were probed.
    every = (
        query.where(*(condition(node, "set", id) for node in further))
        .cte()
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return _sorted(sa.select(every.c.id, every.c.value), every.c.value, every.c.id, descending).limit(limit)


def _sorted(
    query: sa.Select[Any], value: sa.ColumnElement[Any] | None, id: sa.ColumnElement[str], descending: bool
) -> sa.Select[Any]:
    direction = sa.desc if descending else sa.asc
    return query.order_by(*(direction(column) for column in (value, id) if column is not None))
