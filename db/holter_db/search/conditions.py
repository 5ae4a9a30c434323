"""A filter's tree as conditions on the table ``runs``.

A condition is true or false, never NULL: what a run lacks fulfils no comparison, so ``not`` and ``!=`` find it. Values
are bound parameters. NaN needs no special case but one: on both databases it is greater than every number.

What is not in the run's own row is asked in one of two ways. "probe" looks it up for each run that comes along: right
where a page is full after a few hundred runs. "set" first finds all runs that fulfil it: right where few do.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import sqlalchemy as sa

from holter_db.schema import config_values, metric_summaries, run_tags, runs
from holter_db.search.dialects import contains, in_set
from holter_db.search.syntax import And, Compare, ConfigKey, MetricValue, Moment, Node, Not, Or, RunField, Tag, Value
from holter_db.summaries import behind, fresh
from holter_db.types import Double, Words

__all__ = ["Way", "condition", "is_nan", "of_row"]

Way = Literal["probe", "set"]
Condition = sa.ColumnElement[bool]
Id = sa.ColumnElement[str]


def condition(node: Node, way: Way, id: Id = runs.c.id) -> Condition:
    """What the run ``id`` must fulfil; what its own row tells is taken from ``runs``."""
    match node:
        case And(parts):
            return sa.and_(*(condition(part, way, id) for part in parts))
        case Or(parts):
            return sa.or_(*(condition(part, way, id) for part in parts))
        case Not(part):
            return sa.not_(condition(part, way, id))
        case Compare():
            return _comparison(node, way, id)


def of_row(compare: Compare) -> bool:
    """Whether the run's own row is enough."""
    return isinstance(compare.operand, RunField)


def _comparison(compare: Compare, way: Way, id: Id) -> Condition:
    values = [value for value in compare.values if value is not None]
    found = []
    if values or compare.operator == "exists":
        found.append(_present(compare, values, way, id))
    if None in compare.values:
        found.append(sa.not_(_present(Compare(compare.operand, "exists"), [], way, id)))
    return sa.or_(*found)


def _present(compare: Compare, values: list[Any], way: Way, id: Id) -> Condition:
    """The comparison with ``values``, none of which is null; or that there is something at all."""
    match compare.operand:
        case RunField(name):
            column = runs.c[name]
            found = _any(column, compare, values)
            return sa.and_(column.is_not(None), found) if column.nullable else found
        case ConfigKey(key):
            return _leaf(key, compare, values, way, id)
        case Tag():
            return _among(run_tags, [_any(run_tags.c.tag, compare, values)], way, id)
        case MetricValue() as value:
            return _metric(value, compare, values, way, id)


def _any(column: sa.ColumnElement[Any], compare: Compare, values: list[Any]) -> Condition:
    if compare.operator == "exists":
        return column.is_not(None)
    return sa.or_(*(_compared(column, compare.operator, value) for value in values))


def _compared(column: sa.ColumnElement[Any], operator: str, value: Value) -> Condition:
    match value:
        case Moment(start, end):
            return _dated(column, operator, start, end)
        case str():
            return contains(column, value) if operator == "~" else _ordered(column, operator, value, Words())
    number = _ordered(column, operator, value, Double())
    return sa.and_(number, sa.not_(is_nan(column))) if operator in (">", ">=") else number


def _ordered(column: sa.ColumnElement[Any], operator: str, value: Value, type_: sa.types.TypeEngine[Any]) -> Condition:
    bound = sa.bindparam(None, value, type_)
    match operator:
        case "=":
            return column == bound
        case "<":
            return column < bound
        case "<=":
            return column <= bound
        case ">":
            return column > bound
    return column >= bound


def _dated(column: sa.ColumnElement[Any], operator: str, start: float, end: float) -> Condition:
    """Compared with a stretch of time: after it, before it, or in it."""
    if start == end:
        return _ordered(column, operator, start, Double())
    match operator:
        case "=":
            return sa.and_(_ordered(column, ">=", start, Double()), _ordered(column, "<", end, Double()))
        case "<" | ">=":
            return _ordered(column, operator, start, Double())
        case ">":
            return _ordered(column, ">=", end, Double())
    return _ordered(column, "<", end, Double())


def is_nan(column: sa.ColumnElement[Any]) -> Condition:
    """Whether a number is NaN."""
    return column >= sa.bindparam(None, math.nan, Double())


def _leaf(key: str, compare: Compare, values: list[Any], way: Way, id: Id) -> Condition:
    number, text = config_values.c.number, config_values.c.text
    of_key = config_values.c.key == key
    if compare.operator == "exists":
        has_number, has_text = ([of_key, column.is_not(None)] for column in (number, text))
        return sa.or_(_among(config_values, has_number, way, id), _among(config_values, has_text, way, id))
    numbers = [value for value in values if isinstance(value, float)]
    texts = [value for value in values if isinstance(value, str)]
    # Apart, as each has an index of its own.
    kinds = [(column, some) for column, some in ((number, numbers), (text, texts)) if some]
    return sa.or_(*(_among(config_values, [of_key, _any(column, compare, some)], way, id) for column, some in kinds))


def _metric(wanted: MetricValue, compare: Compare, values: list[Any], way: Way, id: Id) -> Condition:
    of_metric = metric_summaries.c.metric == wanted.metric
    written = [of_metric, _any(metric_summaries.c[wanted.function], compare, values)]
    of_fresh = fresh.c.metric == wanted.metric
    holds = _any(fresh.c[wanted.function], compare, values)
    computed = sa.select(fresh.c.run_id).where(of_fresh, holds).correlate(None)
    up_to_date = sa.not_(behind(metric_summaries.c.run_id))
    if way == "probe":
        return sa.or_(_among(metric_summaries, [*written, up_to_date], way, id), in_set(id, computed))
    known = sa.select(metric_summaries.c.run_id).where(*written, up_to_date).correlate(None)
    return in_set(id, known.union_all(computed))


def _among(table: sa.Table, where: list[Condition], way: Way, id: Id) -> Condition:
    """Whether the run has a row of ``table`` that fulfils ``where``."""
    if way == "probe":
        return sa.exists().where(table.c.run_id == id, *where).correlate_except(table)
    return in_set(id, sa.select(table.c.run_id).where(*where).correlate(None))
