"""Retention: which ended runs a project no longer keeps. It only deletes; what is deleted can be restored for a while.

Age counts from when a run was last heard of, by the service's own clock: a recording that is shipped today is new,
however long ago it ended. Of a number of runs the newest are kept, by their creation. A run that runs or hangs is never
touched, and neither is one with the tag ``keep``, which is not counted either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.deletion import KEEP_TAG, RETENTION, delete_run
from holter_db.errors import QueryError
from holter_db.schema import projects, retention, runs
from holter_db.upsert import insert_for

__all__ = [
    "DAY",
    "KEEP_TAG",
    "Due",
    "Policy",
    "check_policy",
    "clear_policy",
    "delete_if_due",
    "due_runs",
    "get_policy",
    "own_policies",
    "policies",
    "set_policy",
]

ALIVE = ("running", "hung")  # a lost run may be over for good, and nobody will ever say so
DAY = 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project keeps; None: no limit of that kind."""

    days: float | None = None  # since a run was last heard of
    runs: int | None = None  # the newest ones

    @property
    def off(self) -> bool:
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Due:
    """A run that its project no longer keeps. The field names are those of its JSON."""

    run: str
    project: str
    name: str
    state: str
    created_at: float
    last_seen_at: float
    because: str


def get_policy(conn: Connection, project: str) -> Policy | None:
    """What was set for the project; None where the default holds."""
    row = conn.execute(sa.select(retention.c.days, retention.c.runs).where(retention.c.project == project))
    found = row.one_or_none()
    return None if found is None else Policy(*found)


def set_policy(conn: Connection, project: str, policy: Policy, now: float) -> None:
    """Set it for the project, whatever the default says; `Policy()` keeps everything.

    Raises:
        QueryError: a limit that keeps nothing at all.
    """
    check_policy(policy)
    values: dict[str, Any] = {"days": policy.days, "runs": policy.runs, "updated_at": now}
    insert = insert_for(conn.dialect.name, retention).values(project=project, **values)
    conn.execute(insert.on_conflict_do_update(index_elements=["project"], set_=values))


def check_policy(policy: Policy) -> None:
    """Raise `QueryError` unless the policy keeps something."""
    if policy.days is not None and not 0 < policy.days <= 1_000_000:
        raise QueryError(f"Runs can't be kept for {policy.days:g} days", "Give a number of days above 0, or none.")
    if policy.runs is not None and not 1 <= policy.runs <= 2**31 - 1:
        raise QueryError(f"{policy.runs} runs can't be kept", "Give a number of at least 1, or none.")


def clear_policy(conn: Connection, project: str) -> None:
    """The default holds for the project again."""
    conn.execute(sa.delete(retention).where(retention.c.project == project))


def own_policies(conn: Connection) -> set[str]:
    """The projects for which a policy was set."""
    return set(conn.scalars(sa.select(retention.c.project)))


def policies(conn: Connection, default: Policy) -> dict[str, Policy]:
    """What each project that there is keeps."""
    query = sa.select(projects.c.name, retention.c.project, retention.c.days, retention.c.runs)
    query = query.outerjoin(retention, retention.c.project == projects.c.name).order_by(projects.c.name)
    return {name: Policy(days, count) if own else default for name, own, days, count in conn.execute(query)}


def due_runs(conn: Connection, project: str, policy: Policy, now: float, limit: int = 100) -> list[Due]:
    """Runs that are not to be kept, the oldest first.

    Args:
        now: seconds, UTC.
    """
    found: dict[str, Due] = {}
    columns = [
        runs.c.id.label("run"),
        runs.c.project,
        runs.c.name,
        runs.c.state,
        runs.c.created_at,
        runs.c.last_seen_at,
    ]
    for condition, because in _limits(conn, project, policy, now):
        query = sa.select(*columns).where(runs.c.project == project, *_deletable(), condition)
        query = query.order_by(runs.c.created_at, runs.c.id).limit(limit)
        for row in conn.execute(query).mappings():
            found.setdefault(row["run"], Due(**row, because=because))
    return sorted(found.values(), key=lambda due: (due.created_at, due.run))[:limit]


def delete_if_due(conn: Connection, due: Due, now: float) -> bool:
    """Delete a run that was found due, unless it was resumed, tagged or deleted meanwhile. True if it was deleted."""
    query = sa.select(runs.c.id).where(runs.c.id == due.run, *_deletable(), runs.c.last_seen_at <= due.last_seen_at)
    if conn.scalar(query.with_for_update()) is None:
        return False
    delete_run(conn, due.run, now, f"{RETENTION}{due.because}")
    return True


def _limits(conn: Connection, project: str, policy: Policy, now: float) -> list[tuple[sa.ColumnElement[bool], str]]:
    limits: list[tuple[sa.ColumnElement[bool], str]] = []
    if policy.days is not None:
        moment = now - policy.days * DAY
        # A run can't be older than its last sign: so the index by creation leaves the newer ones out.
        long_ago = sa.and_(runs.c.last_seen_at < moment, runs.c.created_at < moment)
        limits.append((long_ago, f"last heard of more than {policy.days:g} days ago"))
    if policy.runs is not None:
        newest = sa.select(runs.c.created_at, runs.c.id).where(runs.c.project == project, *_counted())
        newest = newest.order_by(runs.c.created_at.desc(), runs.c.id.desc()).offset(policy.runs - 1).limit(1)
        if (last := conn.execute(newest).one_or_none()) is not None:
            older = sa.or_(
                runs.c.created_at < last.created_at,
                sa.and_(runs.c.created_at == last.created_at, runs.c.id < last.id),
            )
            limits.append((older, f"the project keeps its newest {policy.runs}"))
    return limits


def _counted() -> list[sa.ColumnElement[bool]]:
    tags = sa.type_coerce(runs.c.tags, sa.Text)
    return [runs.c.deleted_at.is_(None), sa.func.replace(tags, f"\n{KEEP_TAG}\n", "") == tags]


def _deletable() -> list[sa.ColumnElement[bool]]:
    return [*_counted(), runs.c.state.not_in(ALIVE)]
