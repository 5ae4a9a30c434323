"""Who may call: nobody needs a token on loopback, everybody needs one elsewhere.

Without a token the danger is a web page in the user's own browser, so the Host header must be a loopback name (DNS
rebinding) and a browser's Origin must be the service itself (cross-site requests, and sockets, which have no
same-origin rule of their own).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import URL, Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holter_server.errors import ApiError
from holter_server.settings import Settings

__all__ = ["COOKIE", "Access", "Guard", "local_target", "signed_in"]

COOKIE = "holter_token"
PROBES = frozenset({"/healthz", "/readyz"})
ASSETS = "/static/"  # the same for everybody, and the sign-in form needs some of them
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REMEMBERED_S = 10.0  # how long a token from the database is believed; so long may a revoked one still work
REMEMBERED_MAX = 1024
YEAR_S = 365 * 24 * 3600


class Access:
    """Knows which tokens are good.

    Args:
        settings: whether tokens are needed at all, and the configured one.
        verify: looks a secret up in the database; gives the token's name or None.
    """

    def __init__(self, settings: Settings, verify: Callable[[str], str | None]) -> None:
        self._token = settings.token_text
        self._verify = verify
        self._known: dict[bytes, tuple[float, str | None]] = {}
        self._lock = threading.Lock()
        self.required = bool(self._token) or not settings.loopback
        self.behind_tls = settings.public_url.startswith("https://")
        self.hosts = LOOPBACK_NAMES | frozenset(name.lower() for name in settings.allowed_hosts)

    def recall(self, secret: str) -> tuple[bool, str | None]:
        """(known, name): what can be said of ``secret`` without asking the database."""
        if self._token and hmac.compare_digest(secret.encode(), self._token.encode()):
            return True, "HOLTER_TOKEN"
        with self._lock:
            until, name = self._known.get(self._key(secret), (0.0, None))
        return time.monotonic() < until, name

    def look_up(self, secret: str) -> str | None:
        """The name of the token that ``secret`` is, or None. May read the database."""
        known, name = self.recall(secret)
        if known:
            return name
        name = self._verify(secret)
        if name is not None:  # a wrong one is not remembered: it may be made a moment later
            with self._lock:
                if len(self._known) >= REMEMBERED_MAX:
                    self._known.clear()
                self._known[self._key(secret)] = (time.monotonic() + REMEMBERED_S, name)
        return name

    @staticmethod
    def _key(secret: str) -> bytes:
        return hashlib.sha256(secret.encode()).digest()


def signed_in(response: Response, secret: str, *, secure: bool) -> Response:
    """``response`` with the cookie that carries ``secret``: out of reach for scripts and for other sites' forms."""
    response.set_cookie(COOKIE, secret, max_age=YEAR_S, httponly=True, samesite="lax", secure=secure)
    return response


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without its port.

    >>> host_name("[::1]:8787"), host_name("LocalHost:80")
    ('::1', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_loopback_name(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware for every request and socket, the page included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        access: Access = scope["app"].state.context.access
        refusal = await _Check(access, HTTPConnection(scope)).refusal()
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4401, "reason": "A token is needed"})


class _Check:
    """Whether one request or socket may pass."""

    def __init__(self, access: Access, connection: HTTPConnection) -> None:
        self.access = access
        self.connection = connection
        self.headers = connection.headers
        self.path: str = connection.scope["path"]
        self.reads = connection.scope["type"] == "http" and connection.scope["method"] in SAFE_METHODS

    async def refusal(self) -> Response | None:
        """What to answer instead of the call, or None where it may pass."""
        if not self.access.required:
            return self._wrong_host() or self._cross_site()
        if self.path == "/login" or (self.reads and self.path.startswith(ASSETS)):
            return self._cross_site()
        if self.reads and _is_page(self.path) and (offered := self.connection.query_params.get("token")):
            return await self._take_offered(offered)
        secret, by_cookie = presented(self.headers)
        if secret and await self._good(secret):
            return self._cross_site() if by_cookie else None
        return self._sign_in()

    def _wrong_host(self) -> Response | None:
        name = host_name(self.headers.get("host", ""))
        if name in self.access.hosts or _is_loopback_name(name):
            return None
        hint = f"Open it as localhost, or start the service with HOLTER_ALLOWED_HOSTS={name or 'NAME'}"
        return ApiError(403, "host_not_allowed", f"This service is not known as {name!r}", hint).answer()

    def _cross_site(self) -> Response | None:
        origin = self.headers.get("origin")
        if origin is None or self.reads or _authority(origin) == self.headers.get("host", "").lower():
            return None
        hint = "Call it from the page itself, or with Authorization: Bearer from outside a browser."
        return ApiError(403, "cross_site", f"A page of {origin[:200]} may not call this service", hint).answer()

    async def _good(self, secret: str) -> bool:
        known, name = self.access.recall(secret)
        if not known:
            name = await to_thread.run_sync(self.access.look_up, secret)
        return name is not None

    async def _take_offered(self, offered: str) -> Response:
        """``/?token=…``, as the terminal prints it: into the cookie with it, and out of the address."""
        url = URL(scope=self.connection.scope)
        clean = url.remove_query_params("token")
        target = local_target(clean.path + (f"?{clean.query}" if clean.query else ""))
        if await self._good(offered):
            return signed_in(RedirectResponse(target, 303), offered, secure=self.access.behind_tls)
        return _to_login(target)

    def _sign_in(self) -> Response:
        """What someone without a good token gets: the sign-in form for a browser, 401 for a program."""
        if self.reads and _is_page(self.path) and "text/html" in self.headers.get("accept", ""):
            url = URL(scope=self.connection.scope)
            return _to_login(local_target(url.path + (f"?{url.query}" if url.query else "")))
        hint = "Send Authorization: Bearer TOKEN. `holter token create NAME` makes one."
        headers = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, "token_needed", "This call needs a good token", hint, headers=headers).answer()


def _to_login(target: str) -> Response:
    return RedirectResponse(str(URL("/login").include_query_params(next=target)), 303)


def presented(headers: Mapping[str, str] | Headers) -> tuple[str, bool]:
    """(the secret that a request carries, whether it came by cookie)."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip(), False
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    return (cookie.value if cookie else ""), True


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_page(path: str) -> bool:
    return not path.startswith(("/api/v1", ASSETS, "/metrics"))


def local_target(target: str) -> str:
    """``target`` if it is a path of this service: ``//evil`` would be an address elsewhere."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
