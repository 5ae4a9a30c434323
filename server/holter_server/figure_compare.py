"""Figures of a comparison as plotly JSON: intervals of all rows on one axis, and both sides' curves over each other."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from holter.health.roles import Role, role_of
from holter_server.figure_style import THEMES, Theme, ThemeName
from holter_server.verdict.data import Curve, Record

__all__ = ["comparison_figures"]

POINTS = 300  # buckets of a curve
CHARTS_MAX = 12
_OVERLAID = (Role.VAL_LOSS, Role.ACCURACY, Role.LOSS, Role.GRAD_NORM)
_HUES = {"baseline": "slate", "candidate": "orange"}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def comparison_figures(
    comparison: Mapping[str, Any], baseline: Sequence[Record], candidate: Sequence[Record], theme: ThemeName = "light"
) -> list[dict[str, Any]]:
    """``[{"name", "title", "figure": {"data", "layout"}}]``: the intervals first, then the curves."""
    look = THEMES[theme]
    figures = []
    rows = [row for row in comparison["rows"] if row["interval"] is not None and row["difference"] is not None]
    if rows:
        figures.append(
            {"name": "intervals", "title": "Differences and their 95 % intervals", "figure": _forest(rows, look)}
        )
    judged = [row["metric"] for row in comparison["rows"] if row["kind"] in ("value", "smoothness")]
    logged = {name for record in (*baseline, *candidate) for name in record.curves if role_of(name) in _OVERLAID}
    names = list(dict.fromkeys([*judged, *sorted(logged, key=lambda name: (_OVERLAID.index(role_of(name)), name))]))
    for name in names[:CHARTS_MAX]:
        figure = _overlay(name, {"baseline": baseline, "candidate": candidate}, comparison, look)
        if figure is not None:
            figures.append({"name": name, "title": name, "figure": figure})
    return figures


def _forest(rows: Sequence[Mapping[str, Any]], look: Theme) -> dict[str, Any]:
    """Percent (accuracies: percentage points) on one axis; the winner's colour."""
    colours = {
        "candidate": look.hues[_HUES["candidate"]],
        "baseline": look.hues[_HUES["baseline"]],
        "tie": look.hues["green"],
        "undetermined": look.muted,
    }
    labels, centres, below, above, hues, texts = [], [], [], [], [], []
    for row in rows:
        value, (low, high) = row["difference"], row["interval"]
        if row["measure"] == "ratio":
            value, low, high, unit = value - 1, low - 1, high - 1, "%"
        else:
            unit = "%" if row["measure"] == "slowdown" else "points"
        labels.append(html.escape(row["title"] if row["kind"] == "speed" else row["metric"]))
        centres.append(100 * value)
        below.append(100 * (value - low))
        above.append(100 * (high - value))
        hues.append(colours[row["winner"]])
        texts.append(f"{100 * value:+.2f} {unit} [{100 * low:+.2f}, {100 * high:+.2f}], {row['assessment']}")
    layout = _layout(look, 60 + 34 * len(rows))
    layout["xaxis"] |= {"title": {"text": "percent or points", "font": {"size": 11}}, "zeroline": True,
                        "zerolinecolor": look.muted, "showgrid": True}  # fmt: skip
    layout["yaxis"] |= {"automargin": True, "autorange": "reversed", "showgrid": False}
    layout["showlegend"] = False
    trace = {
        "type": "scatter", "mode": "markers", "x": centres, "y": labels, "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": hues, "size": 9},
        "error_x": {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": look.muted,
                    "thickness": 1.5},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def _overlay(
    name: str, sides: Mapping[str, Sequence[Record]], comparison: Mapping[str, Any], look: Theme
) -> dict[str, Any] | None:
    traces: list[dict[str, Any]] = []
    for side, records in sides.items():
        for index, record in enumerate(records):
            if name not in record.curves:
                continue
            x, y = _thin(record.curves[name])
            seed = "" if record.seed is None else f", seed {record.seed}"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(x) <= 40 else "lines",
                    "x": x,
                    "y": y,
                    "name": side,
                    "legendgroup": side,
                    "showlegend": not any(trace["name"] == side for trace in traces),
                    "line": {"color": look.hues[_HUES[side]], "width": 1.6, "dash": _DASHES[index % len(_DASHES)]},
                    "marker": {"size": 4},
                    "opacity": 0.85,
                    "hovertemplate": f"{html.escape(record.name or record.id)}{seed}: %{{y:.5~g}}<extra>{side}</extra>",
                    "connectgaps": False,
                }
            )
    if not traces:
        return None
    layout = _layout(look, 260)
    layout["xaxis"] |= {"title": {"text": "step", "font": {"size": 11}}}
    entry, last = comparison["entry_step"], comparison["common_last_step"]
    marks = [(entry, "treatment enters"), (last if comparison["standing"] else None, "same step")]
    layout["shapes"] = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": look.muted, "width": 1, "dash": "dot"}} for at, _ in marks if at is not None
    ]  # fmt: skip
    layout["annotations"] = [
        {"x": at, "y": 1, "yref": "paper", "text": text, "showarrow": False, "xanchor": "left", "yanchor": "bottom",
         "font": {"size": 10, "color": look.muted}} for at, text in marks if at is not None
    ]  # fmt: skip
    return {"data": traces, "layout": layout}


def _thin(curve: Curve) -> tuple[list[float], list[float | None]]:
    """Medians of at most 300 buckets of steps; what is not finite is a gap."""
    n = len(curve.steps)
    if n <= POINTS:
        return [float(step) for step in curve.steps], [float(v) if np.isfinite(v) else None for v in curve.values]
    edges = np.linspace(0, n, POINTS + 1).astype(int)
    x, y = [], []
    for start, stop in pairwise(edges):
        part = curve.values[start:stop]
        finite = part[np.isfinite(part)]
        x.append(float(np.median(curve.steps[start:stop])))
        y.append(float(np.median(finite)) if 2 * len(finite) > len(part) else None)
    return x, y


def _layout(look: Theme, height: int) -> dict[str, Any]:
    axis = {"gridcolor": look.grid, "zeroline": False, "ticks": "", "tickfont": {"color": look.muted, "size": 11}}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": look.text},
        "height": height,
        "margin": {"l": 52, "r": 14, "t": 28, "b": 42},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": look.surface, "bordercolor": look.grid, "font": {"color": look.text}},
        "xaxis": {**axis, "showgrid": False, "linecolor": look.grid, "showline": True},
        "yaxis": {**axis, "nticks": 6},
    }
