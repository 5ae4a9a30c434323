"""Incidents: what fired, and people's answers to it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import incidents
from holter_db.captures import captures_of
from holter_db.database import Connection
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


State = Annotated[str | None, Query(description="firing, acknowledged, resolved, or open for the first two")]
Severity = Annotated[str | None, Query(description="info, warning or critical")]


@router.get("/incidents", response_model=schemas.IncidentsAnswer)
def list_(
    *,
    here: Here,
    run: str | None = None,
    project: str | None = None,
    state: State = None,
    severity: Severity = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Json:
    """Incidents, newest first, with what the agent has kept for them."""
    asked = {"project": project, "state": state, "severity": severity, "limit": limit, "cursor": cursor}
    return _page(here, run, asked)


@router.get("/runs/{id}/incidents", response_model=schemas.IncidentsAnswer)
def list_of_run(
    *,
    here: Here,
    id: str,
    state: State = None,
    severity: Severity = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Json:
    """The same of one run."""
    return _page(here, id, {"state": state, "severity": severity, "limit": limit, "cursor": cursor})


@router.get("/incidents/{id}", response_model=schemas.IncidentAnswer)
def show(here: Here, id: str) -> Json:
    """One incident with its evidence, its advice, and what the agent has kept for it."""
    return Json({"incident": here.read(lambda conn: _shape(conn, incidents.get_incident(conn, id)))})


@router.post("/incidents/{id}/acknowledge", response_model=schemas.IncidentAnswer)
def acknowledge(here: Here, id: str, body: Acknowledgement | None = None) -> Json:
    """Say that someone has seen it."""
    by = body.by if body else ""

    def work(tx: Transaction) -> dict[str, Any]:
        return _tell(tx, incidents.acknowledge(tx.conn, id, by, tx.now), "acknowledge")

    return Json({"incident": here.writer.call(work, order=id)})


@router.post("/incidents/{id}/snooze", response_model=schemas.IncidentAnswer)
def snooze(here: Here, id: str, body: Snooze) -> Json:
    """Send nothing about it for a while."""

    def work(tx: Transaction) -> dict[str, Any]:
        return _tell(tx, incidents.snooze(tx.conn, id, tx.now + body.seconds, tx.now), "snooze")

    return Json({"incident": here.writer.call(work, order=id)})


def _page(here: Here, run: str | None, asked: dict[str, Any]) -> Json:
    def ask(conn: Connection) -> dict[str, Any]:
        run_id = None if run is None else here.run_id(conn, run)
        rows, following = incidents.list_incidents(conn, run=run_id, **asked)
        found = zip(rows, captures_of(conn, rows), strict=True)
        return {"incidents": [shapes.incident(row, captured) for row, captured in found], "next": following}

    return Json(here.read(ask))


def _shape(conn: Connection, row: IncidentRow) -> dict[str, Any]:
    return shapes.incident(row, *captures_of(conn, [row]))


def _tell(tx: Transaction, row: IncidentRow, action: str) -> dict[str, Any]:
    shown = _shape(tx.conn, row)
    tx.tell(Notice("incident", row.run, {"action": action, "incident": shown}))
    return shown
