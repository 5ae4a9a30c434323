"""How many there are of what: the numbers that operators watch."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.schema import deliveries, runs

__all__ = ["deliveries_by_state", "open_incidents", "runs_by_state"]


def runs_by_state(conn: Connection) -> dict[str, int]:
    """Runs that were not deleted, by state; a state that no run is in is absent."""
    query = sa.select(runs.c.state, sa.func.count()).where(runs.c.deleted_at.is_(None)).group_by(runs.c.state)
    return dict(conn.execute(query).all())


def deliveries_by_state(conn: Connection) -> dict[str, int]:
    """Deliveries by state; a state that none is in is absent."""
    query = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
    return dict(conn.execute(query).all())


def open_incidents(conn: Connection) -> dict[str, int]:
    """Open incidents of runs that were not deleted, by severity."""
    columns = [runs.c.open_critical, runs.c.open_warning, runs.c.open_info]
    totals = (sa.func.coalesce(sa.func.sum(column), 0) for column in columns)
    critical, warning, info = conn.execute(sa.select(*totals).where(runs.c.deleted_at.is_(None))).one()
    return {"critical": int(critical), "warning": int(warning), "info": int(info)}
