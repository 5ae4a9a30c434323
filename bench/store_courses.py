"""Runs that go wrong at known places, the same each time they are logged."""

from __future__ import annotations

from functools import cache

import numpy as np
from peers.curves import losses, times
from peers.data import METRICS

from holter.wire import VERSION, Block, Event, FloatArray, Frame

__all__ = ["Course"]

WINDOW = 1200  # steps, with one fault in each
FAULTS = ("nan", "infinity", "spike", "excursion", "all nan")
ROWS_MAX = 120
EVENT_EVERY, ALERT_EVERY = 7, 35  # frames


class Course:
    """All that one run logs: frames of 1 to 119 steps of 8 metrics, events, and faults that do not depend on frames.

    >>> course = Course("a", 1)
    >>> course.frame(3).blocks[0].rows == Course("a", 1).frame(3).blocks[0].rows
    True
    """

    def __init__(self, run: str, seed: int) -> None:
        self.run, self.seed = run, seed
        self._starts = [0]  # the first step of frame 1, 2, …

    def steps_before(self, seq: int) -> int:
        """How many steps the frames before ``seq`` hold."""
        while len(self._starts) < seq:
            rng = np.random.default_rng((self.seed, len(self._starts)))
            self._starts.append(self._starts[-1] + int(rng.integers(1, ROWS_MAX)))
        return self._starts[seq - 1]

    def frame(self, seq: int) -> Frame:
        first, end = self.steps_before(seq), self.steps_before(seq + 1)
        steps = np.arange(first, end)
        block = Block.of(METRICS, steps, times(self.seed, first, end - first), self.values(first, end))
        return Frame(VERSION, "", "rank0", seq, [block], self._events(seq, first))

    def values(self, first: int, end: int) -> FloatArray:
        """What is logged at the steps ``first`` … ``end - 1``, shape (steps, 8)."""
        found = losses(self.seed, len(METRICS), first, end - first)
        for window in range(first // WINDOW, (end - 1) // WINDOW + 1):
            kind, start, column = _fault(self.seed, window)
            length = {"nan": 1, "infinity": 2, "spike": 1, "excursion": 25, "all nan": 6}[kind]
            rows = slice(max(0, start - first), max(0, start + length - first))
            _spoil(found[rows], kind, column)
        return found

    def _events(self, seq: int, step: int) -> list[Event]:
        if seq % EVENT_EVERY:
            return []
        kind = "alert" if seq % ALERT_EVERY == 0 else "note"
        severity = "warning" if kind == "alert" else "info"
        return [Event(float(times(self.seed, step, 1)[0]), f"frame {seq}", kind, step, severity)]

    def events(self, frames: int) -> list[str]:
        """The texts of the events of the frames 1 … ``frames``."""
        return [event.text for seq in range(1, frames + 1) for event in self._events(seq, 0)]


@cache
def _fault(seed: int, window: int) -> tuple[str, int, int]:
    """Kind, first step and column of the fault in a window."""
    rng = np.random.default_rng((seed, window, 77))
    kind = FAULTS[int(rng.integers(len(FAULTS)))]
    return kind, window * WINDOW + int(rng.integers(300, WINDOW - 100)), int(rng.integers(len(METRICS)))


def _spoil(rows: FloatArray, kind: str, column: int) -> None:
    if kind == "nan":
        rows[:, column] = np.nan
    elif kind == "infinity":
        rows[:, column] = np.inf if column % 2 else -np.inf
    elif kind == "all nan":
        rows[:] = np.nan
    else:
        rows[:, column] *= np.float32(40.0 if kind == "spike" else 8.0)
