"""Incidents: the engine's transitions written down once, with their evidence, and the run's health kept in step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from holter.health.model import SEVERITIES, Action, Transition
from holter_db.cursors import after, decode_cursor, encode_cursor, page_size
from holter_db.errors import NotFound, QueryError
from holter_db.schema import incidents, runs
from holter_db.upsert import insert_new
from holter_db.writers import rank_of

__all__ = [
    "OPEN_STATES",
    "IncidentChange",
    "IncidentRow",
    "acknowledge",
    "apply",
    "find_incidents",
    "get_incident",
    "incident_id",
    "keep_health",
    "list_incidents",
    "snooze",
]

OPEN_STATES = ("firing", "acknowledged")
_SORT = "-opened_at"


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """One firing of one rule on one run. The field names are those of its JSON."""

    id: str  # "<run>-<incident>"
    incident: str  # the engine's name for it, unique within the run
    run: str
    run_name: str
    project: str
    rule: str
    kind: str
    severity: str
    metric: str
    writer: str
    rank: int | None
    state: str  # firing | acknowledged | resolved
    step: int | None
    last_step: int | None
    resolved_step: int | None
    time: float
    value: float | None
    threshold: float | None
    baseline: float | None
    message: str
    resolution: str | None  # how it ended, in a sentence
    advice: str
    evidence: dict[str, Any]
    actions: tuple[str, ...]
    opened_at: float
    updated_at: float
    resolved_at: float | None
    acknowledged_at: float | None
    acknowledged_by: str | None
    snoozed_until: float | None


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """A transition that changed something."""

    incident: IncidentRow
    action: Action


def apply(conn: Connection, run_id: str, transitions: Sequence[Transition], now: float) -> list[IncidentChange]:
    """Write the engine's transitions down, in their order; what is already written changes nothing.

    Evidence is only ever added to: what was known when the incident opened stays when it resolves. ``message``,
    ``value``, ``threshold`` and ``baseline`` are of the latest transition that found the run unhealthy.
    """
    changes = []
    for transition in transitions:
        done = _write(conn, run_id, transition, now)
        if done is not None:
            row = get_incident(conn, incident_id(run_id, transition.incident))
            changes.append(IncidentChange(row, done))
    if changes:
        keep_health(conn, run_id)
    return changes


def incident_id(run_id: str, incident: str) -> str:
    """What the API calls the run's incident."""
    return f"{run_id}-{incident}"


def get_incident(conn: Connection, id: str) -> IncidentRow:
    """The incident with this id.

    Raises:
        NotFound: there is none.
    """
    row = conn.execute(_select().where(incidents.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFound("incident", id, "GET /api/v1/incidents lists them.")
    return _incident_row(row)


def find_incidents(conn: Connection, run_id: str, names: Collection[str]) -> dict[str, IncidentRow]:
    """Those incidents of a run that there are, by the engine's names for them."""
    query = _select().where(incidents.c.run_id == run_id, incidents.c.incident.in_(list(names)))
    return {row["incident"]: _incident_row(row) for row in conn.execute(query).mappings()}


def list_incidents(
    conn: Connection,
    *,
    run: str | None = None,
    project: str | None = None,
    state: str | None = None,
    severity: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[IncidentRow], str | None]:
    """One page of incidents, newest first, and the cursor of the next one, or None.

    Args:
        state: firing, acknowledged, resolved, or open for the first two.

    Raises:
        QueryError: an unknown state or severity, a foreign cursor, a limit out of range.
    """
    query = _select().where(*_filters(run, project, state, severity))
    if cursor is not None:
        query = query.where(
            after(incidents.c.opened_at, incidents.c.id, *decode_cursor(cursor, _SORT), descending=True)
        )
    query = query.order_by(incidents.c.opened_at.desc(), incidents.c.id.desc()).limit(page_size(limit) + 1)
    rows = [_incident_row(row) for row in conn.execute(query).mappings()]
    page = rows[:limit]
    return page, encode_cursor(_SORT, page[-1].opened_at, page[-1].id) if len(rows) > limit else None


def acknowledge(conn: Connection, id: str, by: str, now: float) -> IncidentRow:
    """Somebody has seen it. A resolved incident stays resolved; the first one to acknowledge it is kept."""
    get_incident(conn, id)
    conn.execute(
        sa.update(incidents)
        .where(incidents.c.id == id, incidents.c.acknowledged_at.is_(None))
        .values(
            acknowledged_at=now,
            acknowledged_by=by,
            updated_at=now,
            state=sa.case((incidents.c.state == "firing", "acknowledged"), else_=incidents.c.state),
        )
    )
    return get_incident(conn, id)


def snooze(conn: Connection, id: str, until: float, now: float) -> IncidentRow:
    """No notices of this incident until ``until`` (seconds, UTC)."""
    get_incident(conn, id)
    conn.execute(sa.update(incidents).where(incidents.c.id == id).values(snoozed_until=until, updated_at=now))
    return get_incident(conn, id)


def _write(conn: Connection, run_id: str, transition: Transition, now: float) -> Action | None:
    """What was done: an incident that is not known yet is opened, whatever the transition calls it."""
    if transition.action == "open":
        return _open(conn, run_id, transition, now)
    this = sa.and_(incidents.c.run_id == run_id, incidents.c.incident == transition.incident)
    row = conn.execute(sa.select(incidents).where(this).with_for_update()).mappings().one_or_none()
    if row is None:
        return None if transition.action == "resolve" else _open(conn, run_id, transition, now)
    if row["state"] == "resolved":
        return None
    conn.execute(sa.update(incidents).where(this).values(_changed(row, transition, now)))
    return transition.action


def _open(conn: Connection, run_id: str, transition: Transition, now: float) -> Action | None:
    opened = insert_new(conn, incidents, _opening(run_id, transition, now), key=("run_id", "incident"))
    return "open" if opened else None


def _opening(run_id: str, transition: Transition, now: float) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "incident": transition.incident,
        "id": incident_id(run_id, transition.incident),
        "rule": transition.rule,
        "kind": transition.kind,
        "severity": transition.severity,
        "metric": transition.metric,
        "writer": transition.writer,
        "state": "firing",
        "step": transition.step,
        "last_step": transition.step,
        "time": transition.time,
        "value": transition.value,
        "threshold": transition.threshold,
        "baseline": transition.baseline,
        "message": transition.message,
        "advice": transition.advice,
        "evidence": transition.evidence,
        "actions": transition.actions,
        "opened_at": now,
        "updated_at": now,
    }


def _changed(row: RowMapping, transition: Transition, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {"updated_at": now, "evidence": {**row["evidence"], **transition.evidence}}
    if transition.step is not None:
        values["last_step"] = max(transition.step, row["last_step"] or transition.step)
    if transition.action == "resolve":
        ended = {"state": "resolved", "resolved_at": now, "resolved_step": transition.step}
        return values | ended | {"resolution": transition.message}
    now_so = ("kind", "severity", "message", "actions")  # a spike that stays becomes an explosion
    values |= {name: getattr(transition, name) for name in now_so}
    known = {name: getattr(transition, name) for name in ("value", "threshold", "baseline")}
    values |= {name: value for name, value in known.items() if value is not None}
    if transition.advice:
        values["advice"] = transition.advice
    return values


def keep_health(conn: Connection, run_id: str) -> None:
    """Write down the run's health and how many incidents are open, from its incidents. Its row must be locked."""
    query = (
        sa.select(incidents.c.severity, sa.func.count())
        .where(incidents.c.run_id == run_id, incidents.c.state.in_(OPEN_STATES))
        .group_by(incidents.c.severity)
    )
    found: dict[str, int] = dict(conn.execute(query).all())
    counts = {f"open_{severity}": found.get(severity, 0) for severity in SEVERITIES}
    health = next((severity for severity in ("critical", "warning") if found.get(severity)), "healthy")
    conn.execute(sa.update(runs).where(runs.c.id == run_id).values(health=health, **counts))


def _select() -> sa.Select[Any]:
    columns = [column for column in incidents.c if column.name != "run_id"]
    about_run = (runs.c.id.label("run"), runs.c.name.label("run_name"), runs.c.project)
    return (
        sa.select(*columns, *about_run).join(runs, runs.c.id == incidents.c.run_id).where(runs.c.deleted_at.is_(None))
    )


_PLAIN = tuple(field.name for field in fields(IncidentRow) if field.name != "rank")


def _incident_row(row: RowMapping) -> IncidentRow:
    return IncidentRow(rank=rank_of(row["writer"]), **{name: row[name] for name in _PLAIN})


def _filters(
    run: str | None, project: str | None, state: str | None, severity: str | None
) -> list[sa.ColumnElement[bool]]:
    if state not in (None, "open", *OPEN_STATES, "resolved"):
        raise QueryError(f"An incident is never {state!r}", "Use firing, acknowledged, resolved or open.")
    if severity not in (None, *SEVERITIES):
        raise QueryError(f"There is no severity {severity!r}", f"Use {', '.join(SEVERITIES)}.")
    wanted = ((incidents.c.run_id, run), (runs.c.project, project), (incidents.c.severity, severity))
    conditions = [column == value for column, value in wanted if value is not None]
    if state is not None:
        conditions.append(incidents.c.state.in_(OPEN_STATES if state == "open" else (state,)))
    return conditions
