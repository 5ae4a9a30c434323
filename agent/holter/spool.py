"""One writer's recording on disk: a folder ``DIR/<run>/<attempt>/<writer>/`` with everything needed to ship it.

- ``start.json``: the run, the attempt, the writer (what ``POST /runs`` takes)
- ``journal``: the records (see `holter.journal`)
- ``shipped.json``: how far the service has acknowledged them, and the frame that is on its way
- ``rejected/``: frames that the service can't take, with its reason
- ``shipping.lock``: held by whoever ships, so that a run and a ``holter sync`` never ship at once
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from holter.errors import SpoolError
from holter.journal import MAGIC, Record
from holter.wire import RunStart, dump_json

__all__ = ["Cursor", "Reader", "Sending", "ShippingLock", "Spool", "find_spools"]

_LENGTH = struct.Struct("<I")
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
READ_BYTES = 1 << 20


class Sending(msgspec.Struct, frozen=True):
    """A frame that was sent and perhaps committed: a retry must send the same records under the same number."""

    seq: int
    start: int  # bytes into the journal
    end: int


class Cursor(msgspec.Struct, frozen=True):
    """How far shipping has come. Written before a frame is sent and after it is acknowledged."""

    offset: int = len(MAGIC)  # everything before this byte of the journal is acknowledged, or set aside
    next_seq: int = 1
    sending: Sending | None = None
    ended: bool = False  # the end of the run was acknowledged, too
    rejected: int = 0  # frames set aside


@dataclass(frozen=True, slots=True)
class Spool:
    """The folder and what it is the recording of."""

    path: Path
    start: RunStart

    @classmethod
    def create(cls, directory: Path, start: RunStart) -> Spool:
        """Make the folder. Raises OSError if it can't be made or is there already."""
        path = directory / str(start.id) / start.attempt / start.writer.name.replace("/", ".")
        path.mkdir(parents=True)
        _replace(path / "start.json", dump_json(start))
        return cls(path, start)

    @classmethod
    def open(cls, path: Path) -> Spool:
        """Raises `SpoolError` if ``path`` is no recording, or a damaged one."""
        try:
            return cls(path, msgspec.json.decode((path / "start.json").read_bytes(), type=RunStart))
        except (OSError, msgspec.DecodeError) as error:
            raise SpoolError(f"{path} is no recording: {error}", "Give the folder that `holter.init` printed") from None

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    def cursor(self) -> Cursor:
        """Where shipping stands; a fresh cursor before the first frame."""
        try:
            return msgspec.json.decode((self.path / "shipped.json").read_bytes(), type=Cursor)
        except FileNotFoundError:
            return Cursor()
        except (OSError, msgspec.DecodeError) as error:
            raise SpoolError(f"{self.path / 'shipped.json'} can't be read: {error}", "Restore it from a copy") from None

    def move(self, cursor: Cursor) -> None:
        """Write the cursor down, whole or not at all."""
        _replace(self.path / "shipped.json", msgspec.json.encode(cursor))

    def set_aside(self, seq: int, body: bytes, reason: str) -> Path:
        """Keep a frame that the service can't take."""
        folder = self.path / "rejected"
        folder.mkdir(exist_ok=True)
        _replace(folder / f"{seq}.json", dump_json({"seq": seq, "reason": reason}))
        _replace(folder / f"{seq}.msgpack", body)
        return folder


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(path)


def find_spools(path: Path) -> list[Spool]:
    """Every recording at or below ``path``, in the order of their folders' names (which is the order in time).

    Raises:
        SpoolError: there is none.
    """
    found = [start.parent for start in sorted(path.rglob("start.json")) if (start.parent / "journal").exists()]
    if not found:
        raise SpoolError(f"There is no recording in {path}", "Give the folder that `holter.init` printed")
    return [Spool.open(folder) for folder in found]


class Reader:
    """Reads a journal that may still be growing."""

    def __init__(self, path: Path) -> None:
        """Raises `SpoolError` if the file is no journal of this format. An empty file is one that was just begun."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        magic = os.pread(self._file, len(MAGIC), 0)
        if magic != MAGIC[: len(magic)]:
            self.close()
            raise SpoolError(f"{path} is no journal of format 1", "Upgrade holter: pip install -U holter")

    def read(self, offset: int, end: int | None = None) -> Iterator[tuple[Record | None, int]]:
        """Whole records from byte ``offset`` on (to ``end``), each with the byte behind it; None for a damaged one."""
        buffer, base = b"", offset
        while end is None or offset < end:
            while (size := _whole(buffer, offset - base)) is None:
                more = os.pread(self._file, READ_BYTES, base + len(buffer))
                if not more:
                    return
                buffer, base = buffer[offset - base :] + more, offset
            start = offset - base + _LENGTH.size
            offset += _LENGTH.size + size
            yield _decode(buffer[start : start + size]), offset

    def close(self) -> None:
        os.close(self._file)


def _whole(buffer: bytes, position: int) -> int | None:
    """The size of the record at ``position``, None unless all of it is in the buffer."""
    if len(buffer) < position + _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(buffer, position)
    return size if len(buffer) >= position + _LENGTH.size + size else None


def _decode(payload: bytes) -> Record | None:
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError:
        return None


class ShippingLock:
    """One shipper per recording. The operating system lets go of it when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path / "shipping.lock"
        self._file = -1

    def acquire(self) -> bool:
        """True if it is ours (now or already). Where files can't be locked (Windows, some networks) it always is."""
        if self._file >= 0:
            return True
        try:
            import fcntl  # noqa: PLC0415 - not there on Windows
        except ImportError:
            return True
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError:
            pass  # the file system knows no locks
        self._file = file
        return True

    def release(self) -> None:
        """Let go; a forked child does it, too, so that it doesn't keep a lock it can't use."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
