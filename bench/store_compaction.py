"""Waiting until everything that is stored has been folded into chunks.

The two ways in which this is asked of Holter stand here alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from holter_service import Service

from holter_db.database import Database

try:
    from holter_db import fold
except ImportError:  # a Holter that keeps segments for ever
    fold = None  # type: ignore[assignment]

__all__ = ["can_compact", "compact", "unfolded", "wait_until_compacted"]

UNFOLDED = "holter_segments_unfolded"  # a gauge of GET /metrics
LONGEST_S = 900.0


def can_compact() -> bool:
    return fold is not None


def compact(database: Database, runs: Iterable[str]) -> bool:
    """Fold runs that ended past the service; False where this Holter can't."""
    if fold is None:
        return False
    for run in runs:
        fold.fold_run(database, run, final=True)
    return True


def unfolded(service: Service) -> float | None:
    """Segments that wait to be folded; None where this Holter has no compactor."""
    return service.gauge(UNFOLDED)


def wait_until_compacted(service: Service) -> bool:
    """Wait for the service's own compactor. False where there is none.

    Raises:
        SystemExit: it is still not done after a quarter of an hour.
    """
    until = time.monotonic() + LONGEST_S
    while (left := unfolded(service)) is not None:
        if left == 0:
            return True
        if time.monotonic() > until:
            raise SystemExit(f"{left:.0f} segments are still not folded after {LONGEST_S:.0f} s.")
        time.sleep(0.2)
    return False
