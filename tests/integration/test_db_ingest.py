"""Ingest: every point is stored once, exactly, whatever order and however often its frame arrives."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, Event, Frame, RunStart, Writer
from holter_db.database import Connection, Database
from holter_db.errors import NotFound
from holter_db.events import list_events
from holter_db.ingest import append
from holter_db.runs import delete_run, get_run, list_attempts, list_writers, start_run
from holter_db.series import catalogue, iter_points, read_series, view_series

NOW = 1_700_000_000.0
TRICKY = [math.nan, math.inf, -math.inf, 1e-30, -0.0, 5e-324, 1.7976931348623157e308]


def frame(seq: int, values: dict[str, Sequence[float]], start: int = 0, **more: object) -> Frame:
    """One block of consecutive steps."""
    rows = np.array(list(values.values()), dtype=np.float64).T
    steps = np.arange(start, start + len(rows))
    block = Block.of(values, steps, NOW + steps, rows)
    return Frame(version=1, attempt="", writer="rank0", seq=seq, blocks=[block], **more)  # type: ignore[arg-type]


def started(conn: Connection, **more: object) -> str:
    return start_run(conn, RunStart(project="denovo", **more), NOW).id  # type: ignore[arg-type]


def test_non_finite_and_tiny_values_are_kept_exactly(database: Database) -> None:
    """NaN, ±Inf, a subnormal and -0.0 come back bit for bit, from the series and from the catalogue."""
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": TRICKY}), NOW)
    with database.read() as conn:
        (series,) = read_series(conn, run, ["loss"])
        (metric,) = catalogue(conn, run)
    assert series.values.tobytes() == np.array(TRICKY).tobytes()
    assert (series.nan, series.positive_infinity, series.negative_infinity) == (1, 1, 1)
    assert (metric.count, metric.non_finite, metric.max, metric.min) == (7, 3, TRICKY[-1], 0.0)
    assert (series.non_finite, series.min, series.max) == (3, 0.0, TRICKY[-1])


@pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf, 1e-30])
def test_the_catalogue_keeps_the_last_value_whatever_it_is(database: Database, last: float) -> None:
    """A run whose newest loss is NaN shows NaN, not the finite value before it."""
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": [2.0, 1.0]}), NOW)
        append(conn, run, frame(2, {"loss": [last]}, start=2), NOW)
    with database.read() as conn:
        (metric,) = catalogue(conn, run)
    assert repr(metric.last) == repr(last)
    assert (metric.count, metric.first_step, metric.last_step) == (3, 0, 2)
    assert metric.max == 2.0


def test_a_series_without_a_finite_value_has_no_minimum(database: Database) -> None:
    """min and max are None, not NaN, and turn into numbers with the first finite value."""
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": [math.nan, math.inf]}), NOW)
        assert [(metric.min, metric.max) for metric in catalogue(conn, run)] == [(None, None)]
        append(conn, run, frame(2, {"loss": [3.0]}, start=2), NOW)
        assert [(metric.min, metric.max) for metric in catalogue(conn, run)] == [(3.0, 3.0)]


def test_a_frame_twice_changes_nothing(database: Database) -> None:
    """The second one is a duplicate: no points, no events, not even if its content differs."""
    note = Event(time=NOW, text="stage 2", kind="stage", step=1, data={"lr": math.nan})
    with database.write() as conn:
        run = started(conn)
        first = append(conn, run, frame(1, {"loss": [2.0]}, events=[note]), NOW)
        again = append(conn, run, frame(1, {"loss": [9.0, 9.0]}, events=[note, note]), NOW)
    assert (first.duplicate, len(first.batches), first.events) == (False, 1, [note])
    assert (again.duplicate, again.seq, again.batches, again.events) == (True, 1, [], [])
    with database.read() as conn:
        (series,) = read_series(conn, run, ["*"])
        (event,) = list_events(conn, run)
    assert series.values.tolist() == [2.0]
    assert (event.kind, event.step, event.writer, event.attempt, event.data) == ("stage", 1, "rank0", 1, {"lr": "NaN"})


def test_seq_0_is_numbered_by_the_store(database: Database) -> None:
    """Each one is a new shipment, after the greatest number so far."""
    with database.write() as conn:
        run = started(conn)
        seqs = [append(conn, run, frame(seq, {"loss": [1.0]}), NOW).seq for seq in (0, 5, 0)]
    assert seqs == [1, 5, 6]


def test_an_unknown_or_deleted_run_takes_no_frames(database: Database) -> None:
    """Both are not found; nothing is written."""
    with database.write() as conn:
        run = started(conn)
        delete_run(conn, run, NOW)
        for id in (run, "nothing"):
            with pytest.raises(NotFound, match=id):
                append(conn, id, frame(1, {"loss": [1.0]}), NOW)


def test_a_frame_without_points_is_still_acknowledged_once(database: Database) -> None:
    """A heartbeat has a number too."""
    with database.write() as conn:
        run = started(conn)
        beat = Frame(version=1, attempt="", writer="rank0", seq=1, dropped=7)
        assert not append(conn, run, beat, NOW + 5).duplicate
        assert append(conn, run, beat, NOW + 6).duplicate
        (writer,) = list_writers(conn, run)
    assert (writer.last_seq, writer.last_seen_at, writer.dropped) == (1, NOW + 5, 7)


def test_ranks_do_not_overwrite_one_another(database: Database) -> None:
    """Equal numbers and steps of two writers are two series; their ranks come from their names."""
    with database.write() as conn:
        run = started(conn, writer=Writer(name="rank0", rank=0, world_size=2, host="a", pid=7))
        for name in ("rank0", "rank1", "rank1/system"):
            sent = frame(1, {"loss": [float(len(name))]})
            append(conn, run, Frame(version=1, attempt="", writer=name, seq=1, blocks=sent.blocks), NOW)
        found = read_series(conn, run, ["loss"])
        only = read_series(conn, run, ["loss"], writers=["rank1"])
        (metric,) = catalogue(conn, run)
    assert [(series.writer, series.rank) for series in found] == [("rank0", 0), ("rank1", 1), ("rank1/system", 1)]
    assert [series.writer for series in only] == ["rank1"]
    assert metric.writers == ("rank0", "rank1", "rank1/system")


def test_a_resumed_run_shadows_what_it_repeats(database: Database) -> None:
    """Older points at the resumed step and beyond are kept and marked; late frames of the old attempt still come in."""
    with database.write() as conn:
        run = start_run(conn, RunStart(project="denovo", id="r", attempt="a"), NOW).id
        sent = frame(1, {"loss": [1.0] * 10})
        append(conn, run, Frame(version=1, attempt="a", writer="rank0", seq=1, blocks=sent.blocks), NOW)
        start_run(conn, RunStart(project="denovo", id="r", attempt="b"), NOW + 60)
        system = frame(1, {"system/cpu_percent": [1.0]}, start=0)
        append(conn, run, Frame(version=1, attempt="b", writer="rank0/system", seq=1, blocks=system.blocks), NOW)
        resumed = frame(1, {"loss": [2.0] * 4}, start=6)
        append(conn, run, Frame(version=1, attempt="b", writer="rank0", seq=1, blocks=resumed.blocks), NOW)
        rest = frame(2, {"loss": [1.0]}, start=10)
        late = append(conn, run, Frame(version=1, attempt="a", writer="rank0", seq=2, blocks=rest.blocks), NOW)
        old, new = read_series(conn, run, ["loss"])
        attempts = [(attempt.key, attempt.first_step) for attempt in list_attempts(conn, run)]
        row = get_run(conn, run)
    assert late.late
    assert (old.attempt, old.shadowed_from, old.count) == (1, 6, 11)
    assert (new.attempt, new.shadowed_from, new.count) == (2, None, 4)
    assert attempts == [("a", 0), ("b", 6)]
    assert (row.attempt, row.started_at) == (2, NOW + 60)


def test_a_frame_without_an_attempt_belongs_to_the_newest(database: Database) -> None:
    """Also where an older attempt was started without a name."""
    with database.write() as conn:
        run = started(conn, id="r")
        start_run(conn, RunStart(project="denovo", id="r", attempt="b"), NOW)
        assert append(conn, run, frame(1, {"loss": [1.0]}), NOW).attempt == 2
        unheard = Frame(version=1, attempt="c", writer="rank0", seq=1)
        assert append(conn, run, unheard, NOW).attempt == 3
        assert get_run(conn, run).attempt == 3


def test_a_savepoint_takes_one_frame_back(database: Database) -> None:
    """A submission of a group that fails leaves no trace, the others commit; the cache never shows what was undone."""
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": [1.0]}), NOW)
        savepoint = conn.begin_nested()
        append(conn, run, frame(2, {"loss": [2.0]}, start=1), NOW)
        assert read_series(conn, run, ["loss"])[0].count == 2
        savepoint.rollback()
        append(conn, run, frame(3, {"loss": [3.0]}, start=2), NOW)
    with database.read() as conn:
        assert read_series(conn, run, ["loss"])[0].values.tolist() == [1.0, 3.0]


def test_a_live_reader_sees_each_commit(database: Database) -> None:
    """The cache takes up what is new, late frames included, and agrees with a fresh decoding."""
    with database.write() as conn:
        run = started(conn)
    for seq in (1, 3, 2, 5, 4):
        with database.write() as conn:
            append(conn, run, frame(seq, {"loss": [float(seq)]}, start=seq), NOW)
        with database.read() as conn:
            cached = read_series(conn, run, ["loss"])[0].values.tolist()
        with database.write() as conn:
            assert cached == read_series(conn, run, ["loss"])[0].values.tolist()
    assert cached == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_export_gives_every_point_in_pieces(database: Database) -> None:
    """Each point of each writer and attempt comes once."""
    with database.write() as conn:
        run = started(conn)
        for seq in range(1, 8):
            append(conn, run, frame(seq, {"a": [seq, math.nan], "b": [-seq, math.inf]}, start=2 * seq), NOW)
    with database.read() as conn:
        whole = {series.metric: series for series in read_series(conn, run, ["*"])}
        chunks = list(iter_points(conn, run, ["*"]))
        for metric, series in whole.items():
            mine = [chunk for chunk in chunks if chunk.metric == metric]
            assert np.concatenate([chunk.steps for chunk in mine]).tolist() == series.steps.tolist()
            values = np.concatenate([chunk.values for chunk in mine])
            assert values.tobytes() == series.values.tobytes()
        assert {chunk.metric for chunk in iter_points(conn, run, ["a"])} == {"a"}


def test_ranges_include_their_bounds_and_take_any_number(database: Database) -> None:
    """Steps at both bounds are in; bounds beyond 64 bits and fractions are understood."""
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": range(10)}), NOW)
        found = read_series(conn, run, ["loss"], first_step=3, last_step=5)[0]
        assert found.steps.tolist() == [3, 4, 5]
        assert (found.count, found.min, found.max, found.first_step, found.last_step) == (3, 3.0, 5.0, 3, 5)
        assert view_series(conn, run, ["loss"], first=2.5, last=1e30)[0].steps.tolist() == list(range(3, 10))
        assert read_series(conn, run, ["loss"], first_step=100) == []
        assert read_series(conn, run, ["other"]) == []


def test_a_view_runs_along_time_too(database: Database) -> None:
    """x = time and x = relative order by the clock and take bounds in seconds; statistics are of all points."""
    with database.write() as conn:
        run = started(conn, started_at=NOW)
        steps = [3, 1, 2]
        block = Block.of(["loss"], steps, [NOW + 10, NOW + 20, NOW + 30], [[1.0], [2.0], [3.0]])
        append(conn, run, Frame(version=1, attempt="", writer="rank0", seq=1, blocks=[block]), NOW)
        by_time = view_series(conn, run, ["loss"], x="time")[0]
        relative = view_series(conn, run, ["loss"], x="relative", first=15, last=40)[0]
    assert by_time.steps.tolist() == steps
    assert relative.steps.tolist() == [1, 2]
    assert relative.times[0] - relative.origin == 20
    assert relative.count == 2


def test_a_view_is_thin_and_says_what_it_stands_for(database: Database) -> None:
    """At most four finite points per bucket, all non-finite ones, and the count of all points in the range."""
    values = np.sin(np.arange(5000.0))
    values[[100, 4000]] = math.nan, math.inf
    with database.write() as conn:
        run = started(conn)
        append(conn, run, frame(1, {"loss": values, "other": values}), NOW)
    with database.read() as conn:
        series, _ = view_series(conn, run, ["*"], width=50)
    assert series.count == 5000
    assert len(series.steps) <= 4 * 50 + 2
    assert {100, 4000} <= set(series.steps.tolist())
    assert (series.nan, series.positive_infinity) == (1, 1)


value = st.one_of(st.floats(width=32), st.sampled_from(TRICKY))
numbers = itertools.count()


@st.composite
def shipments(draw: st.DrawFn) -> list[Frame]:
    """Frames of several writers and attempts, each with one or two blocks of any steps."""
    made = []
    for attempt, writer in draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["rank0", "rank1"])), min_size=1, max_size=3)
    ):
        for _ in range(draw(st.integers(1, 3))):
            blocks = []
            for metrics in draw(st.lists(st.sampled_from([("x",), ("x", "y"), ("z",)]), max_size=2)):
                steps = draw(st.lists(st.integers(-3, 6), min_size=1, max_size=4))
                rows = [draw(st.tuples(*[value] * len(metrics))) for _ in steps]
                blocks.append(Block.of(metrics, steps, [NOW + step for step in steps], rows))
            seq = 1 + sum((old.attempt, old.writer) == (attempt, writer) for old in made)
            made.append(Frame(version=1, attempt=attempt, writer=writer, seq=seq, blocks=blocks))
    return made


def check_any_order(database: Database, frames: list[Frame], arrival: list[Frame]) -> None:
    """Deliver in order to one run and as ``arrival`` to another; both hold the same."""
    stored = []
    for order in (frames, arrival):
        with database.write() as conn:
            run = f"run-{next(numbers)}"
            start_run(conn, RunStart(project="p", id=run, attempt="a"), NOW)
            start_run(conn, RunStart(project="p", id=run, attempt="b"), NOW)
            fresh = [append(conn, run, sent, NOW) for sent in order]
        assert sum(not one.duplicate for one in fresh) == len(frames)
        with database.read() as conn:
            found = read_series(conn, run, ["*"])
            points = [
                (s.metric, s.writer, s.attempt, s.shadowed_from, s.steps.tolist(), s.values.tobytes()) for s in found
            ]
            stored.append((points, repr(catalogue(conn, run)).replace("-0.0", "0.0"), count_segments(conn, run)))
    assert stored[0] == stored[1]


def count_segments(conn: Connection, run: str) -> int:
    return int(conn.scalar(sa.text("SELECT count(*) FROM segments WHERE run_id = :run"), {"run": run}) or 0)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Frame], list[Frame]]:
    """Frames, and the same in any order with any repetitions."""
    frames = draw(shipments())
    repeated = frames + draw(st.lists(st.sampled_from(frames), max_size=5))
    return frames, draw(st.permutations(repeated))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=False)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals())
def test_any_order_and_repetition_stores_the_same(database: Database, dialect: str, both: tuple) -> None:
    """Interleaved, late, repeated: points, catalogue and shadows are those of the orderly delivery."""
    check_any_order(database, *both)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=False)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals())
def test_any_order_and_repetition_stores_the_same_on_postgresql(database: Database, dialect: str, both: tuple) -> None:
    """The same on PostgreSQL."""
    check_any_order(database, *both)


def test_two_servers_append_side_by_side(database: Database, database_url: str) -> None:
    """Two processes' worth of writers on one run: each segment once, positions without a tie, a reader in between."""
    with database.write() as conn:
        run = started(conn)
    other = Database.open(database_url)
    troubles: list[BaseException] = []

    def write(store: Database, writer: str) -> None:
        try:
            for seq in range(1, 16):
                sent = frame(seq, {"loss": [float(seq)]}, start=seq)
                with store.write() as conn:
                    append(conn, run, Frame(version=1, attempt="", writer=writer, seq=seq, blocks=sent.blocks), NOW)
                with store.read() as conn:
                    mine = read_series(conn, run, ["loss"], writers=[writer])
                    assert mine[0].count >= seq
        except BaseException as trouble:  # noqa: BLE001 - a thread's exception is told by the test, whatever it is
            troubles.append(trouble)

    threads = [
        threading.Thread(target=write, args=(store, writer))
        for store in (database, other)
        for writer in ("rank0", "shared")
    ]
    threads += [threading.Thread(target=write, args=(other, "rank1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not troubles
    with other.read() as conn:
        positions = conn.scalars(sa.text("SELECT position FROM segments WHERE run_id = :run"), {"run": run}).all()
        counts = {metric.writer: metric.count for metric in catalogue(conn, run)[0].series}
    other.close()
    assert sorted(positions) == list(range(1, 46))
    assert counts == {"rank0": 15, "rank1": 15, "shared": 15}
