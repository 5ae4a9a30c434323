"""Request bodies, read within limits: what travels, and what it becomes when it is decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holter.wire import WireError
from holter_server.errors import ApiError

__all__ = ["LimitBody", "json_struct", "read_body", "rules_text"]

T = TypeVar("T")

INLINE_BYTES = 16_000  # below this, a change of thread costs more than the decompression
STRUCT_BYTES_MAX = 8_000_000  # a run's config, a rule set
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/x-yaml", "text/plain")


def _too_large(limit: int, what: str) -> ApiError:
    message = f"The body has more than {limit / 1e6:g} MB {what}".rstrip()
    return ApiError(413, "body_too_large", message, "Send it in parts, each with the next seq.")


class LimitBody:
    """Refuses a request whose body is longer than ``limit`` bytes, whether or not it announced its length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self.limit:
            headers = {"Connection": "close"}  # the rest of the body is not worth reading
            error = _too_large(self.limit, "as it travels")
            await ApiError(413, error.kind, error.message, error.hint, headers=headers).answer()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise _too_large(self.limit, "as it travels")
            return message

        await self.app(scope, counted, send)


async def read_body(request: Request, media_types: Collection[str], decoded_limit: int) -> bytes:
    """The request's body, decompressed.

    Raises:
        ApiError: 415 for another media type or encoding, 413 beyond ``decoded_limit`` bytes, 400 for broken gzip.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in media_types:
        wanted = next(iter(media_types))
        shown = f"not {kind[:80]}" if kind else "and a Content-Type header that says so"
        raise ApiError(415, "unsupported_media_type", f"This call takes {wanted}, {shown}", f"Content-Type: {wanted}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity", ""):
        message = f"Content-Encoding {encoding[:40]} is not known here"
        raise ApiError(415, "unsupported_encoding", message, "Send gzip, or the body as it is.")
    body = await request.body()
    if encoding != "gzip":
        if len(body) > decoded_limit:
            raise _too_large(decoded_limit, "")
        return body
    if len(body) < INLINE_BYTES:
        return gunzip(body, decoded_limit)
    return await to_thread.run_sync(gunzip, body, decoded_limit)


def gunzip(body: bytes, limit: int) -> bytes:
    """Decompress ``body``, holding at most ``limit`` bytes: a gzip bomb ends at the limit."""
    decoder = zlib.decompressobj(wbits=31)
    try:
        decoded = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(400, "invalid_encoding", f"The body is not gzip: {error}", "Compress it again.") from None
    if len(decoded) > limit or (not decoder.eof and decoder.unconsumed_tail):
        raise _too_large(limit, "once decompressed")
    if not decoder.eof or decoder.unused_data:
        raise ApiError(400, "invalid_encoding", "The body is not one whole gzip stream", "Send exactly one.")
    return decoded


def json_struct(kind: type[T]) -> Callable[[Request], Coroutine[Any, Any, T]]:
    """A dependency that reads the body as the wire's ``kind``.

    Raises:
        WireError: with the place in the body that is wrong.
    """
    decoder = msgspec.json.Decoder(kind)

    async def read(request: Request) -> T:
        body = await read_body(request, ("application/json",), STRUCT_BYTES_MAX)
        try:
            return decoder.decode(body)
        except msgspec.DecodeError as error:
            hint = f"/api/docs shows the fields of {kind.__name__}."
            raise WireError(f"The body is not what this call takes: {error}", hint, kind="invalid_request") from None

    return read


async def rules_text(request: Request) -> str:
    """The YAML of a rule set: the body itself, or ``{"rules": "…"}`` as JSON."""
    body = await read_body(request, ("text/yaml", *YAML_TYPES, "application/json"), STRUCT_BYTES_MAX)
    if request.headers["content-type"].startswith("application/json"):
        try:
            return msgspec.json.decode(body, type=_Rules).rules
        except msgspec.DecodeError as error:
            raise ApiError(422, "invalid_request", f"The body is not rules: {error}", 'Send {"rules": "…"}') from None
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(422, "invalid_rules", f"The rules are not UTF-8: {error}", "Save the file as UTF-8.") from None


class _Rules(msgspec.Struct):
    rules: str
