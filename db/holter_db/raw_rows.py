"""Rows of any table as the databases keep them: streamed out of and into SQLite and PostgreSQL, compared by checksum.

A value stands as Python's None, int, float, bool, str or bytes, whichever database it is in: a JSON document is its
text. Nothing is decoded, so nothing is lost by encoding it again.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy import Table

from holter_db.types import Double

__all__ = ["Checksum", "PostgresqlRows", "RawRows", "Row", "SqliteRows", "kind_of"]

Row = tuple[Any, ...]

PIECE_BYTES = 16_000_000  # of one COPY or executemany; of memory this and one row more
PIECE_ROWS = 50_000  # PostgreSQL remembers the foreign keys that it has to check until the end of a statement


class RawRows(Protocol):
    """One database inside a transaction."""

    def count(self, table: Table) -> int:
        """How many rows it has."""

    def read(self, table: Table) -> Iterator[Row]:
        """Every row in no order, a value for each column; holds few of them at a time."""

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        """Insert the rows."""

    def clear(self, tables: Sequence[Table]) -> None:
        """Delete every row; ``tables`` so that those which are referred to come first."""


class SqliteRows:
    """NaN is the text 'NaN' there (`holter_db.types.Double`), and a boolean is 0 or 1."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def count(self, table: Table) -> int:
        return int(self._conn.execute(f"SELECT count(*) FROM {_quoted(table.name)}").fetchone()[0])

    def read(self, table: Table) -> Iterator[Row]:
        changes = _changes(table, {"double": _from_sqlite_double, "bool": _from_sqlite_bool, "text": _without_nul})
        for row in self._conn.execute(f"SELECT {_names(table)} FROM {_quoted(table.name)}"):
            yield _changed(row, changes)

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        changes = _changes(table, {"double": _to_sqlite_double})
        marks = ", ".join("?" for _ in table.c)
        insert = f"INSERT INTO {_quoted(table.name)} ({_names(table)}) VALUES ({marks})"
        self._conn.executemany(insert, (_changed(row, changes) for row in rows))

    def clear(self, tables: Sequence[Table]) -> None:
        for table in reversed(tables):
            self._conn.execute(f"DELETE FROM {_quoted(table.name)}")


class PostgresqlRows:
    """By COPY in binary, which keeps every bit and is the quickest way."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    def count(self, table: Table) -> int:
        row = self._conn.execute(f"SELECT count(*) FROM {_quoted(table.name)}".encode()).fetchone()
        return int(row[0]) if row else 0

    def read(self, table: Table) -> Iterator[Row]:
        command = f"COPY {_quoted(table.name)} ({_names(table)}) TO STDOUT (FORMAT BINARY)"
        with self._conn.cursor() as cursor, cursor.copy(command.encode()) as copy:
            copy.set_types(_postgresql_types(table))
            yield from copy.rows()

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        changes = _changes(table, {"int4": _within_int4})
        command = f"COPY {_quoted(table.name)} ({_names(table)}) FROM STDIN (FORMAT BINARY)"
        for piece in _pieces(rows):
            with self._conn.cursor() as cursor, cursor.copy(command.encode()) as copy:
                copy.set_types(_postgresql_types(table))
                for row in piece:
                    copy.write_row(_changed(row, changes))

    def clear(self, tables: Sequence[Table]) -> None:
        self._conn.execute(f"TRUNCATE {', '.join(_quoted(table.name) for table in tables)}".encode())


class Checksum:
    """Of a table's rows in whatever order: the sum of their BLAKE2 hashes, 128 bits.

    Values are told apart by type and bits, with two exceptions: every NaN is the same, and -0.0 is 0.0, since a REAL
    column of SQLite keeps neither the bits of a NaN nor the sign of a zero.
    """

    def __init__(self, table: Table) -> None:
        self.rows = 0
        self._sum = 0
        self._changes = _changes(table, {"double": _comparable})

    def add(self, row: Row) -> None:
        encoded = msgspec.msgpack.encode(_changed(row, self._changes))
        self._sum += int.from_bytes(hashlib.blake2b(encoded, digest_size=16).digest(), "little")
        self.rows += 1

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they are, each added on its way."""
        for row in rows:
            self.add(row)
            yield row

    @property
    def text(self) -> str:
        return f"{self._sum % 2**128:032x}"


def kind_of(column: sa.Column[Any]) -> str:
    """double, bool, int8, int4, bytea or text: what the column's values are, and how PostgreSQL calls most of these.

    Raises:
        TypeError: for a type that no table had before.
    """
    stored = column.type.impl if isinstance(column.type, sa.types.TypeDecorator) else column.type
    for type_, kind in _KINDS:
        if isinstance(stored, type_):
            return kind
    raise TypeError(f"How the type of {column} is carried from one database to another has not been said")


_KINDS: tuple[tuple[type[Any], str], ...] = (
    (Double, "double"),
    (sa.Boolean, "bool"),
    (sa.BigInteger, "int8"),  # an Integer, too
    (sa.Integer, "int4"),
    (sa.LargeBinary, "bytea"),
    (sa.Text, "text"),
)


def _postgresql_types(table: Table) -> list[str]:
    return [{"double": "float8"}.get(kind, kind) for kind in map(kind_of, table.c)]


Change = tuple[int, Callable[[Any], Any]]


def _changes(table: Table, by_kind: dict[str, Callable[[Any], Any]]) -> list[Change]:
    """(column, what to do with its values) where there is something to do."""
    kinds = [kind_of(column) for column in table.c]
    return [(index, by_kind[kind]) for index, kind in enumerate(kinds) if kind in by_kind]


def _changed(row: Row, changes: Sequence[Change]) -> Row:
    if not changes:
        return row
    values = list(row)
    for index, change in changes:
        if values[index] is not None:
            values[index] = change(values[index])
    return tuple(values)


def _from_sqlite_double(value: float | str) -> float:
    return float(value)


def _from_sqlite_bool(value: int) -> bool:
    return bool(value)


def _without_nul(value: str) -> str:
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


def _to_sqlite_double(value: float) -> float | str:
    return "NaN" if math.isnan(value) else value


def _within_int4(value: int) -> int:
    if not -(2**31) <= value < 2**31:  # psycopg would cut it off without a word
        raise OverflowError(f"{value:,} is beyond the 32 bits of its column")
    return value


def _comparable(value: float) -> float:
    return math.nan if math.isnan(value) else value + 0.0  # -0.0 + 0.0 is 0.0


def _pieces(rows: Iterable[Row]) -> Iterator[Iterator[Row]]:
    """The rows in pieces that are read as they are asked for; each has to be read to its end before the next."""
    source = iter(rows)
    for first in source:
        yield _piece(chain((first,), source))


def _piece(rows: Iterator[Row]) -> Iterator[Row]:
    size = 0
    for number, row in enumerate(rows, 1):
        yield row
        size += sum(len(value) for value in row if isinstance(value, str | bytes)) + 8 * len(row)
        if size >= PIECE_BYTES or number >= PIECE_ROWS:
            return


def _names(table: Table) -> str:
    return ", ".join(_quoted(column.name) for column in table.c)


def _quoted(name: str) -> str:
    return f'"{name}"'
