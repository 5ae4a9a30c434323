"""Retention: which runs a project no longer keeps, or keeps without their raw points.

What it deletes can be restored for a while; raw points that it drops are gone, and the pyramids for charts stay. Age
counts from when a run was last heard of, by the service's own clock: a recording that is shipped today is new,
however long ago it ended. Of a number of runs the newest are kept, by their creation. A run that runs or hangs is never
touched, and neither is one with the tag ``keep``, which is not counted either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.deletion import KEEP_TAG, RETENTION, delete_run
from holter_db.errors import QueryError
from holter_db.schema import chunks, projects, retention, runs
from holter_db.thin import thin_run
from holter_db.upsert import insert_for

__all__ = [
    "DAY",
    "KEEP_TAG",
    "Due",
    "Policy",
    "carry_out",
    "check_policy",
    "clear_policy",
    "due_runs",
    "get_policy",
    "own_policies",
    "policies",
    "set_policy",
]

ALIVE = ("running", "hung")  # a lost run may be over for good, and nobody will ever say so
DAY = 86_400.0  # seconds
THINNED_AT_ONCE = 16  # chunks, of half a megabyte at most: measured, 9 million points in one go took 0.4 s


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project keeps; None: no limit of that kind."""

    days: float | None = None  # since a run was last heard of
    runs: int | None = None  # the newest ones
    raw_days: float | None = None  # since a run was last heard of, for its raw points

    @property
    def off(self) -> bool:
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Due:
    """A run that its project no longer keeps as it is. The field names are those of its JSON."""

    deed: Literal["delete", "thin"]  # thin: drop the raw points
    run: str
    project: str
    name: str
    state: str
    created_at: float
    last_seen_at: float
    because: str


_LIMITS = (retention.c.days, retention.c.runs, retention.c.raw_days)  # in the order of `Policy`
_ABOUT = (
    runs.c.id.label("run"),
    runs.c.project,
    runs.c.name,
    runs.c.state,
    runs.c.created_at,
    runs.c.last_seen_at,
)


def get_policy(conn: Connection, project: str) -> Policy | None:
    """What was set for the project; None where the default holds."""
    found = conn.execute(sa.select(*_LIMITS).where(retention.c.project == project)).one_or_none()
    return None if found is None else Policy(*found)


def set_policy(conn: Connection, project: str, policy: Policy, now: float) -> None:
    """Set it for the project, whatever the default says; `Policy()` keeps everything.

    Raises:
        QueryError: a limit that keeps nothing at all.
    """
    check_policy(policy)
    values: dict[str, Any] = {"days": policy.days, "runs": policy.runs, "raw_days": policy.raw_days, "updated_at": now}
    insert = insert_for(conn.dialect.name, retention).values(project=project, **values)
    conn.execute(insert.on_conflict_do_update(index_elements=["project"], set_=values))


def check_policy(policy: Policy) -> None:
    """Raise `QueryError` unless the policy keeps something."""
    for what, days in (("Runs", policy.days), ("Raw points", policy.raw_days)):
        if days is not None and not 0 < days <= 1_000_000:
            raise QueryError(f"{what} can't be kept for {days:g} days", "Give a number of days above 0, or none.")
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
    query = sa.select(projects.c.name, retention.c.project, *_LIMITS)
    query = query.outerjoin(retention, retention.c.project == projects.c.name).order_by(projects.c.name)
    return {name: Policy(*limits) if own else default for name, own, *limits in conn.execute(query)}


def due_runs(conn: Connection, project: str, policy: Policy, now: float, limit: int = 100) -> list[Due]:
    """Runs that are not to be kept, or not whole, the oldest first.

    Args:
        now: seconds, UTC.
    """
    found: dict[str, Due] = {}
    for deed, condition, because in _limits(conn, project, policy, now):
        query = sa.select(*_ABOUT).where(runs.c.project == project, *_free(), condition)
        query = query.order_by(runs.c.created_at, runs.c.id).limit(limit)
        for row in conn.execute(query).mappings():
            found.setdefault(row["run"], Due(deed, **row, because=because))
    return sorted(found.values(), key=lambda due: (due.created_at, due.run))[:limit]


def carry_out(conn: Connection, due: Due, now: float) -> bool:
    """Delete or thin a run that was found due. False if it was resumed, tagged or deleted meanwhile.

    Of a large run some chunks are thinned, and it stays due: nobody else can write for as long as this takes.
    """
    query = sa.select(runs.c.id).where(runs.c.id == due.run, *_free(), runs.c.last_seen_at <= due.last_seen_at)
    if conn.scalar(query.with_for_update()) is None:
        return False
    if due.deed == "thin":
        return thin_run(conn, due.run, THINNED_AT_ONCE) > 0
    delete_run(conn, due.run, now, f"{RETENTION}{due.because}")
    return True


_Limit = tuple[Literal["delete", "thin"], sa.ColumnElement[bool], str]


def _limits(conn: Connection, project: str, policy: Policy, now: float) -> list[_Limit]:
    limits: list[_Limit] = []
    if policy.days is not None:
        limits.append(("delete", _silent_since(now - policy.days * DAY), _LONG_AGO.format(policy.days)))
    if policy.runs is not None:
        newest = sa.select(runs.c.created_at, runs.c.id).where(runs.c.project == project, *_counted())
        newest = newest.order_by(runs.c.created_at.desc(), runs.c.id.desc()).offset(policy.runs - 1).limit(1)
        if (last := conn.execute(newest).one_or_none()) is not None:
            older = sa.or_(
                runs.c.created_at < last.created_at,
                sa.and_(runs.c.created_at == last.created_at, runs.c.id < last.id),
            )
            limits.append(("delete", older, f"the project keeps its newest {policy.runs}"))
    if policy.raw_days is not None:
        long_ago = sa.and_(_silent_since(now - policy.raw_days * DAY), *_thinnable())
        limits.append(("thin", long_ago, _LONG_AGO.format(policy.raw_days)))
    return limits


_LONG_AGO = "last heard of more than {:g} days ago"


def _silent_since(moment: float) -> sa.ColumnElement[bool]:
    # A run can't be older than its last sign: so the index by creation leaves the newer ones out.
    return sa.and_(runs.c.last_seen_at < moment, runs.c.created_at < moment)


def _thinnable() -> list[sa.ColumnElement[bool]]:
    """Compacted for good, and with raw points in a chunk that has a pyramid."""
    raw = sa.exists().where(chunks.c.run_id == runs.c.id, chunks.c.raw, chunks.c.cells.is_not(None))
    return [runs.c.compacted >= runs.c.position, raw]


def _counted() -> list[sa.ColumnElement[bool]]:
    tags = sa.type_coerce(runs.c.tags, sa.Text)
    return [runs.c.deleted_at.is_(None), sa.func.replace(tags, f"\n{KEEP_TAG}\n", "") == tags]


def _free() -> list[sa.ColumnElement[bool]]:
    return [*_counted(), runs.c.state.not_in(ALIVE)]
