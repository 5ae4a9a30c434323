"""Request bodies, read within limits: what travels, and what it becomes when it is decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holter.wire import WireError
from holter_server.errors import ApiError, Overloaded

__all__ = ["LimitBody", "Room", "check_types", "decoded", "in_turn", "json_struct", "read_body", "rules_text"]

T = TypeVar("T")

INLINE_BYTES = 64_000  # a longer body is decompressed in a thread, so that the event loop goes on
INLINE_DECODED_BYTES = 500_000  # the same; below this, a change of thread costs about as much
DECODED_AT_ONCE = 2  # long bodies
STRUCT_BYTES_MAX = 8_000_000  # a run's config, a rule set
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/x-yaml", "text/plain")


def _too_large(limit: int, what: str) -> ApiError:
    message = f"The body has more than {limit / 1e6:g} MB {what}".rstrip()
    return ApiError(413, "body_too_large", message, "Send it in parts, each with the next seq.")


class Room:
    """Bytes of bodies that may be held at a time, from their first byte to the answer. Lives in the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Hold ``size`` more bytes; a single body is always let in, else a large one could never be sent.

        Raises:
            Overloaded: there is no room for them now.
        """
        if self.held and self.held + size > self.limit:
            raise Overloaded
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class LimitBody:
    """Refuses a request whose body is longer than ``limit`` bytes, whether or not it announced its length, and one for
    which there is no room in the service.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        size = int(announced) if announced.isdigit() else 0
        if size > self.limit:
            headers = {"Connection": "close"}  # the rest of the body is not worth reading
            error = _too_large(self.limit, "as it travels")
            await ApiError(413, error.kind, error.message, error.hint, headers=headers).answer()(scope, receive, send)
            return
        room: Room = scope["app"].state.context.room
        try:
            room.take(size)
        except Overloaded as error:
            await error.answer()(scope, receive, send)
            return
        body = _Counted(receive, self.limit, room, size)
        try:
            await self.app(scope, body.receive, send)
        finally:
            room.give(body.held)


class _Counted:
    """A body on its way in; ``held`` bytes of the room are its."""

    __slots__ = ("_limit", "_receive", "_received", "_room", "held")

    def __init__(self, receive: Receive, limit: int, room: Room, announced: int) -> None:
        self._receive = receive
        self._limit = limit
        self._room = room
        self._received = 0
        self.held = announced

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise _too_large(self._limit, "as it travels")
        if self._received > self.held:  # it came in chunks, without its length
            self._room.take(self._received - self.held)
            self.held = self._received
        return message


async def read_body(request: Request, media_types: Collection[str], decoded_limit: int) -> bytes:
    """The request's body, decompressed.

    Raises:
        ApiError: 415 for another media type or encoding, 413 beyond ``decoded_limit`` bytes, 400 for broken gzip.
    """
    zipped = check_types(
        request.headers.get("content-type", ""), request.headers.get("content-encoding", ""), media_types
    )
    return await decoded(await request.body(), decoded_limit, zipped=zipped)


def check_types(content_type: str, content_encoding: str, media_types: Collection[str]) -> bool:
    """Whether a body with these headers is compressed.

    Raises:
        ApiError: 415 for another media type or encoding.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in media_types:
        wanted = next(iter(media_types))
        shown = f"not {kind[:80]}" if kind else "and a Content-Type header that says so"
        raise ApiError(415, "unsupported_media_type", f"This call takes {wanted}, {shown}", f"Content-Type: {wanted}")
    encoding = content_encoding.strip().lower()
    if encoding not in ("gzip", "identity", ""):
        message = f"Content-Encoding {encoding[:40]} is not known here"
        raise ApiError(415, "unsupported_encoding", message, "Send gzip, or the body as it is.")
    return encoding == "gzip"


async def decoded(body: bytes, limit: int, *, zipped: bool) -> bytes:
    """The body, decompressed if it is ``zipped``.

    Raises:
        ApiError: 413 beyond ``limit`` bytes, 400 for broken gzip.
    """
    if not zipped:
        if len(body) > limit:
            raise _too_large(limit, "")
        return body
    if len(body) < INLINE_BYTES and _claimed(body) <= INLINE_DECODED_BYTES:
        return gunzip(body, limit)
    return await in_turn(gunzip, body, limit)


def _claimed(body: bytes) -> int:
    """What a gzip stream says of its decompressed length (RFC 1952: its last four bytes).

    One that says too little fails in the end, but may take the time of ``1032 * len(body)`` bytes (zlib's limit) first.
    """
    return int.from_bytes(body[-4:], "little")


async def in_turn(work: Callable[..., T], *args: Any) -> T:
    """Do work that takes long and much memory in a thread, not more than two at a time."""
    return await to_thread.run_sync(work, *args, limiter=_limiter())


def _limiter() -> CapacityLimiter:
    try:
        return _turns.get()
    except LookupError:
        _turns.set(CapacityLimiter(DECODED_AT_ONCE))
        return _turns.get()


_turns: RunVar[CapacityLimiter] = RunVar("holter_decoding")  # one for each event loop


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
