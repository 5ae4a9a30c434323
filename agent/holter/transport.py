"""HTTP to the service: one kind of outcome, one retry policy."""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from holter.wire import FRAME_MEDIA_TYPE, dump_json

if TYPE_CHECKING:
    import urllib3

__all__ = ["Backoff", "Outcome", "Transport", "Verdict"]

GZIP_FROM = 4_096  # bytes; below, the header and the time cost more than it saves
TRY_AGAIN = {408, 409, 425, 429}


class Verdict(Enum):
    """What an answer means for whoever sent the request."""

    DONE = "done"
    LATER = "later"  # no answer, overloaded, failing: the same request may succeed
    DENIED = "denied"  # the token is missing or wrong: it succeeds once somebody has put that right
    MISSING = "missing"  # the run is not there
    TOO_LARGE = "too large"
    REFUSED = "refused"  # this request can never succeed


@dataclass(frozen=True, slots=True)
class Outcome:
    """``message`` and ``hint`` are for people; ``retry_after`` is what the service asked for, in seconds."""

    verdict: Verdict
    status: int = 0
    body: bytes = b""
    message: str = ""
    hint: str = ""
    kind: str = ""
    retry_after: float | None = None

    @property
    def done(self) -> bool:
        return self.verdict is Verdict.DONE


class Backoff:
    """Exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015), never below Retry-After.

    The first pause is between 0.1 and 0.5 s, the longest 30 s.
    """

    def __init__(self, *, first: float = 0.5, longest: float = 30.0, chance: random.Random | None = None) -> None:
        self._first, self._longest = first, longest
        self._chance = chance or random.Random()
        self._failures = 0

    def pause(self, retry_after: float | None = None) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return max(self._chance.uniform(0.2 * self._first, ceiling), min(retry_after or 0.0, 300.0))

    def reset(self) -> None:
        self._failures = 0


class Transport:
    """Requests to one service. Never raises for what the network or the service does; not shared between threads."""

    def __init__(self, url: str, token: str | None = None, *, connect: float = 3.0, read: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._connect, self._read = connect, read
        self._pool: urllib3.PoolManager | None = None

    def frame(self, run: str, body: bytes, *, read: float | None = None) -> Outcome:
        """``POST /runs/{run}/frames``."""
        headers = {"Content-Type": FRAME_MEDIA_TYPE}
        if len(body) >= GZIP_FROM:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=4, mtime=0)
        return self.request("POST", f"/runs/{quote(run, safe='')}/frames", body=body, headers=headers, read=read)

    def post(self, path: str, content: Any, *, read: float | None = None) -> Outcome:
        """``POST`` with a JSON body."""
        return self.request(
            "POST", path, body=dump_json(content), headers={"Content-Type": "application/json"}, read=read
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        read: float | None = None,
    ) -> Outcome:
        """One request below ``/api/v1``; ``read`` is the longest wait for the answer in seconds."""
        import urllib3  # noqa: PLC0415 - 80 ms that `import holter` doesn't pay

        self._pool = self._pool or urllib3.PoolManager(num_pools=1, maxsize=1, retries=False)
        sent = {"Accept": "application/json", "User-Agent": "holter-agent/1"} | (headers or {})
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        timeout = urllib3.Timeout(connect=self._connect, read=self._read if read is None else max(read, 0.1))
        try:
            answer = self._pool.request(
                method, f"{self.url}/api/v1{path}", body=body, headers=sent, timeout=timeout, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return Outcome(Verdict.LATER, message=_cause(error))
        return _outcome(answer.status, answer.data, answer.headers.get("Retry-After"))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.clear()
            self._pool = None


def _cause(error: Exception) -> str:
    names = {
        "NewConnectionError": "connection refused",
        "NameResolutionError": "the host name is unknown",
        "ConnectTimeoutError": "no connection in time",
        "ReadTimeoutError": "no answer in time",
        "ProtocolError": "the connection broke off",
    }
    return names.get(type(error).__name__, str(error)[:200])


class _ErrorDetail(msgspec.Struct):
    type: str = ""
    message: str = ""
    hint: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


_errors = msgspec.json.Decoder(_ErrorBody)


def _outcome(status: int, body: bytes, retry_after: str | None) -> Outcome:
    verdict = _verdict(status)
    if verdict is Verdict.DONE:
        return Outcome(verdict, status, body)
    try:
        detail = _errors.decode(body).error
    except msgspec.DecodeError:
        detail = _ErrorDetail(message=f"HTTP {status}")
    message = f"{detail.message or 'no reason given'} (HTTP {status})" if detail.type else f"HTTP {status}"
    return Outcome(verdict, status, body, message, detail.hint or "", detail.type, _seconds(retry_after))


def _verdict(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict.DONE
    if status in {401, 403}:
        return Verdict.DENIED
    if status in {404, 410}:
        return Verdict.MISSING
    if status == 413:
        return Verdict.TOO_LARGE
    return Verdict.REFUSED if 400 <= status < 500 and status not in TRY_AGAIN else Verdict.LATER


def _seconds(text: str | None) -> float | None:
    """The seconds of a ``Retry-After``; its other form, a date, is left to the exponential pause."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
