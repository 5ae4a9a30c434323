"""What a filter compares with: each kind of field takes its own kind of value."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from holter_db.errors import FilterError
from holter_db.search.syntax import ConfigKey, MetricValue, Moment, Operand, RunField, Tag, Value
from holter_db.search.tokens import Token
from holter_db.searchable import TEXT_MAX, number_in
from holter_db.types import line

__all__ = ["value_of"]

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
_RELATIVE = re.compile(r"-(\d{1,6}(?:\.\d{1,6})?)(s|m|h|d|w)", re.ASCII)
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DATES = "Write 2026-03-01, 2026-03-01T14:30, 2026-03-01T14:30:00+02:00 (UTC without an offset), -7d, now or today"
_DAY = timedelta(days=1)
# A date means the whole of what it names: `created_at = 2026-03-01` is that day.
_PRECISIONS = (
    (re.compile(r"\d{4}-\d{2}"), None),
    (re.compile(r"\d{4}-\d{2}-\d{2}"), _DAY),
    (re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(?:[Zz]|[+-]\d{2}:?\d{2})?"), timedelta(minutes=1)),
    (re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:[Zz]|[+-]\d{2}:?\d{2})?"), timedelta(seconds=1)),
)


def value_of(operand: Operand, token: Token, now: float) -> Value:
    """The value that ``token`` is for ``operand``; None for null.

    Args:
        now: seconds, UTC: what relative dates count from.

    Raises:
        FilterError: the operand does not take such a value.
    """
    if token.kind == "word" and token.text.lower() in ("null", "none"):
        return None
    match operand:
        case MetricValue() | RunField(kind="number"):
            return _number(operand, token)
        case RunField(kind="date"):
            return _date(token, now)
        case RunField(kind="choice"):
            return _choice(operand, token)
        case ConfigKey():
            return _leaf(token)
        case Tag():
            return line(token.text)[:TEXT_MAX]
        case RunField():
            return token.text


def _plain_number(token: Token) -> float | None:
    if token.kind != "word":
        return None
    sign = -1.0 if token.text.startswith("-") else 1.0
    non_finite = _NON_FINITE.get(token.text.lstrip("+-").lower())
    return sign * non_finite if non_finite is not None else number_in(token.text)


def _number(operand: Operand, token: Token) -> float:
    number = _plain_number(token)
    if number is None:
        raise FilterError(
            f"{operand} is a number, and {token.text!r} is none",
            token.position,
            "Write 0.5, 1e-3, NaN, Infinity or -Infinity, without quotes",
        )
    return number


def _choice(field: RunField, token: Token) -> str:
    if token.text not in field.choices:
        choices = ", ".join(field.choices)
        raise FilterError(f"no run has the {field} {token.text!r}", token.position, f"It is one of {choices}")
    return token.text


def _leaf(token: Token) -> float | str:
    """In a config a bare number is one; true and false are kept as these words."""
    number = _plain_number(token)
    if number is not None:
        return number
    bare = token.text.lower() if token.kind == "word" else ""
    return bare if bare in ("true", "false") else token.text[:TEXT_MAX]


def _date(token: Token, now: float) -> Moment:
    text = token.text
    if relative := _RELATIVE.fullmatch(text):
        at = now - float(relative[1]) * _UNITS_S[relative[2]]
        return Moment(at, at)
    if text.lower() == "now":
        return Moment(now, now)
    if text.lower() == "today":
        midnight = now // _UNITS_S["d"] * _UNITS_S["d"]
        return Moment(midnight, midnight + _UNITS_S["d"])
    moment = _calendar(text) or _seconds(token)
    if moment is None:
        raise FilterError(f"{text!r} is no date", token.position, _DATES)
    return moment


def _calendar(text: str) -> Moment | None:
    for pattern, length in _PRECISIONS:
        if pattern.fullmatch(text):
            try:
                start = datetime.fromisoformat(text if length else f"{text}-01")
                end = start + length if length else (start + 31 * _DAY).replace(day=1)
                return Moment(_timestamp(start), _timestamp(end))
            except (ValueError, OverflowError):  # the 31st of February; the end of the year 9999
                return None
    return None


def _timestamp(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _seconds(token: Token) -> Moment | None:
    """Seconds since 1970, as the API gives times."""
    number = _plain_number(token)
    return Moment(number, number) if number is not None and math.isfinite(number) else None
