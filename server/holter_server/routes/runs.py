"""Runs: start, list, look, change, finish; and what is known of one run's metrics and events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from holter.wire import RunFinish, RunStart
from holter_db import events, runs
from holter_db.database import Connection
from holter_db.series import catalogue
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.body import json_struct
from holter_server.context import Here
from holter_server.openapi import takes

router = APIRouter(tags=["runs"])

RunStartBody = Annotated[RunStart, Depends(json_struct(RunStart))]
RunFinishBody = Annotated[RunFinish, Depends(json_struct(RunFinish))]


class RunChange(BaseModel):
    """What people may change of a run; a field that is absent stays as it is."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = None
    notes: str | None = None
    tags: list[str] | None = None
    group: str | None = None
    config: dict[str, Any] | None = None


@router.post("/runs", response_model=schemas.RunAnswer, status_code=201, openapi_extra=takes(RunStart))
def start(here: Here, body: RunStartBody) -> Json:
    """Start a run, or a new attempt of one (same id, other attempt). The same id and attempt again change nothing."""
    row = here.writer.call(lambda tx: here.pipeline.start_run(tx, body), order=f" {body.project}")
    return Json({"run": shapes.run(row)}, status_code=201)


@router.get("/runs", response_model=schemas.RunsAnswer)
def list_(
    *,
    here: Here,
    project: str | None = None,
    state: str | None = None,
    health: str | None = None,
    tag: str | None = None,
    group: str | None = None,
    q: Annotated[str | None, Query(description="text in the id, name, group, notes or a tag")] = None,
    filter: Annotated[
        str | None, Query(description="such as `config.lr < 1e-3 and last(loss) = NaN`; see docs/rest.md")
    ] = None,
    sort: Annotated[
        str,
        Query(
            description="a field, config.KEY or last(METRIC); a leading - sorts from the greatest down; NaN comes last"
        ),
    ] = "-created_at",
    values: Annotated[
        str | None, Query(description="what to add to each run as its `values`: config.lr, last(loss)")
    ] = None,
    limit: int = 100,
    cursor: str | None = None,
    deleted: Annotated[bool, Query(description="the deleted runs instead, with the time of their end")] = False,
) -> Json:
    """Runs, newest first. `next` is the cursor of the next page, or null.

    `hint` says which config keys and metrics of the filter or the order no run has, where that matters.
    """

    days = here.settings.purge_after_days

    def page(conn: Connection) -> dict[str, Any]:
        rows, following = runs.list_runs(
            conn, project=project, state=state, health=health, tag=tag, group=group, q=q, filter=filter, sort=sort,
            limit=limit, cursor=cursor, deleted=deleted,
        )  # fmt: skip
        columns = runs.run_values(conn, rows, values) if values is not None else [{} for _ in rows]
        hint = None if cursor else runs.search_hint(conn, filter=None if rows else filter, sort=sort)
        shown = [shapes.deleted_run(row, days) if deleted else shapes.run(row) for row in rows]
        listed = [{**run, "values": column} for run, column in zip(shown, columns, strict=True)]
        return {"runs": listed, "next": following, "hint": hint}

    return Json(here.read(page))


@router.get("/runs/{id}", response_model=schemas.RunDetailAnswer)
def show(here: Here, id: str) -> Json:
    """One run with its writers and attempts. `id` is an id or a prefix that only one id has."""

    def detail(conn: Connection) -> dict[str, Any]:
        run_id = here.run_id(conn, id)
        writers, attempts = runs.list_writers(conn, run_id), runs.list_attempts(conn, run_id)
        return shapes.run_with_parts(runs.get_run(conn, run_id), writers, attempts)

    return Json({"run": here.read(detail)})


@router.patch("/runs/{id}", response_model=schemas.RunAnswer)
def change(here: Here, id: str, body: RunChange) -> Json:
    """Change name, notes, tags, group or config."""
    fields = body.model_dump(exclude_unset=True)
    row = here.writer.call(lambda tx: here.pipeline.change_run(tx, here.run_id(tx.conn, id), fields), order=id)
    return Json({"run": shapes.run(row)})


@router.post("/runs/{id}/finish", response_model=schemas.RunAnswer, openapi_extra=takes(RunFinish))
def finish(here: Here, id: str, body: RunFinishBody) -> Json:
    """Say how an attempt ended."""
    row = here.writer.call(lambda tx: here.pipeline.finish_run(tx, here.run_id(tx.conn, id), body), order=id)
    return Json({"run": shapes.run(row)})


@router.get("/runs/{id}/metrics", response_model=schemas.MetricsAnswer)
def metrics(here: Here, id: str) -> Json:
    """The catalogue: every metric with its writers, count, first and last step, last value, min, max."""
    infos = here.read(lambda conn: catalogue(conn, here.run_id(conn, id)))
    return Json({"metrics": [shapes.metric(info) for info in infos]})


@router.get("/runs/{id}/events", response_model=schemas.EventsAnswer)
def list_events(here: Here, id: str) -> Json:
    """What happened: stage changes, alerts, checkpoints, exceptions. Flights and stacks in short."""
    rows = here.read(lambda conn: events.list_events(conn, here.run_id(conn, id)))
    return Json({"events": [shapes.event(row) for row in rows]})


@router.get("/runs/{id}/events/{event}", response_model=schemas.EventAnswer)
def show_event(here: Here, id: str, event: str) -> Json:
    """One event with all of its data: the norms of a flight event, the stacks of a stacks event."""
    row = here.read(lambda conn: events.get_event(conn, here.run_id(conn, id), event))
    return Json({"event": shapes.event(row)})


@router.get("/projects", response_model=schemas.ProjectsAnswer, tags=["projects"])
def projects(here: Here) -> Json:
    """Every project and how many runs it has."""
    rows = here.read(runs.list_projects)
    return Json({"projects": [shapes.project(row) for row in rows]})
