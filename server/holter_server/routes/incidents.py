"""Incidents: what fired, and people's answers to it."""

from __future__ import annotations

import glob
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import incidents, outbox, rule_sets
from holter_db.captures import captures_of
from holter_db.database import Connection
from holter_db.errors import NotFound
from holter_db.evidence import surroundings
from holter_db.incidents import IncidentRow
from holter_db.runs import get_run
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.figures import build_figure
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


class Resolution(BaseModel):
    """Who says that it is over, and why."""

    model_config = ConfigDict(extra="forbid")
    by: str = Field("", max_length=200)
    comment: str = Field("", max_length=1000)


State = Annotated[str | None, Query(description="firing, acknowledged, snoozed, resolved, or open for the first three")]
Steps = Annotated[int, Query(ge=0, le=100_000, description="steps")]
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


@router.get("/incidents/{id}/evidence", response_model=schemas.EvidenceAnswer)
def evidence(here: Here, id: str, before: Steps = 200, after: Steps = 200) -> Json:
    """Everything about it: every point of every series around it, config, events, what the agent kept, the rule.

    From `before` steps before its first step to `after` steps after its last one; at most some 200,000 points, the
    incident's own metric first. `left_out` names the metrics for which there was no more room.
    """

    def ask(conn: Connection) -> dict[str, Any]:
        row = incidents.get_incident(conn, id)
        run = get_run(conn, row.run)
        found = surroundings(conn, row, before, after)
        told, _ = outbox.list_deliveries(conn, incident=id, limit=1000)
        return {
            "incident": _shape(conn, row),
            "run": shapes.run(run),
            "url": f"{here.address}/incidents/{id}",
            "window": {"from": found.first_step, "to": found.last_step},
            "series": [shapes.series(item) for item in found.series],
            "left_out": found.left_out,
            "events": [shapes.event(event) for event in found.events],
            "commands": [shapes.command(command) for command in found.commands],
            "deliveries": [shapes.delivery(delivery) for delivery in told],
            "rule": _rule(here, conn, run.project, row),
        }

    return Json({"evidence": here.read(ask)})


@router.get("/incidents/{id}/figure", response_model=schemas.FigureAnswer)
def figure(
    *,
    here: Here,
    id: str,
    before: Steps = 200,
    after: Steps = 200,
    metric: Annotated[str, Query(description="a glob of the metrics to draw; default: the incident's own")] = "",
    theme: Literal["light", "dark"] = "light",
) -> Json:
    """The same as a figure for plotly: every point, and the incident as a band."""

    def build(conn: Connection) -> dict[str, Any]:
        row = incidents.get_incident(conn, id)
        found = surroundings(conn, row, before, after)
        wanted = metric or glob.escape(row.metric) or "*"
        drawn = [item for item in found.series if fnmatchcase(item.metric, wanted)]
        if not drawn:
            raise NotFound("figure", id, f"No point of {wanted!r} lies within {before} and {after} steps of it.")
        return build_figure(row.metric or row.rule, drawn, incidents=[row], events=found.events, theme=theme)

    return Json(here.read(build))


@router.post("/incidents/{id}/resolve", response_model=schemas.IncidentAnswer)
def resolve(here: Here, id: str, body: Resolution | None = None) -> Json:
    """Say that it is over. Should its rule find the same again, that is a new incident."""
    said = body or Resolution(by="", comment="")
    words = "Resolved by hand" + (f" by {said.by}" if said.by else "") + (f": {said.comment}" if said.comment else "")

    def work(tx: Transaction) -> dict[str, Any]:
        row = incidents.resolve(tx.conn, id, words, tx.now)
        if row is None:
            return _shape(tx.conn, incidents.get_incident(tx.conn, id))
        found = captures_of(tx.conn, [row])[0]
        here.pipeline.follow.tell(tx, get_run(tx.conn, row.run), row, "resolve", found)
        return _tell(tx, row, "resolve")

    return Json({"incident": here.writer.call(work, order=id)})


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


def _rule(here: Here, conn: Connection, project: str, row: IncidentRow) -> dict[str, Any] | None:
    """The rule that opened it as it is now; None where there is none of that name any more."""
    rules = here.engines.rules(rule_sets.get(conn, project)).describe()
    found = [rule for rule in rules if rule["id"] == row.rule]
    return found[-1] if found else None


def _shape(conn: Connection, row: IncidentRow) -> dict[str, Any]:
    return shapes.incident(row, *captures_of(conn, [row]))


def _tell(tx: Transaction, row: IncidentRow, action: str) -> dict[str, Any]:
    shown = _shape(tx.conn, row)
    tx.tell(Notice("incident", row.run, {"action": action, "incident": shown}))
    return shown
