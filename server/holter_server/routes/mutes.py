"""Rules that somebody does not want to hear of here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from holter_db import incidents, mutes
from holter_db.errors import NotFound
from holter_db.mutes import MuteRow
from holter_db.runs import get_run
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.author import Author
from holter_server.caretaker import tell_incident, unmute
from holter_server.context import Here
from holter_server.errors import ApiError
from holter_server.writing import Transaction

router = APIRouter(tags=["rules"])


class MuteRequest(BaseModel):
    """Which rule not to hear of, where, and for how long. `run` or `project` is needed."""

    model_config = ConfigDict(extra="forbid")
    rule: str = Field(min_length=1, max_length=64)
    run: str | None = Field(None, description="this run alone; its project is known by it")
    project: str | None = Field(None, max_length=128, description="every run of this project")
    metric: str = Field("", max_length=500, description="a glob; empty: every metric")
    seconds: float | None = Field(None, gt=0, le=365 * 86_400, allow_inf_nan=False, description="null: for good")
    comment: str = Field("", max_length=1000)


@router.get("/mutes", response_model=schemas.MutesAnswer)
def list_(here: Here, project: str | None = None, run: str | None = None) -> Json:
    """Every mute; with `run` those under which its incidents fall."""

    def ask(conn: Any) -> list[MuteRow]:
        return mutes.list_mutes(conn, project=project, run=None if run is None else here.run_id(conn, run))

    return Json({"mutes": [shapes.mute(row) for row in here.read(ask)]})


@router.post("/mutes", response_model=schemas.MuteAnswer, status_code=201)
def add(here: Here, body: MuteRequest, author: Author) -> Json:
    """Mute a rule. Its incidents are still written down; nobody is told, no run is unhealthy or stopped by them."""
    if body.run is None and body.project is None:
        raise ApiError(422, "invalid_request", "A mute is for a run or for a project", 'Give "run" or "project".')

    def work(tx: Transaction) -> MuteRow:
        run = None if body.run is None else get_run(tx.conn, here.run_id(tx.conn, body.run))
        project = body.project if run is None else run.project
        if run is not None and body.project not in (None, run.project):
            raise NotFound("run", run.id, f"It belongs to {run.project}, not to {body.project}.")
        row, silenced = mutes.add_mute(
            tx.conn,
            project or "",
            body.rule,
            tx.now,
            run=None if run is None else run.id,
            metric=body.metric,
            until=None if body.seconds is None else tx.now + body.seconds,
            author=author,
            comment=body.comment,
        )
        for id in silenced:
            incident = incidents.get_incident(tx.conn, id)
            incidents.keep_health(tx.conn, incident.run)
            tell_incident(tx, incident, "mute")
        return row

    return Json({"mute": shapes.mute(here.writer.call(work, order=body.run or f" {body.project}"))}, status_code=201)


@router.delete("/mutes/{id}", response_model=schemas.DeletedAnswer)
def delete(here: Here, id: str) -> Json:
    """Take a mute away: what it has silenced and is still open counts again."""
    here.writer.call(lambda tx: unmute(tx, id))
    return Json({"deleted": id})
