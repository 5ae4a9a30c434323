"""Series: views at a width in pixels, every point in pages, many runs at once, and whole files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from holter_db import runs
from holter_db.database import Connection
from holter_db.errors import QueryError
from holter_db.rank_series import RankSeries, read_across, view_across
from holter_db.series import Series, read_series, view_series
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.export import FORMATS, export

router = APIRouter(tags=["series"])

Axis = Literal["step", "time", "relative"]
Across = Literal["ranks"]
Width = Annotated[int | None, Query(ge=1, le=20_000, description="pixels; without it every point, in pages")]
Globs = Annotated[list[str], Query(alias="metric", description="names or globs, such as loss/*", min_length=1)]
POINTS_PER_PAGE_MAX = 500_000


class SeriesQuery(BaseModel):
    """Views of many runs and metrics in one call."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    runs: list[str] = Field(min_length=1, max_length=100)
    metrics: list[str] = Field(min_length=1, max_length=100)
    width: int = Field(1000, ge=1, le=20_000)
    x: Axis = "step"
    first: float | None = Field(None, alias="from", allow_inf_nan=False)
    last: float | None = Field(None, alias="to", allow_inf_nan=False)
    across: Across | None = None


@router.get("/runs/{id}/series", response_model=schemas.SeriesAnswer)
def series(
    *,
    here: Here,
    id: str,
    metric: Globs,
    first: Annotated[float | None, Query(alias="from", allow_inf_nan=False, description="in the unit of x")] = None,
    last: Annotated[float | None, Query(alias="to", allow_inf_nan=False, description="in the unit of x")] = None,
    width: Width = None,
    x: Axis = "step",
    across: Annotated[Across | None, Query(description="mean, min and max of each step over the ranks")] = None,
    limit: Annotated[int, Query(ge=1, le=POINTS_PER_PAGE_MAX, description="points per page")] = 100_000,
    cursor: str | None = None,
) -> Json:
    """A view: of every pixel its first, last, smallest, greatest and all its non-finite points.

    Without `width` every point comes, in pages of `limit` points; `next` is the cursor of the next page.
    """
    if width is not None:
        view = _view_across if across else _view
        asked: dict[str, Any] = {"first": first, "last": last, "width": width, "x": x}
        return Json(
            {"series": here.read(lambda conn: view(conn, here.run_id(conn, id), metric, **asked)), "next": None}
        )
    if x != "step":
        raise QueryError("Pages of every point are cut by step", "Leave x away, or give a width.")
    low, high = _step(first, "from"), _step(last, "to")
    read: Callable[..., Sequence[Series | RankSeries]] = read_across if across else read_series
    whole = here.read(lambda conn: read(conn, here.run_id(conn, id), metric, first_step=low, last_step=high))
    page, following = _page(whole, limit, cursor)
    return Json({"series": page, "next": following})


def _view(conn: Connection, run_id: str, metrics: list[str], **view: Any) -> list[dict[str, Any]]:
    return [shapes.series(item) for item in view_series(conn, run_id, metrics, **view)]


def _view_across(conn: Connection, run_id: str, metrics: list[str], **view: Any) -> list[dict[str, Any]]:
    return [shapes.rank_series(item) for item in view_across(conn, run_id, metrics, **view)]


def _step(bound: float | None, name: str) -> int | None:
    if bound is None:
        return None
    if not bound.is_integer() or abs(bound) >= 2**63:
        raise QueryError(f"{name} is {bound}, not a step", "Send an integer.")
    return int(bound)


def _page(
    found: Sequence[Series | RankSeries], limit: int, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """At most ``limit`` points, in the order (metric, writer, attempt, index), from ``cursor`` on."""
    start, index = _decode_cursor(cursor)
    page: list[dict[str, Any]] = []
    for item in sorted(found, key=_place):
        if _place(item) < start:
            continue
        begin = index if _place(item) == start else 0
        end = min(begin + limit, len(item.steps))
        limit -= end - begin
        page.append(_part(item, begin, end))
        if end < len(item.steps):
            return page, _encode_cursor(_place(item), end)
    return page, None


def _part(item: Series | RankSeries, begin: int, end: int) -> dict[str, Any]:
    if isinstance(item, RankSeries):
        return shapes.rank_series(item.page(begin, end))
    cut = {"steps": item.steps[begin:end], "times": item.times[begin:end], "values": item.values[begin:end]}
    return {**shapes.series(item), **cut}


def _place(item: Series | RankSeries) -> tuple[str, str, int]:
    return item.metric, item.writers[0] if isinstance(item, RankSeries) else item.writer, item.attempt


def _encode_cursor(place: tuple[str, str, int], index: int) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((*place, index))).decode()


def _decode_cursor(cursor: str | None) -> tuple[tuple[str, str, int], int]:
    if cursor is None:
        return ("", "", 0), 0
    try:
        metric, writer, attempt, index = msgspec.json.decode(
            base64.urlsafe_b64decode(cursor), type=tuple[str, str, int, int]
        )
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise QueryError("The cursor is not one that a page gave out", "Leave it away to start again.") from None
    return (metric, writer, attempt), max(index, 0)


@router.post("/series/query", response_model=schemas.SeriesOfRunsAnswer)
def query(here: Here, body: SeriesQuery) -> Json:
    """Views of many runs × metrics, for pages that compare."""

    def ask(conn: Connection) -> list[dict[str, Any]]:
        view = _view_across if body.across else _view
        asked: dict[str, Any] = {"first": body.first, "last": body.last, "width": body.width, "x": body.x}
        return [
            {"run": run_id, **item}
            for run_id in dict.fromkeys(here.run_id(conn, run) for run in body.runs)
            for item in view(conn, run_id, body.metrics, **asked)
        ]

    return Json({"series": here.read(ask)})


@router.get("/runs/{id}/export", response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
def download(
    *,
    here: Here,
    id: str,
    format: Annotated[Literal["csv", "jsonl", "parquet"], Query()] = "csv",
    metric: Annotated[list[str] | None, Query(description="names or globs; default: all")] = None,
) -> StreamingResponse:
    """Every point of every writer and attempt as a file; NaN and ±Inf are kept exactly."""
    row = here.read(lambda conn: runs.get_run(conn, here.run_id(conn, id)))
    pieces = export(here.database, row.id, metric or ["*"], format)
    disposition = f'attachment; filename="{row.id}.{format}"'
    return StreamingResponse(pieces, media_type=FORMATS[format], headers={"Content-Disposition": disposition})
