"""Bringing a database to the newest revision of the schema, with Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import DatabaseError
from holter_db.schema import REVISION, metadata

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["MIGRATIONS", "alembic_config", "migrate", "revision_of"]

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x486F6C746572  # "Holter": servers that start together migrate one after the other


def migrate(conn: Connection) -> None:
    """Create or upgrade the tables in the connection's transaction.

    Raises:
        DatabaseError: the schema is newer than this code, or the tables are another program's.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    found = revision_of(conn)
    if found == REVISION:
        return
    from alembic import command  # noqa: PLC0415  it takes 0.2 s to load, and an up-to-date database needs none of it
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = alembic_config(conn)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise DatabaseError(
            f"The database has revision {found!r} of the schema; this Holter knows only up to {REVISION!r}",
            "It was written by a newer Holter: pip install -U 'holter[server]'.",
        )
    command.upgrade(config, "head")
    if conn.dialect.name == "sqlite" and conn.execute(sa.text("PRAGMA foreign_key_check")).first() is not None:
        raise DatabaseError(
            f"The database can't be brought to revision {REVISION}: rows in it refer to runs that are not there",
            "It stays as it is. `holter db check` says which rows; restore it from a backup.",
        )


def alembic_config(conn: Connection, **options: Any) -> Config:
    """What Alembic's commands need to work on this connection."""
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config(**options)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def revision_of(conn: Connection) -> str | None:
    """The revision of the schema, or None where there are no tables yet.

    Raises:
        DatabaseError: the tables are another program's.
    """
    tables = set(sa.inspect(conn).get_table_names())
    if "alembic_version" in tables:
        number = conn.scalar(sa.text("SELECT version_num FROM alembic_version"))
        if number is not None:
            return str(number)
    strange = tables & set(metadata.tables)
    if strange:
        raise DatabaseError(
            f"The database already holds tables of another program ({', '.join(sorted(strange))})",
            "Give Holter a database of its own.",
        )
    return None
