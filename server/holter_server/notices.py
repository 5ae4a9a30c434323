"""What a committed change tells the live sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["EVERY_RUN", "Notice", "NoticeKind", "PointsOf", "Touch"]

NoticeKind = Literal["points", "run", "incident", "command", "event", "behind"]
EVERY_RUN = ""  # the run of a notice "behind" that is meant for every subscription


@dataclass(frozen=True, slots=True)
class PointsOf:
    """New points of one series; arrays of shape (n,)."""

    metric: str
    writer: str
    attempt: int
    steps: NDArray[np.int64]
    times: NDArray[np.float64]  # seconds, UTC
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Notice:
    """One change of one run. ``body`` is what the message carries beside its type and id; ``points`` for new points.

    "behind" says that something was left out, so that the whole has to be read again.
    """

    kind: NoticeKind
    run: str
    body: dict[str, Any]
    points: tuple[PointsOf, ...] = ()


@dataclass(frozen=True, slots=True)
class Touch:
    """A run that changed, for those who will read for themselves what became of it."""

    run: str
    position: int = 0  # of a new segment; 0: none
    points: int = 0  # in that segment
