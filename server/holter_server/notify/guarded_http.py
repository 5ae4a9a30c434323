"""An HTTP POST that can't be turned against the network it is sent from.

The name is resolved here, each address is checked, and the connection goes to the address that was checked, so that a
name that resolves differently a moment later (DNS rebinding) reaches nothing private. Redirects are never followed.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3
from urllib3.util import Timeout

__all__ = ["Answer", "PostError", "check_url", "is_private_name", "is_public", "post"]

ANSWER_BYTES_KEPT = 2048
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PostError(Exception):
    """The request was not answered. ``permanent`` means that trying again can't help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said; ``text`` is the start of its body."""

    status: int
    headers: Mapping[str, str]
    text: str


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise ValueError, with the reason, for an address that a delivery could never go to."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"{url[:200]!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(f"{url[:200]!r} is not an http or https address")
    if parts.username or parts.password:
        raise ValueError("The address carries a user name or password, which would show in every list")
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise ValueError("The address holds a space or a control character")
    if not allow_private and is_private_name(parts.hostname):
        raise ValueError(f"{parts.hostname} is a private address")


def is_private_name(host: str) -> bool:
    """Whether a host is private by what it is called: a loopback name, or an address of that kind."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """True for an address of the public internet.

    An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64) is judged by itself.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, allow_private: bool = False) -> Answer:
    """POST ``body`` and return the answer, whatever its status.

    Raises:
        PostError: no address may be used, or nothing answered in time.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _checked_address(host, port, allow_private=allow_private)
    timeout = Timeout(connect=min(5.0, timeout_s), read=timeout_s)
    pool: urllib3.HTTPConnectionPool
    if parts.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(
            address, port, timeout=timeout, retries=False, server_hostname=host, assert_hostname=host
        )
    else:
        pool = urllib3.HTTPConnectionPool(address, port, timeout=timeout, retries=False)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with pool:
        return _exchange(pool, target, body, {**headers, "Host": _host_header(parts.netloc)}, timeout_s)


def _host_header(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _checked_address(host: str, port: int, *, allow_private: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PostError(f"{host} has no address: {error}") from None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if allow_private or is_public(address):
            return address
    raise PostError(
        f"{host} is at {', '.join(sorted(set(addresses)))}, which is private; "
        "HOLTER_ALLOW_PRIVATE_WEBHOOKS=1 allows it",
        permanent=True,
    )


def _exchange(
    pool: urllib3.HTTPConnectionPool, target: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> Answer:
    deadline = time.monotonic() + timeout_s
    try:
        response = pool.urlopen(
            "POST", target, body=body, headers=dict(headers), redirect=False, preload_content=False, retries=False
        )
        text = b""
        # A receiver that sends one byte now and then must not hold the sender: the deadline is for the whole answer.
        while len(text) < ANSWER_BYTES_KEPT and time.monotonic() < deadline:
            piece = response.read1(ANSWER_BYTES_KEPT - len(text))
            if not piece:
                break
            text += piece
        response.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise PostError(_reason(error)) from None
    return Answer(response.status, response.headers, text.decode("utf-8", "replace"))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "The receiver did not answer in time"
    return f"{type(error).__name__}: {error}"[:500]
