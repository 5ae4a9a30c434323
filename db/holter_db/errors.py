"""What can go wrong in the store. Each error says what happened, and its ``hint`` says what to do."""

from __future__ import annotations

from typing import Literal

__all__ = ["Conflict", "DatabaseError", "FilterError", "Gone", "NotFound", "QueryError", "StoreError"]


class StoreError(Exception):
    """Root of the store's errors; ``hint`` tells a person what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(StoreError):
    """Nothing of that ``kind`` ("run", "incident", …) has this ``id``."""

    def __init__(self, kind: str, id: str, hint: str = "") -> None:
        super().__init__(f"There is no {kind} {id!r}", hint)
        self.kind = kind
        self.id = id


class Gone(NotFound):
    """There was a run with this id: it is hidden (deleted), or nothing is left of it (purged)."""

    def __init__(self, id: str, how: Literal["deleted", "purged"], hint: str) -> None:
        super().__init__("run", id, hint)
        self.message = f"Run {id!r} was {how}"
        self.args = (self.message,)
        self.how = how


class Conflict(StoreError):
    """The request does not fit what is stored: an ambiguous prefix, a version that has moved on."""


class DatabaseError(StoreError):
    """The database can't be opened or used as it is."""


class DamagedData(DatabaseError):
    """Stored points that can't be read: a broken disk, or a newer version that wrote them."""


class QueryError(StoreError):
    """A question or a value that the store can't take: an unknown sort key, a broken cursor, a malformed id."""


class FilterError(QueryError):
    """A filter that can't be understood. ``position`` counts its characters from 1."""

    def __init__(self, what: str, position: int, hint: str = "") -> None:
        super().__init__(f"The filter can't be understood at character {position}: {what}", hint)
        self.what = what
        self.position = position
