"""For operators: is it alive, is it ready, how much does it do."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from holter_server import schemas
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.errors import ApiError
from holter_server.metrics import CONTENT_TYPE, exposition

router = APIRouter(tags=["operations"])


@router.get("/healthz", response_model=schemas.StatusAnswer)
def healthz() -> Json:
    """The process answers."""
    return Json({"status": "ok"})


@router.get("/readyz", response_model=schemas.StatusAnswer)
def readyz(here: Here) -> Json:
    """The database answers and the writer runs; 503 otherwise."""
    if not here.writer.alive:
        raise ApiError(503, "writer_ended", "The writer thread has ended", "Restart the service; its log says why.")
    here.database.ping()
    return Json({"status": "ok"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(here: Here) -> Response:
    """Prometheus text format."""
    return Response(exposition(here), media_type=CONTENT_TYPE)
