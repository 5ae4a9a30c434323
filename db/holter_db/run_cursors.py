"""Cursors of lists of runs: where the last page ended, and the moment that relative dates count from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from holter_db.errors import QueryError
from holter_db.search.orders import Place, Stretch

__all__ = ["Cursor", "read_cursor", "write_cursor"]

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of the last row of a page; no place: the beginning."""

    now: float  # seconds, UTC, of the first page
    stretch: int = 0
    place: Place | None = None


# msgpack, as JSON has no infinity.
_Content = tuple[str, float, int, float | int | str | None, str]


def write_cursor(sort: str, cursor: Cursor) -> str:
    """An opaque, URL-safe text."""
    assert cursor.place is not None
    content: _Content = (sort, cursor.now, cursor.stretch, cursor.place.value, cursor.place.id)
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(content)).rstrip(b"=").decode()


def read_cursor(text: str, sort: str, parts: Sequence[Stretch]) -> Cursor:
    """The cursor that a list ordered by ``sort`` gave out.

    Raises:
        QueryError: it is not one of ours, or belongs to another order.
    """
    try:
        padded = text.encode() + b"=" * (-len(text) % 4)
        made_for, now, stretch, value, id = msgspec.msgpack.decode(base64.urlsafe_b64decode(padded), type=_Content)
    except (msgspec.DecodeError, binascii.Error, UnicodeError, ValueError):
        raise QueryError("The cursor is not one that a list gave out", "Leave it away to start again.") from None
    if made_for != sort:
        raise QueryError(f"The cursor belongs to the order {made_for!r}, not {sort!r}", "Keep sort between pages.")
    if not (0 <= stretch < len(parts) and _fits(value, parts[stretch].kind)):
        raise QueryError("The cursor is not one that a list gave out", "Leave it away to start again.")
    return Cursor(now, stretch, Place(value, id))


def _fits(value: float | int | str | None, kind: type[float | int | str] | None) -> bool:
    if kind is None:
        return value is None
    return type(value) is kind and (kind is not int or value in _INT64)
