"""The wire keeps every point: msgpack bit by bit, JSON value by value."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holter.wire import (
    METRIC_NAME_MAX,
    VALUES_PER_FRAME_MAX,
    VERSION,
    Block,
    CommandUpdate,
    Event,
    Frame,
    WireError,
    decode_frame,
    decode_points,
    dump_json,
    encode_frame,
    jsonable,
    number_from_json,
    number_to_json,
)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\n"), min_size=1, max_size=20)
steps = st.integers(-(2**63) + 1, 2**63 - 1)
bits = st.integers(0, 2**64 - 1)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any bit pattern as a value or a time: NaN payloads, subnormal numbers, -0.0."""
    metrics = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(0, 5))
    matrix = draw(hnp.arrays(np.uint64, (rows, len(metrics)), elements=bits)).view(np.float64)
    times = draw(hnp.arrays(np.uint64, rows, elements=bits)).view(np.float64)
    return Block.of(metrics, draw(st.lists(steps, min_size=rows, max_size=rows)), times, matrix)


events = st.builds(
    Event,
    time=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    step=st.none() | steps,
    severity=st.sampled_from(["info", "warning", "critical"]),
)


@settings(deadline=None)
@given(st.lists(blocks(), max_size=3), st.lists(events, max_size=3), st.integers(0, 2**63 - 1))
def test_a_frame_survives_msgpack_bit_by_bit(parts: list[Block], happened: list[Event], seq: int) -> None:
    """Steps, times, values and events come out as they went in, NaN payloads included."""
    update = CommandUpdate("c1", "done", 1.5, "ok", 3)
    frame = Frame(VERSION, "a1", "rank0", seq, parts, happened, [update], promise=2.5, dropped=3)
    assert decode_frame(encode_frame(frame)) == frame


@settings(deadline=None)
@given(blocks())
def test_the_arrays_of_a_block_are_views_of_its_bytes(block: Block) -> None:
    """The accessors change no bit."""
    assert block.step_array().tobytes() == block.steps
    assert block.time_array().tobytes() == block.times
    assert block.value_matrix().tobytes() == block.values
    assert block.value_matrix().shape == (block.rows, len(block.metrics))


points = st.lists(
    st.tuples(
        steps,
        st.floats(allow_nan=False, allow_infinity=False),
        st.dictionaries(names, st.floats(), min_size=1, max_size=3),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(points)
def test_points_survive_json(rows: list[tuple[int, float, dict[str, float]]]) -> None:
    """Every value comes back: finite ones exactly (the sign of zero, too), the others as themselves, in order."""
    listed = [{"step": step, "time": time, "values": values} for step, time, values in rows]
    frame = decode_points(dump_json({"points": listed, "writer": "rank3", "seq": 7}), now=0.0)
    found = [
        (int(step), float(time), dict(zip(block.metrics, map(float, row), strict=True)))
        for block in frame.blocks
        for step, time, row in zip(block.step_array(), block.time_array(), block.value_matrix(), strict=True)
    ]
    assert (frame.writer, frame.seq) == ("rank3", 7)
    assert repr(found) == repr(rows)  # repr tells -0.0 from 0.0, and knows NaN


@settings(deadline=None)
@given(st.floats())
def test_a_number_survives_json(value: float) -> None:
    """The three strings stand for the three kinds of non-finite number, and nothing else is a string."""
    written = number_to_json(value)
    assert isinstance(written, str) == (not math.isfinite(value))
    assert repr(number_from_json(written)) == repr(value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(anything)
def test_dumped_json_is_strict(value: Any) -> None:
    """Any JSON reader takes it: no NaN, Infinity or -Infinity tokens."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    json.loads(dump_json(value), parse_constant=refuse)


def test_arrays_become_lists_with_their_non_finite_numbers_as_strings() -> None:
    """numpy's arrays and scalars are written as Python's would be."""
    array = np.array([1.5, math.nan, math.inf, -math.inf])
    assert jsonable({"a": array, "b": np.float32(0.5), "c": np.arange(2)}) == {
        "a": [1.5, "NaN", "Infinity", "-Infinity"],
        "b": 0.5,
        "c": [0, 1],
    }
    assert jsonable(array.reshape(2, 2)) == [[1.5, "NaN"], ["Infinity", "-Infinity"]]


def test_points_without_a_time_get_the_service_s() -> None:
    """A person with curl need not send a time."""
    (block,) = decode_points(b'{"points": [{"step": 1, "values": {"loss": 2}}]}', now=12.5).blocks
    assert block.time_array().tolist() == [12.5]


def _frame(block: Block, **changes: Any) -> bytes:
    content: dict[str, Any] = {"version": VERSION, "attempt": "", "writer": "rank0", "seq": 1, "blocks": [block]}
    return encode_frame(Frame(**{**content, **changes}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xc1nonsense", "not a frame"),
        (b"", "not a frame"),
        (_frame(Block(("a",), b"1234567", b"", b"")), "different lengths"),
        (_frame(Block(("a",), bytes(8), bytes(8), bytes(16))), "needs 1 float64 values"),
        (_frame(Block.of(("a", "a"), [1], [1.0], [[1.0, 2.0]])), "same metric twice"),
        (_frame(Block.of(("",), [1], [1.0], [[1.0]])), "1 to 256 characters"),
        (_frame(Block.of(("m" * (METRIC_NAME_MAX + 1),), [1], [1.0], [[1.0]])), "has 257"),
        (_frame(Block.of(("a\nb",), [1], [1.0], [[1.0]])), "no line break"),
        (_frame(Block.of(("a",), [1], [1.0], [[1.0]]), version=2), "version 1 of the wire, not 2"),
        (_frame(Block.of(("a",), [1], [1.0], [[1.0]]), writer=""), "1 to 64 characters"),
        (_frame(Block.of(("a",), [1], [1.0], [[1.0]]), seq=-1), "counts from 1"),
    ],
)
def test_a_frame_that_cannot_be_kept_whole_is_refused(body: bytes, says: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(WireError, match=says):
        decode_frame(body)


def test_too_many_values_are_refused() -> None:
    """A frame has an upper bound, and the message names it."""
    rows = VALUES_PER_FRAME_MAX + 1
    with pytest.raises(WireError, match="at most 500,000 values; this one has 500,001"):
        decode_frame(_frame(Block.of(("a",), np.zeros(rows), np.zeros(rows), np.zeros(rows))))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[]", "not what /points takes"),
        (b'{"points": [{"step": 1.5, "values": {}}]}', r"points\[0\].step"),
        (b'{"points": [{"step": "x", "values": {}}]}', r"points\[0\].step"),
        (b'{"points": [{"step": 1, "values": {"loss": "nan"}}]}', r"points\[0\].values\['loss'\] is 'nan'"),
        (b'{"points": [{"step": 1, "values": {"loss": null}}]}', "values"),
        (b'{"points": [{"step": 1, "vals": {}}]}', "vals"),
        (b'{"points": [{"step": 9223372036854775808, "values": {}}]}', r"points\[0\].step"),
    ],
)
def test_bad_json_says_where(body: bytes, says: str) -> None:
    """The place in the body that is wrong is in the message."""
    with pytest.raises(WireError, match=says):
        decode_points(body, now=0.0)
