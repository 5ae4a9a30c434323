"""The charts of a run as plotly figures: what the page draws, and what a notebook or a report shows.

Plotly draws NaN and ±Inf as gaps. Here each of them is a marker of its own at the edge of the chart: NaN (×) and
+Inf (▲) at the top, −Inf (▼) at the bottom, on an overlaid axis of fixed range so that they never scale the curve.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from holter_server.figure_bands import Band, incident_bands, stage_bands
from holter_server.figure_groups import line_labels, list_figures, metric_place
from holter_server.figure_ranks import AcrossLike, MeanOfRanks, band, non_finite_name, who
from holter_server.figure_style import THEMES, Theme, ThemeName, colours, rank_colours

__all__ = ["POINTS_PER_TRACE_MAX", "Axis", "SeriesLike", "build_figure", "list_figures"]

POINTS_PER_TRACE_MAX = 2_000  # SVG stays smooth up to about here
_MARKERS_MAX = 60  # non-finite markers beside one another; a run that ends in NaN has one for every step
LOG_FORMAT = "~g"
_RAW_OPACITY = 0.3  # of a line behind its moving average
_SPARSE = 60  # series with fewer points show them

# Where a non-finite value stands on the overlaid axis, its symbol and its name.
_NON_FINITE = {
    "NaN": (0.975, "x-thin"),
    "Infinity": (0.975, "triangle-up"),
    "-Infinity": (0.025, "triangle-down"),
}
_LANE = 0.05  # series of one chart stack their markers, so that none hides another
_LANES = 5

XName = Literal["step", "time", "relative"]
FloatArray = NDArray[np.float64]


class SeriesLike(Protocol):
    """A view of one series: ``steps`` (n,) int64, ``times`` (n,) seconds UTC, ``values`` (n,) float64 as logged.

    ``origin`` (seconds UTC) is the run's first start, from which relative time counts.
    """

    @property
    def metric(self) -> str: ...
    @property
    def writer(self) -> str: ...
    @property
    def attempt(self) -> Any: ...
    @property
    def shadowed_from(self) -> int | None: ...
    @property
    def origin(self) -> float: ...
    @property
    def steps(self) -> NDArray[np.int64]: ...
    @property
    def times(self) -> FloatArray: ...
    @property
    def values(self) -> FloatArray: ...


class Axis:
    """Turns (step, time) into the x of a chart: steps, a date, or seconds, minutes or hours since the run's start."""

    def __init__(self, x: XName, series: Sequence[SeriesLike]) -> None:
        self.name = x
        times = [entry.times for entry in series if len(entry.times)]
        first = min((float(part[0]) for part in times), default=0.0)
        last = max((float(part[-1]) for part in times), default=first)
        self.origin = min((entry.origin for entry in series), default=first)
        self.last_time = last
        self.last_step = max((int(entry.steps[-1]) for entry in series if len(entry.steps)), default=0)
        self.unit, self.seconds = next(
            (name, seconds) for name, seconds, limit in _RELATIVE if last - self.origin <= limit
        )

    def of(self, steps: NDArray[np.int64], times: FloatArray) -> FloatArray:
        """x of each point, shape (n,); dates are milliseconds since the epoch, as plotly.js counts them."""
        match self.name:
            case "step":
                return np.asarray(steps, dtype=np.float64)
            case "time":
                return np.asarray(times, dtype=np.float64) * 1000.0
        return (np.asarray(times, dtype=np.float64) - self.origin) / self.seconds

    def at(self, step: int | None, time: float | None) -> float | None:
        """x of one moment, or None where it isn't known on this axis."""
        if self.name == "step":
            return None if step is None else float(step)
        if time is None:
            return None
        return float(self.of(np.zeros(1, np.int64), np.array([time]))[0])

    @property
    def end(self) -> float:
        """x of the newest point."""
        return self.at(self.last_step, self.last_time) or 0.0


_RELATIVE = (("s", 1.0, 300.0), ("min", 60.0, 4 * 3600.0), ("h", 3600.0, math.inf))


def build_figure(
    name: str,
    series: Iterable[SeriesLike],
    *,
    across: Iterable[AcrossLike] = (),
    incidents: Iterable[Any] = (),
    events: Iterable[Any] = (),
    theme: ThemeName = "light",
    x: XName = "step",
    log_y: bool = False,
) -> dict[str, Any]:
    """One chart as plotly JSON, ``{"data": [...], "layout": {...}}``.

    Args:
        name: of the figure, see `list_figures`.
        series: views of its metrics; shadowed points (of an attempt that was resumed) are drawn faintly.
        across: views of metrics of several ranks: each is drawn as its mean, and a band from the least rank to the
            greatest. Series of the same metric in ``series`` are drawn as thin lines beside it.
        incidents: rows with ``severity``, ``state``, ``step``, ``last_step``, ``time`` …; each is a band from where it
            opened to where it was resolved, or to the newest point.
        events: rows with ``kind``, ``step``, ``time`` and ``text``; those of kind "stage" are backgrounds.
        theme: colours.
        x: step, time (UTC) or time since the run's start.
        log_y: logarithmic value axis.

    A series with an attribute ``smoothed``, (n,), is drawn faintly with that curve above it.

    Every trace carries ``meta``: ``{"metric", "writer", "attempt", "label", "role"}`` with role "line", "smoothed",
    "shadowed", "band", "non_finite" or "incidents"; ``layout.meta`` says how x is counted, and which metrics are means
    over ranks. Live points are appended by them.
    """
    of_ranks = list(across)
    averaged = {item.metric for item in of_ranks}
    drawn = sorted([*series, *map(MeanOfRanks.of, of_ranks)], key=lambda entry: _place(entry, averaged))
    look = THEMES[theme]
    axis = Axis(x, drawn)
    metrics = list(dict.fromkeys(entry.metric for entry in drawn))
    labels = line_labels(metrics)
    hues = colours(labels.values() if len(metrics) > 1 else metrics, look)
    hue_of = {metric: hues[labels[metric] if len(metrics) > 1 else metric] for metric in metrics}
    several_writers = len({entry.writer for entry in drawn}) > 1
    single_hues = rank_colours([entry.writer for entry in drawn if entry.metric in averaged], look)
    traces: list[go.Scatter] = []
    named: set[tuple[str, str]] = set()
    for entry in drawn:
        mean = isinstance(entry, MeanOfRanks)
        beside = several_writers and not mean
        label = labels[entry.metric] + (f" · {entry.writer.removesuffix('/system')}" if beside else "")
        single = entry.metric in averaged and not mean
        hue = single_hues[entry.writer] if single else hue_of[entry.metric]
        pen = _Pen(entry, axis, hue, label, first=(entry.metric, entry.writer) not in named, thin=single)
        named.add((entry.metric, entry.writer))
        traces += pen.traces(lane=metrics.index(entry.metric) % _LANES)
    shown_incidents = list(incidents)
    bands = [
        *stage_bands(events, drawn, axis, look),
        *incident_bands(shown_incidents, axis, look),
    ]
    if shown_incidents:
        traces.append(_incident_markers(shown_incidents, axis, look))
    layout = _layout(name, axis, look, bands, log_y=log_y)
    layout["meta"] |= {"across": sorted(averaged), "ranks": max((len(item.writers) for item in of_ranks), default=0)}
    figure = go.Figure(data=traces, layout=layout)
    result: dict[str, Any] = figure.to_plotly_json()
    return result


def _place(entry: SeriesLike, averaged: set[str]) -> tuple[bool, tuple[bool, str], str, int]:
    """Single ranks come first, so that their mean lies above them."""
    below = entry.metric in averaged and not isinstance(entry, MeanOfRanks)
    return not below, metric_place(entry.metric), entry.writer, entry.attempt


class _Pen:
    """Draws one series."""

    def __init__(self, entry: SeriesLike, axis: Axis, hue: str, label: str, *, first: bool, thin: bool = False) -> None:
        self.entry, self.axis, self.hue, self.label, self.first = entry, axis, hue, label, first
        self.width, self.opacity = (1.0, 0.75) if thin else (1.75, 1.0)
        self.x = axis.of(entry.steps, entry.times)
        self.values = np.asarray(entry.values, dtype=np.float64)
        self.finite = np.isfinite(self.values)
        self.smoothed: FloatArray | None = getattr(entry, "smoothed", None)
        if self.smoothed is not None:
            self.width, self.opacity = 1.0, _RAW_OPACITY

    def traces(self, lane: int) -> list[go.Scatter]:
        shadowed = np.zeros(len(self.x), dtype=bool)
        if self.entry.shadowed_from is not None:
            shadowed = np.asarray(self.entry.steps) >= self.entry.shadowed_from
        traces = [self._line("line", ~shadowed)]
        if isinstance(self.entry, MeanOfRanks):
            traces.insert(0, band(self.entry, self.x, ~shadowed, self.hue, self._meta("band")))
        if self.smoothed is not None:
            traces.append(self._smooth(self.smoothed, ~shadowed))
        if shadowed.any():
            traces.append(self._line("shadowed", shadowed))
        return [*traces, self._non_finite(lane)]

    def _meta(self, role: str) -> dict[str, Any]:
        return {
            "metric": self.entry.metric,
            "writer": self.entry.writer,
            "attempt": self.entry.attempt,
            "label": self.label,
            "role": role,
        }

    def _line(self, role: str, chosen: NDArray[np.bool_]) -> go.Scatter:
        kept = self._curve(chosen)
        x, y = self.x[kept], np.where(self.finite[kept], self.values[kept], np.nan)
        faint = role == "shadowed"
        edges = self.entry.edges[kept] if isinstance(self.entry, MeanOfRanks) else None
        between = "" if edges is None else " mean, %{customdata[0]:.4~g} to %{customdata[1]:.4~g}"
        return go.Scatter(
            x=x,
            y=y,
            mode="lines+markers" if _shows_points(y) else "lines",
            name=html.escape(self.label),
            legendgroup=f"{self.entry.metric} {self.entry.writer}",
            showlegend=self.first and not faint,
            connectgaps=False,
            opacity=0.35 if faint else self.opacity,
            line={
                "color": self.hue,
                "width": min(1.25, self.width) if faint else self.width,
                "dash": "dot" if faint else "solid",
            },
            marker={"color": self.hue, "size": 4},
            customdata=edges,
            hovertemplate="%{y:.6~g}" + between + (" (before the resume)" if faint else ""),
            meta=self._meta(role),
        )

    def _smooth(self, smoothed: FloatArray, chosen: NDArray[np.bool_]) -> go.Scatter:
        kept = np.flatnonzero(chosen & np.isfinite(smoothed))
        kept = kept[_thinned(smoothed[kept], POINTS_PER_TRACE_MAX)]
        return go.Scatter(
            x=self.x[kept],
            y=smoothed[kept],
            mode="lines",
            name=html.escape(self.label),
            legendgroup=f"{self.entry.metric} {self.entry.writer}",
            showlegend=False,
            line={"color": self.hue, "width": 2},
            hovertemplate="%{y:.6~g} smoothed",
            meta=self._meta("smoothed"),
        )

    def _curve(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Indices of the finite points, and of one (a gap) for each stretch of non-finite ones between them."""
        at = np.flatnonzero(chosen)
        y, finite = self.values[at], self.finite[at]
        starts = ~finite & np.concatenate(([True], finite[:-1]))
        keep = np.flatnonzero(finite | starts)
        return at[keep[_thinned(np.where(finite[keep], y[keep], np.nan), POINTS_PER_TRACE_MAX)]]

    def _non_finite(self, lane: int) -> go.Scatter:
        at = _ends_and_some(np.flatnonzero(~self.finite), self.x, _MARKERS_MAX)
        names = [non_finite_name(value) for value in self.values[at]]
        steps = [int(step) for step in self.entry.steps[at]]
        odd = self.entry.non_finite if isinstance(self.entry, MeanOfRanks) else ()
        lift = [lane * _LANE * (1 if name == "-Infinity" else -1) for name in names]
        return go.Scatter(
            x=self.x[at],
            y=np.array([_NON_FINITE[name][0] + up for name, up in zip(names, lift, strict=True)]),
            yaxis="y2",
            mode="markers",
            name=html.escape(self.label),
            legendgroup=f"{self.entry.metric} {self.entry.writer}",
            showlegend=False,
            cliponaxis=False,
            marker={
                "color": self.hue,
                "size": 7,
                "symbol": [_NON_FINITE[name][1] for name in names],
                "line": {"width": 1.5, "color": self.hue},
            },
            text=[f"{name} at step {step}{who(odd, step, name)}" for name, step in zip(names, steps, strict=True)],
            hovertemplate="%{text}",
            meta={**self._meta("non_finite"), "lane": lane, "count": int((~self.finite).sum())},
        )


def _shows_points(y: FloatArray) -> bool:
    return len(y) <= _SPARSE


def _ends_and_some(indices: NDArray[np.intp], x: FloatArray, limit: int) -> NDArray[np.intp]:
    """``indices``, or at most twice ``limit`` of them: the ends of unbroken stretches, and one per 1/limit of x."""
    if len(indices) <= limit:
        return indices
    breaks = np.diff(indices) > 1
    ends = np.flatnonzero(np.concatenate(([True], breaks)) | np.concatenate((breaks, [True])))
    ends = ends[np.linspace(0, len(ends) - 1, min(len(ends), limit)).astype(np.intp)]
    places = np.floor((x[indices] - x[0]) / max(x[-1] - x[0], 1e-9) * limit)
    spaced = np.flatnonzero(np.diff(places, prepend=-1.0) > 0)
    return indices[np.union1d(ends, spaced)]


def _thinned(values: FloatArray, limit: int) -> NDArray[np.intp]:
    """Indices of at most ``limit`` values, with the smallest and largest of each bucket, the first and the last."""
    n = len(values)
    if n <= limit:
        return np.arange(n)
    edges = np.linspace(0, n, (limit - 2) // 3 + 1).astype(np.intp)
    chosen = {0, n - 1}
    for start, stop in pairwise(edges):
        part = values[start:stop]
        gaps = np.flatnonzero(np.isnan(part))
        if len(gaps):
            chosen.add(int(start + gaps[0]))
        if len(gaps) < len(part):
            chosen |= {int(start + np.nanargmin(part)), int(start + np.nanargmax(part))}
    return np.array(sorted(chosen), dtype=np.intp)


def _incident_markers(incidents: Sequence[Any], axis: Axis, look: Theme) -> go.Scatter:
    """One diamond per incident on the lower edge, where it opened: the place to point at."""
    placed = [(axis.at(row.step, row.time), row) for row in incidents]
    known = [(axis.end if at is None else at, row) for at, row in placed]
    return go.Scatter(
        x=[at for at, _ in known],
        y=[0.0] * len(known),
        yaxis="y2",
        mode="markers",
        name="incident",
        showlegend=False,
        cliponaxis=False,
        marker={
            "symbol": "diamond",
            "size": 9,
            "color": [look.severity.get(row.severity, look.muted) for _, row in known],
            "line": {"width": 1.5, "color": look.surface},
        },
        text=[f"<b>{html.escape(row.severity)}</b> {_wrapped(row.message)}" for _, row in known],
        hovertemplate="%{text}<extra></extra>",
        meta={"role": "incidents", "ids": [str(row.id) for _, row in known]},
    )


def _wrapped(text: str, width: int = 64) -> str:
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(html.escape(line) for line in lines)


def _layout(name: str, axis: Axis, look: Theme, bands: Sequence[Band], *, log_y: bool) -> dict[str, Any]:
    line = {"gridcolor": look.grid, "zeroline": False, "ticks": "", "tickfont": {"color": look.muted, "size": 11}}
    return {
        "template": go.layout.Template(),
        "meta": {"figure": name, "x": axis.name, "origin": axis.origin, "x_scale": axis.seconds, "end": axis.end},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
            "size": 12,
            "color": look.text,
        },
        "height": 240,
        "margin": {"l": 52, "r": 14, "t": 18, "b": 30},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.08, "yanchor": "bottom"},
        "hovermode": "x unified",
        "hoverlabel": {
            "bgcolor": look.surface,
            "bordercolor": look.grid,
            "font": {"color": look.text, "size": 12},
            "align": "left",
        },
        "dragmode": "zoom",
        "uirevision": name,
        "xaxis": {**line, **_x_axis(axis), "showgrid": False, "linecolor": look.grid, "showline": True},
        "yaxis": {
            **line,
            "type": "log" if log_y else "linear",
            "nticks": 6,
            # Without a format plotly writes "2" and "5" between the decades in place of 20 and 50.
            "tickformat": LOG_FORMAT if log_y else "",
            "exponentformat": "power",
            "automargin": False,
        },
        "yaxis2": {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
        "shapes": [shape for band in bands for shape in band.shapes],
        "annotations": [note for band in bands for note in band.notes],
    }


def _x_axis(axis: Axis) -> dict[str, Any]:
    match axis.name:
        case "step":
            return {"tickformat": ",~f", "nticks": 7, "unifiedhovertitle": {"text": "step %{x:,~f}"}}
        case "time":
            return {"type": "date", "nticks": 6, "hoverformat": "%Y-%m-%d %H:%M:%S UTC"}
    since = datetime.fromtimestamp(axis.origin, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "nticks": 7,
        "ticksuffix": f" {axis.unit}",
        "unifiedhovertitle": {"text": f"%{{x:.2f}} {axis.unit} since {since}"},
    }
