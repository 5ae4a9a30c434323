"""Incidents: what fired, and people's answers to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import incidents
from holter_db.incidents import IncidentRow
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.notices import Notice
from holter_server.writing import Transaction

router = APIRouter(tags=["incidents"])


class Snooze(BaseModel):
    """For how long not to notify."""

    model_config = ConfigDict(extra="forbid")
    seconds: float = Field(gt=0, le=30 * 24 * 3600, allow_inf_nan=False)


class Acknowledgement(BaseModel):
    """Who has seen it."""

    model_config = ConfigDict(extra="forbid")
    by: str = Field("", max_length=200)


@router.get("/incidents", response_model=schemas.IncidentsAnswer)
def list_(
    *,
    here: Here,
    run: str | None = None,
    project: str | None = None,
    state: Annotated[str | None, Query(description="firing, acknowledged or resolved")] = None,
    severity: Annotated[str | None, Query(description="info, warning or critical")] = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Json:
    """Incidents, newest first."""
    rows, following = here.read(
        lambda conn: incidents.list_incidents(
            conn,
            run=None if run is None else here.run_id(conn, run),
            project=project,
            state=state,
            severity=severity,
            limit=limit,
            cursor=cursor,
        )
    )
    return Json({"incidents": [shapes.incident(row) for row in rows], "next": following})


@router.get("/incidents/{id}", response_model=schemas.IncidentAnswer)
def show(here: Here, id: str) -> Json:
    """One incident with its evidence and its advice."""
    return Json({"incident": shapes.incident(here.read(lambda conn: incidents.get_incident(conn, id)))})


@router.post("/incidents/{id}/acknowledge", response_model=schemas.IncidentAnswer)
def acknowledge(here: Here, id: str, body: Acknowledgement | None = None) -> Json:
    """Say that someone has seen it."""
    by = body.by if body else ""

    def work(tx: Transaction) -> IncidentRow:
        return _tell(tx, incidents.acknowledge(tx.conn, id, by, tx.now), "acknowledge")

    return Json({"incident": shapes.incident(here.writer.call(work, order=id))})


@router.post("/incidents/{id}/snooze", response_model=schemas.IncidentAnswer)
def snooze(here: Here, id: str, body: Snooze) -> Json:
    """Send nothing about it for a while."""

    def work(tx: Transaction) -> IncidentRow:
        return _tell(tx, incidents.snooze(tx.conn, id, tx.now + body.seconds, tx.now), "snooze")

    return Json({"incident": shapes.incident(here.writer.call(work, order=id))})


def _tell(tx: Transaction, row: IncidentRow, action: str) -> IncidentRow:
    tx.tell(Notice("incident", row.run, {"action": action, "incident": shapes.incident(row)}))
    return row
