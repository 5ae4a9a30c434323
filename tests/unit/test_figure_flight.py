"""The flight recorder's heat map: what is drawn, and that plotly takes it."""

from __future__ import annotations

import doctest
import math
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter import wire
from holter_server import figure_flight
from holter_server.figure_flight import build_flight_figure
from holter_server.figure_style import THEMES

LAYERS = ["a.weight", "b.weight", "c.weight"]
STEPS = [10, 12, 14, 20]


def record(**more: Any) -> dict[str, Any]:
    norms = [[1.0, 10.0, 100.0]] * 2 + [[1.0, math.nan, 0.0]] + [[math.inf, math.nan, -math.inf]]
    return {
        "layers": LAYERS,
        "steps": STEPS,
        "grad_norm": wire.jsonable(norms),
        "weight_norm": [[5.0, 6.0, 7.0]] * 4,
        "first": {"what": "gradient", "name": "b.weight", "step": 14, "count": 1, "of": 3},
        "losses": {"loss/ce": [2.0, 1.9, "NaN", None]},
    } | more


def of_role(figure: dict[str, Any], role: str) -> dict[str, Any]:
    (trace,) = [trace for trace in figure["data"] if trace["meta"]["role"] == role]
    return trace


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("norm", ["gradient", "weight"])
def test_plotly_takes_it(theme: Any, norm: Any) -> None:
    """Every property is one that plotly knows."""
    figure = build_flight_figure(record(), norm=norm, theme=theme)
    go.Figure(figure).to_json()
    wire.dump_json(figure)


def test_colour_is_the_logarithm_and_non_finite_cells_are_apart() -> None:
    """A row for each layer, a column for each step; a zero is as dark as the smallest norm, not a gap."""
    figure = build_flight_figure(record())
    norms, odd = of_role(figure, "norms"), of_role(figure, "non_finite")
    assert norms["z"] == [[0.0, 0.0, 0.0, None], [1.0, 1.0, None, None], [2.0, 2.0, 0.0, None]]
    assert odd["z"] == [[None, None, None, 1.0], [None, None, 1.0, 1.0], [None, None, None, 1.0]]
    assert odd["colorscale"][0][1] == THEMES["light"].severity["critical"]
    assert odd["colorscale"][0][1] not in str(norms["colorscale"])
    texts = [[cell[2] for cell in row] for row in norms["customdata"]]
    assert texts[0] == ["1", "1", "1", "Infinity"]
    assert texts[2][3] == "-Infinity"
    assert norms["customdata"][1][2] == ["b.weight", "14", "NaN"]
    assert figure["layout"]["meta"] == {"norm": "gradient", "layers": 3, "steps": 4, "non_finite": 4}


def test_the_culprit_is_framed_and_named() -> None:
    """At its cell, and its name among those on the axis."""
    layout = build_flight_figure(record())["layout"]
    (frame,) = layout["shapes"]
    assert (frame["x0"], frame["x1"], frame["y0"], frame["y1"]) == (1.5, 2.5, 0.5, 1.5)
    (note,) = layout["annotations"]
    assert note["text"] == "first non-finite: step 14"
    assert THEMES["light"].severity["critical"] in layout["yaxis"]["ticktext"][1]
    assert build_flight_figure(record(), norm="weight")["layout"]["shapes"] == []  # it was a gradient


def test_of_200_layers_the_names_that_fit_are_shown_with_the_culprit_s() -> None:
    """On a row of six pixels no name can stand on every one."""
    layers = [f"encoder.layers.{index}.self_attention.out_projection.weight" for index in range(200)]
    first = {"name": layers[101], "step": 3}
    data = {"layers": layers, "steps": [1, 2, 3], "grad_norm": [[1.0] * 200] * 3, "first": first}
    axis = build_flight_figure(data)["layout"]["yaxis"]
    assert 101 in axis["tickvals"]
    gaps = [b - a for a, b in zip(axis["tickvals"], axis["tickvals"][1:], strict=False)]
    assert min(gaps) * 4 >= 13
    for text, at in zip(axis["ticktext"], axis["tickvals"], strict=True):
        assert f"{at}.self_" in text  # the part that tells it from the others


@pytest.mark.parametrize(
    ("width", "label"), [(1400, "encoder.layers.3.self_attn.in_proj_weight"), (700, "3.self_attn.in_proj_weight")]
)
def test_names_lose_first_what_says_least(width: int, label: str) -> None:
    """What they have in common goes, the layer's number stays."""
    layers = ["head.weight", *(f"encoder.layers.{index}.self_attn.in_proj_weight" for index in range(5))]
    data = {"layers": layers, "steps": [1], "grad_norm": [[1.0] * 6]}
    shown = build_flight_figure(data, width=width)["layout"]["yaxis"]["ticktext"]
    assert shown[4] == label


def test_names_are_never_shortened_into_the_same() -> None:
    """An encoder's and a decoder's layers keep apart, on a phone, too."""
    layers = [f"{part}.layers.{index}.norm1.weight" for part in ("encoder", "decoder") for index in range(3)]
    data = {"layers": layers, "steps": [1], "grad_norm": [[1.0] * 6]}
    shown = build_flight_figure(data, width=360)["layout"]["yaxis"]["ticktext"]
    assert len(set(shown)) == 6


def test_losses_share_the_steps_and_mark_what_is_not_finite() -> None:
    """A value that is not known is a gap, a NaN is a cross."""
    figure = build_flight_figure(record())
    assert of_role(figure, "loss")["y"] == [2.0, 1.9, None, None]
    marks = of_role(figure, "loss non_finite")
    assert marks["x"] == [2]
    assert "NaN" in marks["customdata"][0]


def test_names_are_text() -> None:
    """Plotly reads some HTML in labels."""
    nasty = "<img src=x onerror=alert(1)>"
    data = record(layers=[nasty, "b", "c"], first={"name": nasty, "step": 14}, losses={nasty: [1.0, 2.0, 3.0, 4.0]})
    figure = build_flight_figure(data)
    for trace in figure["data"]:
        trace.pop("meta")
        trace.pop("legendgroup", None)
    assert "<img" not in str(figure)


def test_the_examples_in_the_docs_hold() -> None:
    """As the doctests say."""
    assert doctest.testmod(figure_flight).failed == 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "Infinity"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
KEYS = ("layers", "steps", "grad_norm", "weight_norm", "first", "losses", "batch")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_whatever_the_data_is_there_is_a_figure(data: dict[str, Any]) -> None:
    """Anybody may send an event of kind flight."""
    go.Figure(build_flight_figure(data))
    wire.dump_json(build_flight_figure(data))
