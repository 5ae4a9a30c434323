"""How a receiver wants to be told: waits, repetitions, quiet hours, a limit to the rate."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec

from holter_db.errors import QueryError

__all__ = ["Policy", "QuietHours", "policy_of"]

DAY_S = 86_400.0
Clock = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From ``start`` to ``end`` of every day, by the clocks of ``timezone``, only what is severe enough gets through.

    >>> night = QuietHours("22:00", "07:00", "Europe/Berlin")
    >>> night.until(1_764_000_000.0) is None, night.until(1_764_030_000.0) is None  # 17:00 and 01:20
    (True, False)
    """

    start: Clock
    end: Clock
    timezone: str = "UTC"
    passes: Literal["info", "warning", "critical", "nothing"] = "critical"

    def until(self, now: float) -> float | None:
        """When the quiet that ``now`` (seconds, UTC) lies in ends; None if it lies in none."""
        zone = _zone(self.timezone)
        here = datetime.fromtimestamp(now, zone)
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        clock = here.time()
        overnight = start >= end
        if not (clock >= start or clock < end if overnight else start <= clock < end):
            return None
        day = here.date() + timedelta(days=1 if overnight and clock >= start else 0)
        # Through UTC, so that a night in which the clocks change has its true length.
        return datetime.combine(day, end, tzinfo=zone).astimezone(UTC).timestamp()


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The policy of one receiver; the default sends everything that it wants at once, and once."""

    group_wait_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0  # what a run fires within it is one message
    repeat_interval_s: Annotated[float, msgspec.Meta(ge=60, le=30 * DAY_S)] | None = None
    send_resolved: bool = True
    rate_per_minute: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    quiet_hours: QuietHours | None = None


def policy_of(values: object) -> Policy:
    """The policy that plain ``values`` describe.

    Raises:
        QueryError: with the key that is wrong.
    """
    try:
        policy = msgspec.convert(values, Policy)
    except msgspec.ValidationError as error:
        raise QueryError(f"That is no policy: {error}", f"Its keys: {', '.join(Policy.__struct_fields__)}.") from None
    if policy.quiet_hours is not None:
        _zone(policy.quiet_hours.timezone)
        if policy.quiet_hours.start == policy.quiet_hours.end:
            raise QueryError("The quiet hours start when they end", "Disable the webhook to hear nothing at all.")
    return policy


@cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a name that is not known, is no name, or is a folder
        raise QueryError(f"There is no time zone {name!r}", 'Use a name such as "Europe/Berlin" or "UTC".') from None
