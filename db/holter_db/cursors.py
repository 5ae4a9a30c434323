"""Cursors of lists: where the last page ended, as (sort value, id). Stable while rows come and go."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
import sqlalchemy as sa

from holter_db.errors import QueryError

__all__ = ["after", "decode_cursor", "encode_cursor", "page_size"]

LIMIT_MAX = 1000


def encode_cursor(sort: str, value: Any, id: str) -> str:
    """An opaque, URL-safe text."""
    return base64.urlsafe_b64encode(msgspec.json.encode([sort, value, id])).rstrip(b"=").decode()


def decode_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    """The sort value and id of the last row of the page before.

    Raises:
        QueryError: the cursor is not one of ours, or belongs to another sort order.
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        made_for, value, id = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=tuple[str, str | float, str])
    except (msgspec.DecodeError, binascii.Error, UnicodeError, ValueError):
        raise QueryError("The cursor is not one that a list gave out", "Leave it away to start again.") from None
    if made_for != sort:
        raise QueryError(f"The cursor belongs to the order {made_for!r}, not {sort!r}", "Keep sort between pages.")
    return value, id


def after(
    column: sa.ColumnElement[Any], id_column: sa.ColumnElement[str], value: Any, id: str, *, descending: bool
) -> sa.ColumnElement[bool]:
    """The rows that follow (value, id) in that order, said so that an index of both finds the first of them."""
    # A cursor that somebody made up may hold an integer that the column could not.
    bound = sa.bindparam(None, value, sa.BigInteger() if isinstance(column.type, sa.Integer) else column.type)
    if descending:
        return sa.and_(column <= bound, sa.or_(column < bound, id_column < id))
    return sa.and_(column >= bound, sa.or_(column > bound, id_column > id))


def page_size(limit: int) -> int:
    """``limit``, checked.

    Raises:
        QueryError: it is not between 1 and 1000.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise QueryError(f"A page has 1 to {LIMIT_MAX} rows, not {limit}", "Ask for fewer and follow `next`.")
    return limit
