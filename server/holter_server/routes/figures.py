"""Figures as plotly JSON, built in Python so that page, notebook and report show the same one."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from holter_db import events, incidents
from holter_db.database import Connection
from holter_db.errors import NotFound
from holter_db.rank_series import view_across
from holter_db.series import MetricInfo, catalogue, view_series
from holter_server import schemas
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.figure_flight import build_flight_figure
from holter_server.figures import build_figure, list_figures

router = APIRouter(tags=["figures"])

INCIDENTS_SHOWN = 200


@router.get("/runs/{id}/figures", response_model=schemas.FiguresAnswer)
def list_(here: Here, id: str) -> Json:
    """The figures of a run: one per prefix of its metrics' names."""
    infos = here.read(lambda conn: catalogue(conn, here.run_id(conn, id)))
    return Json({"figures": list_figures(infos)})


@router.get("/runs/{id}/figures/{name:path}", response_model=schemas.FigureAnswer)
def figure(
    *,
    here: Here,
    id: str,
    name: str,
    width: Annotated[int, Query(ge=1, le=20_000, description="pixels")] = 1000,
    first: Annotated[float | None, Query(alias="from", allow_inf_nan=False, description="in the unit of x")] = None,
    last: Annotated[float | None, Query(alias="to", allow_inf_nan=False, description="in the unit of x")] = None,
    x: Literal["step", "time", "relative"] = "step",
    theme: Literal["light", "dark"] = "light",
    log_y: Annotated[bool, Query(description="logarithmic value axis")] = False,
    smooth: Annotated[
        float | None, Query(ge=0, lt=1, description="weight of a moving average of all points, drawn above the line")
    ] = None,
    ranks: Annotated[bool, Query(description="beside the mean of several ranks, also each of them")] = False,
) -> Json:
    """One figure: `{"data", "layout"}` for plotly, with the run's incidents and stages drawn in."""

    def build(conn: Connection) -> dict[str, Any]:
        run_id = here.run_id(conn, id)
        infos = catalogue(conn, run_id)
        known = {item["name"]: item["metrics"] for item in list_figures(infos)}
        if name not in known:
            raise NotFound("figure", name)
        of_ranks = {info.name for info in infos if _has_ranks(info)} & set(known[name])
        single = known[name] if ranks else [metric for metric in known[name] if metric not in of_ranks]
        asked: dict[str, Any] = {"first": first, "last": last, "width": width, "x": x}
        found = view_series(conn, run_id, _exact(single), smooth=smooth, **asked)
        across = view_across(conn, run_id, _exact(of_ranks), **asked)
        marked, _ = incidents.list_incidents(conn, run=run_id, limit=INCIDENTS_SHOWN)
        happened = events.list_events(conn, run_id)
        return build_figure(
            name, found, across=across, incidents=marked, events=happened, theme=theme, x=x, log_y=log_y
        )

    return Json(here.read(build))


@router.get("/runs/{id}/events/{event}/figure", response_model=schemas.FigureAnswer)
def flight_figure(
    *,
    here: Here,
    id: str,
    event: str,
    norm: Annotated[Literal["gradient", "weight"], Query(description="which of each tensor's norms")] = "gradient",
    theme: Literal["light", "dark"] = "light",
    width: Annotated[int, Query(ge=1, le=20_000, description="pixels")] = 1000,
) -> Json:
    """The heat map of a flight event: layers by steps, with the losses of the same steps below."""

    def build(conn: Connection) -> dict[str, Any]:
        row = events.get_event(conn, here.run_id(conn, id), event)
        if row.kind != "flight":
            raise NotFound("figure", event, "Only events of kind flight have one.")
        return build_flight_figure(row.data, norm=norm, theme=theme, width=width)

    return Json(here.read(build))


def _exact(metrics: Iterable[str]) -> list[str]:
    return [glob.escape(metric) for metric in metrics]


def _has_ranks(info: MetricInfo) -> bool:
    """Several ranks of one attempt have logged it."""
    places = [(part.attempt, "/" in part.writer) for part in info.series if part.rank is not None]
    return len(places) > len(set(places))
