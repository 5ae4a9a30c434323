"""The payload of a segment: the columns of one acknowledged frame, bit for bit.

Version 1 is one byte of version, one byte of encoding (0 plain, 1 zlib), then the msgpack array of the wire's blocks:
``[[metrics, steps, times, values], …]`` with int64 steps, float64 times and the float64 matrix in row order, all
little-endian, so a NaN keeps its payload bits and -0.0 its sign.

zlib at level 1, chosen by measuring frames of 8 float32 losses (bytes per point; points encoded per second on one
core). It is the quickest that saves half; pcodec needs long columns and gets them when segments are compacted.

========  ===========  ===========  ==============  ==========
rows      plain        zlib 1       shuffled zlib   pcodec
========  ===========  ===========  ==============  ==========
1         22.0         13.0  1.0 M  12.1  0.3 M     47.6 0.2 M
10        11.2         6.4   4.0 M  5.5   2.2 M     9.3  0.5 M
100       10.1         5.0   9.7 M  4.0   8.9 M     3.8  2.1 M
1000      10.0         4.9   7.3 M  3.7   9.5 M     3.3  6.5 M
========  ===========  ===========  ==============  ==========
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from holter.wire import Block
from holter_db.errors import DamagedData

__all__ = ["decode_blocks", "encode_blocks"]

_VERSION = 1
_PLAIN, _ZLIB = 0, 1
_PLAIN_HEAD, _ZLIB_HEAD = bytes((_VERSION, _PLAIN)), bytes((_VERSION, _ZLIB))
SMALL_BYTES = 512  # one record: zlib's set-up takes 10 to 60 µs, and the segment is folded into a chunk soon
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Block])


def encode_blocks(blocks: Sequence[Block]) -> bytes:
    """The payload that holds these blocks; empty for none."""
    if not blocks:
        return b""
    plain = _encoder.encode(blocks)
    if len(plain) < SMALL_BYTES:
        return _PLAIN_HEAD + plain
    packed = zlib.compress(plain, 1)
    return _ZLIB_HEAD + packed if len(packed) < len(plain) else _PLAIN_HEAD + plain


def decode_blocks(payload: bytes) -> list[Block]:
    """The blocks of a payload.

    Raises:
        DamagedData: the payload is damaged or of a version that this code does not know.
    """
    if not payload:
        return []
    version, encoding = payload[0], payload[1] if len(payload) > 1 else -1
    if version != _VERSION or encoding not in (_PLAIN, _ZLIB):
        raise DamagedData(
            f"A segment has version {version}, encoding {encoding}, which this Holter can't read",
            "It was written by a newer Holter, or the database is damaged: upgrade, then check the database.",
        )
    try:
        return _decoder.decode(zlib.decompress(payload[2:]) if encoding == _ZLIB else payload[2:])
    except (zlib.error, msgspec.DecodeError) as error:
        raise DamagedData(f"A segment is damaged: {error}", "Restore the database from a backup.") from error
