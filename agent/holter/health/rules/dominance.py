"""One weighted part of the loss that drowns the others."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Kind
from holter.health.patterns import first_match
from holter.health.rules.contract import Check, FiniteSeries, Scan, Sign, State, number

__all__ = ["Dominance"]


class Part(msgspec.Struct, array_like=True):
    """One weighted part: the window that is being filled, and how many windows in a row it has dominated."""

    filled: int = 0
    sum: float = 0.0
    began: int = 0  # the step of the window's first record
    streak: int = 0  # windows that dominate, or, while open, that don't
    since: int = 0  # the step at which the first of these windows began
    open: bool = False


class DominanceState(State):
    """Memory of `Dominance`."""

    parts: dict[str, Part] = msgspec.field(default_factory=dict)


class Dominance(Check, frozen=True, kw_only=True):
    """Fires when |part| / Σ|parts|, averaged over a window of records, exceeds `share` in `windows` windows in a row.

    Only records in which the part is switched on (not exactly 0) fill its windows. The parts in `base` may dominate:
    they are the task itself. Needs at least two weighted parts in one record.
    """

    kind: ClassVar[Kind] = "dominance"
    memory: ClassVar[type[State]] = DominanceState

    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    window: Annotated[int, Meta(ge=1)] = 100  # records
    windows: Annotated[int, Meta(ge=1)] = 3
    base: tuple[str, ...] = ("*ce", "*cross_entropy*", "*nll*", "*main*", "*task*")

    def observe(self, scan: Scan, state: DominanceState, signs: list[Sign]) -> None:
        if len(scan.columns) < 2:
            return
        sizes = np.abs(scan.values[list(scan.columns)])
        total = sizes[0].copy()
        with np.errstate(over="ignore"):  # a sum of +Inf is not used
            for size in sizes[1:]:  # one after the other: numpy's pairwise sum depends on the block's shape
                total += size
        usable = np.isfinite(total) & (total > 0)
        for size, column in zip(sizes, scan.columns, strict=True):
            name = scan.names[column]
            rows = np.flatnonzero(usable & (size > 0))
            if len(rows) and first_match(self.base, name) is None:
                shares = FiniteSeries(scan, name, size[rows] / total[rows], rows, signs)
                self._fill(shares, state.parts.setdefault(name, Part()))

    def _fill(self, shares: FiniteSeries, part: Part) -> None:
        for index, share in enumerate(shares.values.tolist()):
            if part.filled == 0:
                part.began = shares.step(index)
            part.filled += 1
            part.sum += share
            if part.filled == self.window:
                self._judge(shares, part, index)
                part.filled, part.sum = 0, 0.0

    def _judge(self, shares: FiniteSeries, part: Part, index: int) -> None:
        mean = part.sum / self.window
        part.streak = part.streak + 1 if (mean > self.share) is not part.open else 0
        if part.streak == 1 and not part.open:
            part.since = part.began
        if part.streak >= self.windows:
            part.open, part.streak = not part.open, 0
            self._tell(shares, part, mean, index)

    def _tell(self, shares: FiniteSeries, part: Part, mean: float, index: int) -> None:
        scan, row = shares.scan, shares.row(index)
        if part.open:
            text = f"{shares.name} makes up {100 * mean:.0f} % of the loss, and more than {100 * self.share:.0f} % in "
            text += f"{self.windows} windows of {self.window} records since step {part.since}"
        else:
            text = f"{shares.name} is down to {number(100 * mean)} % of the loss at step {scan.step(row)}"
        evidence: dict[str, Any] = {
            "formula": "mean of |part| / sum of |parts|",
            "share": mean,
            "windows": self.windows,
            "window": self.window,
            "since_step": part.since,
            "parts": {scan.names[column]: float(scan.values[column, row]) for column in scan.columns},
        }
        action = "open" if part.open else "resolve"
        shares.sign(action, index, text, value=mean, threshold=self.share, evidence=evidence)  # type: ignore[arg-type]
