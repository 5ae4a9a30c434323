"""The journal: where `log` leaves a record, and from which the shipper takes it.

`MappedJournal` copies the record into a file that is mapped into memory, and returns: no system call, no other thread,
no lock that is ever waited for. The pages belong to the kernel, so what a call of `log` has returned from survives
``kill -9``. The format is that of `holter.records`.

**Bounded disk.** Before a segment is begun, the oldest segments go until the new one fits below the bound. Shipping is
in order, so those are the shipped ones, as long as there are any; what is lost beyond that, the reader counts by the
segments' headers and reports. Where the disk is full, shipped segments are given back; then records wait in memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from zlib import crc32

from holter.notices import Notices
from holter.records import (
    END_OF_SEGMENT,
    FRAME_BYTES,
    HEADER_BYTES,
    POINTS,
    START,
    Answer,
    Dropped,
    End,
    Happened,
    Names,
    Record,
    SegmentHeader,
    encode_payload,
    next_multiple,
    place,
    segment_name,
)
from holter.values import Deferred, Row

__all__ = ["DISK_MAX", "Journal", "MappedJournal", "segments_of"]

FIRST_SEGMENT = 256 << 10  # bytes; each further one is twice as long, up to
LARGEST_SEGMENT = 8 << 20
DISK_MAX = 1 << 30  # bytes per writer
QUEUE_MAX = 500_000  # records in memory while the disk does not take them (about 200 MB)
RETRY_DISK = 1.0  # seconds between two tries of a full disk
LOCK_WAIT = 1.0  # seconds
PUMP_INTERVAL = 0.01  # seconds between two looks at a device that still owes values


class Journal(Protocol):
    """What a run needs of its journal. No method blocks or raises, but `flush` and `close` may wait for a device."""

    def points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None: ...
    def put(self, record: Happened | Answer | End) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


_Queued = tuple[tuple[str, ...], int, float, Row] | Happened | Answer | End


class _Layout:
    """How rows of one set of metrics are written."""

    __slots__ = ("length", "number", "pack", "room", "size", "width")

    def __init__(self, number: int, width: int) -> None:
        form = struct.Struct(f"{POINTS.format}{width}d")
        self.number, self.width, self.pack, self.size = number, width, form.pack, form.size
        self.room = next_multiple(FRAME_BYTES + form.size)
        self.length = form.size << 32  # as it stands above the checksum


def segments_of(folder: Path) -> list[int]:
    """The numbers of the segments that are there, oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".seg") and name[:-4].isdigit())


class MappedJournal:
    """Writes the segments in ``folder``: one process at a time; any of its threads and signal handlers may call."""

    def __init__(
        self,
        folder: Path,
        notices: Notices,
        *,
        disk_max: int = DISK_MAX,
        shipped_to: Callable[[], int] = lambda: START,
        resume_at: int | None = None,
    ) -> None:
        """Begin a journal, or continue at the position ``resume_at`` one whose writer is dead.

        ``shipped_to`` is asked, seldom, for the position up to which everything is shipped.

        Raises:
            OSError: the folder can't be written.
        """
        self._folder, self._notices, self._disk_max, self._shipped_to = folder, notices, disk_max, shipped_to
        self._lock = threading.Lock()
        self._waiting: deque[_Queued] = deque()
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._latest: tuple[tuple[str, ...] | None, _Layout] = (None, _Layout(0, 0))  # the layout used last
        self._numbers = 0
        self._values = 0  # in all segments so far
        self._dropped = self._dropped_written = 0
        self._retry_at = 0.0
        self._closed = False
        self._map: mmap.mmap | None = None
        self._words = memoryview(b"").cast("Q")  # the map as words of 64 bits: one of them is written at once
        self._file = -1
        self._segment, self._offset, self._size = 0, 0, 0
        self._pump: threading.Thread | None = None
        self._pumping = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        if resume_at is None:
            self._begin_segment(FIRST_SEGMENT)
        else:
            self._continue(resume_at)

    # --- recording

    def points(self, metrics: tuple[str, ...], step: int, time: float, row: Row) -> None:
        """Write one record of ``len(metrics)`` values; values that a device still owes are written once it has them."""
        if self._waiting or type(row) is not list or not self._lock.acquire(False):
            self._queue((metrics, step, time, row))
            return
        try:
            latest, layout = self._latest
            start = self._offset
            if latest is metrics and start + layout.room <= self._size:
                payload = layout.pack(layout.number, 0, step, time, *row)
                data = start + 8
                self._map[data : data + layout.size] = payload  # type: ignore[index]
                self._words[start >> 3] = layout.length | crc32(payload)
                self._offset = start + layout.room
                self._values += layout.width
                written = True
            else:
                written = self._write_points(metrics, step, time, row)
        finally:
            self._lock.release()
        if not written:
            self._queue((metrics, step, time, row))
        elif self._waiting:
            self._drain()

    def put(self, record: Happened | Answer | End) -> None:
        """Write anything but points, in its order among them."""
        self._queue(record)

    def flush(self) -> None:
        """Write what waits, also for a device."""
        self._drain(wait=True)

    def close(self) -> None:
        """`flush`, and give back what of the last segment was not needed. What the disk does not take now is lost."""
        self._pumping.set()
        self._retry_at = 0.0
        self._drain(wait=True)
        locked = self._lock.acquire(timeout=LOCK_WAIT)
        try:
            if self._closed:
                return
            self._closed = True
            if locked:
                self._close_segment(whole=False)
        finally:
            if locked:
                self._lock.release()
        if self._waiting:
            lost = sum(len(queued[0]) for queued in self._waiting if isinstance(queued, tuple))
            self._notices.warn("lost", f"the disk did not take the last {len(self._waiting)} records ({lost} values)")

    def abandon(self) -> None:
        """In a forked child: the segment is the parent's. Takes no lock, since a thread that is gone may hold it."""
        self._closed = True
        self._waiting = deque()
        self._pumping.set()
        self._map = None
        file, self._file = self._file, -1
        with contextlib.suppress(OSError):
            os.close(file)

    # --- what waits

    def _queue(self, record: _Queued) -> None:
        if self._closed:
            return
        if len(self._waiting) >= QUEUE_MAX and isinstance(record, tuple):
            self._dropped += len(record[0])
            return
        self._waiting.append(record)
        if isinstance(record, tuple) and isinstance(record[3], Deferred) and self._pump is None:
            self._start_pump()
        self._drain()

    def _drain(self, *, wait: bool = False) -> None:
        """Write the queue up to the first record that can't be written yet."""
        while self._waiting:
            # Whoever holds the lock sees what was added meanwhile when it comes to the end of its own turn. It may be
            # the very code that a signal handler has interrupted, so that nobody waits for it for ever.
            if not self._lock.acquire(timeout=LOCK_WAIT if wait else 0):
                return
            try:
                stuck = not self._write_waiting(wait=wait)
            finally:
                self._lock.release()
            if stuck:
                return

    def _write_waiting(self, *, wait: bool) -> bool:
        while self._waiting:
            if self._closed:
                self._waiting.clear()
                return False
            head = self._waiting[0]
            if isinstance(head, tuple):
                metrics, step, time, row = head
                if isinstance(row, Deferred) and not (wait or row.ready()):
                    return False
                values = self._resolve(row, len(metrics)) if isinstance(row, Deferred) else row
                written = values is None or self._write_points(metrics, step, time, values)
            else:
                written = self._write(head)
            if not written:
                return False
            self._waiting.popleft()
        return True

    def _resolve(self, row: Deferred, width: int) -> list[float] | None:
        try:
            return row.resolve()
        except RuntimeError as error:  # the device reported an earlier failure; the host values went down with it
            self._dropped += width
            self._notices.warn("device", f"values could not be read from their device ({error})")
            return None

    def _start_pump(self) -> None:
        self._pump = threading.Thread(target=self._pump_regularly, name="holter-device", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: later calls of `log` write what waits
            self._pump.start()

    def _pump_regularly(self) -> None:
        while not self._pumping.wait(PUMP_INTERVAL):
            if self._waiting:
                self._drain()

    # --- writing, with the lock held

    def _write_points(self, metrics: tuple[str, ...], step: int, time: float, row: list[float]) -> bool:
        layout = self._layouts.get(metrics)
        if layout is None:
            layout = _Layout(self._numbers, len(metrics))
            if not self._write(Names(layout.number, metrics)):
                return False
            self._layouts[metrics] = layout
            self._numbers += 1
        if self._offset + layout.room > self._size:
            if not self._make_room(layout.room):
                return False
            return self._write_points(metrics, step, time, row)  # a new segment names its metrics anew
        self._place(layout.pack(layout.number, 0, step, time, *row))
        self._values += layout.width
        self._latest = (metrics, layout)
        return True

    def _write(self, record: Record) -> bool:
        payload = encode_payload(record)
        room = next_multiple(FRAME_BYTES + len(payload))
        if self._offset + room > self._size and not self._make_room(room):
            return False
        self._place(payload)
        return True

    def _place(self, payload: bytes) -> None:
        """Payload first; its checksum and length last, in one piece."""
        assert self._map is not None
        data = self._offset + FRAME_BYTES
        self._map[data : data + len(payload)] = payload
        self._words[self._offset >> 3] = len(payload) << 32 | crc32(payload)
        self._offset = next_multiple(data + len(payload))

    def _make_room(self, room: int) -> bool:
        """Go on in a new segment with at least ``room`` bytes. False while the disk does not allow it."""
        if time.monotonic() < self._retry_at:
            return False
        largest = next_multiple(min(LARGEST_SEGMENT, self._disk_max // 4))
        size = max(min(2 * self._size, largest), next_multiple(room + HEADER_BYTES + 4096))
        try:
            self._begin_segment(size)
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_DISK
            self._notices.warn(
                "disk",
                f"the recording can't be written ({error.strerror or error}). Free some space: records wait in memory "
                "meanwhile, and are given up when that is full, too.",
                again_after=600,
            )
            return False
        if self._dropped > self._dropped_written:
            self._dropped_written = self._dropped
            self._write(Dropped(self._dropped))
        return True

    def _begin_segment(self, size: int) -> None:
        """Raises OSError, and leaves everything as it was, if there is no room on the disk."""
        number = self._segment + 1
        self._keep_bound(size)
        try:
            new = _Mapped(self._folder / segment_name(number), size)
        except OSError:
            if not self._give_back_shipped():
                raise
            new = _Mapped(self._folder / segment_name(number), size)
        new.map[:HEADER_BYTES] = SegmentHeader(number, self._values, time.time()).pack()
        if self._segment:
            self._close_segment(whole=True)
        self._map, self._words = new.map, memoryview(new.map).cast("Q")
        self._file, self._segment, self._size, self._offset = new.file, number, size, HEADER_BYTES
        self._layouts.clear()
        self._latest = (None, self._latest[1])

    def _close_segment(self, *, whole: bool) -> None:
        """``whole``: another one follows."""
        segment, self._map = self._map, None
        file, self._file = self._file, -1
        if segment is None:
            return
        if whole and self._offset + FRAME_BYTES <= self._size:
            self._words[self._offset >> 3] = END_OF_SEGMENT << 32
        self._words.release()
        segment.close()
        with contextlib.suppress(OSError):
            if not whole:
                os.ftruncate(file, self._offset)
            os.close(file)

    def _keep_bound(self, size: int) -> None:
        """Let the oldest segments go until ``size`` more bytes fit."""
        numbers = segments_of(self._folder)
        sizes = {number: self._size_of(number) for number in numbers}
        for number in numbers:
            if sum(sizes.values()) + size <= self._disk_max or number >= self._segment:
                return
            with contextlib.suppress(OSError):
                (self._folder / segment_name(number)).unlink()
            sizes.pop(number)

    def _size_of(self, number: int) -> int:
        try:
            return (self._folder / segment_name(number)).stat().st_size
        except OSError:
            return 0

    def _give_back_shipped(self) -> bool:
        """On a full disk: delete what is shipped. True if that was anything."""
        shipped, _ = place(self._shipped_to())
        gone = [number for number in segments_of(self._folder) if number < min(shipped, self._segment)]
        for number in gone:
            (self._folder / segment_name(number)).unlink(missing_ok=True)
        return bool(gone)

    def _continue(self, at: int) -> None:
        number, offset = place(at)
        self._segment, self._size = number, next_multiple(offset) + LARGEST_SEGMENT // 8
        mapped = _Mapped(self._folder / segment_name(number), self._size, new=False)
        mapped.map[offset : self._size] = bytes(self._size - offset)  # a torn record must not look like one
        self._map, self._words = mapped.map, memoryview(mapped.map).cast("Q")
        self._file, self._offset = mapped.file, offset
        self._numbers = 1 << 20  # none that the dead writer has used in this segment


class _Mapped:
    """A file of ``size`` bytes that the disk has promised: writing to a hole of a full disk would kill the process."""

    def __init__(self, path: Path, size: int, *, new: bool = True) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0), 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file, 0, size)
            else:
                os.pwrite(self.file, bytes(size), 0) if new else os.ftruncate(self.file, size)
            self.map = mmap.mmap(self.file, size)
        except (OSError, ValueError) as error:
            os.close(self.file)
            if new:
                path.unlink(missing_ok=True)
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
