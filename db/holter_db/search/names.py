"""Which config keys and metrics there are: for the hint that a name is misspelt."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.schema import config_values, metric_summaries
from holter_db.search.syntax import ConfigKey, MetricValue, Operand
from holter_db.summaries import fresh

__all__ = ["hint"]

NAMES_MAX = 500  # that are looked at for one that is similar


def hint(conn: Connection, operands: Iterable[Operand]) -> str | None:
    """What to know of config keys and metrics that no run has; None where each of them occurs."""
    unknown = [text for operand in dict.fromkeys(operands) if (text := _unknown(conn, operand)) is not None]
    return " ".join(unknown) or None


def _unknown(conn: Connection, operand: Operand) -> str | None:
    match operand:
        case ConfigKey(name):
            key = config_values.c.key
            places = [_Place(key, config_values.c[kind].is_not(None)) for kind in ("number", "text")]
            if not _occurs(conn, name, places):
                return _sentence(operand, [f"config.{near}" for near in _similar(conn, name, places)])
        case MetricValue(function, name):
            places = [_Place(metric_summaries.c.metric), _Place(fresh.c.metric)]
            if not _occurs(conn, name, places):
                return _sentence(operand, [f"{function}({near})" for near in _similar(conn, name, places[:1])])
    return None


def _sentence(operand: Operand, similar: list[str]) -> str:
    return f"No run has {operand}" + ("".join(f"; did you mean {near}?" for near in similar) or ".")


class _Place(NamedTuple):
    """Where names stand: a column, in the rows that an index which begins with it has."""

    column: sa.ColumnElement[str]
    there: sa.ColumnElement[bool] = sa.true()


def _occurs(conn: Connection, name: str, places: list[_Place]) -> bool:
    return any(conn.scalar(sa.select(sa.exists().where(column == name, there))) for column, there in places)


def _similar(conn: Connection, name: str, places: list[_Place]) -> list[str]:
    names = {found for place in places for found in conn.scalars(_distinct(place))}
    return get_close_matches(name, sorted(names), n=1)


def _distinct(place: _Place) -> sa.Select[str]:
    """The first names, by jumping from one to the next in the index."""
    column, there = place
    hops = sa.select(sa.func.min(column).label("name")).where(there).cte("names", recursive=True)
    following = sa.select(sa.func.min(column)).where(column > hops.c.name, there).scalar_subquery()
    hops = hops.union_all(sa.select(following).where(hops.c.name.is_not(None)))
    return sa.select(hops.c.name).where(hops.c.name.is_not(None)).limit(NAMES_MAX)
