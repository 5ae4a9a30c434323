"""A metric of several ranks in a chart: the band between the least and the greatest rank, and who was not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

__all__ = ["ACROSS", "AcrossLike", "MeanOfRanks", "band", "non_finite_name", "who"]

ACROSS = "ranks"  # the writer of the curve that stands for all of them
_BUCKETS = 900  # corners of the band on each of its edges at most
_NAMED = 4  # ranks in one label

FloatArray = NDArray[np.float64]


class NonFiniteLike(Protocol):
    """The points of one rank that are not finite."""

    @property
    def writer(self) -> str: ...
    @property
    def steps(self) -> NDArray[np.int64]: ...
    @property
    def values(self) -> FloatArray: ...


class AcrossLike(Protocol):
    """One metric across its ranks, see `holter_db.rank_series.RankSeries`."""

    @property
    def metric(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def writers(self) -> tuple[str, ...]: ...
    @property
    def shadowed_from(self) -> int | None: ...
    @property
    def origin(self) -> float: ...
    @property
    def steps(self) -> NDArray[np.int64]: ...
    @property
    def times(self) -> FloatArray: ...
    @property
    def mean(self) -> FloatArray: ...
    @property
    def min(self) -> FloatArray: ...
    @property
    def max(self) -> FloatArray: ...
    @property
    def non_finite(self) -> Sequence[NonFiniteLike]: ...


@dataclass(frozen=True, slots=True, eq=False)
class MeanOfRanks:
    """The mean as a series that a chart can draw; ``edges`` (n, 2) are the least and the greatest value."""

    metric: str
    writer: str
    attempt: int
    shadowed_from: int | None
    origin: float
    steps: NDArray[np.int64]
    times: FloatArray
    values: FloatArray
    edges: FloatArray
    non_finite: Sequence[NonFiniteLike]

    @classmethod
    def of(cls, item: AcrossLike) -> MeanOfRanks:
        # "rank0/system" and its siblings stand beside the ranks, in a chart as everywhere.
        beside = "/" in item.writers[0]
        return cls(
            metric=item.metric,
            writer=f"{ACROSS}/system" if beside else ACROSS,
            attempt=item.attempt,
            shadowed_from=item.shadowed_from,
            origin=item.origin,
            steps=item.steps,
            times=item.times,
            values=item.mean,
            edges=np.column_stack([item.min, item.max]),
            non_finite=item.non_finite,
        )


def band(entry: MeanOfRanks, x: FloatArray, chosen: NDArray[np.bool_], hue: str, meta: dict[str, Any]) -> go.Scatter:
    """The area between the edges as one closed outline, which gaps of the mean don't tear.

    Args:
        x: of the steps, shape (n,).
        chosen: the steps that count, shape (n,).
        hue: "#rrggbb".
    """
    at = np.flatnonzero(chosen & np.isfinite(entry.edges[:, 0]))
    starts = np.unique(np.linspace(0, len(at), _BUCKETS, endpoint=False).astype(np.intp)) if len(at) else at
    low = np.minimum.reduceat(entry.edges[at, 0], starts) if len(at) else np.empty(0)
    high = np.maximum.reduceat(entry.edges[at, 1], starts) if len(at) else np.empty(0)
    # A bucket is drawn at its first step; the last one reaches to the newest step.
    places = x[at[starts]]
    if len(at) > len(starts):
        places, low, high = np.append(places, x[at[-1]]), np.append(low, low[-1]), np.append(high, high[-1])
    return go.Scatter(
        x=np.concatenate([places, places[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_translucent(hue),
        hoverinfo="skip",
        showlegend=False,
        meta={**meta, "role": "band"},
    )


def who(entries: Iterable[NonFiniteLike], step: int, name: str) -> str:
    """Which ranks were not finite at ``step``, where the mean is called ``name``: " on rank2 and rank3"."""
    said = []
    for entry in entries:
        values = entry.values[entry.steps == step]
        if len(values):
            own = non_finite_name(float(values[-1]))
            said.append(entry.writer if own == name else f"{entry.writer} ({own})")
    if not said:
        return ""
    shown = said[:_NAMED] if len(said) <= _NAMED else [*said[:_NAMED], f"{len(said) - _NAMED} more"]
    return " on " + " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def non_finite_name(value: float) -> str:
    """NaN, Infinity or -Infinity."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _translucent(hue: str) -> str:
    red, green, blue = (int(hue[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"
