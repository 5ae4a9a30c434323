"""The payload of a segment keeps every bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter.wire import Block
from holter_db.errors import DatabaseError
from holter_db.segments import decode_blocks, encode_blocks

bits = st.integers(0, 2**64 - 1)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any rows of any bit patterns, NaNs with payloads and -0.0 among them."""
    metrics = draw(st.lists(st.text(min_size=1, max_size=8), min_size=0, max_size=4, unique=True))
    n = draw(st.integers(0, 5))
    words = draw(st.lists(bits, min_size=n * (2 + len(metrics)), max_size=n * (2 + len(metrics))))
    raw = np.array(words, dtype="<u8")
    return Block(tuple(metrics), raw[:n].tobytes(), raw[n : 2 * n].tobytes(), raw[2 * n :].tobytes())


@given(st.lists(blocks(), max_size=4))
def test_what_comes_out_is_what_went_in(frame: list[Block]) -> None:
    """Blocks of any content survive, bit for bit."""
    assert decode_blocks(encode_blocks(frame)) == frame


def test_long_columns_are_compressed() -> None:
    """A thousand rows of a slowly moving loss take less than half of their plain size."""
    loss = np.linspace(3, 1, 1000).astype(np.float32).astype(np.float64)
    payload = encode_blocks([Block.of(["loss"], range(1000), np.arange(1000.0), loss[:, None])])
    assert len(payload) < 1000 * 24 / 2


@pytest.mark.parametrize("payload", [b"\x02\x00", b"\x01\x09abc", b"\x01", b"\x01\x01notzlib", b"\x01\x00\xff"])
def test_a_payload_that_can_not_be_read_is_an_error(payload: bytes) -> None:
    """A newer version and damage are both said, with what to do."""
    with pytest.raises(DatabaseError) as caught:
        decode_blocks(payload)
    assert caught.value.hint
