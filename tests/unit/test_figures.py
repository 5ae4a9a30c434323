"""What the charts of a run promise, whatever draws them."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_server.figure_groups import figure_name, line_labels
from holter_server.figure_style import THEMES
from holter_server.figures import POINTS_PER_TRACE_MAX, build_figure, list_figures

START = 1_700_000_000.0


@dataclass(frozen=True)
class View:
    metric: str
    values: Any
    writer: str = "rank0"
    attempt: int = 1
    shadowed_from: int | None = None
    origin: float = START
    first_step: int = 0

    @property
    def steps(self) -> Any:
        return np.arange(self.first_step, self.first_step + len(self.values), dtype=np.int64)

    @property
    def times(self) -> Any:
        return START + self.steps.astype(np.float64)


@dataclass(frozen=True)
class Incident:
    id: str = "i1"
    severity: str = "critical"
    state: str = "firing"
    step: int | None = 20
    last_step: int | None = 30
    resolved_step: int | None = None
    time: float = START + 20
    resolved_at: float | None = None
    message: str = "precursor 6.4 > 5"


@dataclass(frozen=True)
class Stage:
    step: int
    text: str
    kind: str = "stage"
    time: float = field(default=START)


@dataclass(frozen=True)
class Named:
    name: str


def numbers(encoded: Any) -> list[float]:
    """An array of a trace, as plotly writes it: a list, or base64 of a typed array."""
    if isinstance(encoded, dict):
        return np.frombuffer(base64.b64decode(encoded["bdata"]), dtype=np.dtype(encoded["dtype"])).tolist()
    return list(encoded)


def traces(figure: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace["meta"]["role"] == role]


def shapes(figure: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [shape for shape in figure["layout"]["shapes"] if shape["name"].startswith(name)]


def test_non_finite_points_are_markers_at_the_edge() -> None:
    """NaN, +Inf and −Inf are each found, told apart, at their step; the curve has gaps there and nothing else."""
    values = np.array([1.0, math.nan, 2.0, math.inf, 3.0, -math.inf, 1e-30])
    figure = build_figure("loss", [View("loss/ce", values)])
    [markers] = traces(figure, "non_finite")
    assert numbers(markers["x"]) == [1.0, 3.0, 5.0]
    assert markers["marker"]["symbol"] == ["x-thin", "triangle-up", "triangle-down"]
    assert markers["text"] == ["NaN at step 1", "Infinity at step 3", "-Infinity at step 5"]
    top, also_top, bottom = numbers(markers["y"])
    assert top > 0.9
    assert also_top > 0.9
    assert bottom < 0.1
    assert markers["yaxis"] == "y2"
    assert figure["layout"]["yaxis2"]["range"] in ([0, 1], (0, 1))
    [line] = traces(figure, "line")
    assert line["connectgaps"] is False
    drawn = numbers(line["y"])
    assert drawn[0::2] == [1.0, 2.0, 3.0, 1e-30]
    assert all(math.isnan(value) for value in drawn[1::2])


def test_every_series_has_a_place_for_markers_from_the_start() -> None:
    """The live page appends a NaN to the marker trace of its series, so that trace is there before the first NaN."""
    figure = build_figure("loss", [View("loss/ce", np.ones(3)), View("loss/total", np.ones(3))])
    assert {trace["meta"]["metric"] for trace in traces(figure, "non_finite")} == {"loss/ce", "loss/total"}
    assert all(numbers(trace["x"]) == [] for trace in traces(figure, "non_finite"))


def test_meta_names_the_series_of_each_trace() -> None:
    figure = build_figure("loss", [View("loss/ce", np.ones(3), writer="rank1", attempt=2)])
    [line] = traces(figure, "line")
    assert line["meta"] == {"metric": "loss/ce", "writer": "rank1", "attempt": 2, "label": "ce", "role": "line"}
    assert figure["layout"]["meta"]["x"] == "step"


@given(
    st.lists(st.sampled_from([1.0, -2.5, 1e30, math.nan, math.inf, -math.inf]) | st.floats(-9, 9), max_size=200),
    st.sampled_from([1, 37, 60]),
)
def test_traces_stay_small_and_keep_their_extremes(pattern: list[float], repeat: int) -> None:
    """However long and however sick a series is: bounded traces, first and last point, smallest and largest."""
    values = np.array(pattern * repeat)
    figure = build_figure("m", [View("m", values)])
    [line], [markers] = traces(figure, "line"), traces(figure, "non_finite")
    drawn = np.array(numbers(line["y"]))
    assert len(drawn) <= POINTS_PER_TRACE_MAX
    assert len(numbers(markers["x"])) <= POINTS_PER_TRACE_MAX
    finite = values[np.isfinite(values)]
    if len(finite):
        assert np.nanmin(drawn) == finite.min()
        assert np.nanmax(drawn) == finite.max()
    sick = np.flatnonzero(~np.isfinite(values))
    if len(sick):
        assert numbers(markers["x"])[0] == sick[0]
        assert numbers(markers["x"])[-1] == sick[-1]
        assert markers["meta"]["count"] == len(sick)


def test_a_run_that_ends_in_nan_keeps_the_step_where_it_began() -> None:
    values = np.concatenate([np.ones(3390), np.full(1610, math.nan)])
    [markers] = traces(build_figure("m", [View("m", values)]), "non_finite")
    assert markers["text"][0] == "NaN at step 3390"
    assert markers["text"][-1] == "NaN at step 4999"
    assert len(markers["text"]) <= 100


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_incidents_are_bands_from_where_they_opened(theme: Any) -> None:
    """A firing incident reaches to the newest point, a resolved one to where it was resolved."""
    series = [View("m", np.ones(100))]
    resolved = Incident(id="i2", severity="warning", state="resolved", step=5, resolved_step=9)
    figure = build_figure("m", series, incidents=[Incident(), resolved], theme=theme)
    [critical] = shapes(figure, "incident critical")
    [warning] = shapes(figure, "incident warning")
    assert (critical["x0"], critical["x1"], critical["name"]) == (20.0, 99.0, "incident critical open")
    assert (warning["x0"], warning["x1"], warning["name"]) == (5.0, 9.0, "incident warning")
    assert critical["fillcolor"] == THEMES[theme].band["critical"]
    [markers] = traces(figure, "incidents")
    assert markers["text"][0].endswith("precursor 6.4 &gt; 5")
    assert markers["meta"]["ids"] == ["i1", "i2"]


def test_overlapping_incidents_share_a_band() -> None:
    rows = [Incident(id=f"i{n}", step=20 + n) for n in range(10)]
    figure = build_figure("m", [View("m", np.ones(100))], incidents=rows)
    assert len(shapes(figure, "incident critical")) == 1
    assert len(shapes(figure, "incident line")) == 10


def test_a_critical_incident_hides_a_warning_beneath_it() -> None:
    rows = [
        Incident(id="w", severity="warning", step=10),
        Incident(id="c", state="resolved", step=20, resolved_step=30),
    ]
    figure = build_figure("m", [View("m", np.ones(100))], incidents=rows)
    assert [(band["x0"], band["x1"]) for band in shapes(figure, "incident warning")] == [(10.0, 20.0), (30.0, 99.0)]
    firing = [rows[0], Incident(id="c", step=20)]
    figure = build_figure("m", [View("m", np.ones(100))], incidents=firing)
    assert [(band["x0"], band["x1"]) for band in shapes(figure, "incident warning")] == [(10.0, 20.0)]


def test_an_incident_without_a_step_stands_at_the_newest_point() -> None:
    """A lost run has no step of its own: the clock found it."""
    figure = build_figure("m", [View("m", np.ones(100))], incidents=[Incident(step=None, last_step=None)])
    assert shapes(figure, "incident critical")[0]["x0"] == 99.0


def test_stages_are_alternating_backgrounds_with_their_names() -> None:
    stages = [Stage(0, "stage 1: CE"), Stage(40, "stage 2: <b>aux</b>"), Stage(70, "stage 3")]
    figure = build_figure("m", [View("m", np.ones(100))], events=[*stages, Stage(3, "saved", kind="checkpoint")])
    bands = shapes(figure, "stage")
    assert [(band["x0"], band["x1"]) for band in bands] == [(0.0, 40.0), (40.0, 70.0), (70.0, 99.0)]
    assert bands[0]["fillcolor"] != bands[1]["fillcolor"]
    assert bands[-1]["name"] == "stage open"
    assert [note["text"] for note in figure["layout"]["annotations"]][1] == "stage 2: &lt;b&gt;aux&lt;/b&gt;"


def test_stages_come_from_the_metric_where_no_event_tells_them() -> None:
    figure = build_figure("c", [View("curriculum/stage", np.array([1.0] * 5 + [2.0] * 5))])
    assert [band["x0"] for band in shapes(figure, "stage")] == [0.0, 5.0]


def test_names_of_users_are_text() -> None:
    """Plotly reads a little HTML in names and hover texts; a metric's name is never read as such."""
    name = "loss/<a href='x'>&<img src=x onerror=alert(1)>"
    figure = build_figure("loss", [View(name, np.ones(3)), View("loss/ce", np.ones(3))])
    label = name.removeprefix("loss/")
    assert {trace["meta"]["label"] for trace in traces(figure, "line")} == {"ce", label}
    assert not any("<" in trace["name"] for trace in figure["data"])


def test_one_metric_has_one_colour_in_every_chart_and_theme_colours_differ() -> None:
    raw = build_figure("loss", [View(f"loss/{part}", np.ones(3)) for part in ("ce", "precursor", "total")])
    weighted = build_figure("weighted", [View(f"weighted/{part}", np.ones(3)) for part in ("ce", "precursor")])
    hue = {trace["meta"]["label"]: trace["line"]["color"] for trace in traces(raw, "line")}
    for trace in traces(weighted, "line"):
        assert trace["line"]["color"] == hue[trace["meta"]["label"]]
    assert len(set(hue.values())) == 3
    dark = build_figure("loss", [View("loss/ce", np.ones(3))], theme="dark")
    assert traces(dark, "line")[0]["line"]["color"] not in hue.values()


def test_shadowed_points_are_faint_and_kept() -> None:
    """What a resumed run had logged past the resume stays visible, and is not part of the line."""
    first = View("m", np.arange(10.0), shadowed_from=6)
    second = View("m", np.arange(6.0) + 100, attempt=2, first_step=6)
    figure = build_figure("m", [first, second])
    lines, [faint] = traces(figure, "line"), traces(figure, "shadowed")
    assert numbers(lines[0]["y"]) == [0, 1, 2, 3, 4, 5]
    assert numbers(faint["y"]) == [6, 7, 8, 9]
    assert faint["opacity"] < 1
    assert [trace["showlegend"] for trace in lines] == [True, False]


def test_x_is_step_time_or_time_since_the_start() -> None:
    series = [View("m", np.ones(601))]
    incident = [Incident(step=20, time=START + 20)]
    assert numbers(traces(build_figure("m", series), "line")[0]["x"])[-1] == 600
    dated = build_figure("m", series, x="time", incidents=incident)
    assert numbers(traces(dated, "line")[0]["x"])[-1] == (START + 600) * 1000
    assert shapes(dated, "incident critical")[0]["x0"] == (START + 20) * 1000
    since = build_figure("m", series, x="relative")
    assert numbers(traces(since, "line")[0]["x"])[-1] == 10.0  # minutes
    assert since["layout"]["meta"]["x_scale"] == 60


def test_logarithmic_axis_on_request() -> None:
    assert build_figure("m", [View("m", np.ones(3))], log_y=True)["layout"]["yaxis"]["type"] == "log"


def test_a_figure_is_plain_json_and_carries_no_big_template() -> None:
    """It goes through any JSON encoder, and plotly's own 7 kB of colours for every chart type stay out."""
    text = json.dumps(build_figure("m", [View("m", np.array([1.0, math.nan]))], incidents=[Incident()]))
    assert len(text) < 6_000


def test_a_figure_without_series_is_an_empty_chart() -> None:
    figure = build_figure("gone", [], events=[Stage(0, "s")], incidents=[Incident(step=None)])
    assert traces(figure, "line") == []
    assert traces(build_figure("m", [View("m", np.array([]))]), "line")[0]["meta"]["metric"] == "m"


def test_figures_group_by_prefix_and_quantity() -> None:
    names = [
        "lr", "grad_norm", "train/token_acc", "val/easy/token_acc", "val/hard/token_acc", "val/easy/loss",
        "val/hard/loss", "loss/total", "loss/ce", "weighted/ce", "weight/spectrum", "curriculum/stage",
        "perf/step_time", "perf/it_per_s", "system/cpu_percent", "system/process_rss_gb",
        "system/gpu0/memory_used_gb", "system/gpu1/memory_used_gb", "system/gpu0/memory_total_gb",
    ]  # fmt: skip
    figures = list_figures([Named(name) for name in names])
    assert [figure["title"] for figure in figures] == [
        "loss", "weighted/ce", "val · accuracy", "val · loss", "train/token_acc", "grad_norm", "lr",
        "weight/spectrum", "perf/it_per_s", "perf/step_time", "curriculum/stage",
        "system · gpu · GB", "system/cpu_percent", "system/process_rss_gb",
    ]  # fmt: skip
    by_name = {figure["name"]: figure for figure in figures}
    assert by_name["loss"]["metrics"] == ["loss/total", "loss/ce"]
    assert by_name["val/*:accuracy"]["metrics"] == ["val/easy/token_acc", "val/hard/token_acc"]
    assert by_name["val/*:accuracy"]["title"] == "val · accuracy"
    assert by_name["system/*:GB"]["title"] == "system · gpu · GB"
    assert by_name["system/*:GB"]["section"] == "system"
    assert by_name["loss"]["section"] == ""
    assert figures[0]["name"] == "loss"
    assert figures[-1]["section"] == "system"
    every = [metric for figure in figures for metric in figure["metrics"]]
    assert sorted(every) == sorted(names)


def test_a_prefix_with_many_charts_has_a_section_of_its_own() -> None:
    figures = list_figures([Named(f"opt/{name}") for name in ("a_ms", "b_gb", "c_percent")])
    assert {figure["section"] for figure in figures} == {"opt"}


@given(st.lists(st.text(st.sampled_from("ab/_:*<é"), min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_every_metric_stands_in_exactly_one_figure(names: list[str]) -> None:
    figures = list_figures([Named(name) for name in names])
    assert sorted(metric for figure in figures for metric in figure["metrics"]) == sorted(names)
    assert len({figure["name"] for figure in figures}) == len(figures)
    for figure in figures:
        assert all(figure_name(metric) == figure["name"] for metric in figure["metrics"])
        assert all(line_labels(figure["metrics"]).values()) or any(name.endswith("/") for name in names)


@dataclass(frozen=True)
class Smoothed(View):
    @property
    def smoothed(self) -> Any:
        means = np.full(len(self.values), 2.0)
        means[:3] = math.nan
        return means


def test_a_moving_average_lies_above_its_line() -> None:
    """The line stays, faintly; the average has no point where there was none to average, and skips what is shadowed."""
    values = np.arange(20.0)
    values[:3] = math.nan
    figure = build_figure("m", [Smoothed("m", values, shadowed_from=15)])
    roles = [trace["meta"]["role"] for trace in figure["data"]]
    assert roles.index("line") < roles.index("smoothed")
    [line], [smoothed] = traces(figure, "line"), traces(figure, "smoothed")
    assert line["opacity"] < 0.5
    assert line["line"]["color"] == smoothed["line"]["color"]
    assert numbers(smoothed["x"]) == list(range(3, 15))
    assert set(numbers(smoothed["y"])) == {2.0}
    assert not smoothed["showlegend"]
