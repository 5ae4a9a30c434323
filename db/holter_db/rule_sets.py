"""A project's own rules: every version that was ever put, the newest of which applies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import Conflict, NotFound
from holter_db.many import Lookup, bound, members
from holter_db.schema import projects, rule_sets
from holter_db.upsert import insert_new

__all__ = ["RuleSetRow", "get", "history", "put", "text_of", "version", "versions"]


@dataclass(frozen=True, slots=True)
class RuleSetRow:
    """One version of a project's rules."""

    project: str
    version: int  # counts from 1
    text: str  # YAML
    created_at: float
    author: str = ""
    comment: str = ""


def get(conn: Connection, project: str) -> str | None:
    """The YAML text that applies to the project, None where it has no rules of its own."""
    versions = history(conn, project)
    return versions[0].text if versions and versions[0].text.strip() else None


def text_of(conn: Connection, project: str, version: int) -> str | None:
    """The YAML text of one version, None where it says nothing, as version 0 does."""
    these = (rule_sets.c.project == project, rule_sets.c.version == version)
    text = conn.scalar(sa.select(rule_sets.c.text).where(*these))
    return text if text and text.strip() else None


def versions(conn: Connection, projects: Collection[str]) -> dict[str, int]:
    """The version that applies to each of the projects; those that never had rules of their own are absent."""
    return {row[0]: row[1] for row in _VERSIONS.rows(conn, bound(projects))}


def _versions(dialect: str) -> sa.Select[Any]:
    these = rule_sets.c.project.in_(members(dialect, "projects"))
    query = sa.select(rule_sets.c.project, sa.func.max(rule_sets.c.version)).where(these)
    return query.group_by(rule_sets.c.project)


def put(
    conn: Connection,
    project: str,
    text: str,
    now: float,
    *,
    author: str = "",
    comment: str = "",
    expected: int | None = None,
) -> RuleSetRow:
    """A new version; an empty text takes the project's own rules away. The same text again is no new version.

    Args:
        author: who says so; ``comment``: why.
        expected: the version that the author has seen, 0 for none.

    Raises:
        Conflict: another version has come after ``expected``.
    """
    insert_new(conn, projects, {"name": project, "created_at": now}, key=("name",))
    # Two servers that put at once would give the same number; the project's row lines them up.
    conn.execute(sa.select(projects.c.name).where(projects.c.name == project).with_for_update())
    versions = history(conn, project)
    newest = versions[0].version if versions else 0
    if expected is not None and expected != newest:
        hint = f"Read version {newest}, lay your change over it, and put it again."
        raise Conflict(f"The rules of {project!r} are at version {newest}, not at {expected}", hint)
    if versions and versions[0].text == text:
        return versions[0]
    row = RuleSetRow(project, newest + 1, text, now, author, comment)
    conn.execute(sa.insert(rule_sets), {name: getattr(row, name) for name in RuleSetRow.__slots__})
    return row


def version(conn: Connection, project: str, number: int) -> RuleSetRow:
    """One version.

    Raises:
        NotFound: there is no such version.
    """
    found = next((row for row in history(conn, project) if row.version == number), None)
    if found is None:
        hint = f"GET /api/v1/projects/{project}/rules/versions lists them."
        raise NotFound("rules_version", f"{project} {number}", hint)
    return found


def history(conn: Connection, project: str) -> list[RuleSetRow]:
    """Every version, newest first."""
    columns = [rule_sets.c[name] for name in RuleSetRow.__slots__]
    query = sa.select(*columns).where(rule_sets.c.project == project).order_by(rule_sets.c.version.desc())
    return [RuleSetRow(*row) for row in conn.execute(query)]


_VERSIONS = Lookup(_versions, ("projects",))
