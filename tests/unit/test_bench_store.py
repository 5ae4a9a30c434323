"""The parts of the store's benchmark that make, count and judge: with a fault here it would praise anything."""

from __future__ import annotations

import socket
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from figures import Interval, markdown_table, median_interval, quantile_interval, verdict, verdict_at_least
from hypothesis import given
from hypothesis import strategies as st
from peers import curves
from peers.data import METRICS
from store import placed
from store_check import check_series, compare_incidents
from store_courses import WINDOW, Course
from store_frames import Template, frame_bodies
from store_load import Load, open_loop

from holter.wire import decode_frame

STEPS = 400
CLOCK = curves.times(1, 0, STEPS)
VALUES = curves.losses(1, 1, 0, STEPS)[:, 0]


# --- data -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3 * curves.BLOCK), st.integers(0, 2 * curves.BLOCK), st.integers(0, 9))
def test_a_part_of_a_curve_is_what_the_whole_has_there(first, count, seed):
    """So it does not matter in what frames it is sent."""
    whole = slice(first, first + count)
    assert np.array_equal(curves.losses(seed, 3, first, count), curves.losses(seed, 3, 0, 60_000)[whole])
    assert np.array_equal(curves.times(seed, first, count), curves.times(seed, 0, 60_000)[whole])


def test_losses_are_float32_and_times_ascend():
    """As trainings log them."""
    values = curves.losses(0, 8, 0, 30_000)
    assert np.array_equal(values, values.astype(np.float32))
    assert (values > 0).all()
    assert (np.diff(curves.times(0, 0, 30_000)) > 0).all()
    assert not np.array_equal(values, curves.losses(1, 8, 0, 30_000))


def test_frames_tile_a_course_and_hold_its_faults():
    """Whatever the lengths of the frames, the values of a step are the same."""
    course = Course("a", 5)
    frames = [course.frame(seq) for seq in range(1, 121)]
    steps = np.concatenate([frame.blocks[0].step_array() for frame in frames])
    values = np.concatenate([frame.blocks[0].value_matrix() for frame in frames])
    assert np.array_equal(steps, np.arange(course.steps_before(121)))
    assert np.array_equal(values, Course("b", 5).values(0, len(steps)), equal_nan=True)
    windows = range(len(steps) // WINDOW)
    healthy = curves.losses(5, len(METRICS), 0, len(steps))
    changed = (values != healthy).any(axis=1)
    assert all(changed[window * WINDOW : (window + 1) * WINDOW].any() for window in windows)
    assert changed.mean() < 0.05
    said = [event.text for frame in frames for event in frame.events]
    assert said == course.events(120)
    assert said


def test_a_template_sends_what_the_wire_takes():
    """Only seq, step, time and values differ from one request to the next."""
    template = Template("run", METRICS, seed=3, rows=10)
    for seq in range(1, 13):
        head, _, body = bytes(template.advance(1.7e9 + seq)).partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        frame = decode_frame(body)
        (block,) = frame.blocks
        assert (frame.seq, block.step_array().tolist(), block.time_array().tolist()) == (seq, [seq - 1], [1.7e9 + seq])
        assert np.array_equal(block.value_matrix(), curves.losses(3, len(METRICS), (seq - 1) % 10, 1))
    assert bytes(template.again()).endswith(body)


def test_bodies_of_frames_follow_one_another():
    """Steps go on where the frame before has ended."""
    frames = [decode_frame(body) for body in frame_bodies(1, 100, 4, 3, zipped=False)]
    assert [frame.seq for frame in frames] == [4, 5, 6]
    steps = [frame.blocks[0].step_array() for frame in frames]
    assert all(before[-1] + 1 == after[0] for before, after in pairwise(steps))


# --- verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "most", "least"),
    [
        (Interval(5, 4, 6), "reached", "not reached"),
        (Interval(15, 14, 16), "not reached", "reached"),
        (Interval(10, 9, 11), "undecided: the noise is wider", "undecided: the noise is wider"),
        (10.0, "reached", "reached"),
    ],
)
def test_a_verdict_needs_the_whole_interval(found, most, least):
    """On one side of the limit, which itself is good enough."""
    assert (verdict(found, 10.0), verdict_at_least(found, 10.0)) == (most, least)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60))
def test_an_interval_of_the_median_holds_it_and_is_made_of_measurements(values):
    """It has no opinion about the distribution."""
    found = median_interval(values)
    assert found.low <= found.value <= found.high
    assert {found.low, found.high} <= set(values)


def test_an_interval_of_the_median_is_the_sign_tests():
    """Ranks 1 and 6 of 6, 2 and 9 of 10, 6 and 15 of 20 (tables of the sign test at 5 %)."""
    for n, rank in ((6, 1), (10, 2), (20, 6)):
        found = median_interval(range(1, n + 1))
        assert (found.low, found.high) == (rank, n + 1 - rank)


def test_one_stalled_second_widens_the_interval_of_a_quantile():
    """Its values came together, so they are drawn together."""
    calm, stalled = [0.01] * 100, [1.0] * 100
    assert quantile_interval([calm] * 30, 0.99) == Interval(0.01, 0.01, 0.01)
    found = quantile_interval([calm] * 29 + [stalled], 0.99)
    assert (found.value, found.low, found.high) == (1.0, 0.01, 1.0)


def test_a_markdown_table_keeps_its_columns():
    """A bar in a cell would start one."""
    assert markdown_table(["a", "b"], [["1|2", "3"]]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |"


# --- what came back ---------------------------------------------------------------------------------------------


def check(kept, times=CLOCK, values=VALUES):
    return check_series(np.asarray(kept, float), times[kept], values[kept], CLOCK, VALUES)


@given(st.lists(st.integers(0, STEPS - 1), max_size=STEPS))
def test_lost_and_doubled_points_are_counted(kept):
    """Whatever their order."""
    found = check(np.asarray(kept, int))
    assert found.lost == STEPS - len(set(kept))
    assert found.doubled == len({step for step in kept if kept.count(step) > 1})
    assert found.wrong == 0


@given(st.sets(st.integers(0, STEPS - 1)), st.sampled_from(["value", "time", "nan"]))
def test_wrong_points_are_counted(spoilt, what):
    """A value or a time that differs in its last bit is another one."""
    rows = sorted(spoilt)
    values, times = VALUES.copy(), CLOCK.copy()
    changed = times if what == "time" else values
    changed[rows] = np.nan if what == "nan" else np.nextafter(changed[rows], np.inf)
    assert check(np.arange(STEPS), times, values).wrong == len(rows)


def test_a_nan_that_was_logged_is_right():
    """And a step that nobody sent is wrong."""
    values = np.array([1.0, np.nan, np.inf])
    steps = np.array([0.0, 1.0, 2.0])
    assert check_series(steps, steps, values, steps, values).bad == 0
    assert check_series(np.append(steps, 3.0), np.append(steps, 3.0), np.append(values, 1.0), steps, values).wrong == 1


def incident(name, **changed):
    said = ("rule kind severity metric writer state step last_step resolved_step time value threshold baseline message "
            "resolution evidence")  # fmt: skip
    return {"id": name} | dict.fromkeys(said.split(), 1) | changed


def test_incidents_are_compared_by_name_and_by_all_that_they_say():
    """One that is listed twice is one too many."""
    expected = [incident("a"), incident("b"), incident("c")]
    assert compare_incidents(expected, expected).raw() == {"missing": [], "extra": [], "different": []}
    found = [incident("a"), incident("a"), incident("b", value=2), incident("d")]
    assert compare_incidents(found, expected).raw() == {"missing": ["c"], "extra": ["d", "a"], "different": ["b"]}


# --- load -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stalling_port():
    """A server that takes half a second for the first answer on each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(connection):
            with connection:
                pause = 0.5
                while connection.recv(65536):
                    time.sleep(pause)
                    pause = 0.0
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_every_request_of_the_schedule_is_counted_from_when_it_was_due(stalling_port):
    """A stall delays the answers, not the schedule."""
    load = open_loop(stalling_port, [Template(f"run{index}", METRICS, index, 4) for index in range(4)], 2, warm_up=0)
    assert [len(second) for second in load.latencies] == [4, 4]
    assert (load.failed, load.refused, load.unanswered) == (0, 0, 0)
    assert min(load.latencies[0]) >= 0.5
    assert load.missed(0.4) >= 4


def test_what_failed_has_missed_every_deadline():
    """Whatever the latencies of the others."""
    assert Load([[0.1], [0.2, 0.9]], failed=2).missed(0.5) == 3


# --- report -----------------------------------------------------------------------------------------------------


def test_a_part_is_written_into_its_own_place():
    """Measured again alone, it leaves the others as they are."""
    text = placed(placed("# Title\n", "one", "1\n\n2"), "two", "3")
    assert (
        placed(text, "one", "4")
        == "# Title\n<!-- one -->\n4\n<!-- end of one -->\n<!-- two -->\n3\n<!-- end of two -->\n"
    )
    assert placed(placed(text, "one", "4"), "one", "1\n\n2") == text
