"""Losses and times as trainings log them, the same for every tracker.

Noise is drawn for a block of steps at a time, so that any part of a curve can be made without what lies before it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCK = 10_000  # steps
START = 1_790_000_000.0  # seconds, UTC
STEP_S = 0.1
NOISE = 0.06  # of a loss from step to step, relative


def losses(seed: int, columns: int, first: int, count: int) -> Array:
    """Values of the steps ``first`` … ``first + count - 1``, shape (count, columns), each exact in float32.

    A power law down to a floor, one for each column, times log-normal noise of a batch.
    """
    steps = np.arange(first, first + count, dtype=float)[:, None]
    column = np.arange(columns)
    level = 0.2 + 0.05 * column + (3.0 + column % 5) * (1 + steps / 1000) ** -(0.3 + 0.02 * (column % 7))
    noise = _by_block(seed, first, count, lambda rng: rng.standard_normal((BLOCK, columns), dtype=np.float32))
    return (level * np.exp(NOISE * noise)).astype(np.float32).astype(float)


def times(seed: int, first: int, count: int) -> Array:
    """Seconds, UTC, of the same steps, shape (count,), ascending: 0.1 s a step, 2 % jitter, and stragglers."""

    def clock(rng: np.random.Generator) -> Array:
        durations = rng.lognormal(0.0, 0.02, BLOCK)
        late = rng.random(BLOCK) < 0.005  # a slow batch, an evaluation
        durations[late] *= 1 + rng.exponential(2.0, int(late.sum()))
        return np.cumsum(durations) * (BLOCK / durations.sum())

    within = _by_block(seed + 1_000_003, first, count, clock)
    block = np.arange(first, first + count) // BLOCK
    return START + STEP_S * (block * BLOCK + within)


def _by_block(seed: int, first: int, count: int, draw: Callable[[np.random.Generator], Array]) -> Array:
    if count == 0:
        return draw(np.random.default_rng(0))[:0]
    start, end = first // BLOCK, (first + count - 1) // BLOCK + 1
    parts = [draw(np.random.default_rng((seed, block))) for block in range(start, end)]
    return np.concatenate(parts)[first - start * BLOCK :][:count]
