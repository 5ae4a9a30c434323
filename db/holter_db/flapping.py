"""An incident that opens and resolves again and again is one flapping incident.

The third opening about one thing (rule, writer, metric) within the window is that incident. What the engine opens after
it is counted to it, until the condition has not been met for as long as the window.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import Transition
from holter_db.schema import incident_aliases, incidents, runs

__all__ = ["FLAP_OPENINGS", "FLAP_WINDOW_S", "alias", "openings", "real_name", "settled"]

FLAP_OPENINGS = 3
FLAP_WINDOW_S = 600.0


def real_name(conn: Connection, run_id: str, incident: str) -> str:
    """The name under which an incident of the engine's is kept."""
    of = (incident_aliases.c.run_id == run_id, incident_aliases.c.incident == incident)
    return conn.scalar(sa.select(incident_aliases.c.stands_for).where(*of)) or incident


def alias(conn: Connection, run_id: str, transition: Transition) -> str | None:
    """The open flapping incident about the same thing, which what opens now is counted to; None where there is none."""
    these = (*_about(run_id, transition), incidents.c.flaps > 0, incidents.c.state != "resolved")
    name: str | None = conn.scalar(sa.select(incidents.c.incident).where(*these).limit(1))
    if name is not None:
        values = {"run_id": run_id, "incident": transition.incident, "stands_for": name}
        conn.execute(sa.insert(incident_aliases), values)
    return name


def openings(conn: Connection, run_id: str, transition: Transition) -> list[int | None]:
    """The steps of the openings about the same thing that were resolved within the window before, oldest first.

    Time is that of the records, so that a recording that is shipped late is judged as a live one.
    """
    if not math.isfinite(transition.time):
        return []
    near = incidents.c.time.between(transition.time - FLAP_WINDOW_S, transition.time)
    over = incidents.c.state == "resolved"
    query = sa.select(incidents.c.step).where(*_about(run_id, transition), near, over)
    return list(conn.scalars(query.order_by(incidents.c.time, incidents.c.step)))


def settled(conn: Connection, now: float) -> list[tuple[str, str]]:
    """(run, incident) of what flaps no more: long enough unmet, or its run is over."""
    over = runs.c.state.not_in(("running", "lost", "hung"))
    query = (
        sa.select(incidents.c.run_id, incidents.c.incident)
        .join(runs, runs.c.id == incidents.c.run_id)
        .where(incidents.c.settled_at.is_not(None), incidents.c.state != "resolved")
        .where(sa.or_(incidents.c.settled_at <= now - FLAP_WINDOW_S, over))
    )
    return [(row[0], row[1]) for row in conn.execute(query)]


def _about(run_id: str, transition: Transition) -> tuple[Any, ...]:
    same = {"rule": transition.rule, "writer": transition.writer, "metric": transition.metric}
    return (incidents.c.run_id == run_id, *(incidents.c[name] == value for name, value in same.items()))
