"""One weighted part of the loss that drowns the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from holter.health.model import Action, Kind
from holter.health.patterns import first_match
from holter.health.roles import Role
from holter.health.rules.contract import Check, Scan, Sign, State, number

__all__ = ["Dominance"]


ADDITIVE = 0.01  # by so much of their sum may unweighted parts miss the total


class Part(msgspec.Struct, array_like=True):
    """One weighted part: the window that is being filled, and how many windows in a row it has dominated."""

    filled: int = 0
    sum: float = 0.0
    began: int = 0  # the step of the window's first record
    size: float = 0.0  # the sum of its sizes in the window
    modest: float = -1.0  # its mean size when its share was last below `from_below`; negative: it never was
    streak: int = 0  # windows that dominate, or, while open, that don't
    since: int = 0  # the step at which the first of these windows began
    open: bool = False


@dataclass(slots=True)
class Shares:
    """One part in the rows that count: what share of the whole it makes up there, and its size."""

    scan: Scan
    name: str
    rows: list[int]
    of_total: list[float]
    sizes: list[float]
    signs: list[Sign]


class DominanceState(State):
    """Memory of `Dominance`."""

    parts: dict[str, Part] = msgspec.field(default_factory=dict)


class Dominance(Check, frozen=True, kw_only=True):
    """Fires when |part| / Σ|parts|, averaged over a window of records, exceeds `share` in `windows` windows in a row.

    Only records in which the part is switched on (not exactly 0) fill its windows. The parts in `base` may dominate:
    they are the task itself. With `from_below`, only a part counts that had a window with a smaller share than that,
    and has grown to more than `grown` times its size of then: what is left when the others have been learned does not
    drown them. Needs at least two weighted parts in one record; where a record has none, its unweighted parts, if they
    add up to the total within 1 %.
    """

    kind: ClassVar[Kind] = "dominance"
    memory: ClassVar[type[State]] = DominanceState

    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    window: Annotated[int, Meta(ge=1)] = 100  # records
    windows: Annotated[int, Meta(ge=1)] = 3
    base: tuple[str, ...] = ("*ce", "*cross_entropy*", "*nll*", "*main*", "*task*")
    from_below: Annotated[float, Meta(gt=0, lt=1)] | None = None
    grown: Annotated[float, Meta(ge=1)] = 1.5

    def concerns(self, roles: Sequence[Role]) -> bool:
        return max(roles.count(Role.WEIGHTED), roles.count(Role.COMPONENT)) >= 2

    def observe(self, scan: Scan, state: DominanceState, signs: list[Sign]) -> None:
        columns, total = parts_of(scan)
        if len(columns) < 2:
            return
        shares = _few_shares(scan, columns, total) if scan.few is not None else _shares(scan, columns, total)
        for column, (rows, of_total, sizes) in zip(columns, shares, strict=True):
            name = scan.names[column]
            if rows and not self._is_base(name):
                part = state.parts.setdefault(name, Part())
                self._fill(Shares(scan, name, rows, of_total, sizes, signs), part)

    def _is_base(self, name: str) -> bool:
        return bool(self.base) and first_match(self.base, name) is not None

    def _fill(self, shares: Shares, part: Part) -> None:
        for index, (share, size) in enumerate(zip(shares.of_total, shares.sizes, strict=True)):
            if part.filled == 0:
                part.began = shares.scan.step(shares.rows[index])
            part.filled += 1
            part.sum += share
            part.size += size
            if part.filled == self.window:
                self._judge(shares, part, index)
                part.filled, part.sum, part.size = 0, 0.0, 0.0

    def _judge(self, shares: Shares, part: Part, index: int) -> None:
        mean = part.sum / self.window
        if self.from_below is not None and mean < self.from_below and not part.open:
            part.modest = part.size / self.window
        part.streak = part.streak + 1 if self._dominates(part, mean) is not part.open else 0
        if part.streak == 1 and not part.open:
            part.since = part.began
        if part.streak >= self.windows:
            part.open, part.streak = not part.open, 0
            self._tell(shares, part, mean, index)

    def _dominates(self, part: Part, mean: float) -> bool:
        if part.open or self.from_below is None:
            return mean > self.share
        return mean > self.share and 0 <= part.modest * self.grown < part.size / self.window

    def _tell(self, shares: Shares, part: Part, mean: float, index: int) -> None:
        scan, row = shares.scan, shares.rows[index]
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
            "parts": {scan.names[column]: float(scan.values[column, row]) for column in parts_of(scan)[0]},
        }
        action: Action = "open" if part.open else "resolve"
        sign = Sign(action, shares.name, text, row=row, value=mean, threshold=self.share, evidence=evidence)
        shares.signs.append(sign)


def parts_of(scan: Scan) -> tuple[list[int], int | None]:
    """The columns of the parts that make up the loss, and of the total that unweighted ones have to add up to."""
    weighted = [column for column in scan.columns if scan.roles[column] is Role.WEIGHTED]
    if len(weighted) >= 2:
        return weighted, None
    components = [column for column in scan.columns if scan.roles[column] is Role.COMPONENT]
    if len(components) < 2 or Role.LOSS not in scan.roles:
        return [], None
    return components, scan.roles.index(Role.LOSS)


Counted = tuple[list[int], list[float], list[float]]


def _shares(scan: Scan, columns: list[int], total: int | None) -> list[Counted]:
    """Of each part the rows that count, its shares and sizes there."""
    sizes = np.abs(scan.values[columns])
    whole = sizes[0].copy()
    for size in sizes[1:]:  # one after the other: numpy's pairwise sum depends on the block's shape
        whole += size
    usable = np.isfinite(whole) & (whole > 0)
    if total is not None:
        usable &= np.abs(np.abs(scan.values[total]) - whole) <= ADDITIVE * whole
    counted = []
    for size in sizes:
        rows = np.flatnonzero(usable & (size > 0))
        counted.append((rows.tolist(), (size[rows] / whole[rows]).tolist(), size[rows].tolist()))
    return counted


def _few_shares(scan: Scan, columns: list[int], total: int | None) -> list[Counted]:
    """As `_shares`, without what a block costs."""
    assert scan.few is not None
    counted: list[Counted] = [([], [], []) for _ in columns]
    for row in range(scan.rows):
        sizes = [abs(scan.few[column][row]) for column in columns]
        whole = sizes[0]
        for size in sizes[1:]:
            whole += size
        if not 0 < whole < math.inf or (
            total is not None and not abs(abs(scan.few[total][row]) - whole) <= ADDITIVE * whole
        ):
            continue
        for (rows, of_total, kept), size in zip(counted, sizes, strict=True):
            if size > 0:
                rows.append(row)
                of_total.append(size / whole)
                kept.append(size)
    return counted
