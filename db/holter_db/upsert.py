"""INSERT … ON CONFLICT, which SQLAlchemy spells once per dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["Insert", "insert_for", "insert_new"]

Insert = postgresql.Insert | sqlite.Insert


def insert_for(dialect: str, table: Table) -> Insert:
    """The dialect's INSERT into ``table``, which has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_new(conn: Connection, table: Table, values: Mapping[str, Any], key: Sequence[str]) -> bool:
    """Insert a row unless one with the same ``key`` exists. True where it was inserted."""
    return conn.execute(_insert_new(conn.dialect.name, table, tuple(key)), dict(values)).first() is not None


@cache
def _insert_new(dialect: str, table: Table, key: tuple[str, ...]) -> sa.Executable:
    # Not by rowcount, which psycopg does not give for every INSERT.
    return insert_for(dialect, table).on_conflict_do_nothing(index_elements=key).returning(sa.literal(1))
