"""The flight recorder's last steps as a figure: each tensor's norm at each step, and the losses of the same steps.

The colour is log10 of the norm. A norm that is not finite has no place on that scale: its cell is filled with the alarm
colour, and the tensor that was non-finite first is framed and named.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import dropwhile, takewhile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holter.wire import WireError, number_from_json
from holter_server.figure_style import THEMES, Theme, ThemeName, colours

__all__ = ["NormName", "build_flight_figure"]

NormName = Literal["gradient", "weight"]
FloatArray = NDArray[np.float64]

LAYERS_MAX, STEPS_MAX, LOSSES_MAX = 200, 128, 12  # as the agent sends them; more is cut off
_ROW_PX = ((24, 18), (60, 12), (100, 8), (LAYERS_MAX, 4))  # up to so many layers, so high is each
_HEAT_PX_MIN, _ROW_WITH_GAP_PX = 100, 8
_LABELS_EVERY_PX = 13
_LABEL_CHARACTERS_MIN, _LABEL_CHARACTERS_MAX, _CHARACTER_PX = 14, 44, 6
_LOSSES_PX, _GAP_PX, _TOP_PX, _TICKS_PX, _LEGEND_PX = 110, 26, 26, 26, 34
_TICK_PX = 90  # of the steps, apart
_DRAWN = 0.75  # of the width, without names and the scale
_FRAME_PX = 12

# Light to dark on a light page and the other way round on a dark one: more is further from the background.
_SCALES = {
    "light": ["#eaf1fd", "#b5cdf5", "#7ba6eb", "#3f78d3", "#1f4f9f", "#102b5c"],
    "dark": ["#1d2838", "#264a7c", "#3a6fb5", "#6fa8ff", "#a9caff", "#e3eeff"],
}


def build_flight_figure(
    data: Mapping[str, Any], *, norm: NormName = "gradient", theme: ThemeName = "light", width: int = 1000
) -> dict[str, Any]:
    """One figure as plotly JSON, ``{"data": [...], "layout": {...}}``.

    Args:
        data: of a flight event, see docs/rest.md. What is missing or malformed is not drawn.
        norm: of the gradients or of the weights.
        theme: colours.
        width: of the figure, in pixels; names of layers take a quarter of it at most.

    ``layout.meta`` says what is shown: ``{"norm", "layers", "steps", "non_finite"}``, the last three are counts.
    """
    look, record = THEMES[theme], _Record(data, norm)
    characters = min(_LABEL_CHARACTERS_MAX, max(width // 4 // _CHARACTER_PX, _LABEL_CHARACTERS_MIN))
    rows, columns = record.norms.shape
    heat_px = _heat_px(rows) if columns else 0
    losses_px = _LOSSES_PX if record.losses else 0
    inner_px = max(heat_px + losses_px + (_GAP_PX if heat_px and losses_px else 0), 1)
    layout = _layout(record, look, inner_px, width)
    traces = []
    if heat_px:
        traces += _heat(
            record, look, _SCALES[theme], length=heat_px / inner_px, gaps=heat_px >= rows * _ROW_WITH_GAP_PX
        )
        layout["yaxis"] |= {"domain": [1 - heat_px / inner_px, 1], **_layer_ticks(record, look, heat_px, characters)}
        layout["shapes"], layout["annotations"] = _culprit(record, look, (width * _DRAWN / columns, heat_px / rows))
    if losses_px:
        traces += _losses(record, look)
        layout["yaxis2"] |= {"domain": [0, losses_px / inner_px]}
        layout["yaxis3"] |= {"domain": [0, losses_px / inner_px]}
    return {"data": traces, "layout": layout}


def _heat_px(rows: int) -> int:
    if not rows:
        return 0
    return max(_HEAT_PX_MIN, rows * next(px for most, px in _ROW_PX if rows <= most))


class _Record:
    """The event's data as arrays of shape (layers, steps) and (steps,); ``known`` is False where nothing was said."""

    def __init__(self, data: Mapping[str, Any], norm: NormName) -> None:
        self.norm = norm
        self.steps = [int(step) for step in _items(data.get("steps")) if isinstance(step, int)][:STEPS_MAX]
        self.layers = [str(name) for name in _items(data.get("layers"))][:LAYERS_MAX]
        by_step = _items(data.get("grad_norm" if norm == "gradient" else "weight_norm"))
        shape = (len(self.steps), len(self.layers))
        self.norms, self.known = (array.T for array in _matrix([_items(row) for row in by_step], shape))
        losses = data.get("losses")
        self.losses = dict(list(losses.items())[:LOSSES_MAX]) if isinstance(losses, dict) and self.steps else {}
        self.first = first if isinstance(first := data.get("first"), dict) else {}

    @property
    def non_finite(self) -> NDArray[np.bool_]:
        return self.known & ~np.isfinite(self.norms)

    @property
    def culprit(self) -> tuple[int, int] | None:
        """Row and column of the cell that was non-finite first; None where it is not among those drawn."""
        name, step = self.first.get("name"), self.first.get("step")
        if name not in self.layers or step not in self.steps:
            return None
        return self.layers.index(name), self.steps.index(step)


def _matrix(rows: Sequence[Sequence[Any]], shape: tuple[int, int]) -> tuple[FloatArray, NDArray[np.bool_]]:
    values, known = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for index, row in enumerate(rows[: shape[0]]):
        for column, given in enumerate(row[: shape[1]]):
            number = _number(given)
            if number is not None:
                values[index, column], known[index, column] = number, True
    return values, known


def _number(given: Any) -> float | None:
    if given is None or isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return number_from_json(given)
    except (WireError, OverflowError):
        return None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- the heat map -----------------------------------------------------------------------------------------------


def _heat(record: _Record, look: Theme, colours_: list[str], *, length: float, gaps: bool) -> list[dict[str, Any]]:
    finite = record.known & np.isfinite(record.norms)
    size = np.where(finite & (record.norms > 0), record.norms, np.nan)
    if np.isnan(size).all():
        low, high = 0.0, 1.0
    else:
        low, high = float(np.log10(np.nanmin(size))), float(np.log10(np.nanmax(size)))
    # A norm of zero is as far down as the scale goes: it has no logarithm.
    z = np.where(finite, np.log10(np.where(finite & (record.norms > 0), record.norms, 10.0**low)), np.nan)
    hover = f"%{{customdata[0]}}<br>step %{{customdata[1]}}: {record.norm} norm %{{customdata[2]}}<extra></extra>"
    known = {
        "type": "heatmap", "x": list(range(len(record.steps))), "y": list(range(len(record.layers))),
        "xgap": 1 if len(record.steps) <= 64 else 0, "ygap": int(gaps), "hoverongaps": False, "hovertemplate": hover,
        "customdata": _hover_texts(record),
    }  # fmt: skip
    steps = [[at / (len(colours_) - 1), colour] for at, colour in enumerate(colours_)]
    ticks = _decades(low, high)
    bar = {
        "title": {"text": "norm", "font": {"size": 11, "color": look.muted}},
        "thickness": 10, "len": length, "y": 1, "yanchor": "top", "outlinewidth": 0, "xpad": 6,
        "tickvals": ticks, "ticktext": [f"1e{at:g}" if at.is_integer() else f"{10**at:.2g}" for at in ticks],
        "tickfont": {"size": 11, "color": look.muted},
    }  # fmt: skip
    alarm = look.severity["critical"]
    return [
        {
            **known, "z": _gaps(z), "zmin": low, "zmax": max(high, low + 1e-9), "colorscale": steps, "colorbar": bar,
            "meta": {"role": "norms"},
        },
        {
            **known, "z": _gaps(np.where(record.non_finite, 1.0, np.nan)), "zmin": 0, "zmax": 1, "showscale": False,
            "colorscale": [[0, alarm], [1, alarm]], "meta": {"role": "non_finite"},
        },
    ]  # fmt: skip


def _decades(low: float, high: float) -> list[float]:
    """At most six powers of ten between ``low`` and ``high``; where there are none, the ends."""
    every = max(1, math.ceil((high - low) / 6))
    found = [float(at) for at in range(math.ceil(low), math.floor(high) + 1, every)]
    return found if len(found) > 1 else sorted({round(low, 1), round(high, 1)})


def _gaps(array: FloatArray) -> list[Any]:
    return [[None if math.isnan(value) else value for value in row] for row in array.tolist()]


def _hover_texts(record: _Record) -> list[list[list[str]]]:
    names = [html.escape(_short(name, 80)) for name in record.layers]
    steps = [f"{step:,}" for step in record.steps]
    return [
        [[name, step, _shown(value)] for step, value in zip(steps, row, strict=True)]
        for name, row in zip(names, record.norms.tolist(), strict=True)
    ]


def _shown(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.3g}".replace("inf", "Infinity")


def _culprit(
    record: _Record, look: Theme, cell_px: tuple[float, float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A frame around the cell that was non-finite first, large enough to leave a thin one in sight, and its step."""
    place = record.culprit
    if place is None or record.first.get("what") != record.norm:
        return [], []
    row, column = place
    wide, high = (max(0.5, _FRAME_PX / 2 / px) for px in cell_px)
    frame = {
        "type": "rect", "xref": "x", "yref": "y", "x0": column - wide, "x1": column + wide, "y0": row - high,
        "y1": row + high, "line": {"width": 2, "color": look.text}, "name": "first non-finite",
    }  # fmt: skip
    left = column < len(record.steps) / 2
    note = {
        "xref": "x", "yref": "paper", "x": column, "y": 1, "yanchor": "bottom", "xanchor": "left" if left else "right",
        "text": f"first non-finite: step {record.steps[column]:,}",
        "showarrow": False, "font": {"size": 12, "color": look.severity["critical"]}, "name": "first non-finite",
    }  # fmt: skip
    return [frame], [note]


def _layer_ticks(record: _Record, look: Theme, heat_px: int, characters: int) -> dict[str, Any]:
    """As many names as there is room for; the one to look at is always among them."""
    culprit = record.culprit
    every = max(1, math.ceil(_LABELS_EVERY_PX * len(record.layers) / heat_px))
    wanted = set(range(0, len(record.layers), every))
    if culprit is not None:
        wanted = {row for row in wanted if abs(row - culprit[0]) >= every} | {culprit[0]}
    chosen = sorted(wanted)
    names = _labels(record.layers, characters)
    texts = [html.escape(_short(names[row], characters)) for row in chosen]
    if culprit is not None:
        at = chosen.index(culprit[0])
        texts[at] = f'<b><span style="color:{look.severity["critical"]}">{texts[at]}</span></b>'
    return {"tickvals": chosen, "ticktext": texts, "range": [len(record.layers) - 0.5, -0.5]}


def _labels(layers: Sequence[str], most: int) -> list[str]:
    """The layers' names, with less and less of what they have in common until they fit into ``most`` characters."""
    names = list(layers)
    for shortened in (_without_common_modules, _from_their_number_on, _with_initials, _without_weight):
        if max(map(len, names), default=0) <= most:
            break
        shorter = shortened(names)
        if len(set(shorter)) == len(set(names)):
            names = shorter
    return names


def _without_common_modules(names: list[str]) -> list[str]:
    modules = [name.split(".")[:-1] for name in names]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*modules, strict=False))
    same = len(list(levels)) if len(modules) > 1 else 0
    return [name.split(".", same)[same] for name in names]


def _from_their_number_on(names: list[str]) -> list[str]:
    """``encoder.layers.3.norm1.weight`` is ``3.norm1.weight``."""
    cut = [list(dropwhile(lambda part: not part.isdigit(), name.split("."))) for name in names]
    return [".".join(parts) or name for parts, name in zip(cut, names, strict=True)]


def _with_initials(names: list[str]) -> list[str]:
    """``encoder.layers.3.norm1.weight`` is ``e.l.3.norm1.weight``, where a decoder has a layer 3, too."""
    parts = [name.split(".") for name in names]
    heads = [list(takewhile(lambda part: not part.isdigit(), own)) for own in parts]
    return [
        ".".join([part[:1] for part in head] + own[len(head) :]) if len(head) < len(own) else ".".join(own)
        for own, head in zip(parts, heads, strict=True)
    ]


def _without_weight(names: list[str]) -> list[str]:
    return [name.removesuffix(".weight") for name in names]


def _short(name: str, most: int) -> str:
    """Cut in the middle: the number of the layer stands before it, the kind of the tensor behind.

    >>> _short("decoder.layers.11.self_attention.out_proj.weight", 30)
    'decoder.layers.11.…proj.weight'
    """
    if len(name) <= most:
        return name
    tail = (most - 1) * 2 // 5
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


# --- the losses -------------------------------------------------------------------------------------------------


def _losses(record: _Record, look: Theme) -> list[dict[str, Any]]:
    names = [str(name) for name in record.losses]
    hues = colours(names, look)
    traces = []
    for lane, (name, given) in enumerate(zip(names, record.losses.values(), strict=True)):
        values, known = _matrix([_items(given)], (1, len(record.steps)))
        values, known = values[0], known[0]
        odd = np.flatnonzero(known & ~np.isfinite(values))
        label = html.escape(_short(name, 40))
        steps = [f"{step:,}" for step in record.steps]
        about = {"type": "scatter", "xaxis": "x", "name": label, "legendgroup": name}
        traces += [
            {
                **about, "x": list(range(len(values))), "yaxis": "y2", "mode": "lines+markers", "connectgaps": False,
                "y": [value if math.isfinite(value) else None for value in values.tolist()],
                "line": {"color": hues[name], "width": 1.75}, "marker": {"size": 4, "color": hues[name]},
                "customdata": steps, "hovertemplate": f"{label} at step %{{customdata}}: %{{y:.5~g}}<extra></extra>",
                "meta": {"role": "loss", "metric": name},
            },
            {
                **about, "x": odd.tolist(), "y": [0.95 - 0.09 * (lane % 5)] * len(odd), "yaxis": "y3",
                "mode": "markers",
                "showlegend": False, "cliponaxis": False,
                "marker": {"symbol": "x-thin", "size": 7, "line": {"width": 1.75, "color": hues[name]}},
                "customdata": [f"{label} at step {steps[at]}: {_shown(values[at])}" for at in odd],
                "hovertemplate": "%{customdata}<extra></extra>", "meta": {"role": "loss non_finite", "metric": name},
            },
        ]  # fmt: skip
    return traces


# --- layout -----------------------------------------------------------------------------------------------------


def _layout(record: _Record, look: Theme, inner_px: int, width: int) -> dict[str, Any]:
    ticks = {"zeroline": False, "showgrid": False, "ticks": "", "tickfont": {"color": look.muted, "size": 11}}
    every = max(1, math.ceil(len(record.steps) / min(10, max(2, width * 3 // 4 // _TICK_PX))))
    below = _TICKS_PX + (_LEGEND_PX if record.losses else 0)
    chosen = list(range(len(record.steps)))[::-1][::every][::-1]  # the last step is the one that matters
    counts = {"layers": len(record.layers), "steps": len(record.steps), "non_finite": int(record.non_finite.sum())}
    return {
        "meta": {"norm": record.norm, **counts},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
            "size": 12,
            "color": look.text,
        },
        "height": inner_px + _TOP_PX + below,
        "margin": {"l": 10, "r": 10, "t": _TOP_PX, "b": below},
        "showlegend": True,
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": -_TICKS_PX / inner_px, "yanchor": "top",
            "font": {"size": 12, "color": look.text}, "itemclick": False, "itemdoubleclick": False,
        },
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": look.surface,
            "bordercolor": look.grid,
            "font": {"color": look.text, "size": 12},
            "align": "left",
        },
        "dragmode": False,
        "xaxis": {
            **ticks, "tickvals": chosen, "ticktext": [f"{record.steps[at]:,}" for at in chosen], "fixedrange": True,
            "range": [-0.5, len(record.steps) - 0.5], "anchor": "free", "position": 0,
            "tickangle": 0,
        },
        "yaxis": {**ticks, "automargin": "left", "fixedrange": True},
        "yaxis2": {
            **ticks, "anchor": "x", "automargin": "left", "nticks": 4, "showgrid": True, "gridcolor": look.grid,
            "fixedrange": True, "visible": bool(record.losses),
        },
        "yaxis3": {"anchor": "x", "overlaying": "y2", "range": [0, 1], "visible": False, "fixedrange": True},
        "shapes": [],
        "annotations": [],
    }  # fmt: skip
