"""The journal: where `log` leaves a record, and from which shipping takes it.

`Journal` is the seam. `SpoolJournal`, its first implementation, queues records in memory (an append to a deque, which
needs no lock) and a thread of its own writes them to an append-only file **at most 50 ms after they were logged**;
only what stands in the file is shipped. An exception, ``sys.exit`` or a hanging network lose nothing; a ``kill -9``
or a crash of the interpreter loses at most those 50 ms. The training thread never waits for the disk.

The file: 8 bytes of magic with the format's version, then records, each a little-endian uint32 length and so many
bytes of msgpack (one of the structs below). A record that was cut off at the end of the file is not read.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import deque
from pathlib import Path
from typing import Protocol

import msgspec

from holter.notices import Notices
from holter.values import Deferred, Row
from holter.wire import CommandUpdate, Event, RunFinish

__all__ = ["MAGIC", "Answer", "Dropped", "End", "Happened", "Journal", "Names", "Points", "Record", "SpoolJournal"]

MAGIC = b"HOLTER\x01\n"
FLUSH_INTERVAL = 0.03  # seconds between two writes; with the write itself well below the 50 ms of the promise
QUEUE_MAX = 500_000  # records in memory while the disk does not take them (about 200 MB)
UNWRITTEN_MAX = 64 << 20  # bytes encoded and not taken by the disk


class Names(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The metrics that `Points` with this number carry; stands before the first of them."""

    number: int
    metrics: tuple[str, ...]


class Points(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What one `log` call wrote."""

    names: int
    step: int
    time: float  # seconds, UTC
    values: list[float]


class Happened(msgspec.Struct, frozen=True, array_like=True, tag=2):
    event: Event


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=3):
    update: CommandUpdate


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """How many points this writer has had to give up since it started."""

    points: int


class End(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The last record: how the run ended. ``finish`` is None for a writer that doesn't speak for the run."""

    finish: RunFinish | None


Record = Names | Points | Happened | Answer | Dropped | End


class Journal(Protocol):
    """What a run needs of its journal. No method blocks or raises, but `flush` and `close` may wait for the disk."""

    def points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None: ...
    def put(self, record: Happened | Answer | End) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


_Queued = tuple[tuple[str, ...], int, float, Row] | Happened | Answer | End
_LENGTH = struct.Struct("<I")


class SpoolJournal:
    """Appends to ``path``. With ``background`` a thread flushes it; without, whoever owns it calls `flush`."""

    def __init__(self, path: Path, notices: Notices, *, background: bool = True) -> None:
        """Raises OSError if the file can't be made."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._notices = notices
        self._queue: deque[_Queued] = deque()
        self._numbers: dict[tuple[str, ...], int] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._unwritten = bytearray(MAGIC)
        self._dropped = self._dropped_written = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.flush()
        self._thread = threading.Thread(target=self._flush_regularly, name="holter-journal", daemon=True)
        if background:
            self._thread.start()

    def points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None:
        """Queue one record of ``len(metrics)`` values."""
        if len(self._queue) >= QUEUE_MAX:
            self._dropped += len(metrics)
            return
        self._queue.append((metrics, step, time, row))

    def put(self, record: Happened | Answer | End) -> None:
        """Queue anything but points."""
        self._queue.append(record)

    def flush(self) -> None:
        """Hand everything queued to the operating system. Errors of the disk are said once, and it is tried again."""
        with self._lock:
            self._drain()
            try:
                self._write()
            except OSError as error:
                self._notices.warn(
                    "disk",
                    f"the recording can't be written ({error.strerror}). Free some space: records wait in memory "
                    "meanwhile, and are given up when that is full, too.",
                    again_after=600,
                )

    def close(self) -> None:
        """Flush, stop the thread, and close the file."""
        self._closing.set()
        self.flush()
        with self._lock:
            self._close_file()

    def abandon(self) -> None:
        """In a forked child: the file is the parent's. Takes no lock, since a thread that is gone may hold it."""
        self._queue = deque()
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, -1  # its number may soon be another file's
        with contextlib.suppress(OSError):
            os.close(file)

    def _flush_regularly(self) -> None:
        while not self._closing.wait(FLUSH_INTERVAL):
            if self._queue or self._unwritten:
                self.flush()

    def _drain(self) -> None:
        while self._queue and len(self._unwritten) < UNWRITTEN_MAX:
            queued = self._queue.popleft()
            if isinstance(queued, tuple):
                self._encode_points(*queued)
            else:
                self._append(queued)
        if self._dropped > self._dropped_written:
            self._dropped_written = self._dropped
            self._append(Dropped(self._dropped))

    def _encode_points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None:
        try:
            values = row.resolve() if isinstance(row, Deferred) else row
        except RuntimeError as error:  # the device reported an earlier failure; the host values went down with it
            self._dropped += len(metrics)
            self._notices.warn("device", f"values could not be read from their device ({error})")
            return
        number = self._numbers.get(metrics)
        if number is None:
            number = self._numbers[metrics] = len(self._numbers)
            self._append(Names(number, metrics))
        self._append(Points(number, step, time, values))

    def _append(self, record: Record) -> None:
        payload = self._encode(record)
        self._unwritten += _LENGTH.pack(len(payload))
        self._unwritten += payload

    def _write(self) -> None:
        while self._unwritten and self._file >= 0:
            written = os.write(self._file, self._unwritten)
            del self._unwritten[:written]
