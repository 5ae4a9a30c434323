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
from holter_db.series import read_page, view_runs
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.export import FORMATS, export

router = APIRouter(tags=["series"])

Axis = Literal["step", "time", "relative"]
Across = Literal["ranks"]
Width = Annotated[int | None, Query(ge=1, le=20_000, description="pixels; without it every point, in pages")]
Globs = Annotated[list[str], Query(alias="metric", description="names or globs, such as loss/*", min_length=1)]
Smooth = Annotated[
    float | None, Query(ge=0, lt=1, description="weight of a moving average (EMA, bias-corrected) of all points")
]
POINTS_PER_PAGE_MAX = 500_000
NO_PLACE = ("", "", 0, 0)


class SeriesQuery(BaseModel):
    """Views of many runs and metrics in one call."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    runs: list[str] = Field(min_length=1, max_length=100)
    metrics: list[str] = Field(min_length=1, max_length=100)
    width: int = Field(1000, ge=1, le=20_000)
    x: Axis = "step"
    first: float | None = Field(None, alias="from", allow_inf_nan=False)
    last: float | None = Field(None, alias="to", allow_inf_nan=False)
    smooth: Smooth = None
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
    smooth: Smooth = None,
    across: Annotated[Across | None, Query(description="mean, min and max of each step over the ranks")] = None,
    limit: Annotated[int, Query(ge=1, le=POINTS_PER_PAGE_MAX, description="points per page")] = 100_000,
    cursor: str | None = None,
) -> Json:
    """A view: of every pixel its first, last, smallest, greatest and its non-finite points.

    The pixels are buckets of 2^k steps or seconds, `bucket` wide. Where one has more than 16 non-finite points the
    first 16 are there, and `crowded` says from which step on and how many. Without `width` every point comes, in pages
    of `limit` points; `next` is the cursor of the next page.
    """
    if width is not None:
        asked: dict[str, Any] = {"first": first, "last": last, "width": width, "x": x}
        view = _view(across, smooth)
        return Json(
            {"series": here.read(lambda conn: view(conn, [here.run_id(conn, id)], metric, asked)), "next": None}
        )
    if x != "step" or smooth is not None:
        raise QueryError(
            "Pages of every point are cut by step and not smoothed", "Leave x and smooth away, or give a width."
        )
    low, high = _step(first, "from"), _step(last, "to")
    if across:
        whole = here.read(lambda conn: read_across(conn, here.run_id(conn, id), metric, first_step=low, last_step=high))
        page, following = _page(whole, limit, cursor)
        return Json({"series": page, "next": following})
    asked = {"first_step": low, "last_step": high, "start": _decode_cursor(cursor), "limit": limit}
    found, place = here.read(lambda conn: read_page(conn, here.run_id(conn, id), metric, **asked))
    return Json({"series": [shapes.series(item) for item in found], "next": _encode_cursor(place)})


def _view(
    across: str | None, smooth: float | None
) -> Callable[[Connection, list[str], list[str], dict[str, Any]], list[Any]]:
    if across and smooth is not None:
        raise QueryError("The mean over ranks is not smoothed", "Leave across or smooth away.")

    def of_series(conn: Connection, run_ids: list[str], metrics: list[str], asked: dict[str, Any]) -> list[Any]:
        return [shapes.series(item) for item in view_runs(conn, run_ids, metrics, smooth=smooth, **asked)]

    def of_ranks(conn: Connection, run_ids: list[str], metrics: list[str], asked: dict[str, Any]) -> list[Any]:
        return [
            {"run": run_id, **shapes.rank_series(item)}
            for run_id in run_ids
            for item in view_across(conn, run_id, metrics, **asked)
        ]

    return of_ranks if across else of_series


def _step(bound: float | None, name: str) -> int | None:
    if bound is None:
        return None
    if not bound.is_integer() or abs(bound) >= 2**63:
        raise QueryError(f"{name} is {bound}, not a step", "Send an integer.")
    return int(bound)


def _page(found: Sequence[RankSeries], limit: int, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """At most ``limit`` steps, in the order (metric, writer, attempt, index), from ``cursor`` on."""
    *start, index = _decode_cursor(cursor)
    page: list[dict[str, Any]] = []
    for item in sorted(found, key=_place):
        if _place(item) < tuple(start):
            continue
        begin = index if _place(item) == tuple(start) else 0
        end = min(begin + limit, len(item.steps))
        limit -= end - begin
        page.append(shapes.rank_series(item.page(begin, end)))
        if end < len(item.steps):
            return page, _encode_cursor((*_place(item), end))
    return page, None


def _place(item: RankSeries) -> tuple[str, str, int]:
    return item.metric, item.writers[0], item.attempt


def _encode_cursor(place: tuple[str, str, int, int] | None) -> str | None:
    return None if place is None else base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def _decode_cursor(cursor: str | None) -> tuple[str, str, int, int]:
    if cursor is None:
        return NO_PLACE
    try:
        metric, writer, attempt, index = msgspec.json.decode(
            base64.urlsafe_b64decode(cursor), type=tuple[str, str, int, int]
        )
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise QueryError("The cursor is not one that a page gave out", "Leave it away to start again.") from None
    return metric, writer, attempt, max(index, 0)


@router.post("/series/query", response_model=schemas.SeriesOfRunsAnswer)
def query(here: Here, body: SeriesQuery) -> Json:
    """Views of many runs × metrics, for pages that compare."""

    asked: dict[str, Any] = {"first": body.first, "last": body.last, "width": body.width, "x": body.x}
    view = _view(body.across, body.smooth)

    def ask(conn: Connection) -> list[Any]:
        return view(conn, list(dict.fromkeys(here.run_id(conn, run) for run in body.runs)), body.metrics, asked)

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
