"""The text of a filter as words, texts in quotes, operators, and metrics in their brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from holter_db.errors import FilterError

__all__ = ["WORDS", "Kind", "Token", "tokens"]

Kind = Literal["word", "text", "call", "operator", "punctuation", "end"]

WORDS = ("and", "or", "not", "in", "exists")  # of the language itself
OPERATORS = "= != < <= > >= ~ !~"

_OPERATOR = re.compile(r"[!<>=]=|!~|[=<>~]")
_PLAIN = re.compile(r"""[^\s()=!<>~,"']+""")
_METRIC = re.compile(r"""[^)"']*""")
_ESCAPED = re.compile(r"""\\([\\"'])""")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a filter. A "text" stood in quotes; a "call" is a function with the metric in its brackets."""

    kind: Kind
    text: str
    position: int  # of its first character; counts from 1
    metric: str = ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)

    @property
    def keyword(self) -> str:
        """The word of the language that this is, or nothing."""
        return self.text.lower() if self.kind == "word" and self.text.lower() in WORDS else ""


def tokens(text: str) -> list[Token]:
    """All tokens, the last of which is the end.

    Raises:
        FilterError: a quote or a bracket is not closed, or a character has no meaning here.
    """
    found: list[Token] = []
    at = _skip(text, 0)
    while at < len(text):
        token, at = _next(text, at)
        found.append(token)
        at = _skip(text, at)
    return [*found, Token("end", "", len(text) + 1)]


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _next(text: str, at: int) -> tuple[Token, int]:
    if operator := _OPERATOR.match(text, at):
        return Token("operator", operator[0].replace("==", "="), at + 1), operator.end()
    if text[at] in "(),":
        return Token("punctuation", text[at], at + 1), at + 1
    if text[at] == "!":
        raise FilterError("'!' alone means nothing", at + 1, "Use 'not', or one of " + OPERATORS)
    return _word(text, at)


def _word(text: str, start: int) -> tuple[Token, int]:
    """A word, a text in quotes, or both in one piece: ``config."learning rate"``."""
    parts: list[str] = []
    at, quotes = start, 0
    while at < len(text):
        if text[at] in "\"'":
            part, at = _quoted(text, at)
            quotes += 1
        elif plain := _PLAIN.match(text, at):
            part, at = plain[0], plain.end()
        else:
            break
        parts.append(part)
    word = "".join(parts)
    if not quotes and text[at : at + 1] == "(" and word.lower() not in WORDS:
        metric, at = _metric(text, at + 1)
        return Token("call", word, start + 1, metric), at
    return Token("text" if quotes == len(parts) else "word", word, start + 1), at


def _quoted(text: str, start: int) -> tuple[str, int]:
    """What stands in the quotes that open at ``start``, and where they have ended."""
    quote, at = text[start], start + 1
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise FilterError("the quote that opens here is not closed", start + 1, f"Close it with {quote}")
    return _ESCAPED.sub(r"\1", text[start + 1 : at]), at + 1


def _metric(text: str, start: int) -> tuple[str, int]:
    """The metric in brackets that have opened before ``start``, and where they have ended."""
    at = _skip(text, start)
    if text[at : at + 1] in ('"', "'"):
        metric, at = _quoted(text, at)
        at = _skip(text, at)
    else:
        plain = _METRIC.match(text, at)
        assert plain is not None  # it matches nothing, too
        metric, at = plain[0].strip(), plain.end()
    if text[at : at + 1] != ")":
        raise FilterError(
            "the bracket that opens here is not closed", start, "Write last(loss), or last('a (b)') for an odd name"
        )
    return metric, at + 1
