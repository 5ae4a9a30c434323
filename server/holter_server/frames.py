"""The way of a frame through HTTP, past FastAPI's routing and dependencies.

These take longer (0.1 ms) than all the rest of a small frame's way in. The call is described, and can be reached, as
every other one: see `holter_server.routes.ingest`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from holter import wire
from holter.wire import Receipt
from holter_server.answers import encode
from holter_server.body import check_types, decoded, in_turn
from holter_server.context import Context
from holter_server.errors import api_error

__all__ = ["FRAME_TYPES", "FrameLane", "receipt_json", "take_frame"]

log = logging.getLogger("holter.server")

FRAME_TYPES = (wire.FRAME_MEDIA_TYPE, "application/msgpack", "application/x-msgpack", "application/octet-stream")
INLINE_BYTES = 1_000_000  # a longer body is decoded in a thread, so that the event loop goes on
END = "/frames"


class FrameLane:
    """Middleware, the innermost one: answers ``POST {prefix}/runs/{id}/frames`` itself."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.begin = f"{prefix}/runs/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = self._run(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if name is None:
            await self.app(scope, receive, send)
            return
        try:
            receipt = await _take(scope, receive, name)
        except ClientDisconnect:
            return
        except Exception as error:
            known = api_error(error)
            if known is None:
                raise
            if known.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log.error("%s %s", known.message, known.hint)
            await known.answer()(scope, receive, send)
            return
        body = receipt_json(receipt)
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _run(self, scope: Scope) -> str | None:
        path: str = scope["path"]
        if scope.get("root_path") or not (path.startswith(self.begin) and path.endswith(END)):
            return None
        name = path[len(self.begin) : -len(END)]
        return name if name and "/" not in name else None


async def take_frame(here: Context, name: str, body: bytes, *, zipped: bool) -> Receipt:
    """Have a frame kept; the receipt comes once it is committed and synced.

    Raises:
        ApiError, WireError, StoreError: nothing of it was kept.
    """
    plain = await decoded(body, here.settings.max_decoded_mb * 1_000_000, zipped=zipped)
    frame = wire.decode_frame(plain) if len(plain) < INLINE_BYTES else await in_turn(wire.decode_frame, plain)
    return await here.writer.ship(name, frame, len(plain))


def receipt_json(receipt: Receipt) -> bytes:
    """The receipt as every other answer shows it; nearly all of them say no more than that a frame was kept."""
    if receipt.commands or receipt.incidents:
        return encode(receipt)
    return _encoder.encode({**_PLAIN, "acknowledged": receipt.acknowledged, "duplicate": receipt.duplicate,
                            "run_state": receipt.run_state})  # fmt: skip


async def _take(scope: Scope, receive: Receive, name: str) -> Receipt:
    here: Context = scope["app"].state.context
    kind, encoding = b"", b""
    for header, value in scope["headers"]:
        if header == b"content-type":
            kind = value
        elif header == b"content-encoding":
            encoding = value
    zipped = check_types(kind.decode("latin-1"), encoding.decode("latin-1"), FRAME_TYPES)
    return await take_frame(here, name, await _body(receive), zipped=zipped)


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


_encoder = msgspec.json.Encoder()
_PLAIN = {"acknowledged": 0, "duplicate": False, "run_state": "", "commands": [], "incidents": []}
