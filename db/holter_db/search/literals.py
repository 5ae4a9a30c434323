"""What a filter compares with: each kind of field takes its own kind of value."""

from __future__ import annotations

import math

from holter_db.errors import FilterError
from holter_db.search.dates import SPELLINGS, date
from holter_db.search.syntax import ConfigKey, MetricValue, Moment, Operand, RunField, Tag, Value
from holter_db.search.tokens import Token
from holter_db.searchable import TEXT_MAX, number_in
from holter_db.types import line

__all__ = ["value_of"]

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}


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
    moment = date(token.text, now)
    if moment is None:
        raise FilterError(f"{token.text!r} is no date", token.position, SPELLINGS)
    return moment
