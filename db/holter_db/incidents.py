"""Incidents: the engine's transitions written down once, with their evidence, and the run's health kept in step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from holter.health.model import SEVERITIES, Action, Transition
from holter_db.cursors import after, decode_cursor, encode_cursor, page_size
from holter_db.errors import NotFound, QueryError
from holter_db.flapping import FLAP_OPENINGS, FLAP_WINDOW_S, alias, openings, real_name
from holter_db.mutes import mute_of
from holter_db.schema import incidents, runs
from holter_db.upsert import insert_new
from holter_db.writers import rank_of

__all__ = [
    "OPEN_STATES",
    "IncidentChange",
    "IncidentRow",
    "acknowledge",
    "apply",
    "end_flapping",
    "find_incidents",
    "get_incident",
    "incident_id",
    "keep_health",
    "list_incidents",
    "resolve",
    "snooze",
    "snoozes_over",
    "unsnooze",
    "waiting_to_repeat",
]

OPEN_STATES = ("firing", "acknowledged", "snoozed")
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
    state: str  # firing | acknowledged | snoozed | resolved
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
    muted: str | None  # the mute under which it falls
    flaps: int  # times that a flapping incident has opened; 0: it does not flap


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """A transition that changed something. What a flapping incident does is an update of it."""

    incident: IncidentRow
    action: Action


def apply(conn: Connection, run_id: str, transitions: Sequence[Transition], now: float) -> list[IncidentChange]:
    """Write the engine's transitions down, in their order; what is already written changes nothing.

    Evidence is only ever added to: what was known when the incident opened stays when it resolves. ``message``,
    ``value``, ``threshold`` and ``baseline`` are of the latest transition that found the run unhealthy.
    """
    changes = []
    for transition in transitions:
        named = replace(transition, incident=real_name(conn, run_id, transition.incident))
        done = _write(conn, run_id, named, now)
        if done is not None:
            name = real_name(conn, run_id, transition.incident)  # an opening may have been counted to another one
            changes.append(IncidentChange(get_incident(conn, incident_id(run_id, name)), done))
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
        state: firing, acknowledged, snoozed, resolved, or open for the first three.

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
            state=sa.case((incidents.c.state.in_(("firing", "snoozed")), "acknowledged"), else_=incidents.c.state),
        )
    )
    return get_incident(conn, id)


def snooze(conn: Connection, id: str, until: float, now: float) -> IncidentRow:
    """No notices of this incident until ``until`` (seconds, UTC). A resolved incident stays resolved."""
    get_incident(conn, id)
    state = sa.case((incidents.c.state == "resolved", "resolved"), else_="snoozed")
    values = {"snoozed_until": until, "updated_at": now, "state": state}
    conn.execute(sa.update(incidents).where(incidents.c.id == id).values(values))
    return get_incident(conn, id)


def unsnooze(conn: Connection, id: str, now: float) -> IncidentRow:
    """The snooze is over: it is what it was before."""
    state = sa.case((incidents.c.acknowledged_at.is_not(None), "acknowledged"), else_="firing")
    mine = (incidents.c.id == id, incidents.c.state == "snoozed")
    conn.execute(sa.update(incidents).where(*mine).values(state=state, snoozed_until=None, updated_at=now))
    return get_incident(conn, id)


def snoozes_over(conn: Connection, now: float) -> list[tuple[str, str]]:
    """(run, id) of the incidents whose snooze has ended."""
    query = sa.select(incidents.c.run_id, incidents.c.id)
    query = query.where(incidents.c.state == "snoozed", incidents.c.snoozed_until <= now)
    return [(row[0], row[1]) for row in conn.execute(query)]


def waiting_to_repeat(conn: Connection) -> list[IncidentRow]:
    """What fires and nobody has acknowledged, snoozed or muted."""
    nobody = (incidents.c.state == "firing", incidents.c.muted.is_(None), incidents.c.settled_at.is_(None))
    return [_incident_row(row) for row in conn.execute(_select().where(*nobody)).mappings()]


def resolve(conn: Connection, id: str, resolution: str, now: float) -> IncidentRow | None:
    """Somebody says that it is over; None if it was already. What its rule says of it later changes nothing."""
    row = get_incident(conn, id)
    if row.state == "resolved":
        return None
    ended = {"state": "resolved", "resolved_at": now, "resolved_step": row.last_step, "resolution": resolution}
    conn.execute(sa.update(incidents).where(incidents.c.id == id).values(**ended, updated_at=now, settled_at=None))
    keep_health(conn, row.run)
    return get_incident(conn, id)


def end_flapping(conn: Connection, run_id: str, incident: str, now: float) -> IncidentRow | None:
    """A flapping incident has not been met for long enough: it resolves. None if that is not so any more."""
    row = get_incident(conn, incident_id(run_id, incident))
    unmet = sa.select(incidents.c.settled_at).where(incidents.c.id == row.id)
    if conn.scalar(unmet) is None:
        return None
    return resolve(conn, row.id, f"It opened {row.flaps} times and has been quiet since step {row.last_step}", now)


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
    if row["flaps"] and transition.action == "resolve":
        conn.execute(sa.update(incidents).where(this).values(settled_at=now, **_reached(row, transition, now)))
        return "update"
    conn.execute(sa.update(incidents).where(this).values(_changed(row, transition, now)))
    return transition.action


def _open(conn: Connection, run_id: str, transition: Transition, now: float) -> Action | None:
    this = (incidents.c.run_id == run_id, incidents.c.incident == transition.incident)
    if conn.scalar(sa.select(sa.literal(1)).where(*this)) is not None:
        return None
    flapping = alias(conn, run_id, transition)
    if flapping is not None:
        _reopen(conn, run_id, flapping, transition, now)
        return "update"
    values = _opening(run_id, transition, now)
    steps = [*openings(conn, run_id, transition), transition.step]
    if len(steps) >= FLAP_OPENINGS:
        values["flaps"] = len(steps)
        values["evidence"] = {**transition.evidence, "flapping": {"opened_at_steps": steps, "within_s": FLAP_WINDOW_S}}
    values["muted"] = mute_of(conn, run_id, transition.rule, transition.metric, now)
    opened = insert_new(conn, incidents, values, key=("run_id", "incident"))
    return "open" if opened else None


def _reopen(conn: Connection, run_id: str, incident: str, transition: Transition, now: float) -> None:
    this = sa.and_(incidents.c.run_id == run_id, incidents.c.incident == incident)
    row = conn.execute(sa.select(incidents).where(this)).mappings().one()
    again = replace(transition, incident=incident, action="update")
    values = _changed(row, again, now) | {"flaps": row["flaps"] + 1, "settled_at": None}
    conn.execute(sa.update(incidents).where(this).values(values))


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
        "flaps": 0,
    }


def _changed(row: RowMapping, transition: Transition, now: float) -> dict[str, Any]:
    values = _reached(row, transition, now)
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


def _reached(row: RowMapping, transition: Transition, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {"updated_at": now, "evidence": {**row["evidence"], **transition.evidence}}
    if transition.step is not None:
        values["last_step"] = max(transition.step, row["last_step"] or transition.step)
    return values


def keep_health(conn: Connection, run_id: str) -> None:
    """Count the run's open incidents anew; those that are muted or have settled don't make it unhealthy."""
    query = (
        sa.select(incidents.c.severity, sa.func.count())
        .where(incidents.c.run_id == run_id, incidents.c.state.in_(OPEN_STATES))
        .where(incidents.c.muted.is_(None), incidents.c.settled_at.is_(None))
        .group_by(incidents.c.severity)
    )
    found: dict[str, int] = dict(conn.execute(query).all())
    counts = {f"open_{severity}": found.get(severity, 0) for severity in SEVERITIES}
    health = next((severity for severity in ("critical", "warning") if found.get(severity)), "healthy")
    conn.execute(sa.update(runs).where(runs.c.id == run_id).values(health=health, **counts))


def _select() -> sa.Select[Any]:
    columns = [column for column in incidents.c if column.name not in ("run_id", "settled_at")]
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
        raise QueryError(f"An incident is never {state!r}", "Use firing, acknowledged, snoozed, resolved or open.")
    if severity not in (None, *SEVERITIES):
        raise QueryError(f"There is no severity {severity!r}", f"Use {', '.join(SEVERITIES)}.")
    wanted = ((incidents.c.run_id, run), (runs.c.project, project), (incidents.c.severity, severity))
    conditions = [column == value for column, value in wanted if value is not None]
    if state is not None:
        conditions.append(incidents.c.state.in_(OPEN_STATES if state == "open" else (state,)))
    return conditions
