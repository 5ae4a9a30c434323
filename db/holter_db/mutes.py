"""Rules that somebody does not want to hear of here: for one run or a project, for one metric or all of them.

A muted incident is written down with its evidence like any other. It does not count as bad health, nobody is told, and
nothing is asked of the training because of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.patterns import matches
from holter_db.errors import NotFound
from holter_db.names import new_id
from holter_db.schema import incidents, mutes, runs

__all__ = ["MuteRow", "add_mute", "delete_mute", "end_mutes", "get_mute", "list_mutes", "mute_of"]


@dataclass(frozen=True, slots=True)
class MuteRow:
    """One mute. The field names are those of its JSON."""

    id: str
    project: str
    run: str | None  # None: every run of the project
    rule: str
    metric: str  # a glob; "": every metric
    until: float | None
    author: str
    comment: str
    created_at: float

    def covers(self, run_id: str, rule: str, metric: str) -> bool:
        """Whether an incident of the mute's project falls under it.

        >>> mute = MuteRow("1", "denovo", None, "loss-explosion", "val/*", None, "", "", 0.0)
        >>> mute.covers("r", "loss-explosion", "val/loss"), mute.covers("r", "loss-explosion", "loss")
        (True, False)
        """
        here = self.run in (None, run_id) and self.rule == rule
        return here and (not self.metric or matches(self.metric, metric))


def add_mute(
    conn: Connection,
    project: str,
    rule: str,
    now: float,
    *,
    run: str | None = None,
    metric: str = "",
    until: float | None = None,
    author: str = "",
    comment: str = "",
) -> tuple[MuteRow, list[str]]:
    """Mute a rule from now on, and what of it is open; the mute, and the ids of the incidents that it silences."""
    row = MuteRow(new_id(now), project, run, rule, metric, until, author, comment, now)
    values = {name: getattr(row, name) for name in MuteRow.__slots__ if name != "run"}
    conn.execute(sa.insert(mutes), {**values, "run_id": run})
    query = (
        sa.select(incidents.c.run_id, incidents.c.id, incidents.c.metric)
        .join(runs, runs.c.id == incidents.c.run_id)
        .where(runs.c.project == project, incidents.c.rule == rule, incidents.c.muted.is_(None))
        .where(incidents.c.state != "resolved", runs.c.id == run if run is not None else sa.true())
    )
    silenced = [found.id for found in conn.execute(query).all() if row.covers(found.run_id, rule, found.metric)]
    conn.execute(sa.update(incidents).where(incidents.c.id.in_(silenced)).values(muted=row.id))
    return row, silenced


def delete_mute(conn: Connection, id: str) -> list[str]:
    """Take a mute away; the ids of the open incidents that it has silenced.

    Raises:
        NotFound: there is no such mute.
    """
    get_mute(conn, id)
    conn.execute(sa.delete(mutes).where(mutes.c.id == id))
    open_now = (incidents.c.muted == id, incidents.c.state != "resolved")
    heard = sa.update(incidents).where(*open_now).values(muted=None).returning(incidents.c.id)
    return list(conn.execute(heard).scalars())


def end_mutes(conn: Connection, now: float) -> list[str]:
    """The ids of the mutes whose time is over."""
    return list(conn.scalars(sa.select(mutes.c.id).where(mutes.c.until <= now)))


def get_mute(conn: Connection, id: str) -> MuteRow:
    """The mute with this id.

    Raises:
        NotFound: there is none.
    """
    found = _rows(conn, mutes.c.id == id)
    if not found:
        raise NotFound("mute", id, "GET /api/v1/mutes lists them.")
    return found[0]


def list_mutes(conn: Connection, *, project: str | None = None, run: str | None = None) -> list[MuteRow]:
    """Mutes, oldest first; of a run: those that are for it alone and those of its whole project."""
    conditions = [] if project is None else [mutes.c.project == project]
    if run is not None:
        of_run = sa.select(runs.c.project).where(runs.c.id == run).scalar_subquery()
        conditions += [mutes.c.project == of_run, sa.or_(mutes.c.run_id.is_(None), mutes.c.run_id == run)]
    return _rows(conn, *conditions)


def mute_of(conn: Connection, run_id: str, rule: str, metric: str, now: float) -> str | None:
    """The id of the mute under which an incident of this rule falls, None where there is none."""
    in_force = (row for row in list_mutes(conn, run=run_id) if row.until is None or row.until > now)
    return next((row.id for row in in_force if row.covers(run_id, rule, metric)), None)


def _rows(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[MuteRow]:
    columns = [mutes.c["run_id" if name == "run" else name] for name in MuteRow.__slots__]
    query = sa.select(*columns).where(*conditions).order_by(mutes.c.created_at, mutes.c.id)
    return [MuteRow(*row) for row in conn.execute(query)]
