"""Finding runs: one by what a person typed, many by filters, in a stable order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.cursors import page_size
from holter_db.deletion import absent
from holter_db.errors import Conflict, Gone, NotFound
from holter_db.run_cursors import Cursor, read_cursor, write_cursor
from holter_db.run_rows import RunRow, run_row
from holter_db.schema import runs
from holter_db.search.conditions import condition, of_row
from holter_db.search.dialects import contains
from holter_db.search.fields import simple
from holter_db.search.names import hint
from holter_db.search.orders import Place, Stretch, page, stretches
from holter_db.search.parser import parse_filter, parse_operands, parse_sort
from holter_db.search.syntax import And, Node, comparisons
from holter_db.search.values import values_of

__all__ = ["list_runs", "resolve_run", "run_values", "search_hint"]

# A set below "or" or "not" that PostgreSQL can't hash, it compares with every run: hours at a million runs.
_SETS_FIT = "SET LOCAL work_mem = '64MB'"


def list_runs(
    conn: Connection,
    *,
    project: str | None = None,
    state: str | None = None,
    health: str | None = None,
    tag: str | None = None,
    group: str | None = None,
    q: str | None = None,
    filter: str | None = None,
    sort: str = "-created_at",
    limit: int = 100,
    cursor: str | None = None,
    deleted: bool = False,
    now: float | None = None,
) -> tuple[list[RunRow], str | None]:
    """One page of runs and the cursor of the next one, or None.

    A run that is there all the time and keeps its value of ``sort`` stands on exactly one of the pages, whatever comes
    and goes meanwhile.

    Args:
        q: text that the id, name, group, notes or a tag contains, in any case.
        filter: an expression of `holter_db.search.parser`, such as ``config.lr < 1e-3 and last(loss) = NaN``.
        sort: a field, a config key or a metric's value; a leading "-" means from the greatest down. NaN comes after
            every number and then what lacks the value, in both directions.
        deleted: those that were deleted, instead of those that were not.
        now: seconds, UTC: what relative dates in ``filter`` count from; of a further page the first page's counts.

    Raises:
        FilterError: the filter can't be understood.
        QueryError: unknown sort key, state or health, a foreign cursor, a limit out of range.
    """
    page_size(limit)
    operand, descending = parse_sort(sort)
    parts = stretches(operand)
    start = Cursor(time.time() if now is None else now) if cursor is None else read_cursor(cursor, sort, parts)
    wanted = simple(project=project, state=state, health=health, group=group, tag=tag)
    if filter is not None:
        wanted += _conjuncts(parse_filter(filter, start.now))
    question = _Question(wanted, q, descending=descending, deleted=deleted)
    found: list[tuple[int, Place]] = []
    for number in range(start.stretch, len(parts)):
        place = start.place if number == start.stretch else None
        found += [(number, row) for row in question.rows(conn, parts[number], place, limit + 1 - len(found))]
        if len(found) > limit:
            break
    more = write_cursor(sort, Cursor(start.now, *found[limit - 1])) if len(found) > limit else None
    return _rows(conn, [row.id for _, row in found[:limit]]), more


def search_hint(conn: Connection, *, filter: str | None, sort: str) -> str | None:
    """What to know of config keys and metrics in a filter or an order that no run has: they may be misspelt."""
    asked = [parse_sort(sort)[0]]
    if filter is not None:
        asked += [compare.operand for compare in comparisons(parse_filter(filter, 0.0))]
    return hint(conn, asked)


def run_values(conn: Connection, rows: Sequence[RunRow], names: str) -> list[dict[str, Any]]:
    """Of each run what ``names`` come to, which are written like ``config.lr, last(loss)``; None where it lacks one.

    Raises:
        QueryError: runs have no such values.
    """
    return values_of(conn, rows, parse_operands(names))


class _Question:
    """What runs must fulfil, beside being there: conditions on the run's own row, and those that need more than it."""

    def __init__(self, wanted: Sequence[Node], q: str | None, *, descending: bool, deleted: bool) -> None:
        self._descending, self._deleted = descending, deleted
        self._of_row = [condition(node, "probe") for node in wanted if all(map(of_row, comparisons(node)))]
        self._further = [node for node in wanted if not all(map(of_row, comparisons(node)))]
        if q and q.strip():
            searched = (runs.c.id, runs.c.name, runs.c.group, runs.c.notes, sa.type_coerce(runs.c.tags, sa.Text))
            self._of_row.append(sa.or_(*(contains(column, q) for column in searched)))

    def rows(self, conn: Connection, stretch: Stretch, start: Place | None, limit: int) -> list[Place]:
        """The first ``limit`` in order that follow ``start``."""
        found = self._page(conn, stretch, start, limit, probed=True)
        if self._further and len(found) < limit:
            # Few of the first runs fulfil it, so few of all do: ask for those instead of looking at each run.
            if conn.dialect.name == "postgresql":
                conn.exec_driver_sql(_SETS_FIT)
            found = self._page(conn, stretch, start, limit, probed=False)
        return found

    def _page(
        self, conn: Connection, stretch: Stretch, start: Place | None, limit: int, *, probed: bool
    ) -> list[Place]:
        query = page(
            stretch,
            start=start,
            descending=self._descending,
            limit=limit,
            of_row=self._of_row,
            further=self._further,
            probed=probed,
            deleted=self._deleted,
        )
        return [Place(value, id) for id, value in conn.execute(query)]


def _conjuncts(node: Node) -> list[Node]:
    return [part for inner in node.parts for part in _conjuncts(inner)] if isinstance(node, And) else [node]


def _rows(conn: Connection, ids: list[str]) -> list[RunRow]:
    """The runs with these ids, in this order. Apart from the search, which needs little of a run's wide row."""
    found = conn.execute(sa.select(runs).where(runs.c.id.in_(ids))).mappings()
    by_id: dict[str, Any] = {row["id"]: row for row in found}
    return [run_row(by_id[id]) for id in ids]


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
