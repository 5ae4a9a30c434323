"""Addresses of receivers: which can be used, and what of them may be shown and logged.

``https://…`` is a webhook and gets Holter's own signed body; anything else is an address of Apprise's, such as
``slack://…`` or ``mailto://…``, and gets a text for people.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

from holter_server.notify import chat
from holter_server.notify.guarded_http import check_url

__all__ = ["check", "is_chat", "shown", "without_secrets"]

HIDDEN = "…"
TOKEN_LENGTH = 8  # a shorter piece of an address is a name
_PIECES = re.compile(r"[/?&=@:#,;\s]+")


def is_chat(url: str) -> bool:
    """Whether Apprise sends there.

    >>> is_chat("https://example.org/hook"), is_chat("ntfy://ntfy.sh/topic")
    (False, True)
    """
    return not url.lower().startswith(("http://", "https://"))


def check(url: str, *, allow_private: bool) -> None:
    """Raise ValueError, with the reason, for an address that nothing could ever be sent to."""
    if is_chat(url):
        chat.check(url, allow_private=allow_private)
    else:
        check_url(url, allow_private=allow_private)


def shown(url: str) -> str:
    """The address without what is secret in it: tokens in its path, the values of its query, a password.

    >>> shown("https://hooks.example.org/services/T0123/dR8fKq2LmN5pXz7W?key=s3cret")
    'https://hooks.example.org/services/T0123/…?key=…'
    """
    if is_chat(url):
        return chat.shown(url)
    parts = urlsplit(url)
    path = "/".join(HIDDEN if _is_token(segment) else segment for segment in parts.path.split("/"))
    query = "&".join(f"{pair.partition('=')[0]}={HIDDEN}" for pair in parts.query.split("&")) if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))


def _is_token(segment: str) -> bool:
    mixed = any(letter.isdigit() for letter in segment) and any(letter.isalpha() for letter in segment)
    return (len(segment) >= 16 and mixed) or len(segment) >= 32


def without_secrets(text: str, url: str) -> str:
    """``text`` of somebody else's, such as an error, without the parts of ``url`` that are not shown.

    >>> without_secrets("no route for dR8fKq2LmN5pXz7W", "https://a.example/dR8fKq2LmN5pXz7W")
    'no route for …'
    """
    known = shown(url)
    pieces = {piece for form in (url, unquote(url)) for piece in _PIECES.split(form)}
    secret = [piece for piece in pieces if len(piece) >= TOKEN_LENGTH and piece not in known]
    for piece in sorted(secret, key=len, reverse=True):
        text = text.replace(piece, HIDDEN)
    return text
