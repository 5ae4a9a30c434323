"""Column types that keep what SQL would lose: NaN, exact JSON, text with a NUL in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from holter.wire import dump_json

__all__ = ["Double", "Json", "Lines", "Words", "stored"]


class Double(sa.types.UserDefinedType[float]):
    """float64 with NaN and ±Inf kept, on SQLite and PostgreSQL.

    SQLite turns a bound NaN into NULL, so NaN is bound as the text ``'NaN'``: a column of REAL affinity keeps a
    text that is no number as it is, and text sorts above every number, as NaN does in PostgreSQL. It is a type of
    its own because a `TypeDecorator` over ``sa.Double`` still goes through ``Float``'s bind processor.
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "DOUBLE PRECISION"

    def bind_processor(self, dialect: Dialect) -> Callable[[float | None], float | str | None]:
        if dialect.name == "sqlite":
            return _bind_sqlite
        return _bind

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], float | None]:  # noqa: ARG002
        return _bind


def _bind(value: Any) -> float | None:
    return None if value is None else float(value)


def _bind_sqlite(value: float | None) -> float | str | None:
    if value is None:
        return None
    number = float(value)
    return "NaN" if math.isnan(number) else number


class Words(sa.types.TypeDecorator[str]):
    """Text that people wrote. A NUL, which PostgreSQL can't store, becomes U+FFFD."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return value if value is None else stored(value)


def stored(text: str) -> str:
    """Text as `Words` keeps it."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


class Json(sa.types.TypeDecorator[Any]):
    """Any JSON value as UTF-8 text. Non-finite numbers are the wire's strings "NaN", "Infinity", "-Infinity".

    Text instead of the databases' own JSON types: PostgreSQL's ``jsonb`` refuses ``\\u0000``, and equal values
    have equal text on both databases.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else dump_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else msgspec.json.decode(value)


class Lines(sa.types.TypeDecorator[tuple[str, ...]]):
    """A tuple of one-line strings, stored as ``"\\na\\nb\\n"`` so that a whole item can be found by one LIKE.

    >>> Lines().process_bind_param(("a", "b"), None)
    '\\na\\nb\\n'
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect | None) -> str:  # noqa: ARG002
        return "".join(f"\n{line(item)}" for item in value) + "\n" if value else ""

    def process_result_value(self, value: str | None, dialect: Dialect | None) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(value[1:-1].split("\n")) if value else ()


def line(text: str) -> str:
    """``text`` on one line and without NUL."""
    return text.replace("\x00", "\ufffd").replace("\n", " ")
