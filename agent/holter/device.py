"""Values that lie on a device, and how they get to the host without anything waiting for them.

A row's tensors are stacked where they are, one stack per device, and copied to pinned host memory behind the work
that makes them; an event says when the copy is there. Nothing on the training thread asks the device for anything.
Integers travel as float64 (exact up to 2⁵³), float16, bfloat16 and float32 as float32, float64 as it is.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from typing import Any

__all__ = ["Captured", "Deferred", "capturing", "snapshot"]

SLAB = 64  # slots that are made at once, since pinning memory is slow (some 100 µs a call, as CUDA's documents say)
SLOT_VALUES = 64  # float64 numbers a slot has room for; a longer row gets a buffer of its own
WITHOUT_EVENT_S = 0.5  # after so many seconds a device that has no events is asked all the same


class Captured(RuntimeError):
    """A CUDA graph is being captured: what is enqueued now would run at each replay, and not now."""


class _Slot:
    """Pinned memory for one row, and the event behind its copy."""

    __slots__ = ("_buffer", "_views", "event")

    def __init__(self, buffer: Any, event: Any) -> None:
        self._buffer, self.event = buffer, event
        self._views: dict[tuple[Any, int], Any] = {}

    def view(self, dtype: Any, length: int) -> Any:
        found = self._views.get((dtype, length))
        if found is None:
            found = self._views[dtype, length] = self._buffer.view(dtype)[:length]
        return found


class _Pool:
    """Slots of one device that are free. A slot is given back once its values are read, so its event has passed."""

    def __init__(self) -> None:
        self._free: deque[_Slot] = deque()

    def take(self, torch: Any, length: int) -> _Slot:
        if length > SLOT_VALUES:
            return _Slot(torch.empty(length, dtype=torch.float64, pin_memory=True), torch.cuda.Event())
        try:
            return self._free.pop()
        except IndexError:
            slab = torch.empty((SLAB, SLOT_VALUES), dtype=torch.float64, pin_memory=True)
            self._free.extend(_Slot(row, torch.cuda.Event()) for row in slab[1:])
            return _Slot(slab[0], torch.cuda.Event())

    def give_back(self, slot: _Slot) -> None:
        if len(self._free) < 16 * SLAB:
            self._free.append(slot)


class _Part:
    """What one device owes of a row. ``positions`` (k,) are those of ``tensor`` (k,) in the row."""

    __slots__ = ("event", "pool", "positions", "slot", "tensor")

    def __init__(self, positions: list[int], tensor: Any, event: Any, pool: _Pool | None, slot: _Slot | None) -> None:
        self.positions, self.tensor, self.event, self.pool, self.slot = positions, tensor, event, pool, slot


class Deferred:
    """A row of float64 values, shape (m,), of which some are still on their way from a device."""

    __slots__ = ("_lock", "_parts", "_row", "_since")

    def __init__(self, row: list[float], parts: list[_Part]) -> None:
        self._row, self._parts = row, parts
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Whether `resolve` would not wait. Asks, and never waits.

        A device without events (MPS, XPU) can't be asked: after half a second its values are taken to be there.
        """
        for part in self._parts:
            if part.event is None:
                if part.tensor.device.type != "cpu" and time.monotonic() - self._since < WITHOUT_EVENT_S:
                    return False
            elif not _passed(part.event):
                return False
        return True

    def resolve(self) -> list[float]:
        """The row, complete. Waits for the device where it must; calling it again costs nothing.

        Raises:
            RuntimeError: the device has failed; `host` has what never was there.
        """
        with self._lock:
            for part in self._parts:
                if part.event is not None:
                    part.event.synchronize()
                for position, value in zip(part.positions, part.tensor.tolist(), strict=True):
                    self._row[position] = float(value)
                if part.pool is not None and part.slot is not None:
                    part.pool.give_back(part.slot)
            self._parts = []
            return self._row

    def host(self) -> list[float]:
        """The row as far as it is known here: NaN where `resolve` has not put the device's value yet."""
        return self._row


def _passed(event: Any) -> bool:
    try:
        return bool(event.query())
    except RuntimeError:
        return True  # the device has failed, and `resolve` says how


_pools: dict[Any, _Pool] = {}


def snapshot(row: list[Any], positions: list[int]) -> Deferred:
    """Take the tensors of one element at ``positions`` out of ``row`` as they are now, without waiting for a device.

    The copies are enqueued on each device's current stream: behind the work that makes the values, and before
    whatever changes them in place afterwards.

    Raises:
        Captured: a CUDA graph is being captured, so that nothing may be asked of the device. ``row`` is untouched.
    """
    torch: Any = sys.modules["torch"]
    by_device: dict[Any, list[int]] = {}
    for position in positions:
        by_device.setdefault(row[position].device, []).append(position)
    if any(device.type == "cuda" for device in by_device) and capturing():
        raise Captured("a CUDA graph is being captured")
    with torch.no_grad():
        parts = [_part(torch, device, row, found) for device, found in by_device.items()]
    for position in positions:
        row[position] = math.nan
    return Deferred(row, parts)


def _part(torch: Any, device: Any, row: list[Any], positions: list[int]) -> _Part:
    stacked = _stack(torch, [row[position] for position in positions])
    if device.type != "cuda":
        return _Part(positions, stacked, None, None, None)
    pool = _pools.get(device)
    if pool is None:
        pool = _pools.setdefault(device, _Pool())
    slot = pool.take(torch, len(positions))
    host = slot.view(stacked.dtype, len(positions))
    host.copy_(stacked, non_blocking=True)
    slot.event.record(torch.cuda.current_stream(device))
    return _Part(positions, host, slot.event, pool, slot if len(positions) <= SLOT_VALUES else None)


def _stack(torch: Any, tensors: list[Any]) -> Any:
    """One tensor of shape (k,): float32 if all of them are float32 or narrower, float64 otherwise."""
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    on_mps = tensors[0].device.type == "mps"  # which has no float64
    wide = torch.float32 if on_mps or all(tensor.dtype in narrow for tensor in tensors) else torch.float64
    same = [tensor if tensor.dtype == wide else tensor.to(wide) for tensor in tensors]
    return torch.stack([tensor if tensor.dim() == 0 else tensor.reshape(()) for tensor in same])


def capturing() -> bool:
    """Whether the current CUDA stream is being captured into a graph."""
    torch: Any = sys.modules["torch"]
    return bool(torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
