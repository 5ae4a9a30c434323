"""A device whose memory is nearly full."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from holter.health.model import Kind
from holter.health.rules.contract import Check, FloatArray, Scan, Sign, State, number

__all__ = ["NearOutOfMemory"]

Share = Annotated[float, Meta(gt=0, le=1)]


class Device(msgspec.Struct, array_like=True):
    """One device: records in a row in which it was nearly full, or, while open, in which it was not."""

    streak: int = 0
    open: bool = False


class MemoryState(State):
    """Memory of `NearOutOfMemory`."""

    devices: dict[str, Device] = msgspec.field(default_factory=dict)


class NearOutOfMemory(Check, frozen=True, kw_only=True):
    """Fires when used / total is at least `share` in `points` records in a row; resolves after as many below `clear`.

    The total is the metric of the same record whose name has "total" in place of "used".
    """

    kind: ClassVar[Kind] = "memory"
    memory: ClassVar[type[State]] = MemoryState

    share: Share = 0.95
    clear: Share = 0.9
    points: Annotated[int, Meta(ge=1)] = 3

    def observe(self, scan: Scan, state: MemoryState, signs: list[Sign]) -> None:
        for column in scan.columns:
            name = scan.names[column]
            total = name.replace("used", "total")
            if total != name and total in scan.names:
                used, capacity = scan.values[column], scan.values[scan.names.index(total)]
                self._watch(_Filling(scan, name, used, capacity, signs), state.devices.setdefault(name, Device()))

    def _watch(self, filling: _Filling, device: Device) -> None:
        if not device.open and not (filling.share >= self.share).any():
            device.streak = 0 if len(filling.rows) else device.streak
            return
        for row in filling.rows.tolist():
            share = float(filling.share[row])
            counts = share < self.clear if device.open else share >= self.share
            device.streak = device.streak + 1 if counts else 0
            if device.streak >= self.points:
                device.open, device.streak = not device.open, 0
                self._tell(filling, device, row)

    def _tell(self, filling: _Filling, device: Device, row: int) -> None:
        used, capacity = float(filling.used[row]), float(filling.capacity[row])
        words = "is" if device.open else "is down to"
        text = f"{filling.name} {words} {number(used)} of {number(capacity)}: {100 * used / capacity:.1f} % at step "
        evidence: dict[str, Any] = {
            "formula": f"used / total >= {self.share:g} in {self.points} records in a row",
            "used": used,
            "total": capacity,
            "share": used / capacity,
        }
        filling.signs.append(
            Sign(
                "open" if device.open else "resolve",
                filling.name,
                f"{text}{filling.scan.step(row)}",
                row=row,
                value=used,
                threshold=self.share * capacity,
                evidence=evidence,
            )
        )


class _Filling:
    """How full one device is in each record of a scan; ``rows`` are those in which that is known."""

    __slots__ = ("capacity", "name", "rows", "scan", "share", "signs", "used")

    rows: NDArray[np.intp]

    def __init__(self, scan: Scan, name: str, used: FloatArray, capacity: FloatArray, signs: list[Sign]) -> None:
        known = np.isfinite(used) & np.isfinite(capacity) & (capacity > 0)
        with np.errstate(over="ignore"):
            self.share = np.divide(used, capacity, out=np.zeros_like(used), where=known)
        self.scan, self.name, self.used, self.capacity, self.signs = scan, name, used, capacity, signs
        self.rows = np.flatnonzero(known)
