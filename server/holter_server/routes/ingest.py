"""Points and frames from the trainings. Answered only once they are committed and synced."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from holter import wire
from holter_server import schemas
from holter_server.body import check_types, in_turn, read_body
from holter_server.context import Here
from holter_server.frames import FRAME_TYPES, receipt_json, take_frame
from holter_server.openapi import FRAME_BODY, POINTS_BODY

router = APIRouter(tags=["ingest"])

JSON_TYPES = ("application/json",)
INLINE_BYTES = 64_000  # a longer body is decoded in a thread, so that the event loop goes on


@router.post("/runs/{id}/points", response_model=schemas.ReceiptAnswer, openapi_extra=POINTS_BODY)
async def points(here: Here, id: str, request: Request) -> Response:
    """Points as JSON. With a `seq`, sending the same again changes nothing."""
    body = await read_body(request, JSON_TYPES, here.settings.max_decoded_mb * 1_000_000)
    now = time.time()
    if len(body) < INLINE_BYTES:
        frame = wire.decode_points(body, now)
    else:
        frame = await in_turn(wire.decode_points, body, now)
    receipt = await here.writer.ship(id, frame, len(body))
    return Response(receipt_json(receipt), media_type="application/json")


@router.post("/runs/{id}/frames", response_model=schemas.ReceiptAnswer, openapi_extra=FRAME_BODY)
async def frames(here: Here, id: str, request: Request) -> Response:
    """A frame of the agent's: msgpack, gzip allowed. An empty frame is a sign of life."""
    kind, encoding = (request.headers.get(f"content-{what}", "") for what in ("type", "encoding"))
    zipped = check_types(kind, encoding, FRAME_TYPES)
    receipt = await take_frame(here, id, await request.body(), zipped=zipped)
    return Response(receipt_json(receipt), media_type="application/json")
