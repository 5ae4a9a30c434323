"""A journal that keeps records in memory, or nowhere: for runs that are disabled, and for tests."""

from __future__ import annotations

from typing import NamedTuple

from holter.records import Answer, End, Happened
from holter.values import Deferred, Row

__all__ = ["LoggedRow", "MemoryJournal"]


class LoggedRow(NamedTuple):
    """What one `log` call recorded."""

    step: int
    values: dict[str, float]
    time: float  # seconds, UTC


class MemoryJournal:
    """With ``keep`` it holds everything; without, nothing."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self.rows: list[LoggedRow] = []
        self.records: list[Happened | Answer | End] = []

    def points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None:
        if self._keep:
            values = row.resolve() if isinstance(row, Deferred) else map(float, row)
            self.rows.append(LoggedRow(step, dict(zip(metrics, values, strict=True)), time))

    def put(self, record: Happened | Answer | End) -> None:
        if self._keep:
            self.records.append(record)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def abandon(self) -> None:
        """Nothing is shared with the parent."""
