"""Chat channels, e-mail and pagers through Apprise, which is imported when the first of them is used.

Only services that Apprise reaches by HTTP or SMTP are taken: the others (D-Bus, MQTT, syslog …) are local to the
service's machine, or connect in threads of their own where no address can be checked.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from holter_server.notify.connect_guard import only_public
from holter_server.notify.guarded_http import is_private_name
from holter_server.notify.message import Message

__all__ = ["Sent", "check", "send", "shown", "takes_pictures"]

# These read keys from files of the service's machine that their address names.
READ_FILES = frozenset({"fcm", "vapid"})
_STATUS = re.compile(r"error[=:]\s*(\d{3})\b")


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message. Apprise tells of a status only in the words of its log."""

    delivered: bool
    error: str = ""
    status: int | None = None
    permanent: bool = False


def check(url: str, *, allow_private: bool) -> None:
    """Raise ValueError, with the reason, for an address that Apprise can't send to or that is not taken here."""
    plugin = _plugin(url)
    host = getattr(plugin, "smtp_host", None) or getattr(plugin, "host", None) or ""
    if not allow_private and is_private_name(str(host)):
        raise ValueError(f"{host} is a private address")


def shown(url: str) -> str:
    """The address with its tokens and passwords left out, as Apprise does it."""
    scheme = url.partition("://")[0].lower()
    try:
        private = str(_plugin(url).url(privacy=True))
    except ValueError:
        return f"{scheme}://…"
    return private.partition("?")[0]


def takes_pictures(url: str) -> bool:
    """Whether the channel takes a file beside the text."""
    return bool(_plugin(url).attachment_support)


def send(url: str, message: Message, picture: bytes | None, *, timeout_s: float, allow_private: bool) -> Sent:
    """Send a text, with a PNG where one is given and the channel takes it; nothing is raised for a failure."""
    try:
        plugin = _plugin(url)
    except ValueError as error:  # accepted by another version of Apprise
        return Sent(False, str(error), permanent=True)
    plugin.socket_connect_timeout = min(5.0, timeout_s)
    plugin.socket_read_timeout = timeout_s
    refused: list[str] = []
    with _said() as lines, contextlib.ExitStack() as stack:
        attach = None
        if picture is not None and plugin.attachment_support:
            # In a file: half of the services read a path, and not what Apprise keeps in memory.
            attach = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holter-"))) / "holter.png"
            attach.write_bytes(picture)
        if not allow_private:
            refused = stack.enter_context(only_public())
        try:
            done = plugin.notify(
                body=message.text, title=message.title, notify_type=message.tone, attach=attach and str(attach)
            )
        except Exception as error:  # noqa: BLE001 - a plug-in of somebody else's, and a message to be sent again
            done = False
            lines.append(f"{type(error).__name__}: {error}")
    if done:
        return Sent(True)
    if refused:
        where = f"it is at {', '.join(sorted(set(refused)))}, which is private"
        return Sent(False, f"{where}; HOLTER_ALLOW_PRIVATE_WEBHOOKS=1 allows it", permanent=True)
    said = "; ".join(dict.fromkeys(lines))[:500] or "Apprise could not send it"
    status = _STATUS.search(said)
    return Sent(False, said, int(status[1]) if status else None)


def _plugin(url: str) -> Any:
    """Apprise's object for an address.

    Raises:
        ValueError: with the reason.
    """
    apprise, asset = _apprise()
    scheme = url.partition("://")[0].lower()
    kind = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True) if "://" in url else None
    if kind is None:
        known = "://" in url and any(scheme in entry for entry in _schemes())
        problem = f"{scheme}:// lacks a part" if known else f"there is no service {scheme[:40]!r}"
        raise ValueError(f"Apprise can't send there: {problem}; see https://github.com/caronc/apprise/wiki")
    module = type(kind).__module__
    by_http = hasattr(sys.modules[module], "requests")
    if scheme in READ_FILES or not (by_http or module.startswith("apprise.plugins.email")):
        raise ValueError(f"{scheme}:// is neither HTTP nor e-mail, and is not taken here")
    return kind


@cache
def _apprise() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of imghdr, which its plug-in for e-mail takes
            import apprise  # noqa: PLC0415 - 0.3 s and 130 services, for those who use one

            apprise.Apprise.instantiate("json://localhost")  # loads the plug-ins
    except ImportError:
        raise ValueError('Chat channels need Apprise: pip install "holter[server]"') from None
    logger = logging.getLogger("apprise")
    logger.propagate = False  # its lines may name tokens: they are told with the delivery, without them
    logger.addHandler(_lines)
    asset = apprise.AppriseAsset(app_id="Holter", app_desc="Holter", app_url="", async_mode=False, secure_logging=True)
    return apprise, asset


@cache
def _schemes() -> frozenset[str]:
    apprise, _ = _apprise()
    found = apprise.Apprise().details()["schemas"]
    names = ("protocols", "secure_protocols")
    return frozenset(str(scheme) for entry in found for name in names for scheme in entry[name] or ())


class _Lines(logging.Handler):
    """Keeps what Apprise says in the thread that sends."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self.of_thread, "lines", None)
        if lines is not None:
            lines.append(record.getMessage())


_lines = _Lines()


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    lines: list[str] = []
    _lines.of_thread.lines = lines
    try:
        yield lines
    finally:
        del _lines.of_thread.lines
