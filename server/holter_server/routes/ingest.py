"""Points and frames from the trainings. Answered only once they are committed and synced."""

from __future__ import annotations

import asyncio
import time

from anyio import to_thread
from fastapi import APIRouter, Request

from holter import wire
from holter_server import schemas
from holter_server.answers import Json
from holter_server.body import read_body
from holter_server.context import Context, Here
from holter_server.openapi import FRAME_BODY, POINTS_BODY

router = APIRouter(tags=["ingest"])

FRAME_TYPES = (wire.FRAME_MEDIA_TYPE, "application/msgpack", "application/x-msgpack", "application/octet-stream")
JSON_TYPES = ("application/json",)
INLINE_BYTES = 64_000  # a longer body is decoded in a thread, so that the event loop goes on


@router.post("/runs/{id}/points", response_model=schemas.ReceiptAnswer, openapi_extra=POINTS_BODY)
async def points(here: Here, id: str, request: Request) -> Json:
    """Points as JSON. With a `seq`, sending the same again changes nothing."""
    body = await read_body(request, JSON_TYPES, here.settings.max_decoded_mb * 1_000_000)
    now = time.time()
    if len(body) < INLINE_BYTES:
        frame = wire.decode_points(body, now)
    else:
        frame = await to_thread.run_sync(wire.decode_points, body, now)
    return await _take(here, id, frame, len(body))


@router.post("/runs/{id}/frames", response_model=schemas.ReceiptAnswer, openapi_extra=FRAME_BODY)
async def frames(here: Here, id: str, request: Request) -> Json:
    """A frame of the agent's: msgpack, gzip allowed. An empty frame is a sign of life."""
    body = await read_body(request, FRAME_TYPES, here.settings.max_decoded_mb * 1_000_000)
    if len(body) < INLINE_BYTES:
        frame = wire.decode_frame(body)
    else:
        frame = await to_thread.run_sync(wire.decode_frame, body)
    return await _take(here, id, frame, len(body))


async def _take(here: Context, id: str, frame: wire.Frame, weight: int) -> Json:
    pending = here.writer.submit(lambda tx: here.pipeline.take_frame(tx, id, frame), order=id, weight=weight)
    # Shielded: a client that hangs up does not take back what was accepted.
    receipt = await asyncio.shield(asyncio.wrap_future(pending))
    return Json(receipt)
