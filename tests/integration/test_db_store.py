"""Chunks, pyramids and views against a brute-force oracle: whatever is folded and merged when, nothing changes.

The sizes of chunks and cells are made small, so that a few points have all the structure of a few million.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, Frame, RunStart
from holter_db import chunk_rows, chunks, compaction, fold, merge, pyramid
from holter_db.cells import ODD_KEPT
from holter_db.database import Database
from holter_db.ingest import append
from holter_db.replay import iter_batches
from holter_db.runs import start_run
from holter_db.series import Series, catalogue, iter_points, read_page, read_series, view_runs, view_series
from holter_db.thin import thin_run

NOW = 1_700_000_000.0
TRICKY = (math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.0, 1e300, -1e300)
numbers = itertools.count()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 points with cells of about 2."""
    for module, name, value in (
        (fold, "CHUNK_POINTS", 16),
        (merge, "CHUNK_POINTS", 16),
        (merge, "FULL", 12),
        (merge, "OVERLAP_MAX", 64),
        (merge, "VALUES_PER_MERGE", 40),
        (fold, "VALUES_PER_FOLD", 60),
        (chunks, "CELL_POINTS", 2),
        (chunks, "COARSE_CELLS", 2),
        (chunk_rows, "PYRAMID_FROM", 4),
    ):
        monkeypatch.setattr(module, name, value)


def compact(database: Database, run: str, *, final: bool = True, up_to: int = 2**62) -> None:
    """What the compactor does: fold all segments, then merge until there is nothing to merge."""
    while True:
        with database.read() as conn:
            prepared = [fold.prepare(conn, waiting, up_to) for waiting in fold.pending(conn, run, up_to)]
        if not prepared:
            break
        with database.write() as conn:
            assert all(item is not None and fold.commit(conn, item) for item in prepared)
    for _ in range(100):
        with database.read() as conn:
            plans = merge.plan(conn, run, final=final)
            done = [merged for planned in plans for merged in merge.prepare(conn, planned)]
        if not plans:
            break
        with database.write() as conn:
            assert all(merge.commit(conn, merged) for merged in done)
    else:
        raise AssertionError("merging does not come to an end")
    if final:
        with database.write() as conn:
            fold.join_folds(conn, run)


# --- a run as Hypothesis makes it -------------------------------------------------------------------------------


@dataclass
class Told:
    """A frame of a writer, and what the compactor does after it."""

    writer: str
    seq: int
    blocks: list[tuple[tuple[str, ...], list[int], list[float], list[tuple[float, ...]]]]
    after: str

    def frame(self) -> Frame:
        blocks = [Block.of(*block) for block in self.blocks]
        return Frame(version=1, attempt="", writer=self.writer, seq=self.seq, blocks=blocks)


@dataclass
class Oracle:
    """Every point of every series, in plain lists."""

    points: dict[tuple[str, str], list[tuple[int, int, int, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, told: Told) -> None:
        row = 0
        for metrics, steps, times, rows in told.blocks:
            for step, time, values in zip(steps, times, rows, strict=True):
                for metric, value in zip(metrics, values, strict=True):
                    self.points[metric, told.writer].append((step, told.seq, row, time, value))
                row += 1

    def series(self, metric: str, writer: str) -> list[tuple[int, float, float]]:
        """(step, time, value) in order."""
        ordered = sorted(self.points[metric, writer], key=lambda point: point[:3])
        return [(step, time, value) for step, _, _, time, value in ordered]


value = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(TRICKY))
METRICS = (("a",), ("a", "b"), ("b", "c"))


@st.composite
def histories(draw: st.DrawFn) -> list[Told]:
    """Frames of two writers: mostly ascending steps with gaps, sometimes late ones; seqs in any order, with holes."""
    told: list[Told] = []
    strides = st.sampled_from(draw(st.sampled_from([[1], [1, 1, 1, 1, 0, 2, 7, 100, -3, -30]])))
    ticks = st.sampled_from(draw(st.sampled_from([[1.0, 0.25, 0.0, 9.0], [1.0, 0.25, 0.0, 60.0, -5.0]])))
    logged = draw(st.sampled_from([value, st.sampled_from([math.nan, math.inf])]))
    for writer in ("rank0", "rank1")[: draw(st.integers(1, 2))]:
        step, clock = draw(st.integers(-40, 5)), NOW
        made = []
        for number in range(draw(st.integers(1, 6))):
            blocks = []
            for metrics in draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=2)):
                steps, times, rows = [], [], []
                for _ in range(draw(st.integers(1, 30))):
                    step += draw(strides)
                    clock += draw(ticks)
                    steps.append(step)
                    times.append(clock)
                    rows.append(tuple(draw(logged) for _ in metrics))
                blocks.append((metrics, steps, times, rows))
            made.append(Told(writer, 1 + 2 * number, blocks, ""))
        told += draw(st.permutations(made)) if draw(st.booleans()) else made
    for item in told:
        item.after = draw(st.sampled_from(["", "", "compact", "finish"]))
    return told


def play(database: Database, told: list[Told]) -> tuple[str, Oracle]:
    run, oracle = f"run-{next(numbers)}", Oracle()
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id=run), NOW)
    for item in told:
        with database.write() as conn:
            assert not append(conn, run, item.frame(), NOW).duplicate
        oracle.add(item)
        if item.after:
            compact(database, run, final=item.after == "finish")
    return run, oracle


def listed(series: Series) -> list[tuple[int, float, float]]:
    return list(zip(series.steps.tolist(), series.times.tolist(), series.values.tolist(), strict=True))


def bits(points: list[tuple[int, float, float]]) -> list[tuple[int, float, bytes]]:
    return [(step, time, np.float64(number).tobytes()) for step, time, number in points]


many = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(histories())
def test_every_point_is_there_however_it_is_stored(database: Database, told: list[Told]) -> None:
    """Whole reads, pages, exports and the catalogue give every point once, bit for bit and in order."""
    run, oracle = play(database, told)
    with database.read() as conn:
        found = read_series(conn, run, ["*"])
        pieces = list(iter_points(conn, run, ["*"]))
        paged = list(
            _pages(lambda start: read_page(conn, run, ["*"], first_step=-20, last_step=90, start=start, limit=7))
        )
        counts = {(info.name, part.writer): part.count for info in catalogue(conn, run) for part in info.series}
    assert {(item.metric, item.writer) for item in found} == set(oracle.points)
    for item in found:
        expected = oracle.series(item.metric, item.writer)
        assert bits(listed(item)) == bits(expected)
        assert item.complete
        assert counts[item.metric, item.writer] == len(expected)
        mine = [piece for piece in pieces if (piece.metric, piece.writer) == (item.metric, item.writer)]
        exported = [point for piece in mine for point in zip(piece.steps, piece.times, piece.values, strict=True)]
        assert bits(exported) == bits(expected)
        inside = [point for point in expected if -20 <= point[0] <= 90]
        parts = [part for part in paged if (part.metric, part.writer) == (item.metric, item.writer)]
        assert bits([point for part in parts for point in listed(part)]) == bits(inside)
        assert all(part.count == len(inside) for part in parts)


def _pages(
    ask: Callable[[tuple[str, str, int, int]], tuple[list[Series], tuple[str, str, int, int] | None]],
) -> Iterator[Series]:
    start: tuple[str, str, int, int] | None = ("", "", 0, 0)
    while start is not None:
        page, start = ask(start)
        assert sum(len(item.steps) for item in page) <= 7
        yield from page


@many
@given(histories())
def test_a_frame_that_comes_again_changes_nothing_even_when_it_is_folded(database: Database, told: list[Told]) -> None:
    """Duplicates are known by their number, and a number that was left out is not."""
    run, _ = play(database, told)
    compact(database, run)
    with database.write() as conn:
        assert all(append(conn, run, item.frame(), NOW).duplicate for item in told)
        late = Told(told[0].writer, 2, [(("a",), [5], [NOW], [(1.0,)])], "")
        assert not append(conn, run, late.frame(), NOW).duplicate
        assert append(conn, run, late.frame(), NOW).duplicate


def needed(
    points: list[tuple[float, int, float]], bucket: Callable[[float], float], width: int
) -> tuple[set[int], dict[float, list[int]]]:
    """The indices that the contract names, and the non-finite ones of each bucket; ``points``: (x, index, value)."""
    buckets: dict[float, list[tuple[float, int, float]]] = defaultdict(list)
    for point in points:
        buckets[bucket(point[0])].append(point)
    keep: set[int] = set()
    odd: dict[float, list[int]] = {}
    for number, members in buckets.items():
        finite = [point for point in members if math.isfinite(point[2])]
        odd[number] = [index for _, index, value in members if not math.isfinite(value)]
        keep |= {members[0][1], members[-1][1], *odd[number][:ODD_KEPT]}
        if finite:
            keep |= {min(finite, key=lambda point: point[2])[1], max(finite, key=lambda point: point[2])[1]}
    return (keep if len(points) > width else {index for _, index, _ in points}), odd


bounds = st.one_of(st.none(), st.integers(-60, 400))


@many
@given(histories(), bounds, bounds, st.integers(1, 40))
def test_a_view_keeps_ends_extremes_and_non_finite_points(
    database: Database, told: list[Told], first: int | None, last: int | None, width: int
) -> None:
    """Exactly the points that the contract names, on the step axis, with the statistics of all of them."""
    run, oracle = play(database, told)
    with database.read() as conn:
        found = view_series(conn, run, ["*"], first=first, last=last, width=width)
        again = view_series(conn, run, ["*"], first=first, last=last, width=width)
    assert [listed(item) for item in found] == [listed(item) for item in again] or _has_nan(found)
    steps = [step for points in oracle.points.values() for step, *_ in points]
    low = min(steps) if first is None else first
    high = max(steps) if last is None else last
    shift = 0
    while shift < 63 and (high >> shift) - (low >> shift) >= width:
        shift += 1
    expected = set()
    for metric, writer in oracle.points:
        whole = oracle.series(metric, writer)
        inside = [(step, index, value) for index, (step, _, value) in enumerate(whole) if low <= step <= high]
        if not inside:
            continue
        expected.add((metric, writer))
        (item,) = [item for item in found if (item.metric, item.writer) == (metric, writer)]
        keep, odd = needed(inside, lambda step: int(step) >> shift, width)
        assert bits(listed(item)) == bits([whole[index] for index in sorted(keep)])
        check_statistics(item, [value for _, _, value in inside])
        if len(inside) > width:
            crowded = {number: indices for number, indices in odd.items() if len(indices) > ODD_KEPT}
            assert item.crowded.counts.tolist() == [len(crowded[number]) for number in sorted(crowded)]
            assert item.crowded.steps.tolist() == [whole[crowded[number][0]][0] for number in sorted(crowded)]
    assert {(item.metric, item.writer) for item in found} == expected


def _has_nan(found: list[Series]) -> bool:
    return any(item.nan for item in found)


def check_statistics(item: Series, values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    assert item.count == len(values)
    assert item.nan == sum(math.isnan(value) for value in values)
    assert item.positive_infinity == values.count(math.inf)
    assert item.negative_infinity == values.count(-math.inf)
    assert (item.min, item.max) == ((min(finite), max(finite)) if finite else (None, None))
    assert np.float64(item.last).tobytes() == np.float64(values[-1]).tobytes()


@many
@given(
    histories(), st.sampled_from(["time", "relative"]), st.one_of(st.none(), st.integers(-10, 200)), st.integers(1, 40)
)
def test_a_view_along_time_keeps_them_too(
    database: Database, told: list[Told], x: str, first: int | None, width: int
) -> None:
    """The same on a time axis, also where the clock goes back."""
    check_along_time(database, *play(database, told), x=x, first=first, width=width)


@pytest.mark.parametrize("pace", [0.3, 1.0, 7.7])
def test_a_view_along_an_even_clock_keeps_them_too(database: Database, pace: float) -> None:
    """Cells that lie across the edge of a time bucket are read point by point."""
    values = np.random.default_rng(3).normal(size=200)
    rows = [(number,) for number in values.tolist()]
    frames = [
        Told("rank0", seq, [(("a",), list(range(at, at + 50)), [NOW + pace * step for step in range(at, at + 50)],
                             rows[at : at + 50])], "finish")
        for seq, at in enumerate(range(0, 200, 50), 1)
    ]  # fmt: skip
    run, oracle = play(database, frames)
    for width in (3, 7, 20, 33, 60, 90):
        for first in (None, 31):
            check_along_time(database, run, oracle, x="relative", first=first, width=width)


def check_along_time(database: Database, run: str, oracle: Oracle, *, x: str, first: int | None, width: int) -> None:
    origin = NOW if x == "relative" else 0.0
    low = None if first is None else first + NOW - origin
    with database.read() as conn:
        found = view_series(conn, run, ["*"], first=low, width=width, x=x)
    clocks = [time - origin for points in oracle.points.values() for _, _, _, time, _ in points]
    start, end = (min(clocks) if low is None else low), max(clocks)
    shift = -20
    while shift < 63 and math.floor(max(start, end) / 2.0**shift) - math.floor(start / 2.0**shift) >= width:
        shift += 1
    for item in found:
        whole = oracle.series(item.metric, item.writer)
        order = sorted(range(len(whole)), key=lambda index: whole[index][1])
        inside = [
            (whole[index][1] - origin, index, whole[index][2])
            for index in order
            if low is None or whole[index][1] - origin >= low
        ]
        keep, _ = needed(inside, lambda time: math.floor(time / 2.0**shift), width)
        assert bits(listed(item)) == bits([whole[index] for _, index, _ in inside if index in keep])
        check_statistics(item, [value for _, _, value in inside])


@many
@given(histories(), st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.integers(1, 30), bounds)
def test_smoothing_is_of_all_points(
    database: Database, told: list[Told], weight: float, width: int, first: int | None
) -> None:
    """The corrected moving average of every point up to the shown one, also of those a view leaves out."""
    run, oracle = play(database, told)
    with database.read() as conn:
        found = view_series(conn, run, ["*"], first=first, width=width, smooth=weight)
    for item in found:
        whole = oracle.series(item.metric, item.writer)
        mean, seen, means = 0.0, 0, {}
        for index, (_, _, value) in enumerate(whole):
            if math.isfinite(value):
                mean, seen = weight * mean + (1 - weight) * value, seen + 1
            means[index] = mean / (1 - weight**seen) if seen else math.nan
        shown = listed(item)
        assert item.smoothed is not None
        assert len(item.smoothed) == len(shown)
        at = -1
        for point, smoothed in zip(bits(shown), item.smoothed.tolist(), strict=True):
            at = next(index for index in range(at + 1, len(whole)) if bits([whole[index]])[0] == point)
            same = [index for index in range(len(whole)) if bits([whole[index]])[0] == point]
            assert any(_close(smoothed, means[index]) for index in same)


def _close(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-300)


@many
@given(histories(), st.integers(1, 200))
def test_a_replay_gives_the_records_in_the_order_of_their_commits(
    database: Database, told: list[Told], size: int
) -> None:
    """Records are whole again, whatever chunks their metrics lie in."""
    run, _ = play(database, told)
    with database.read() as conn:
        replayed = [
            (batch.writer, step, time, frozenset(zip(batch.metrics, map(_bytes, row), strict=True)))
            for batch in iter_batches(conn, run, values=size)
            for step, time, row in zip(batch.steps.tolist(), batch.times.tolist(), batch.values.tolist(), strict=True)
        ]
    expected = [
        (item.writer, step, time, frozenset(zip(metrics, map(_bytes, row), strict=True)))
        for item in told
        for metrics, steps, times, rows in item.blocks
        for step, time, row in zip(steps, times, rows, strict=True)
    ]
    assert replayed == expected


def _bytes(value: float) -> bytes:
    return np.float64(value).tobytes()


@many
@given(histories(), st.integers(8, 40))
def test_a_thinned_run_shows_what_its_cells_keep(database: Database, told: list[Told], width: int) -> None:
    """Without raw points the counts and extremes of coarse views are the same, and the answer says what it is."""
    run, oracle = play(database, told)
    compact(database, run)
    with database.read() as conn:
        before = {(item.metric, item.writer): item for item in view_series(conn, run, ["*"], width=1)}
    with database.write() as conn:
        gone = thin_run(conn, run)
    with database.read() as conn:
        after = {(item.metric, item.writer): item for item in view_series(conn, run, ["*"], width=1)}
        fine = view_series(conn, run, ["*"], width=width)
        list(iter_points(conn, run, ["*"]))
    assert set(before) == set(after)
    for key, item in after.items():
        points = set(bits(oracle.series(*key)))
        assert set(bits(listed(item))) <= points
        if len(oracle.series(*key)) > 4:
            assert (item.min, item.max) == (before[key].min, before[key].max)
        assert item.complete == (before[key].count < 4) or gone
    for item in fine:
        assert set(bits(listed(item))) <= set(bits(oracle.series(item.metric, item.writer)))


def test_many_runs_share_one_grid(database: Database) -> None:
    """A question about several runs has buckets in common, whatever each run's length."""
    runs = []
    with database.write() as conn:
        for length in (100, 777):
            run = f"run-{next(numbers)}"
            start_run(conn, RunStart(project="p", id=run), NOW)
            steps = np.arange(length)
            block = Block.of(["a", "b"], steps, NOW + steps, np.column_stack([np.sin(steps), np.cos(steps)]))
            append(conn, run, Frame(version=1, attempt="", writer="rank0", seq=1, blocks=[block]), NOW)
            runs.append(run)
    compact(database, runs[1])
    with database.read() as conn:
        found = view_runs(conn, runs[::-1], ["a", "b"], width=50)
    assert [(item.run_id, item.metric) for item in found] == [(run, name) for run in runs[::-1] for name in "ab"]
    assert {item.bucket for item in found} == {16.0}


def test_beyond_its_budget_a_time_view_takes_whole_cells(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a very long series the extremes stay; a cell on an edge lies in the bucket of its first point."""
    monkeypatch.setattr(pyramid, "TIME_POINTS", 10)
    steps = np.arange(200)
    values = np.sin(steps)
    values[77] = 1e6
    with database.write() as conn:
        run = f"run-{next(numbers)}"
        start_run(conn, RunStart(project="p", id=run), NOW)
        block = Block.of(["a"], steps, NOW + steps * 1.7, values[:, None])
        append(conn, run, Frame(version=1, attempt="", writer="rank0", seq=1, blocks=[block]), NOW)
    compact(database, run)
    with database.read() as conn:
        (item,) = view_series(conn, run, ["a"], width=20, x="time")
    assert (item.count, item.max) == (200, 1e6)
    assert 77 in item.steps.tolist()
    assert len(item.steps) <= 4 * 20


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=False)
def test_free_pages_are_given_back_as_many_as_asked_for(dialect, tmp_path):
    """Python's sqlite3 alone would give back one, however many the statement names."""
    database = Database.open(f"sqlite:///{tmp_path / 'holter.db'}")
    with database.write() as conn:
        conn.exec_driver_sql("CREATE TABLE filler (content BLOB)")
        conn.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(4000000))")
        conn.exec_driver_sql("DROP TABLE filler")
    with database.read() as conn:
        free, pages = compaction.free_pages(conn)
    assert free > 500
    with database.write() as conn:
        compaction.trim(conn, 500)
    with database.read() as conn:
        assert compaction.free_pages(conn)[0] == free - 500
        assert compaction.free_pages(conn)[1] <= pages - 500
    database.close()
