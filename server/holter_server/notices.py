"""What a committed change tells the live sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Notice", "NoticeKind", "PointsOf"]

NoticeKind = Literal["points", "run", "incident", "command", "event"]


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
    """One change of one run. ``body`` is what the message carries beside its type and id; ``points`` for new points."""

    kind: NoticeKind
    run: str
    body: dict[str, Any]
    points: tuple[PointsOf, ...] = ()
