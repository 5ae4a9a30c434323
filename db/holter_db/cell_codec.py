"""Cells of the pyramid as bytes: the few coarse ones of a chunk, and its many fine ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from holter_db.cells import Cells
from holter_db.codec import pack_floats, pack_ints, unpack_floats, unpack_ints
from holter_db.errors import DamagedData

__all__ = ["decode_cells", "encode_cells", "pack_few", "unpack_few"]

# --- a few cells as bytes: read by the hundred, so not compressed ------------------------------------------------

_FEW_VERSION = 1
_HEADER = struct.Struct("<4H")  # version, level, cells, non-finite points
_CELL = np.dtype(
    [
        ("index", "<i8"),
        ("counts", "<i8", 4),
        ("total", "<f8"),
        ("at", "<i8", 4),
        ("steps", "<i8", 4),
        ("times", "<f8", 4),
        ("values", "<f8", 4),
    ]
)
_ODD = np.dtype(
    [(name, "<i8") for name in ("owner", "odd_at", "odd_steps")] + [("odd_times", "<f8"), ("odd_values", "<f8")]
)


def pack_few(cells: Cells, level: int) -> bytes:
    """Some cells of one level as bytes, 176 each and 40 for each non-finite point."""
    of_cells, odd = np.empty(len(cells), _CELL), np.empty(len(cells.owner), _ODD)
    for name in _CELL.names or ():
        of_cells[name] = getattr(cells, name).T
    for name in _ODD.names or ():
        odd[name] = getattr(cells, name)
    return _HEADER.pack(_FEW_VERSION, level, len(cells), len(odd)) + of_cells.tobytes() + odd.tobytes()


def unpack_few(parts: Sequence[tuple[bytes, int]], level: int | None = None) -> Cells:
    """The cells of stretches that follow one another, each packed and with the place of its first point in the series.

    Args:
        level: that the cells' numbers are to be of, at least that of any of them; None leaves the numbers as they are.
            Cells that get the same number are still apart.

    Raises:
        DamagedData: the bytes are damaged, or were written by a newer version.
    """
    headers = [_HEADER.unpack_from(data) if len(data) >= _HEADER.size else (0, 0, 0, 0) for data, _ in parts]
    bodies, odds = [], []
    for (data, _), (version, _, count, odd_count) in zip(parts, headers, strict=True):
        end = _HEADER.size + count * _CELL.itemsize
        if version != _FEW_VERSION or len(data) != end + odd_count * _ODD.itemsize:
            raise DamagedData("A pyramid is damaged, or was written by a newer Holter", "Upgrade, or use a backup.")
        bodies.append(data[_HEADER.size : end])
        odds.append(data[end:])
    cells, odd = np.frombuffer(b"".join(bodies), _CELL), np.frombuffer(b"".join(odds), _ODD)
    counts, odd_counts = [header[2] for header in headers], [header[3] for header in headers]
    bases = np.array([base for _, base in parts], np.int64)
    index = cells["index"]
    if level is not None:
        index = index >> np.repeat(level - np.array([header[1] for header in headers]), counts)
    columns = {name: np.ascontiguousarray(cells[name].T) for name in ("counts", "steps", "times", "values")}
    return Cells(
        index=index,
        total=cells["total"],
        at=cells["at"].T + np.repeat(bases, counts),
        owner=odd["owner"] + np.repeat(np.cumsum([0, *counts[:-1]]), odd_counts),
        odd_at=odd["odd_at"] + np.repeat(bases, odd_counts),
        **columns,
        **{name: odd[name] for name in ("odd_steps", "odd_times", "odd_values")},
    )


# --- many cells as bytes ----------------------------------------------------------------------------------------

_VERSION = 1
_INTS = ("index", "counts", "at", "steps", "owner", "odd_at", "odd_steps")
_FLOATS = ("total", "values", "odd_values")
_FOUR = ("counts", "at", "steps", "times", "values")
_TIMES = ("times", "odd_times")  # as the bits of int64, whose differences are small


class _Stored(msgspec.Struct, array_like=True):
    version: int
    level: int
    count: int
    columns: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def encode_cells(cells: Cells, level: int) -> bytes:
    """Cells of one level as bytes."""
    columns: dict[str, bytes] = {}
    for name in Cells.__slots__:
        flat = getattr(cells, name).ravel()
        if len(flat):
            integers = name not in _FLOATS
            columns[name] = (
                pack_ints(flat.view(np.int64) if name in _TIMES else flat) if integers else pack_floats(flat)
            )
    return _encoder.encode(_Stored(_VERSION, level, len(cells), columns))


def decode_cells(data: bytes) -> tuple[int, Cells]:
    """Level and cells.

    Raises:
        DamagedData: the bytes are damaged, or were written by a newer version.
    """
    try:
        stored = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DamagedData(f"A pyramid is damaged: {error}", "Restore the database from a backup.") from error
    if stored.version != _VERSION:
        raise DamagedData(f"A pyramid has version {stored.version}", "Upgrade: pip install -U 'holter[server]'.")
    return stored.level, Cells(**{name: _column(name, stored) for name in Cells.__slots__})


def _column(name: str, stored: _Stored) -> Any:
    packed = stored.columns.get(name)
    if packed is None:
        return np.empty(0, np.int64 if name in _INTS else np.float64)
    flat: Any = unpack_floats(packed) if name in _FLOATS else unpack_ints(packed)
    flat = flat.view(np.float64) if name in _TIMES else flat
    return flat.reshape(4, stored.count) if name in _FOUR else flat
