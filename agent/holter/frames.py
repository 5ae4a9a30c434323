"""Records of a journal as frames of the wire: columnar, bounded, and the same every time they are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from holter.records import Answer, Dropped, End, Happened, Names, Points, SegmentHeader
from holter.spool import Cursor, Found
from holter.wire import VERSION, Block, CommandUpdate, Event, Frame, RunFinish

__all__ = ["Batch", "Batcher", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one frame carries at most."""

    values: int = 50_000
    events: int = 500

    def halved(self) -> Limits:
        return Limits(max(1, self.values // 2), max(1, self.events // 2))

    def reached(self, values: int, events: int) -> bool:
        return values >= self.values or events >= self.events

    @property
    def smallest(self) -> bool:
        return self.values == 1


@dataclass(slots=True)
class Batch:
    """Consecutive records of one journal, from position ``start`` up to ``end``."""

    start: int
    end: int
    blocks: list[Block] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    commands: list[CommandUpdate] = field(default_factory=list)
    points: int = 0
    values: int = 0  # before the end
    lost: int = 0  # values of segments that had to go before they were shipped, or that are damaged, up to the end
    unwritten: int = 0  # values that the writer could not write, up to the end
    damaged: int = 0  # records that can't be read
    finish: RunFinish | None = None  # set only on a batch that ends with the end of the run
    ended: bool = False

    @property
    def empty(self) -> bool:
        return not (self.blocks or self.events or self.commands)

    def frame(self, attempt: str, writer: str, seq: int, promise: float | None) -> Frame:
        return Frame(
            version=VERSION,
            attempt=attempt,
            writer=writer,
            seq=seq,
            blocks=self.blocks,
            events=self.events,
            commands=self.commands,
            promise=promise,
            dropped=self.lost + self.unwritten,
        )


class Batcher:
    """Knows the metrics that a journal has named so far, and how many values came by; makes one batch at a time."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        """``cursor``: where the first batch begins; without it the journal's beginning."""
        self._metrics: dict[int, tuple[str, ...]] = {}
        self.rewind(cursor or Cursor())

    def rewind(self, cursor: Cursor) -> None:
        """The next batch begins at ``cursor``, once more; names that are known stay known."""
        self._values, self._lost, self._unwritten = cursor.values, cursor.lost, cursor.unwritten

    def skip(self, records: Iterable[tuple[Found, int]]) -> None:
        """Learn the names from records that were shipped before."""
        for record, _ in records:
            if isinstance(record, Names):
                self._metrics[record.number] = record.metrics

    def batch(self, records: Iterable[tuple[Found, int]], start: int, limits: Limits | None) -> Batch:
        """Records up to the limits (None: all of them, for a frame whose bounds are already written down).

        A batch stops before the end of the run, unless nothing else is in it.
        """
        batch = Batch(start, start)
        rows = _Rows(batch)
        for record, end in records:
            if isinstance(record, End):
                if batch.empty and not rows.count:
                    batch.finish, batch.ended, batch.end = record.finish, True, end
                break
            self._add(record, batch, rows)
            batch.end = end
            if limits and limits.reached(batch.points, len(batch.events)):
                break
        rows.close()
        batch.values, batch.lost, batch.unwritten = self._values, self._lost, self._unwritten
        return batch

    def _add(self, record: Found, batch: Batch, rows: _Rows) -> None:
        match record:
            case Points():
                self._values += len(record.values)
                metrics = self._metrics.get(record.names)
                if metrics is None or len(metrics) != len(record.values):
                    batch.damaged += 1
                    return
                rows.add(metrics, record)
                batch.points += len(metrics)
            case Names():
                self._metrics[record.number] = record.metrics
            case Happened():
                batch.events.append(record.event)
            case Answer():
                batch.commands.append(record.update)
            case Dropped():
                self._unwritten = record.points
            case SegmentHeader():
                self._lost += max(0, record.values_before - self._values)
                self._values = record.values_before
            case None:
                batch.damaged += 1


class _Rows:
    """Collects rows of equal metrics and turns them into a block when the metrics change."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._metrics: tuple[str, ...] = ()
        self._points: list[Points] = []

    @property
    def count(self) -> int:
        return len(self._points)

    def add(self, metrics: tuple[str, ...], points: Points) -> None:
        if metrics != self._metrics:
            self.close()
            self._metrics = metrics
        self._points.append(points)

    def close(self) -> None:
        if self._points:
            steps = [points.step for points in self._points]
            times = [points.time for points in self._points]
            matrix = np.array([points.values for points in self._points], dtype=np.float64)
            self._batch.blocks.append(Block.of(self._metrics, steps, times, matrix))
            self._points = []
