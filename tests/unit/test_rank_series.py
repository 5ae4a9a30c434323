"""One curve of several ranks: least ≤ mean ≤ greatest, whoever lacks a step doesn't count, whoever is NaN is named."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_db.rank_series import RankSeries, across
from holter_db.series import Series
from holter_db.stragglers import step_time
from holter_server.figures import build_figure

VALUES = st.floats(width=64)
RANK = st.lists(st.tuples(st.integers(0, 8), VALUES), min_size=1, max_size=12)


def series(rank: int, points: list[tuple[int, float]]) -> Series:
    ordered = sorted(points, key=lambda point: point[0])
    steps = np.array([step for step, _ in ordered], np.int64)
    values = np.array([value for _, value in ordered])
    return Series("run", "loss", f"rank{rank}", rank, 1, None, 0.0, steps, 1e9 + steps + rank / 10, values)


@given(st.lists(RANK, min_size=1, max_size=4))
def test_every_step_says_what_its_ranks_say(ranks: list[list[tuple[int, float]]]) -> None:
    """Against a dictionary of the last value of each rank at each step."""
    parts = [series(number, points) for number, points in enumerate(ranks)]
    last: dict[int, dict[int, float]] = {}
    for number, part in enumerate(parts):
        for step, value in zip(part.steps.tolist(), part.values.tolist(), strict=True):
            last.setdefault(step, {})[number] = value
    whole = across(parts)
    assert whole.steps.tolist() == sorted(last)
    odd = {(entry.rank, step) for entry in whole.non_finite for step in entry.steps.tolist()}
    assert odd == {(rank, step) for step, of in last.items() for rank, value in of.items() if not math.isfinite(value)}
    for index, step in enumerate(sorted(last)):
        values = list(last[step].values())
        finite = [value for value in values if math.isfinite(value)]
        assert whole.count[index] == len(values)
        low, mean, high = whole.min[index], whole.mean[index], whole.max[index]
        assert math.isfinite(mean) == (len(finite) == len(values))
        assert (low, high) == (min(finite), max(finite)) if finite else math.isnan(low) and math.isnan(high)
        if math.isfinite(mean):
            assert low <= mean <= high
            assert mean == pytest.approx(math.fsum(value / len(values) for value in values), rel=1e-9, abs=1e-300)


def test_the_step_time_is_shared_out_over_the_steps_between_two_records() -> None:
    """A pause, a step back and a clock that stands still don't count as usual."""
    steps = np.array([0, 10, 20, 20, 5, 15, 25])
    times = np.array([0.0, 5.0, 10.0, 10.1, 10.2, 15.2, 95.0])
    assert step_time(steps, times) == pytest.approx(0.5)
    assert step_time(steps[:1], times[:1]) is None
    assert step_time(np.array([1, 2]), np.array([3.0, 3.0])) is None


def numbers(encoded: Any) -> list[float]:
    """An array of a trace, as plotly writes it: a list, or base64 of a typed array."""
    if isinstance(encoded, dict):
        return np.frombuffer(base64.b64decode(encoded["bdata"]), dtype=np.dtype(encoded["dtype"])).tolist()
    return list(encoded)


def drawn(parts: list[Series], *, singles: bool) -> list[dict]:
    return build_figure("loss", parts if singles else [], across=[across(parts)])["data"]


def test_a_chart_shows_the_mean_in_its_band_and_names_who_is_nan() -> None:
    """The mean has a gap where a rank is NaN; the band goes on with the others; the marker tells which rank."""
    parts = [series(rank, [(step, float(rank)) for step in range(4)]) for rank in range(3)]
    parts[1] = series(1, [(0, 1.0), (1, math.nan), (2, math.inf), (3, 1.0)])
    parts[2] = series(2, [(0, 2.0), (1, math.nan), (2, -math.inf), (3, 2.0)])
    band, line, markers = drawn(parts, singles=False)
    assert [trace["meta"]["role"] for trace in (band, line, markers)] == ["band", "line", "non_finite"]
    assert {trace["meta"]["writer"] for trace in (band, line, markers)} == {"ranks"}
    assert np.isnan(numbers(line["y"])).tolist() == [False, True, False]  # one gap for both steps
    assert (max(numbers(band["y"])), min(numbers(band["y"]))) == (2.0, 0.0)
    assert set(numbers(band["x"])) == {0.0, 1.0, 2.0, 3.0}
    assert markers["text"] == [
        "NaN at step 1 on rank1 and rank2",
        "NaN at step 2 on rank1 (Infinity) and rank2 (-Infinity)",
    ]


def test_each_rank_can_be_drawn_below_the_mean() -> None:
    """Thin, in colours of their own, before the mean in the order of drawing."""
    parts = [series(rank, [(step, float(rank)) for step in range(4)]) for rank in range(3)]
    lines = [trace for trace in drawn(parts, singles=True) if trace["meta"]["role"] == "line"]
    assert [trace["meta"]["writer"] for trace in lines] == ["rank0", "rank1", "rank2", "ranks"]
    assert len({trace["line"]["color"] for trace in lines[:3]}) == 3
    assert all(trace["line"]["width"] < lines[3]["line"]["width"] for trace in lines[:3])


def test_a_page_holds_only_its_own_steps() -> None:
    """Pages of one series put together are the series, with what was not finite in each."""
    whole = across([series(0, [(step, math.nan if step % 3 == 0 else 1.0) for step in range(9)])])
    pages: list[RankSeries] = [whole.page(start, start + 4) for start in range(0, 9, 4)]
    assert [step for page in pages for step in page.steps.tolist()] == list(range(9))
    assert [step for page in pages for entry in page.non_finite for step in entry.steps.tolist()] == [0, 3, 6]
