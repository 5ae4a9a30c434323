"""Refuses connections to private addresses that other people's libraries are about to make, in one thread at a time.

Apprise resolves and connects by itself, through requests and smtplib, so the address can't be checked before without
being resolved a second time (DNS rebinding). CPython raises an audit event for every connect with the very address that
it goes to, and an exception of the hook ends the call. The hook is installed with the first use and stays, as hooks do;
in threads that are not guarded it returns at once (0.1 µs an event).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from holter_server.notify.guarded_http import is_public

__all__ = ["PrivateAddress", "only_public"]

EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})

_guarded = threading.local()
_lock = threading.Lock()
_installed = False


class PrivateAddress(OSError):
    """The connection would have gone to an address that is not of the public internet."""


@contextmanager
def only_public() -> Iterator[list[str]]:
    """Within the block this thread reaches public addresses only; the list fills with those that were refused."""
    _install()
    refused: list[str] = []
    _guarded.refused = refused
    try:
        yield refused
    finally:
        del _guarded.refused


def _install() -> None:
    global _installed  # noqa: PLW0603 - a hook is the process's
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in EVENTS:
        return
    refused: list[str] | None = getattr(_guarded, "refused", None)
    if refused is None:
        return
    address = args[1]
    host = str(address[0]) if isinstance(address, tuple) else "a local socket"
    if not _is_public(host):
        refused.append(host)
        raise PrivateAddress(f"{host} is a private address")


def _is_public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # a name, or a socket that is a file: what it stands for is not known
        return False
