"""When to try a delivery again, and when to give it up. Pure: the clock and the die are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["Verdict", "breaker_pause", "judge", "retry_after"]

GROWTH = 3.0
LONGEST_WAIT_S = 3600.0
RETRY_AFTER_MAX_S = 24 * 3600.0
GONE = 410
BREAKER_PAUSE_MAX_S = 300.0
NOT_WELL = frozenset({408, 425, 429})  # beside every 5xx: these say something of the receiver, not of the message


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery after an attempt: delivered, tried again at ``retry_at``, or given up."""

    delivered: bool
    reason: str
    retry_at: float | None = None  # seconds, UTC
    unwell: bool = False  # the receiver is: whatever else is for it may as well wait
    asked_until: float | None = None  # it asked for nothing before then


def judge(
    *,
    status: int | None,
    error: str,
    permanent: bool,
    headers: Mapping[str, str],
    attempts: int,
    give_up_at: float,
    backoff_s: float,
    now: float,
    die: float,
) -> Verdict:
    """Judge attempt number ``attempts`` (counted from 1). ``die`` in [0, 1) spreads the retries of many deliveries.

    Any 2xx is delivered, as Standard Webhooks has it; 410 Gone and a refused address are final; everything else is
    tried again after ``backoff_s`` · 3^(attempts − 1) seconds ± 20 %, at most an hour, or later where the receiver asks
    for it. The last attempt is at ``give_up_at`` (seconds, UTC).
    """
    if status is not None and 200 <= status < 300:
        return Verdict(True, f"answered {status}")
    reason = error or _status_reason(status)
    if permanent or status == GONE:
        return Verdict(False, reason)
    asked = retry_after(headers, now)
    unwell = status is None or status >= 500 or status in NOT_WELL
    asked_until = now + asked if asked > 0 and unwell else None
    if now >= give_up_at:
        return Verdict(False, f"{reason}; given up after {attempts} attempts", None, unwell, asked_until)
    wait = min(backoff_s * GROWTH ** min(attempts - 1, 30), LONGEST_WAIT_S) * (0.8 + 0.4 * die)
    return Verdict(False, reason, min(now + max(wait, asked), give_up_at), unwell, asked_until)


def breaker_pause(failures: int, threshold: int, backoff_s: float, die: float) -> float:
    """Seconds for which the breaker opens at failure number ``failures`` in a row; it first opens at ``threshold``.

    Six times the first back-off, doubling up to five minutes, ± 20 %: once it is back, a receiver is found soon,
    however long it was away.
    """
    beyond = min(max(failures - threshold, 0), 30)
    return min(6 * backoff_s * 2.0**beyond, BREAKER_PAUSE_MAX_S) * (0.8 + 0.4 * die)


def _status_reason(status: int | None) -> str:
    if status is not None and 300 <= status < 400:
        return f"answered {status}; redirects are not followed, so give the webhook its final address"
    return f"answered {status}"


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that the receiver asks us to wait (RFC 9110 §10.2.3), at most a day; 0 where it does not ask."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return 0.0
    if value.isdecimal():
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)
