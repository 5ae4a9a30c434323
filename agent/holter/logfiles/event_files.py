"""TensorBoard's event files: TFRecord frames around protocol buffers, of which the scalars are read.

The formats: https://github.com/tensorflow/tensorflow/blob/v2.16.1/tensorflow/core/lib/io/record_writer.h (frames),
tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto (fields, by the numbers used here).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from holter.logfiles.model import Row, Unreadable

__all__ = ["is_event_file", "read_events"]

_CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_FRAME = struct.Struct("<QI")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_EVENT_TIME, _EVENT_STEP, _EVENT_SUMMARY = 1, 2, 5
_SUMMARY_VALUE = 1
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_TYPE, _TENSOR_CONTENT, _TENSOR_FLOATS, _TENSOR_DOUBLES = 1, 4, 5, 6
_FLOAT, _DOUBLE = 1, 2  # tensorflow.DataType


@dataclass(slots=True)
class Event:
    """One record with scalars."""

    step: int = 0
    time: float = 0.0
    scalars: dict[str, float] = field(default_factory=dict)


def is_event_file(data: bytes) -> bool:
    """Whether the first frame's length has the checksum that TFRecord gives it."""
    if len(data) < _FRAME.size:
        return False
    _, crc = _FRAME.unpack_from(data)
    return bool(_masked_crc(data[:8]) == crc)


def read_events(data: bytes) -> list[Row]:
    """The scalars of an event file; those of one step that stand together are one row.

    A last frame that was cut off is left out.

    Raises:
        Unreadable: it is no event file, or has no scalars.
    """
    if not is_event_file(data):
        raise Unreadable("it is no event file of TensorBoard")
    rows: list[Row] = []
    try:
        for frame in _frames(data):
            event = _event(frame)
            if event.scalars:
                _join(rows, event)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Unreadable(f"a record of it can't be read ({error})") from None
    if not rows:
        raise Unreadable("it has no scalars", "Lint reads what add_scalar has written")
    return rows


def _join(rows: list[Row], event: Event) -> None:
    if rows and rows[-1].step == event.step and not rows[-1].values.keys() & event.scalars.keys():
        rows[-1] = Row(event.step, rows[-1].values | event.scalars, event.time)
    else:
        rows.append(Row(event.step, event.scalars, event.time))


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, at)
        if _masked_crc(data[at : at + 8]) != crc:
            raise Unreadable(f"it is damaged at byte {at:,}")
        start = at + _FRAME.size
        if start + length + 4 > len(data):
            return
        yield data[start : start + length]
        at = start + length + 4


def _event(data: bytes) -> Event:
    event = Event()
    for number, value in _fields(data):
        if number == _EVENT_TIME and isinstance(value, bytes):
            (event.time,) = struct.unpack("<d", value)
        elif number == _EVENT_STEP and isinstance(value, int):
            event.step = value - (1 << 64) if value >= 1 << 63 else value
        elif number == _EVENT_SUMMARY and isinstance(value, bytes):
            for inner, content in _fields(value):
                if inner == _SUMMARY_VALUE and isinstance(content, bytes):
                    _take_value(content, event)
    return event


def _take_value(data: bytes, event: Event) -> None:
    tag, scalar = "", None
    for number, value in _fields(data):
        if number == _VALUE_TAG and isinstance(value, bytes):
            tag = value.decode("utf-8")
        elif number == _VALUE_SIMPLE and isinstance(value, bytes):
            (scalar,) = struct.unpack("<f", value)
        elif number == _VALUE_TENSOR and isinstance(value, bytes):
            scalar = _tensor_scalar(value)
    if tag and scalar is not None:
        event.scalars[tag] = scalar


def _tensor_scalar(data: bytes) -> float | None:
    """The number of a tensor that holds only one; None for other tensors."""
    kind: Any = None
    content = b""
    for number, value in _fields(data):
        if number == _TENSOR_TYPE:
            kind = value
        elif number in (_TENSOR_CONTENT, _TENSOR_FLOATS, _TENSOR_DOUBLES) and isinstance(value, bytes):
            content = value
    code = {_FLOAT: "<f", _DOUBLE: "<d"}.get(kind)
    if code is None or len(content) != struct.calcsize(code):
        return None
    return float(struct.unpack(code, content)[0])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: varints as integers, all else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("a field is longer than its message")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise IndexError("a number is too long")


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
