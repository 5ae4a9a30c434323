"""When to try a delivery again, and when to give it up. Pure: the clock and the die are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["Verdict", "judge", "retry_after"]

GROWTH = 3.0
LONGEST_WAIT_S = 6 * 3600.0
RETRY_AFTER_MAX_S = 24 * 3600.0
GONE = 410


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery after an attempt: delivered, tried again at ``retry_at``, or given up."""

    delivered: bool
    reason: str
    retry_at: float | None = None  # seconds, UTC


def judge(
    *,
    status: int | None,
    error: str,
    permanent: bool,
    headers: Mapping[str, str],
    attempts: int,
    attempts_max: int,
    backoff_s: float,
    now: float,
    die: float,
) -> Verdict:
    """Judge attempt number ``attempts`` (counted from 1). ``die`` in [0, 1) spreads the retries of many deliveries.

    Any 2xx is delivered, as Standard Webhooks has it; 410 Gone and a refused address are final; everything else is
    tried again after ``backoff_s`` · 3^(attempts − 1) seconds ± 20 %, or later where the receiver asks for it.
    """
    if status is not None and 200 <= status < 300:
        return Verdict(True, f"answered {status}")
    reason = error or _status_reason(status)
    if permanent or status == GONE:
        return Verdict(False, reason)
    if attempts >= attempts_max:
        return Verdict(False, f"{reason}; given up after {attempts} attempts")
    wait = min(backoff_s * GROWTH ** (attempts - 1), LONGEST_WAIT_S) * (0.8 + 0.4 * die)
    return Verdict(False, reason, now + max(wait, retry_after(headers, now)))


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
