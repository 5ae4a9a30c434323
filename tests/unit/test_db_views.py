"""What a view keeps, against a brute-force oracle over arbitrary series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_db.columns import Column
from holter_db.views import bucket_of, select

values = st.one_of(
    st.floats(width=64),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, 5e-324]),
    st.just(1.0),
)
gaps = st.one_of(st.integers(0, 3), st.integers(0, 10_000), st.just(10**12))


@st.composite
def charts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """An ascending x with gaps and repetitions, values, bounds around them or inside, and a width."""
    points = draw(st.lists(st.tuples(gaps, values), min_size=1, max_size=120))
    x = np.cumsum([gap for gap, _ in points]).astype(np.float64)
    low, high = draw(st.one_of(st.just((x[0], x[-1])), st.just((x[0] - 50, x[-1] + 1e6)), st.just((x[0], x[0]))))
    return x, np.array([value for _, value in points]), float(low), float(high), draw(st.integers(1, 40))


def oracle(x: np.ndarray, y: np.ndarray, low: float, high: float, width: int) -> set[int]:
    """The points that the contract names, bucket by bucket, in plain Python."""
    buckets: dict[int, list[int]] = {}
    for index, position in enumerate(x.tolist()):
        bucket = min(width - 1, max(0, math.floor((position - low) / (high - low) * width))) if high > low else 0
        buckets.setdefault(bucket, []).append(index)
    needed: set[int] = set()
    for members in buckets.values():
        finite = [index for index in members if math.isfinite(y[index])]
        needed |= {members[0], members[-1]} | {index for index in members if not math.isfinite(y[index])}
        if finite:
            needed |= {min(finite, key=lambda index: y[index]), max(finite, key=lambda index: y[index])}
    return needed


@given(charts())
def test_every_bucket_keeps_its_ends_extremes_and_non_finite_points(chart: tuple) -> None:
    """Exactly the points that the contract names, in order; a series that fits is kept whole."""
    x, y, low, high, width = chart
    kept = select(x, y, low, high, width).tolist()
    assert kept == (list(range(len(x))) if len(x) <= width else sorted(oracle(x, y, low, high, width)))


@given(charts())
def test_equal_questions_get_equal_answers(chart: tuple) -> None:
    """The same arrays and bounds give the same indices."""
    assert select(*chart).tolist() == select(*chart).tolist()


def test_a_spike_of_one_step_in_a_million_is_in_every_view() -> None:
    """One point above the rest survives at any width."""
    x = np.arange(1_000_000, dtype=np.float64)
    y = np.ones(1_000_000)
    y[777_777] = 2.0
    for width in (1, 10, 1000):
        kept = select(x, y, 0.0, 999_999.0, width)
        assert 777_777 in kept
        assert len(kept) <= 4 * width


def test_times_that_are_not_finite_have_a_bucket() -> None:
    """A clock that gave NaN or infinity does not break the chart."""
    x = np.array([-np.inf, 0.0, 1.0, np.inf, np.nan])
    assert bucket_of(x, 0.0, 1.0, 10).tolist() == [0, 0, 9, 9, 9]


rows = st.lists(st.tuples(st.integers(-5, 5), values), min_size=0, max_size=6)


@given(st.lists(rows, max_size=8), st.randoms(use_true_random=False))
def test_a_column_is_ordered_whatever_the_order_of_its_segments(frames: list, random: object) -> None:
    """By step, then segment, then row; what was handed out before stays as it was."""
    numbered = list(enumerate(frames, start=1))
    expected = sorted(
        ((step, seq, row, value) for seq, frame in numbered for row, (step, value) in enumerate(frame)),
        key=lambda point: point[:3],
    )
    shuffled = list(numbered)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    column = Column()
    handed_out = []
    for seq, frame in shuffled:
        steps = np.array([step for step, _ in frame], dtype=np.int64)
        column.add(seq, steps, steps * 0.5, np.array([value for _, value in frame], dtype=np.float64))
        points = column.points()
        handed_out.append((points, points.values.copy()))
    got = column.points()
    assert got.steps.tolist() == [point[0] for point in expected]
    assert np.array_equal(got.values, np.array([point[3] for point in expected], dtype=np.float64), equal_nan=True)
    for points, copy in handed_out:
        assert np.array_equal(points.values, copy, equal_nan=True)


def test_a_column_hands_out_what_can_not_be_written() -> None:
    """A reader can't change what other readers see."""
    column = Column()
    column.add(1, np.arange(3), np.arange(3.0), np.arange(3.0))
    with pytest.raises(ValueError, match="read-only"):
        column.points().values[0] = 1.0
