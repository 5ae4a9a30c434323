"""One writer's recording on disk: a folder ``DIR/<run>/<attempt>/<writer>/`` with everything needed to ship it.

- ``start.json``: the run, the attempt, the writer (what ``POST /runs`` takes)
- ``journal/``: the records (see `holter.records`)
- ``shipped.json``: how far the service has acknowledged them, and the frame that is on its way
- ``rejected/``: frames that the service can't take, with its reason
- ``shipping.lock``: held by whoever ships, so that a run and a ``holter sync`` never ship at once
- ``stacks.txt``, ``crash.txt``, ``ended.txt``: what the process's signal handlers have left (see `holter.signals`)
- ``shipper.log``: what the shipper's process wrote to its standard error
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
from holter.journal import segments_of
from holter.records import (
    END_OF_SEGMENT,
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    START,
    Record,
    SegmentHeader,
    decode_payload,
    next_multiple,
    place,
    position,
    segment_name,
)
from holter.wire import RunStart, dump_json

__all__ = ["START", "Cursor", "Found", "Reader", "Sending", "ShippingLock", "Spool", "find_spools"]

FIRST_READ = 16 << 10  # bytes; a reader that keeps up mostly finds little
LONGEST_READ = 1 << 20
CHECKSUM = struct.Struct("<I")


class Sending(msgspec.Struct, frozen=True):
    """A frame that was sent and perhaps committed: a retry must send the same records under the same number."""

    seq: int
    start: int  # positions in the journal
    end: int


class Cursor(msgspec.Struct, frozen=True):
    """How far shipping has come. Written before a frame is sent and after it is acknowledged."""

    offset: int = START  # everything before this position of the journal is acknowledged, or set aside
    values: int = 0  # before that position
    lost: int = 0  # values of segments that had to go before they were shipped, or that are damaged
    unwritten: int = 0  # values that the writer could not write
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
        (path / "journal").mkdir(parents=True)
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

    def tail(self) -> int | None:
        """The position behind the last whole record; None for a journal that is not begun."""
        segments = segments_of(self.journal)
        if not segments:
            return None
        reader = Reader(self.path)
        try:
            begin = position(segments[-1], HEADER_BYTES)
            return max((end for _, end in reader.read(begin)), default=begin)
        finally:
            reader.close()

    def waiting(self) -> bool:
        """Whether something in the journal is not acknowledged."""
        tail = self.tail()
        return tail is not None and self.cursor().offset < tail

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
    found = [start.parent for start in sorted(path.rglob("start.json")) if (start.parent / "journal").is_dir()]
    if not found:
        raise SpoolError(f"There is no recording in {path}", "Give the folder that `holter.init` printed")
    return [Spool.open(folder) for folder in found]


class Reader:
    """Reads a journal that may still be growing, and of which the oldest segments may be gone."""

    def __init__(self, path: Path) -> None:
        """``path`` is the spool's folder. Raises `SpoolError` if its journal is of another format."""
        self._folder = path / "journal"
        self._segment, self._file, self._size = 0, -1, 0
        first = next(iter(segments_of(self._folder)), None)
        if first is not None:
            self._open(first)
            self._header(first)

    def read(self, at: int, end: int | None = None) -> Iterator[tuple[Found, int]]:
        """Whole records from position ``at`` on (to ``end``), each with the position behind it.

        None stands for a damaged record. A segment begins with its header, so that one can tell what is missing.
        """
        segment, offset = place(at)
        while end is None or position(segment, offset) < end:
            if not self._open(segment):
                later = [number for number in segments_of(self._folder) if number > segment]
                if not later:
                    return
                segment, offset = later[0], 0
                continue
            if offset == 0:
                header = self._header(segment)
                if header is None:
                    return
                offset = HEADER_BYTES
                yield header, position(segment, offset)
                continue
            following = None
            for record, offset in self._records(segment, offset, end):  # noqa: B020 - the next round goes on behind it
                if isinstance(record, _Closed):
                    following = segment + 1
                    break
                yield record, position(segment, offset)
            if following is None:
                return
            segment, offset = following, 0

    def _records(self, segment: int, offset: int, end: int | None) -> Iterator[tuple[Found | _Closed, int]]:
        buffer, base, chunk = b"", offset, FIRST_READ
        while end is None or position(segment, offset) < end:
            if _is_short(buffer, offset - base):
                needed = FRAME_BYTES + (_length(buffer, offset - base) or 0)
                buffer, base = os.pread(self._file, max(chunk, needed), offset), offset
                chunk = min(4 * chunk, LONGEST_READ)
                if (_length(buffer, 0) or 0) and _is_short(buffer, 0) and needed == FRAME_BYTES:
                    continue  # a record longer than the chunk: now its length is known
            length = _length(buffer, offset - base)
            if not length or _is_short(buffer, offset - base):
                if self._over(segment, offset):
                    if length:
                        yield None, offset  # a length that can't be
                    yield _Closed(), offset
                return
            if length == END_OF_SEGMENT:
                yield _Closed(), offset
                return
            start = offset - base + FRAME_BYTES
            (checksum,) = CHECKSUM.unpack_from(buffer, offset - base)
            record = decode_payload(buffer[start : start + length], checksum)
            after = next_multiple(offset + FRAME_BYTES + length)
            if record is None and not self._followed(segment, after):
                return  # it is being written, or was when its writer died
            offset = after
            yield record, offset

    def _followed(self, segment: int, offset: int) -> bool:
        """Whether something has been written at or behind ``offset``."""
        return any(os.pread(self._file, FRAME_BYTES, offset)) or segments_of(self._folder)[-1:] > [segment]

    def _over(self, segment: int, offset: int) -> bool:
        """Nothing more will be written to this segment: it was too full even for the mark at its end, or damaged."""
        if segments_of(self._folder)[-1:] <= [segment]:
            return False
        # A segment's last record is written before the next one is begun: what is not there now will never be.
        checksum_and_length = os.pread(self._file, FRAME_BYTES, offset)
        return len(checksum_and_length) < FRAME_BYTES or not any(checksum_and_length) or self._cut_off(offset)

    def _cut_off(self, offset: int) -> bool:
        """Whether the record at ``offset`` claims to be longer than its segment."""
        length = _length(os.pread(self._file, FRAME_BYTES, offset), 0) or 0
        return length != END_OF_SEGMENT and offset + FRAME_BYTES + length > os.fstat(self._file).st_size

    def _open(self, segment: int) -> bool:
        if self._segment == segment and self._file >= 0:
            return True
        self.close()
        try:
            self._file = os.open(self._folder / segment_name(segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._segment = segment
        return True

    def _header(self, segment: int) -> SegmentHeader | None:
        try:
            return SegmentHeader.unpack(os.pread(self._file, HEADER_BYTES, 0))
        except ValueError as error:
            name = self._folder / segment_name(segment)
            raise SpoolError(f"{name} is {error}", "Upgrade holter: pip install -U holter") from None

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class _Closed:
    """The end of a segment that others follow."""


Found = Record | SegmentHeader | None


def _length(buffer: bytes, offset: int) -> int | None:
    """The length of the record at ``offset``; None where the buffer ends before it."""
    return FRAME.unpack_from(buffer, offset)[1] if len(buffer) >= offset + FRAME_BYTES else None


def _is_short(buffer: bytes, offset: int) -> bool:
    """Whether the buffer ends before the record does."""
    length = _length(buffer, offset)
    return length is None or (length != END_OF_SEGMENT and len(buffer) < offset + FRAME_BYTES + length)


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
