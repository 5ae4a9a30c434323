"""From the text of a filter to its tree.

::

    filter     = all ("or" all)*
    all        = one ("and" one)*
    one        = "not" one | "(" filter ")" | comparison
    comparison = operand ("=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~") value
               | operand ["not"] "in" "(" value ("," value)* ")"
               | operand ["not"] "exists"
    operand    = field | "config." key | "tag" | ("last" | "min" | "max" | "count" | "non_finite") "(" metric ")"
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from holter_db.errors import FilterError, QueryError
from holter_db.search.fields import operand
from holter_db.search.literals import value_of
from holter_db.search.syntax import And, Compare, MetricValue, Node, Not, Operand, Operator, Or, RunField, Tag, Value
from holter_db.search.tokens import OPERATORS, Token, tokens

__all__ = ["parse_filter", "parse_operands", "parse_sort"]

LENGTH_MAX = 8_000  # characters
COMPARISONS_MAX = 50
VALUES_MAX = 500  # of one list
DEPTH_MAX = 50
OPERANDS_MAX = 20

_EQUAL = ("=", "!=")
_ORDERED = (*_EQUAL, "<", "<=", ">", ">=")
_TEXTUAL = ("~", "!~")


def parse_filter(text: str, now: float) -> Node:
    """The tree of ``text``.

    Args:
        now: seconds, UTC: what relative dates count from.

    Raises:
        FilterError: with the position of what can't be understood, and what could stand there.
    """
    if len(text) > LENGTH_MAX:
        raise FilterError(f"it has more than {LENGTH_MAX} characters", LENGTH_MAX + 1, "Ask for less at a time")
    return _Parser(tokens(text), now).whole()


def parse_sort(text: str) -> tuple[Operand, bool]:
    """What to sort by, and whether it is from the greatest down (a leading "-").

    Raises:
        QueryError: runs can't be sorted by that.
    """
    name = text.removeprefix("-").strip()
    try:
        chosen = _operands(name)
        if len(chosen) != 1:
            raise FilterError("it is not one field", 1, "Sort by one, such as -created_at or last(loss)")
    except FilterError as error:
        raise QueryError(f"Runs can't be sorted by {name!r}: {error.what}", error.hint) from None
    return chosen[0], text.startswith("-")


def parse_operands(text: str) -> list[Operand]:
    """What stands in a list such as ``config.lr, last(loss)``.

    Raises:
        QueryError: a run has no such value, or they are too many.
    """
    try:
        found = _operands(text)
    except FilterError as error:
        raise QueryError(f"Runs have no values {text!r}: {error.what}", error.hint) from None
    if len(found) > OPERANDS_MAX:
        raise QueryError(f"At most {OPERANDS_MAX} values can be asked for at a time", "Ask in parts.")
    return found


def _operands(text: str) -> list[Operand]:
    *found, _end = tokens(text)
    names, commas = found[::2], found[1::2]
    if len(names) != len(commas) + 1 or any((comma.kind, comma.text) != ("punctuation", ",") for comma in commas):
        raise FilterError("it is no list of fields", 1, "Write for example config.lr, last(loss)")
    chosen = [operand(name) for name in names]
    if any(isinstance(one, Tag) for one in chosen):
        raise FilterError("a run may have many tags", 1, "Filter by one: tag = NAME")
    return chosen


class _Parser:
    def __init__(self, found: list[Token], now: float) -> None:
        self._tokens = found
        self._at = 0
        self._now = now
        self._comparisons = 0
        self._depth = 0

    def whole(self) -> Node:
        if self._peek().kind == "end":
            raise FilterError(
                "it is empty", 1, "Write for example state = failed and config.lr < 1e-3, or leave it away"
            )
        tree = self._either()
        if (left := self._peek()).kind != "end":
            raise FilterError(f"{left} can't stand here", left.position, _after_a_comparison(left))
        return tree

    def _either(self) -> Node:
        return self._joined("or", self._all, Or)

    def _all(self) -> Node:
        return self._joined("and", self._one, And)

    def _joined(self, word: str, part: Callable[[], Node], join: type[And] | type[Or]) -> Node:
        parts = [part()]
        while self._peek().keyword == word:
            self._take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _one(self) -> Node:
        token = self._peek()
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FilterError(f"brackets and nots are nested more than {DEPTH_MAX} deep", token.position, "Flatten it")
        try:
            if token.keyword == "not":
                self._take()
                return Not(self._one())
            if token.text == "(" and token.kind == "punctuation":
                return self._bracketed(self._take())
            return self._comparison()
        finally:
            self._depth -= 1

    def _bracketed(self, opened: Token) -> Node:
        inner = self._either()
        token = self._take()
        if (token.kind, token.text) != ("punctuation", ")"):
            if token.kind == "end":
                raise FilterError("the bracket that opens here is not closed", opened.position, "Close it with )")
            raise FilterError(f"{token} can't stand here", token.position, _after_a_comparison(token))
        return inner

    def _comparison(self) -> Node:
        token = self._take()
        if token.kind not in ("word", "text", "call") or token.keyword:
            hint = "Here stands what is compared: state, config.lr, last(loss), …, or 'not', or a bracket"
            raise FilterError(f"{token} can't stand here", token.position, hint)
        self._comparisons += 1
        if self._comparisons > COMPARISONS_MAX:
            raise FilterError(f"it has more than {COMPARISONS_MAX} comparisons", token.position, "Use 'in (…)'")
        return self._compared(operand(token))

    def _compared(self, left: Operand) -> Node:
        token = self._take()
        if token.keyword == "not":
            return Not(self._worded(left, self._take()))
        if token.keyword:
            return self._worded(left, token)
        if token.kind != "operator":
            hint = f"After {left} comes one of {OPERATORS}, in (…), not in (…), exists"
            raise FilterError(f"{token} is not a comparison", token.position, hint)
        allowed = _allowed(left)
        if token.text not in allowed:
            hint = f"{left} takes {' '.join(allowed)}, in (…) and exists"
            raise FilterError(f"{token.text!r} makes no sense for {left}", token.position, hint)
        return self._related(left, token)

    def _related(self, left: Operand, operator: Token) -> Node:
        at = self._peek()
        value = self._value(left)
        if operator.text not in _EQUAL and (value is None or (isinstance(value, float) and math.isnan(value))):
            hint = f"Use {left} = {at.text} or {left} != {at.text}"
            raise FilterError(f"nothing is less or greater than {at.text}, and no text is in it", at.position, hint)
        if operator.text in _TEXTUAL and isinstance(value, float):
            value = at.text  # it only looks like a number
        positive = operator.text.removeprefix("!")
        compared = Compare(left, cast(Operator, positive), (value,))
        return Not(compared) if operator.text.startswith("!") else compared

    def _worded(self, left: Operand, word: Token) -> Node:
        if word.keyword == "exists":
            return Compare(left, "exists")
        if word.keyword != "in":
            hint = f"After {left} comes one of {OPERATORS}, in (…), not in (…), exists"
            raise FilterError(f"{word} is not a comparison", word.position, hint)
        return Compare(left, "=", self._list(left))

    def _list(self, left: Operand) -> tuple[Value, ...]:
        self._expect("(", "A list stands in brackets: in (a, b)")
        values = [self._value(left)]
        while (token := self._take()).text == "," and token.kind == "punctuation":
            values.append(self._value(left))
            if len(values) > VALUES_MAX:
                raise FilterError(f"a list has at most {VALUES_MAX} values", token.position, "Ask in parts")
        if (token.kind, token.text) != ("punctuation", ")"):
            raise FilterError(f"{token} can't stand in a list", token.position, "Commas set values apart: (a, b)")
        return tuple(values)

    def _value(self, left: Operand) -> Value:
        token = self._take()
        if token.kind not in ("word", "text"):
            hint = "Put a text with brackets or operators in quotes" if token.kind == "call" else "Here stands a value"
            raise FilterError(f"{token} is not a value", token.position, hint)
        return value_of(left, token, self._now)

    def _expect(self, text: str, hint: str) -> None:
        token = self._take()
        if (token.kind, token.text) != ("punctuation", text):
            raise FilterError(f"{token} can't stand here", token.position, hint)

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token


def _allowed(left: Operand) -> tuple[str, ...]:
    match left:
        case RunField(kind="choice"):
            return _EQUAL
        case Tag():
            return (*_EQUAL, *_TEXTUAL)
        case MetricValue() | RunField(kind="number" | "date"):
            return _ORDERED
    return (*_ORDERED, *_TEXTUAL)


def _after_a_comparison(token: Token) -> str:
    if token.kind in ("word", "text", "call"):
        return "Join comparisons with 'and' or 'or'; put a value with spaces in quotes"
    return "Here could come 'and', 'or', or the end"
