"""Finding runs: one by what a person typed, many by filters, in a stable order."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.cursors import after, decode_cursor, encode_cursor, page_size
from holter_db.deletion import absent
from holter_db.errors import Conflict, Gone, NotFound, QueryError
from holter_db.run_rows import RunRow, run_row
from holter_db.schema import runs
from holter_db.types import line

__all__ = ["SORT_KEYS", "list_runs", "resolve_run"]

_NO_STEP = -(2**63)

SORT_KEYS: dict[str, sa.ColumnElement[Any]] = {
    "created_at": runs.c.created_at,
    "name": runs.c.name,
    "last_seen_at": runs.c.last_seen_at,
    "last_step": sa.func.coalesce(runs.c.last_step, _NO_STEP),
    "state": runs.c.state,
}


def list_runs(
    conn: Connection,
    *,
    project: str | None = None,
    state: str | None = None,
    health: str | None = None,
    tag: str | None = None,
    q: str | None = None,
    sort: str = "-created_at",
    limit: int = 100,
    cursor: str | None = None,
    deleted: bool = False,
) -> tuple[list[RunRow], str | None]:
    """One page of runs and the cursor of the next one, or None.

    Args:
        q: text that the id, name, group, notes or a tag contains, in any case.
        deleted: those that were deleted, instead of those that were not.
        sort: one of `SORT_KEYS`; a leading "-" means from the greatest down. Runs without a step sort lowest.

    Raises:
        QueryError: unknown sort key, a foreign cursor, a limit out of range.
    """
    column, descending = _order(sort)
    value_column = column.label("sort_value")
    query = sa.select(runs, value_column).where(*_filters(project, state, health, tag, q, deleted))
    if cursor is not None:
        query = query.where(after(column, runs.c.id, *decode_cursor(cursor, sort), descending=descending))
    direction = sa.desc if descending else sa.asc
    query = query.order_by(direction(column), direction(runs.c.id)).limit(page_size(limit) + 1)
    rows = conn.execute(query).mappings().all()
    page = rows[:limit]
    more = encode_cursor(sort, page[-1]["sort_value"], page[-1]["id"]) if len(rows) > limit else None
    return [run_row(row) for row in page], more


def resolve_run(conn: Connection, text: str, *, deleted: bool = False) -> str:
    """The id of the run meant by ``text``: an id, ``project/name`` (the newest such run), or an id's unique prefix.

    Args:
        deleted: among the deleted runs, instead of those that were not.

    Raises:
        NotFound: nothing fits; `Gone` if a run with exactly this id was deleted.
        Conflict: the prefix fits several runs; the hint lists them.
    """
    alive = _hidden(deleted)
    if conn.scalar(sa.select(runs.c.id).where(runs.c.id == text, alive)) is not None:
        return text
    project, slash, name = text.partition("/")
    if slash:
        return _newest_named(conn, project, name, alive)
    candidates = conn.execute(
        sa.select(runs.c.id, runs.c.project, runs.c.name)
        .where(runs.c.id.startswith(text, autoescape=True), alive)
        .order_by(runs.c.id)
        .limit(6)
    ).all()
    if not candidates or not text:
        if isinstance(gone := absent(conn, text), Gone):
            raise gone
        raise NotFound("run", text, "Give an id, the beginning of one, or project/name; `holter runs` lists them.")
    if len(candidates) > 1:
        shown = ", ".join(f"{id} ({project}/{name})" for id, project, name in candidates[:5])
        more = ", …" if len(candidates) > 5 else ""
        raise Conflict(f"{text!r} begins more than one run's id", f"Type more of it. It could be {shown}{more}.")
    return str(candidates[0].id)


def _hidden(deleted: bool) -> sa.ColumnElement[bool]:
    return runs.c.deleted_at.is_not(None) if deleted else runs.c.deleted_at.is_(None)


def _newest_named(conn: Connection, project: str, name: str, alive: sa.ColumnElement[bool]) -> str:
    query = (
        sa.select(runs.c.id)
        .where(runs.c.project == project, runs.c.name == name, alive)
        .order_by(runs.c.created_at.desc(), runs.c.id.desc())
        .limit(1)
    )
    found: str | None = conn.scalar(query)
    if found is None:
        raise NotFound("run", f"{project}/{name}", "`holter runs` lists projects and names.")
    return found


def _order(sort: str) -> tuple[sa.ColumnElement[Any], bool]:
    key = sort.removeprefix("-")
    if key not in SORT_KEYS:
        raise QueryError(f"Runs can't be sorted by {key!r}", f"Use one of {', '.join(SORT_KEYS)}; -{key} reverses.")
    return SORT_KEYS[key], sort.startswith("-")


def _filters(  # noqa: PLR0917 - one of each filter of `list_runs`
    project: str | None, state: str | None, health: str | None, tag: str | None, q: str | None, deleted: bool
) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [_hidden(deleted)]
    wanted = ((runs.c.project, project), (runs.c.state, state), (runs.c.health, health))
    conditions += [column == value for column, value in wanted if value is not None]
    tags = sa.type_coerce(runs.c.tags, sa.Text)
    if tag is not None:
        # replace() compares exactly on both databases; LIKE ignores case on SQLite.
        conditions.append(sa.func.replace(tags, f"\n{line(tag)}\n", "") != tags)
    if q:
        searched = (runs.c.id, runs.c.name, runs.c.group, runs.c.notes, tags)
        conditions.append(sa.or_(*(sa.func.lower(column).contains(q.lower(), autoescape=True) for column in searched)))
    return conditions
