"""Dates as filters spell them. A date means the whole of what it names: `created_at = 2026-03-01` is that day."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from holter_db.search.syntax import Moment

__all__ = ["SPELLINGS", "date"]

SPELLINGS = (
    "Write 2026-03-01, 2026-03-01T14:30, 2026-03-01T14:30:00+02:00 (UTC without an offset), -7d, -12h, now or today"
)

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_RELATIVE = re.compile(r"-(\d{1,6}(?:\.\d{1,6})?)([smhdw])", re.ASCII)
_SECONDS = re.compile(r"\d{5,13}(\.\d{1,9})?", re.ASCII)  # since 1970, as the API gives times
_YEAR = re.compile(r"\d{4}", re.ASCII)
_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})?"
_EXACT = (
    (re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII), timedelta(days=1)),
    (re.compile(rf"\d{{4}}-\d{{2}}-\d{{2}}[Tt]\d{{2}}:\d{{2}}{_OFFSET}", re.ASCII), timedelta(minutes=1)),
    (re.compile(rf"\d{{4}}-\d{{2}}-\d{{2}}[Tt]\d{{2}}:\d{{2}}:\d{{2}}{_OFFSET}", re.ASCII), timedelta(seconds=1)),
)


def date(text: str, now: float) -> Moment | None:
    """What ``text`` names, or None where it is no date.

    Args:
        now: seconds, UTC: what relative dates count from.
    """
    if relative := _RELATIVE.fullmatch(text):
        return _instant(now - float(relative[1]) * _UNITS_S[relative[2]])
    if _SECONDS.fullmatch(text):
        return _instant(float(text))
    match text.lower():
        case "now":
            return _instant(now)
        case "today":
            midnight = math.floor(now / _UNITS_S["d"]) * _UNITS_S["d"]
            return Moment(midnight, midnight + _UNITS_S["d"])
    try:
        return _calendar(text)
    except (ValueError, OverflowError):  # the 31st of February; what comes after the year 9999
        return None


def _instant(at: float) -> Moment:
    return Moment(at, at)


def _calendar(text: str) -> Moment | None:
    if _YEAR.fullmatch(text):
        return _between(datetime(int(text), 1, 1), datetime(int(text) + 1, 1, 1))
    if month := _MONTH.fullmatch(text):
        year, number = int(month[1]), int(month[2])
        return _between(datetime(year, number, 1), datetime(year + number // 12, number % 12 + 1, 1))
    for pattern, length in _EXACT:
        if pattern.fullmatch(text):
            start = datetime.fromisoformat(text)
            return _between(start, start + length)
    return None


def _between(start: datetime, end: datetime) -> Moment:
    return Moment(_timestamp(start), _timestamp(end))


def _timestamp(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
