"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

__all__ = ["Check", "Finding", "Repair"]

Subject = TypeVar("Subject")

# In a transaction that writes. False, and nothing is changed, where the rows have moved on since they were looked at.
Repair = Callable[[Connection], bool]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it has to be. ``message`` and ``advice`` are for people."""

    check: str
    message: str
    advice: str
    run: str | None = None
    repair: Repair | None = None  # None: it can't be put right from what the database holds
    about: str = ""  # of what it is, where the message may be another one at the next look


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One invariant: what it promises, and a function that yields where the promise is broken.

    A check only reads, and takes memory in proportion to the series of one run, not to its points.
    """

    name: str
    promise: str
    look: Callable[[Connection, Subject], Iterator[Finding]]
