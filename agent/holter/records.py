"""Records and how they stand on disk: format 2, documented in docs/journal.md.

A journal is a folder of segments ``000001.seg``, ``000002.seg``, … A segment is a file of a fixed size that its writer
has mapped into memory; what it has not written yet is zero. It begins with a header of 64 bytes, then come records at
multiples of 8 bytes: CRC-32 of the payload (uint32), its length in bytes (uint32), the payload, zeros up to the next
multiple of 8. The length is written last: a record is there once its length is not zero and its checksum is right.

All numbers are little-endian. A *position* names a byte of a journal: the segment's number times 2³² plus the offset.
"""

from __future__ import annotations

import struct
import zlib

import msgspec

from holter.wire import CommandUpdate, Event, RunFinish

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "START",
    "Answer",
    "Dropped",
    "End",
    "Happened",
    "Names",
    "Points",
    "Record",
    "SegmentHeader",
    "decode_payload",
    "encode_payload",
    "next_multiple",
    "place",
    "position",
    "segment_name",
]

MAGIC = b"HOLTER\x02\n"
HEADER_BYTES = 64
HEADER = struct.Struct("<8sIIQd")  # magic, the header's bytes, the segment's number, values before it, time (s, UTC)
FRAME = struct.Struct("<II")  # CRC-32, length
FRAME_BYTES = FRAME.size
END_OF_SEGMENT = 0xFFFFFFFF  # as a length: the journal goes on in the next segment
POINTS = struct.Struct("<Iiqd")  # number of the names, 0, step, time (s, UTC); float64 values follow
OTHER = 0xFFFFFFFF  # in the place of the number: what follows is one msgpack record
OTHER_PREFIX = struct.pack("<I", OTHER)


class Names(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The metrics that `Points` with this number carry; stands before the first of them in each segment."""

    number: int
    metrics: tuple[str, ...]


class Points(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What one `log` call wrote."""

    names: int
    step: int
    time: float  # seconds, UTC
    values: tuple[float, ...]


class Happened(msgspec.Struct, frozen=True, array_like=True, tag=2):
    event: Event


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=3):
    update: CommandUpdate


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """How many points this writer could not even write, since it started."""

    points: int


class End(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The last record: how the run ended. ``finish`` is None for a writer that doesn't speak for the run."""

    finish: RunFinish | None


Record = Names | Points | Happened | Answer | Dropped | End


class SegmentHeader(msgspec.Struct, frozen=True):
    """The beginning of a segment."""

    number: int
    values_before: int  # values (points) in all earlier segments: what is lost when one of them is gone
    created: float  # seconds, UTC

    def pack(self) -> bytes:
        return HEADER.pack(MAGIC, HEADER_BYTES, self.number, self.values_before, self.created).ljust(
            HEADER_BYTES, b"\0"
        )

    @classmethod
    def unpack(cls, data: bytes) -> SegmentHeader | None:
        """None for a segment that is not begun.

        Raises:
            ValueError: these bytes are no header of this format.
        """
        if MAGIC.startswith(data.rstrip(b"\0")) or (len(data) < HEADER.size and data.startswith(MAGIC)):
            return None
        if not data.startswith(MAGIC):
            raise ValueError("no segment of format 2")
        _, _, number, values_before, created = HEADER.unpack_from(data)
        return cls(number, values_before, created)


def segment_name(number: int) -> str:
    return f"{number:06d}.seg"


def position(segment: int, offset: int) -> int:
    return segment << 32 | offset


def place(at: int) -> tuple[int, int]:
    """The segment's number and the offset of a position."""
    return at >> 32, at & 0xFFFFFFFF


START = position(1, HEADER_BYTES)


def next_multiple(offset: int) -> int:
    """The first multiple of 8 at or behind ``offset``."""
    return (offset + 7) & ~7


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode_payload(record: Record) -> bytes:
    """The payload of any record but `Points`, for which journals have a quicker way."""
    return OTHER_PREFIX + _encoder.encode(record)


def decode_payload(payload: bytes | memoryview, checksum: int) -> Record | None:
    """The record; None where it is damaged."""
    if zlib.crc32(payload) != checksum or len(payload) < 4:
        return None
    if payload[:4] != OTHER_PREFIX:
        return _points(payload)
    try:
        return _decoder.decode(payload[4:])
    except msgspec.DecodeError:
        return None


def _points(payload: bytes | memoryview) -> Points | None:
    values, rest = divmod(len(payload) - POINTS.size, 8)
    if values < 0 or rest:
        return None
    names, _, step, time = POINTS.unpack_from(payload)
    return Points(names, step, time, struct.unpack_from(f"<{values}d", payload, POINTS.size))
