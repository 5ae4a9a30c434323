"""What an excursion remembers: the series' baseline, what is suspected, and the episode that is going on."""

from __future__ import annotations

import math

import msgspec

from holter.health.rules.baseline import WINDOW, Baseline
from holter.health.rules.contract import number

__all__ = ["Episode", "Series", "exp", "offset"]

OFFSET = 0.01  # of the first value, and at most this: what is below it is noise of a loss that is learned


class Episode(msgspec.Struct, array_like=True):
    """An excursion that is going on. Levels are logarithms, see `offset`."""

    since: int  # step
    level: float  # the median before it
    back: float  # at or below this it is back
    spike: bool  # so far it is short, or small
    records: int = 0
    calm: int = 0  # records in a row that were back
    high: int = 0  # in a row above the single-point ratio
    large: int = 0  # in a row above the ratio from which a lasting excursion is an explosion
    peak: float = -math.inf
    critical: bool = False

    def count(self, x: float, large: float, high: float) -> None:
        """Take in the next point; it is large or high when it is above the level by so much."""
        above = x - self.level
        self.records += 1
        self.calm = self.calm + 1 if x <= self.back else 0
        self.high = self.high + 1 if above > high else 0
        self.large = self.large + 1 if above > large else 0
        self.peak = max(self.peak, x)

    def lasting(self, critical_after: int | None) -> bool:
        """Whether it has just become long enough to be critical."""
        if critical_after is None or self.critical:
            return False
        return self.high >= critical_after or self.large >= 3 * WINDOW


class Series(msgspec.Struct, array_like=True):
    """One metric: its baseline, what is suspected, and the excursion that is going on."""

    baseline: Baseline
    offset: float | None = None
    last: float = math.nan  # the newest value
    streak: int = 0  # suspected points in a row
    pair: bool = False  # the newest point was above the ratio for two in a row
    suspected: int = 0  # since the window last held calm points only
    accepted_before: int = 0  # `baseline.accepted` at the last suspected point
    zeros: int = 0  # in a row
    negative: bool = False  # has ever been
    lenient: int = 0  # points to come that only the single-point thresholds apply to
    seen: int = 0  # points
    spikes: list[int] = []  # of the newest spikes, how many points had been seen
    cluster: bool = False  # an incident about many spikes is open
    episode: Episode | None = None

    def value(self, x: float) -> float:
        """The value whose logarithm is ``x``."""
        return exp(x) - (self.offset or 0.0)

    def recovery(self, name: str, episode: Episode) -> str:
        """How an episode ended, in words."""
        after = episode.records - episode.calm
        return (
            f"{name} is back near its old median {number(self.value(episode.level))} after {after} "
            f"record{'' if after == 1 else 's'}; its peak was {number(self.value(episode.peak))}"
        )


def offset(first: float) -> float:
    """What is added to a value before its logarithm is taken, given the series' ``first``.

    A hundredth of it, and at most 0.01, so that a loss that has come down to nothing (a memorised fine-tune at 1e-4)
    is not said to explode when it doubles.
    """
    return OFFSET * min(first, 1.0)


def exp(x: float) -> float:
    """e to the ``x``, or +Inf where that is no double."""
    return math.exp(x) if x < 709.78 else math.inf
