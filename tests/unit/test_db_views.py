"""What a view keeps, against a brute-force oracle over arbitrary series."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_db.cell_codec import decode_cells, encode_cells, pack_few, unpack_few
from holter_db.cells import ODD_KEPT, Cells, concatenate, of_points, union
from holter_db.codec import pack_floats, pack_ints, unpack_floats, unpack_ints
from holter_db.columns import Column, Points
from holter_db.errors import DamagedData
from holter_db.smoothing import Smoother
from holter_db.views import Grid, select, step_grid, time_grid

values = st.one_of(
    st.floats(width=64),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, 5e-324]),
    st.just(1.0),
)


def _of_bits(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


gaps = st.one_of(st.integers(0, 3), st.integers(0, 10_000), st.just(10**12))


@st.composite
def charts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Ascending steps with gaps and repetitions, and values."""
    points = draw(st.lists(st.tuples(gaps, values), min_size=1, max_size=120))
    steps = draw(st.integers(-(10**6), 10**6)) + np.cumsum([gap for gap, _ in points])
    return steps.astype(np.int64), np.array([value for _, value in points])


def oracle(buckets: list[int], y: list[float]) -> set[int]:
    """The points that the contract names, bucket by bucket, in plain Python."""
    members: dict[int, list[int]] = {}
    for index, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(index)
    needed: set[int] = set()
    for indices in members.values():
        finite = [index for index in indices if math.isfinite(y[index])]
        odd = [index for index in indices if not math.isfinite(y[index])]
        needed |= {indices[0], indices[-1], *odd[:ODD_KEPT]}
        if finite:
            needed |= {min(finite, key=lambda index: y[index]), max(finite, key=lambda index: y[index])}
    return needed


@given(charts(), st.integers(0, 40))
def test_every_bucket_keeps_its_ends_extremes_and_non_finite_points(chart: tuple, shift: int) -> None:
    """Exactly the points that the contract names, in order."""
    steps, y = chart
    buckets = Grid(shift).of_steps(steps)
    assert select(buckets, y).tolist() == sorted(oracle(buckets.tolist(), y.tolist()))


@given(st.integers(-(2**62), 2**62), st.integers(0, 2**62), st.integers(1, 5000))
def test_a_grid_of_steps_is_the_finest_that_fits(low: int, length: int, width: int) -> None:
    """At most ``width`` buckets, and more than that on the next finer grid."""
    high = min(low + length, 2**63 - 1)
    grid = step_grid(low, high, width)
    assert (high >> grid.shift) - (low >> grid.shift) < width or grid.shift == 63
    if grid.shift:
        assert (high >> (grid.shift - 1)) - (low >> (grid.shift - 1)) >= width


@given(st.floats(-1e10, 1e10), st.floats(0, 1e9), st.integers(1, 5000))
def test_a_grid_of_times_is_the_finest_that_fits(low: float, length: float, width: int) -> None:
    """The same in seconds, down to a microsecond; times ascend in it as they do on the clock."""
    high = low + length
    grid = time_grid(low, high, width)
    first, last = grid.of_times(np.array([low, high])).tolist()
    assert last - first < width or grid.shift == 63
    if grid.shift > -20:
        first, last = Grid(grid.shift - 1).of_times(np.array([low, high])).tolist()
        assert last - first >= width


def test_times_that_are_not_finite_have_a_bucket() -> None:
    """A clock that gave NaN or infinity does not break the chart."""
    buckets = Grid(0).of_times(np.array([-np.inf, 0.0, 1.0, np.inf, np.nan])).tolist()
    assert buckets == sorted(buckets)
    assert buckets[1:3] == [0, 1]


def test_a_spike_of_one_step_in_ten_million_is_in_every_view() -> None:
    """One point above the rest survives at any width."""
    y = np.ones(10_000_000)
    y[7_777_777] = 2.0
    steps = np.arange(10_000_000)
    for width in (1, 10, 1000):
        kept = select(step_grid(0, 9_999_999, width).of_steps(steps), y)
        assert 7_777_777 in kept
        assert len(kept) <= 4 * width


@given(charts(), st.lists(st.integers(0, 120), max_size=5), st.integers(0, 6), st.integers(0, 30))
def test_cells_nest_however_the_points_are_cut(chart: tuple, cuts: list[int], fine: int, by: int) -> None:
    """Coarse cells made from fine ones of any pieces, and read back from bytes, are those made from the points."""
    steps, y = chart
    times = steps * 0.5
    edges = [0, *sorted(min(cut, len(y)) for cut in cuts), len(y)]
    parts = []
    for start, end in pairwise(edges):
        if end > start:
            points = Points(steps[start:end], times[start:end], y[start:end])
            cells = of_points(points, points.steps >> fine)
            level, cells = decode_cells(encode_cells(cells, fine))
            few = unpack_few([(pack_few(cells, level), start)], fine + by)
            coarse = union(cells.coarser(by).shifted(start))
            for name in Cells.__slots__:
                assert np.array_equal(getattr(union(few), name), getattr(coarse, name), equal_nan=name in FLOATS)
            parts.append(coarse)
    found, direct = union(concatenate(parts)), of_points(Points(steps, times, y), steps >> (fine + by))
    for name in set(Cells.__slots__) - {"total"}:
        assert np.array_equal(getattr(found, name), getattr(direct, name), equal_nan=name in FLOATS), name
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.total, direct.total, rtol=1e-9, atol=np.abs(y[np.isfinite(y)]).sum() * 1e-12)


FLOATS = {"total", "times", "values", "odd_times", "odd_values"}


@given(st.lists(values, max_size=300), st.sampled_from([0.0, 0.3, 0.9, 0.999]), st.integers(0, 300))
def test_a_moving_average_does_not_depend_on_how_it_is_fed(numbers: list[float], weight: float, cut: int) -> None:
    """Two pieces give what the whole gives, and the plain recursion gives the same."""
    y = np.array([number if not math.isfinite(number) else math.fmod(number, 1e6) for number in numbers], np.float64)
    whole = Smoother(weight).feed(y)
    pieces = Smoother(weight)
    assert np.allclose(np.concatenate([pieces.feed(y[:cut]), pieces.feed(y[cut:])]), whole, equal_nan=True, atol=1e-9)
    mean, seen, expected = 0.0, 0, []
    for number in y.tolist():
        if math.isfinite(number):
            mean, seen = weight * mean + (1 - weight) * number, seen + 1
        expected.append(mean / (1 - weight**seen) if seen else math.nan)
    assert np.allclose(whole, expected, equal_nan=True, atol=1e-6)


@pytest.mark.parametrize("weight", [0.5, 0.97, 0.999])
def test_a_constant_is_its_own_average(weight: float) -> None:
    """To the bit: a chart of a constant must not show rounding errors."""
    assert set(Smoother(weight).feed(np.full(5000, 1e-3)).tolist()) == {1e-3}


@given(st.lists(st.one_of(values, st.integers(0, 2**64 - 1).map(_of_bits)), max_size=50))
def test_columns_keep_every_bit(numbers: list[float]) -> None:
    """Payloads of NaN, the sign of zero, subnormal numbers, and the same bits as integers."""
    column = np.array(numbers, np.float64)
    assert unpack_floats(pack_floats(column)).tobytes() == column.tobytes()
    assert unpack_ints(pack_ints(column.view(np.int64))).tobytes() == column.tobytes()


@pytest.mark.parametrize("damaged", [b"", b"junk", pack_ints(np.arange(5))[:-3]])
def test_damaged_columns_are_said_to_be_damaged(damaged: bytes) -> None:
    """Never a crash, never numbers made up."""
    with pytest.raises(DamagedData):
        unpack_floats(damaged)
    with pytest.raises(DamagedData):
        unpack_few([(damaged, 0)])
    with pytest.raises(DamagedData):
        decode_cells(damaged)


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
