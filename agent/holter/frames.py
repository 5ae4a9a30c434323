"""Records of a journal as frames of the wire: columnar, bounded, and the same every time they are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from holter.journal import Answer, Dropped, End, Happened, Names, Points, Record
from holter.wire import VERSION, Block, CommandUpdate, Event, Frame, RunFinish

__all__ = ["Batch", "Batcher", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one frame carries at most."""

    values: int = 50_000
    events: int = 500

    def halved(self) -> Limits:
        return Limits(max(1, self.values // 2), max(1, self.events // 2))

    @property
    def smallest(self) -> bool:
        return self.values == 1


@dataclass(slots=True)
class Batch:
    """Consecutive records of one journal, from byte ``start`` up to ``end``."""

    start: int
    end: int
    blocks: list[Block] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    commands: list[CommandUpdate] = field(default_factory=list)
    points: int = 0
    dropped: int = 0
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
            dropped=self.dropped,
        )


class Batcher:
    """Knows the metrics that a journal has named so far; makes one batch at a time."""

    def __init__(self) -> None:
        self._metrics: dict[int, tuple[str, ...]] = {}
        self._dropped = 0

    def skip(self, records: Iterable[tuple[Record | None, int]]) -> None:
        """Learn the names from records that were shipped before."""
        for record, _ in records:
            self._note(record)

    def _note(self, record: Record | None) -> None:
        if isinstance(record, Names):
            self._metrics[record.number] = record.metrics
        elif isinstance(record, Dropped):
            self._dropped = record.points

    def batch(self, records: Iterable[tuple[Record | None, int]], start: int, limits: Limits | None) -> Batch:
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
            self._note(record)
            self._add(record, batch, rows)
            batch.end = end
            if limits and (batch.points >= limits.values or len(batch.events) >= limits.events):
                break
        rows.close()
        batch.dropped = self._dropped
        return batch

    def _add(self, record: Record | None, batch: Batch, rows: _Rows) -> None:
        match record:
            case Points():
                metrics = self._metrics.get(record.names)
                if metrics is None or len(metrics) != len(record.values):
                    batch.damaged += 1
                    return
                rows.add(metrics, record)
                batch.points += len(metrics)
            case Happened():
                batch.events.append(record.event)
            case Answer():
                batch.commands.append(record.update)
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
