"""Points as the rows of `axes` and `chunks`: what the compactor writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from holter.wire import FloatArray, IntArray
from holter_db.cell_codec import encode_cells, pack_few
from holter_db.cells import of_points
from holter_db.chunks import PYRAMID_FROM, cell_level, coarse_level
from holter_db.codec import pack_floats, pack_ints
from holter_db.columns import Points

__all__ = ["Places", "axis_row", "chunk_row"]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where and when points were logged, and in which record they came: five columns of shape (n,)."""

    steps: IntArray
    seqs: IntArray  # of the segment
    rows: IntArray  # within the segment
    positions: IntArray  # of the segment
    times: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, which: slice | IntArray) -> Places:
        """Some of them."""
        return Places(*(getattr(self, name)[which] for name in Places.__slots__))

    def order(self) -> IntArray | None:
        """What brings them into the order of (step, seq, row); None if they are in it."""
        rows, seqs, steps = self.rows, self.seqs, self.steps
        later = rows[1:] > rows[:-1]
        for major in (seqs, steps):
            later = (major[1:] > major[:-1]) | ((major[1:] == major[:-1]) & later)
        return None if bool(later.all()) else np.lexsort((rows, seqs, steps))

    @classmethod
    def joined(cls, parts: list[Places]) -> Places:
        """Several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


def axis_row(places: Places) -> dict[str, Any]:
    """The columns of a row of `axes` but its key; the places are in order."""
    return {
        "count": len(places),
        "first_position": int(places.positions.min()),
        "last_position": int(places.positions.max()),
        "steps": pack_ints(places.steps),
        "seqs": pack_ints(places.seqs),
        "rows": pack_ints(places.rows),
        "positions": pack_ints(places.positions),
        "times": pack_ints(places.times.view(np.int64)),
    }


def chunk_row(places: Places, values: FloatArray) -> dict[str, Any]:
    """The columns of a row of `chunks` but its key; the places are in order."""
    first, last = int(places.steps[0]), int(places.steps[-1])
    times = places.times
    ascending = bool(np.isfinite(times).all()) and bool(np.all(times[1:] >= times[:-1]))
    coarse, cells = _pyramid(Points(places.steps, times, values), first, last)
    return {
        "count": len(values),
        "first_step": first,
        "first_seq": int(places.seqs[0]),
        "last_step": last,
        "last_seq": int(places.seqs[-1]),
        "first_time": float(times[0]) if ascending else None,
        "last_time": float(times[-1]) if ascending else None,
        "raw": True,
        "coarse": coarse,
        "cells": cells,
        "values": pack_floats(values),
    }


def _pyramid(points: Points, first: int, last: int) -> tuple[bytes, bytes | None]:
    """Coarse cells and cells of a chunk; none of a small one."""
    if len(points) < PYRAMID_FROM:
        return b"", None
    fine, rough = cell_level(len(points), first, last), coarse_level(first, last)
    cells = of_points(points, points.steps >> fine)
    return pack_few(cells.coarser(rough - fine), rough), encode_cells(cells, fine)
