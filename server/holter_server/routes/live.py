"""WS /live: one socket per tab, many subscriptions."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from anyio import to_thread
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from holter_db.errors import StoreError
from holter_server.context import Context, Here
from holter_server.errors import ApiError, api_error
from holter_server.live import LiveConnection, Subscription

router = APIRouter()

SUBSCRIPTIONS_MAX = 200
HINT = '{"type": "subscribe", "id": "a", "topic": "run", "run": "RUN"} | unsubscribe | ping'


class ClientMessage(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may say."""

    type: Literal["subscribe", "unsubscribe", "ping"]
    id: str = ""
    topic: Literal["runs", "run"] = "runs"
    run: str | None = None


_decoder = msgspec.json.Decoder(ClientMessage)


@router.websocket("/live")
async def live(socket: WebSocket, here: Here) -> None:
    """Serve one socket until it closes."""
    await socket.accept()
    connection = LiveConnection(socket.send_text, here.settings.live_interval_s)
    here.hub.add(connection)
    sender = asyncio.create_task(connection.run())
    listener = asyncio.create_task(_listen(socket, connection, here))
    try:
        await asyncio.wait({sender, listener}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        here.hub.remove(connection)
        for task in (sender, listener):
            task.cancel()
        await asyncio.gather(sender, listener, return_exceptions=True)
        if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
            await socket.close()


async def _listen(socket: WebSocket, connection: LiveConnection, here: Context) -> None:
    while True:
        try:
            text = await socket.receive_text()
        except (WebSocketDisconnect, KeyError):  # KeyError: a binary message, which nobody here sends
            return
        try:
            answer = await _answer(_decoder.decode(text), connection, here)
        except msgspec.DecodeError as error:
            answer = _error(ApiError(422, "invalid_message", str(error), HINT))
        except (ApiError, StoreError) as error:
            answer = _error(api_error(error))
        await connection.say(answer)


def _error(error: ApiError | None) -> dict[str, Any]:
    assert error is not None
    return {"type": "error", "error": {"type": error.kind, "message": error.message, "hint": error.hint}}


async def _answer(message: ClientMessage, connection: LiveConnection, here: Context) -> dict[str, Any]:
    if message.type == "ping":
        return {"type": "pong"}
    if message.type == "unsubscribe":
        here.hub.unsubscribe(connection, message.id)
        return {"type": "unsubscribed", "id": message.id}
    if not message.id or len(message.id) > 64:
        raise ApiError(422, "invalid_message", "A subscription needs an id of 1 to 64 characters", HINT)
    if len(connection.subscriptions) >= SUBSCRIPTIONS_MAX and message.id not in connection.subscriptions:
        hint = "Unsubscribe from what is out of sight."
        raise ApiError(429, "too_many_subscriptions", f"One socket has at most {SUBSCRIPTIONS_MAX}", hint)
    run = await _known_run(message, here)
    here.hub.subscribe(connection, Subscription(message.id, message.topic, run))
    return {"type": "subscribed", "id": message.id}


async def _known_run(message: ClientMessage, here: Context) -> str | None:
    if message.topic == "runs":
        return None
    if not message.run:
        raise ApiError(422, "invalid_message", "The topic run needs a run", HINT)
    wanted = message.run
    return await to_thread.run_sync(lambda: here.read(lambda conn: here.run_id(conn, wanted)))
