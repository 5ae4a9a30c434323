"""A series as stretches that follow one another: chunks, and the tail that is not folded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holter_db.chunks import Chunk, ChunkReader
from holter_db.columns import Column, Points

__all__ = ["Stretch", "stretches_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Points in the order of (step, segment, row). Made of one chunk, or of several parts that overlap.

    ``times`` are those of the first and the last point; None where times don't ascend with the steps, or where that is
    not known without reading the points.
    """

    parts: tuple[Chunk | Column, ...]
    count: int
    first_step: int
    last_step: int
    times: tuple[float, float] | None

    @property
    def chunk(self) -> Chunk | None:
        """The one chunk that it is, if it is."""
        part = self.parts[0]
        return part if len(self.parts) == 1 and isinstance(part, Chunk) else None

    @property
    def chunks(self) -> list[Chunk]:
        return [part for part in self.parts if isinstance(part, Chunk)]

    def points(self, reader: ChunkReader) -> Points:
        """All of its points, read-only."""
        if len(self.parts) == 1:
            part = self.parts[0]
            return reader.points(part) if isinstance(part, Chunk) else part.points()
        pieces = [reader.points(part) if isinstance(part, Chunk) else part.points() for part in self.parts]
        seqs = [_seqs(part, len(piece), reader) for part, piece in zip(self.parts, pieces, strict=True)]
        steps, times, values = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in Points.__slots__)
        return Points(steps, times, values).take(np.lexsort((np.concatenate(seqs), steps)))


def _seqs(part: Chunk | Column, count: int, reader: ChunkReader) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if isinstance(part, Column):
        return part.seqs()
    return reader.seqs(part) if part.raw else np.full(count, part.first_seq)


def stretches_of(chunks: Sequence[Chunk], tail: Column | None) -> list[Stretch]:
    """Stretches in order, of the chunks of one series, ordered by their first points, and its tail."""
    parts: list[tuple[tuple[int, int], tuple[int, int], Chunk | Column]]
    parts = [(chunk.first_key, chunk.last_key, chunk) for chunk in chunks]
    if tail is not None and len(tail):
        steps, seqs = tail.points().steps, tail.seqs()
        parts.append(((int(steps[0]), int(seqs[0])), (int(steps[-1]), int(seqs[-1])), tail))
        parts.sort(key=lambda entry: entry[0])
    groups: list[list[Chunk | Column]] = []
    reached: tuple[int, int] | None = None
    for first, last, part in parts:
        if reached is not None and first < reached:
            groups[-1].append(part)
            reached = max(reached, last)
        else:
            groups.append([part])
            reached = last
    return [_stretch(group) for group in groups]


def _stretch(group: list[Chunk | Column]) -> Stretch:
    bounds = [_bounds(part) for part in group]
    times = _times(group[0]) if len(group) == 1 else None
    count = sum(part.count if isinstance(part, Chunk) else len(part) for part in group)
    return Stretch(tuple(group), count, min(low for low, _ in bounds), max(high for _, high in bounds), times)


def _bounds(part: Chunk | Column) -> tuple[int, int]:
    if isinstance(part, Chunk):
        return part.first_step, part.last_step
    steps = part.points().steps
    return int(steps[0]), int(steps[-1])


def _times(part: Chunk | Column) -> tuple[float, float] | None:
    if isinstance(part, Chunk):
        return None if part.first_time is None or part.last_time is None else (part.first_time, part.last_time)
    times = part.points().times
    ascending = bool(np.all(times[1:] >= times[:-1])) and bool(np.isfinite(times[0]))
    return (float(times[0]), float(times[-1])) if ascending and np.isfinite(times[-1]) else None
