"""What lies behind the curves: curriculum stages as faint backgrounds, incidents as bands in their severity's hue."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from holter_server.figure_style import Theme

__all__ = ["AxisLike", "Band", "incident_bands", "stage_bands"]


class AxisLike(Protocol):
    """Where a moment stands on the chart's x axis."""

    def at(self, step: int | None, time: float | None) -> float | None: ...
    def of(self, steps: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.float64]: ...
    @property
    def end(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Band:
    """Layout shapes and annotations. A shape whose name ends in "open" grows with the run."""

    shapes: tuple[dict[str, Any], ...]
    notes: tuple[dict[str, Any], ...] = field(default=())


def _rectangle(start: float, end: float, fill: str, name: str) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": max(end, start), "y0": 0, "y1": 1,
        "fillcolor": fill, "line": {"width": 0}, "layer": "below", "name": name,
    }  # fmt: skip


# --- stages -----------------------------------------------------------------------------------------------------


def stage_bands(events: Iterable[Any], series: Sequence[Any], axis: AxisLike, look: Theme) -> list[Band]:
    """A background from each stage's start to the next one's, with the stage's name above its left end.

    Stages are the events of kind "stage"; without any, the steps at which a metric ``…/stage`` changes.
    """
    starts = _stages_of_events(events, axis) or _stages_of_series(series, axis)
    bands = []
    for index, (start, text) in enumerate(starts):
        last = index + 1 == len(starts)
        end = axis.end if last else starts[index + 1][0]
        shape = _rectangle(start, end, look.stage[index % 2], "stage open" if last else "stage")
        bands.append(Band((shape,), (_stage_note(start, text, look),)))
    return bands


def _stages_of_events(events: Iterable[Any], axis: AxisLike) -> list[tuple[float, str]]:
    placed = [(axis.at(event.step, event.time), event.text) for event in events if event.kind == "stage"]
    return sorted((at, text) for at, text in placed if at is not None)


def _stages_of_series(series: Sequence[Any], axis: AxisLike) -> list[tuple[float, str]]:
    for entry in series:
        if not entry.metric.endswith("/stage") or not len(entry.values):
            continue
        values = np.asarray(entry.values, dtype=np.float64)
        changes = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])) & np.isfinite(values))
        x = axis.of(entry.steps[changes], entry.times[changes])
        return [(float(at), f"stage {value:g}") for at, value in zip(x, values[changes], strict=True)]
    return []


def _stage_note(start: float, text: str, look: Theme) -> dict[str, Any]:
    shown = text if len(text) <= 44 else f"{text[:43]}…"
    return {
        "x": start, "xref": "x", "xanchor": "left", "xshift": -2,
        "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": -1,
        "text": html.escape(shown), "showarrow": False, "font": {"size": 10, "color": look.muted},
        "name": "stage", "hovertext": html.escape(text),
    }  # fmt: skip


# --- incidents --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    start: float
    end: float
    open: bool


def incident_bands(incidents: Iterable[Any], axis: AxisLike, look: Theme) -> list[Band]:
    """A band per stretch in which incidents of one severity were open, and a line where each of them opened.

    Bands do not overlap: ten incidents of one severity share one, and a critical one hides a warning beneath it.
    Painted over one another they would hide the curve.
    """
    spans: dict[str, list[_Span]] = {}
    lines: list[dict[str, Any]] = []
    for row in incidents:
        span = _span(row, axis)
        spans.setdefault(row.severity, []).append(span)
        lines.append(_opening(span.start, row, look))
    critical = _merged(spans.get("critical", []))
    warning = _without(_merged(spans.get("warning", [])), critical)
    bands = [
        Band((_rectangle(span.start, span.end, look.band[severity], _band_name(severity, span)),))
        for severity, shown in (("warning", warning), ("critical", critical))
        for span in shown
    ]
    return [*bands, Band(tuple(lines))] if lines else bands


def _band_name(severity: str, span: _Span) -> str:
    return f"incident {severity}" + (" open" if span.open else "")


def _span(row: Any, axis: AxisLike) -> _Span:
    start = axis.at(row.step, row.time)
    start = axis.end if start is None else start
    if row.state != "resolved":
        return _Span(start, max(axis.end, start), True)
    end = axis.at(row.resolved_step if row.resolved_step is not None else row.last_step, row.resolved_at)
    return _Span(start, max(start, start if end is None else end), False)


def _merged(spans: Sequence[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end:
            before = merged.pop()
            span = _Span(before.start, max(before.end, span.end), before.open or span.open)  # noqa: PLW2901
        merged.append(span)
    return merged


def _without(spans: Sequence[_Span], hidden: Sequence[_Span]) -> list[_Span]:
    """What of ``spans`` is not covered by ``hidden``, both merged and in order."""
    left: list[_Span] = []
    for span in spans:
        start = span.start
        for cover in hidden:
            if cover.end < start or cover.start > span.end:
                continue
            if cover.start > start:
                left.append(_Span(start, cover.start, False))
            start = math.inf if cover.open else cover.end
        if start < span.end or (start == span.end and span.open):
            left.append(_Span(start, span.end, span.open))
    return left


def _opening(start: float, row: Any, look: Theme) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": start, "x1": start, "y0": 0, "y1": 1, "layer": "below",
        "line": {"width": 1, "color": look.severity.get(row.severity, look.muted), "dash": "dot"},
        "name": f"incident line {row.id}",
    }  # fmt: skip
