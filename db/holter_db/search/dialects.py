"""What the two databases have to be told in different words."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from holter_db.types import Words

__all__ = ["contains", "in_set", "unindexed"]


def contains(column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
    """Whether ``text`` is a part of the column, in any case (on SQLite: of ASCII letters)."""
    escaped = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return _Alike(column, sa.bindparam(None, f"%{escaped}%", Words()))


class _Alike(FunctionElement[bool]):
    """LIKE in any case. SQLite's ignores the case anyway; lower() of both would double the time."""

    name = "alike"
    type = sa.Boolean()
    inherit_cache = True


@compiles(_Alike)
def _ilike(element: _Alike, compiler: SQLCompiler, **options: Any) -> str:
    column, pattern = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} ILIKE {pattern} ESCAPE '/')"


@compiles(_Alike, "sqlite")
def _like(element: _Alike, compiler: SQLCompiler, **options: Any) -> str:
    column, pattern = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} LIKE {pattern} ESCAPE '/')"


def in_set(id: sa.ColumnElement[str], ids: sa.Select[Any] | sa.CompoundSelect[Any]) -> sa.ColumnElement[bool]:
    """Whether ``id`` is one of ``ids``, which are found once.

    Without statistics SQLite takes every IN for a short list, and looks 50,000 runs up one by one to sort them
    afterwards: 0.23 s instead of the 0.03 s of a walk along the order. PostgreSQL knows how many there are.
    """
    return unindexed(id).in_(ids)


def unindexed(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The column, not to be looked up by an index of SQLite."""
    return _Unindexed(column)


class _Unindexed(FunctionElement[str]):
    name = "unindexed"
    type = Words()
    inherit_cache = True


@compiles(_Unindexed)
def _as_it_is(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(_Unindexed, "sqlite")
def _without_index(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"
