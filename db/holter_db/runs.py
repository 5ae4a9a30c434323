"""The life of a run: start, attempts, signs of life, end."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import RunFinish, RunStart
from holter_db.deletion import absent, delete_run, deleted_run, restore_run
from holter_db.errors import Conflict, QueryError
from holter_db.locked import lock_runs, write_runs
from holter_db.many import bound, members
from holter_db.names import new_id, run_name
from holter_db.run_rows import LIVE_STATES, AttemptRow, LiveRun, ProjectRow, RunRow, WriterRow, run_row
from holter_db.run_search import list_runs, resolve_run, run_values, search_hint
from holter_db.schema import attempts, projects, purged_runs, runs, writers
from holter_db.searchable import keep_config, keep_tags
from holter_db.upsert import insert_new
from holter_db.writers import ENDS, end_writer, list_ranks, live_ranks, register_attempt, register_writer

__all__ = [
    "LIVE_STATES",
    "AttemptRow",
    "LiveRun",
    "ProjectRow",
    "RunRow",
    "WriterRow",
    "delete_run",
    "deleted_run",
    "finish_run",
    "get_facts",
    "get_run",
    "get_runs",
    "list_attempts",
    "list_projects",
    "list_ranks",
    "list_runs",
    "list_writers",
    "live_ranks",
    "live_runs",
    "resolve_run",
    "restore_run",
    "run_values",
    "search_hint",
    "set_state",
    "start_run",
    "touch_run",
    "update_run",
]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def start_run(conn: Connection, start: RunStart, now: float) -> RunRow:
    """Open a run, or a new attempt of it. The same id and attempt again changes nothing but adds a new writer.

    Args:
        now: seconds, UTC.

    Raises:
        QueryError: the id or the project can't be kept.
        Gone: the run was deleted, or purged.
        Conflict: it belongs to another project.
    """
    _check(start)
    insert_new(conn, projects, {"name": start.project, "created_at": now}, key=("name",))
    run_id = start.id or _unused_id(conn, now)
    values = _first_values(conn, start, run_id, now)
    created = insert_new(conn, runs, values, key=("id",))
    if created and conn.scalar(sa.select(purged_runs.c.run_id).where(purged_runs.c.run_id == run_id)):
        raise absent(conn, run_id)
    if created:
        keep_config(conn, run_id, start.config)
        keep_tags(conn, run_id, start.tags)
    row = conn.execute(sa.select(runs).where(runs.c.id == run_id).with_for_update()).mappings().one()
    if row["deleted_at"] is not None:
        raise absent(conn, run_id)
    if row["project"] != start.project:
        raise Conflict(
            f"Run {run_id!r} belongs to the project {row['project']!r}, not {start.project!r}",
            "Start it under another id, or name its own project.",
        )
    number, opened = register_attempt(conn, run_id, start.attempt, values["started_at"])
    _, introduced = register_writer(conn, run_id, number, start.writer, now)
    if opened and not created:
        _reopen(conn, row, start, number, now)
    elif introduced and number == row["attempt"] and row["state"] in ("finished", "stopped"):
        # A rank that comes after the others have ended: nobody could know that it would.
        set_state(conn, run_id, "running", None, now)
    return get_run(conn, run_id)


def _check(start: RunStart) -> None:
    if start.id is not None and not _ID.fullmatch(start.id):
        raise QueryError(
            f"{start.id[:80]!r} can't be a run's id", "Use 1 to 64 letters, digits, '.', '_' and '-', or leave it away."
        )
    if not start.project.strip() or len(start.project) > 128 or "/" in start.project or "\x00" in start.project:
        raise QueryError(f"{start.project[:80]!r} can't be a project's name", "Use 1 to 128 characters without '/'.")


def _unused_id(conn: Connection, now: float) -> str:
    while conn.scalar(sa.select(runs.c.id).where(runs.c.id == (id := new_id(now)))) is not None:
        pass
    return id


def _first_values(conn: Connection, start: RunStart, run_id: str, now: float) -> dict[str, Any]:
    started_at = now if start.started_at is None else start.started_at
    return {
        "id": run_id,
        "project": start.project,
        "name": start.name or run_name(_runs_of(conn, start.project) + 1),
        "group": start.group,
        "notes": start.notes,
        "tags": tuple(start.tags),
        "config": start.config,
        "environment": start.environment,
        "state": "running",
        "health": "healthy",
        "open_critical": 0,
        "open_warning": 0,
        "open_info": 0,
        "created_at": now,
        "started_at": started_at,
        "last_seen_at": now,
        "planned_steps": start.planned_steps,
        "attempt": 1,
        "position": 0,
        "folds": 0,
        "compacted": 0,
        "revision": 0,
    }


def _runs_of(conn: Connection, project: str) -> int:
    return conn.scalar(sa.select(sa.func.count()).select_from(runs).where(runs.c.project == project)) or 0


def _reopen(conn: Connection, row: sa.RowMapping, start: RunStart, number: int, now: float) -> None:
    """A new attempt: running again. What this start says anew replaces what was known; the rest stays."""
    said = {"name": start.name, "group": start.group, "notes": start.notes, "planned_steps": start.planned_steps}
    values: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    values |= {key: value for key, value in (("config", start.config), ("environment", start.environment)) if value}
    tags = tuple(dict.fromkeys((*row["tags"], *start.tags)))
    conn.execute(
        sa.update(runs)
        .where(runs.c.id == row["id"])
        .values(
            **values,
            tags=tags,
            state="running",
            state_reason=None,
            finished_at=None,
            started_at=now if start.started_at is None else start.started_at,
            last_seen_at=now,
            due_at=None,
            last_step_at=None,  # so that the next step is taken as it is, even if it is smaller
            attempt=number,
            revision=runs.c.revision + 1,
        )
    )
    if start.config:
        keep_config(conn, row["id"], start.config)
    if start.tags:
        keep_tags(conn, row["id"], tags)


def finish_run(conn: Connection, run_id: str, finish: RunFinish, now: float) -> RunRow:
    """Write down how a rank ended, and with it the attempt if that decides it, and the run if it is the newest attempt.

    One rank's failure decides. Otherwise an attempt has ended once all of its ranks have: stopped if one was stopped.
    A worse end replaces a milder one; the same end again changes nothing.
    """
    row = _locked(conn, run_id)
    ended_at = now if finish.time is None else finish.time
    number = row["attempt"]
    if finish.attempt:
        number, _ = register_attempt(conn, run_id, finish.attempt, ended_at)
    if finish.writer:
        register_writer(conn, run_id, number, finish.writer, now)
    end_writer(conn, run_id, number, finish, ended_at)
    ranks = list_ranks(conn, run_id, number)
    end = _end_of(ranks) if ranks else _End(finish.state, finish.reason, ended_at)
    if end is None:
        return get_run(conn, run_id)
    values = {"state": end.state, "state_reason": end.reason, "finished_at": end.at}

    def replaceable(table: sa.Table) -> sa.ColumnElement[bool]:
        # Ranks that failed because one did may be heard of before it.
        milder = table.c.state.in_((*LIVE_STATES, *ENDS[: ENDS.index(end.state)]))
        earlier = sa.and_(table.c.state == end.state, table.c.finished_at > end.at)
        return sa.or_(milder, earlier) if end.state == "failed" else milder

    this_attempt = sa.and_(attempts.c.run_id == run_id, attempts.c.attempt == number)
    conn.execute(sa.update(attempts).where(this_attempt, replaceable(attempts)).values(values))
    if number >= row["attempt"]:
        this_run = sa.and_(runs.c.id == run_id, replaceable(runs))
        conn.execute(sa.update(runs).where(this_run).values(attempt=number, due_at=None, **values))
    return get_run(conn, run_id)


class _End(NamedTuple):
    """How an attempt ended."""

    state: str
    reason: str | None
    at: float  # seconds, UTC


def _end_of(ranks: Sequence[WriterRow]) -> _End | None:
    failed = sorted((rank for rank in ranks if rank.state == "failed"), key=lambda rank: rank.finished_at or 0.0)
    if failed:
        # The first failure is the cause; the others are ranks that waited for it in vain.
        return _End("failed", _blamed(failed[0], ranks), failed[0].finished_at or 0.0)
    if any(rank.state == "running" for rank in ranks):
        return None
    state = "stopped" if any(rank.state == "stopped" for rank in ranks) else "finished"
    reasons = (rank.state_reason for rank in ranks if rank.state == state and rank.state_reason)
    return _End(state, next(reasons, None), max(rank.finished_at or 0.0 for rank in ranks))


def _blamed(failed: WriterRow, ranks: Sequence[WriterRow]) -> str | None:
    unanimous = all((rank.state, rank.state_reason) == (failed.state, failed.state_reason) for rank in ranks)
    if unanimous and len(ranks) >= (failed.world_size or 1):
        return failed.state_reason  # the only rank, or one word for all of them
    return f"{failed.name}: {failed.state_reason}" if failed.state_reason else f"{failed.name} failed"


def get_run(conn: Connection, run_id: str, *, lock: bool = False) -> RunRow:
    """The run with exactly this id.

    Args:
        lock: hold its row until the transaction ends. What writes rows of a run takes this lock first, so that two
            servers on one PostgreSQL never wait for each other.

    Raises:
        NotFound: there is none; `Gone` if it was deleted.
    """
    query = sa.select(runs).where(runs.c.id == run_id, runs.c.deleted_at.is_(None))
    row = conn.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise absent(conn, run_id)
    return run_row(row)


_FACTS = sa.select(runs.c.planned_steps, runs.c.config, runs.c.tags).where(
    runs.c.id == sa.bindparam("run", type_=runs.c.id.type)
)


def get_facts(conn: Connection, run_id: str) -> tuple[int | None, dict[str, Any], tuple[str, ...]]:
    """Planned steps, config and tags: what rules may ask of a run. Changes of these make a new revision of the run."""
    planned_steps, config, tags = conn.execute(_FACTS, {"run": run_id}).one()
    return planned_steps, config, tags


def get_runs(conn: Connection, run_ids: Collection[str]) -> list[RunRow]:
    """The runs with these ids, by id; those that don't exist or were deleted are left out."""
    these = (runs.c.id.in_(members(conn.dialect.name, "ids")), runs.c.deleted_at.is_(None))
    found = conn.execute(sa.select(runs).where(*these).order_by(runs.c.id), {"ids": bound(run_ids)})
    return [run_row(row) for row in found.mappings()]


def list_attempts(conn: Connection, run_id: str) -> list[AttemptRow]:
    """The attempts of a run, oldest first."""
    columns = [attempts.c[name] for name in AttemptRow.__slots__]
    query = sa.select(*columns).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
    return [AttemptRow(*row) for row in conn.execute(query)]


def list_writers(conn: Connection, run_id: str) -> list[WriterRow]:
    """The writers of all attempts of a run, in the order in which they appeared."""
    columns = [writers.c[name] for name in WriterRow.__slots__]
    query = sa.select(*columns).where(writers.c.run_id == run_id).order_by(writers.c.writer_id)
    return [WriterRow(*row) for row in conn.execute(query)]


def update_run(
    conn: Connection,
    run_id: str,
    *,
    name: str | None = None,
    notes: str | None = None,
    tags: list[str] | None = None,
    group: str | None = None,
    config: dict[str, Any] | None = None,
) -> RunRow:
    """Change what people may change; None leaves a field as it is, "" empties notes or group.

    Raises:
        QueryError: the name is empty.
    """
    if name is not None and not name.strip():
        raise QueryError("A run's name can't be empty", "Send a name of at least one character.")
    values: dict[str, Any] = {"name": name, "config": config, "tags": None if tags is None else tuple(tags)}
    values = {key: value for key, value in values.items() if value is not None}
    values |= {key: value or None for key, value in (("notes", notes), ("group", group)) if value is not None}
    _locked(conn, run_id)
    if values:
        conn.execute(sa.update(runs).where(runs.c.id == run_id).values(**values, revision=runs.c.revision + 1))
    if config is not None:
        keep_config(conn, run_id, config)
    if tags is not None:
        keep_tags(conn, run_id, tags)
    return get_run(conn, run_id)


def touch_run(
    conn: Connection,
    run_id: str,
    *,
    seen_at: float,
    due_at: float | None = None,
    last_step: int | None = None,
    last_step_at: float | None = None,
    attempt: int | None = None,
) -> None:
    """Write down a sign of life. Steps of an attempt older than the run's newest don't move ``last_step``.

    Args:
        due_at: when the agent promised the next sign at the latest; None leaves the promise as it is.
        last_step_at: seconds, UTC, of the service's clock.
    """
    run = lock_runs(conn, [run_id]).get(run_id)
    if run is None:
        raise absent(conn, run_id)
    run.hear(seen_at, due_at)
    if last_step is not None and last_step_at is not None and (attempt is None or attempt >= run.attempt):
        run.reach(last_step, last_step_at)
    write_runs(conn, [run])


def set_state(conn: Connection, run_id: str, state: str, reason: str | None, now: float) -> RunRow:
    """Set the state; a state that ends the run gets ``finished_at`` = ``now``."""
    values: dict[str, Any] = {"state": state, "state_reason": reason}
    values["finished_at"] = None if state in LIVE_STATES else now
    row = _locked(conn, run_id)
    conn.execute(sa.update(runs).where(runs.c.id == run_id).values(values))
    this_attempt = sa.and_(attempts.c.run_id == run_id, attempts.c.attempt == row["attempt"])
    conn.execute(sa.update(attempts).where(this_attempt).values(values))
    return get_run(conn, run_id)


def live_runs(conn: Connection) -> list[LiveRun]:
    """Every run that is running, lost or hung."""
    columns = [runs.c[name] for name in LiveRun.__slots__]
    query = sa.select(*columns).where(runs.c.state.in_(LIVE_STATES), runs.c.deleted_at.is_(None)).order_by(runs.c.id)
    return [LiveRun(*row) for row in conn.execute(query)]


def list_projects(conn: Connection) -> list[ProjectRow]:
    """Every project, by name."""
    running = sa.func.coalesce(sa.func.sum(sa.case((runs.c.state.in_(LIVE_STATES), 1), else_=0)), 0)
    alive = sa.and_(runs.c.project == projects.c.name, runs.c.deleted_at.is_(None))
    query = (
        sa.select(projects.c.name, sa.func.count(runs.c.id), running, sa.func.max(runs.c.last_seen_at))
        .select_from(projects.outerjoin(runs, alive))
        .group_by(projects.c.name)
        .order_by(projects.c.name)
    )
    return [ProjectRow(name, count, live, seen) for name, count, live, seen in conn.execute(query)]


def _locked(conn: Connection, run_id: str) -> sa.RowMapping:
    query = sa.select(runs).where(runs.c.id == run_id, runs.c.deleted_at.is_(None)).with_for_update()
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise absent(conn, run_id)
    return row
