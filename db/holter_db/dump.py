"""A backup of a PostgreSQL database by PostgreSQL's own ``pg_dump``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from holter_db.errors import DatabaseError
from holter_db.schema import metadata

__all__ = ["dump"]

WAY_OUT = (
    "Install it (on Debian: apt install postgresql-client), or copy into a file: holter migrate-db {url} sqlite:///FILE"
)


def dump(url: sa.URL, target: Path, on_progress: Callable[[float], object]) -> tuple[str, int]:
    """Write an archive for ``pg_restore``; the revision of the tables and the number of runs when it began.

    Raises:
        DatabaseError: ``pg_dump`` is not there, or says no; or the archive can't be read back.
    """
    tool = _tool("pg_dump", url)
    found = _ask(url)
    command = [tool, "--format=custom", "--no-owner", "--no-privileges", "--verbose", "--no-password"]
    environment = _environment(url)
    # Not part of the address, which every user of the machine can see in the list of processes.
    with subprocess.Popen(
        [*command, f"--file={target}", f"--dbname={_address(url)}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        said: list[str] = []
        dumped = 0
        assert process.stderr is not None
        for line in process.stderr:
            said = [*said[-20:], line.strip()]
            if "dumping contents of table" in line:
                dumped += 1
                on_progress(min(0.9, 0.9 * dumped / (len(metadata.tables) + 1)))
    if process.returncode:
        reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "no reason")
        raise DatabaseError(f"pg_dump could not copy the database: {reason}", _hint(reason, url))
    _verify(target, url)
    on_progress(1.0)
    return found


def _tool(name: str, url: sa.URL) -> str:
    found = shutil.which(name)
    if found is None:
        shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
        raise DatabaseError(f"{name} is not there, which copies PostgreSQL databases", WAY_OUT.format(url=shown))
    return found


def _ask(url: sa.URL) -> tuple[str, int]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as conn:
            tables = set(sa.inspect(conn).get_table_names())
            if not {"alembic_version", "runs"} <= tables:
                raise DatabaseError("The database holds nothing of Holter's", "Name the service's: --db, or HOLTER_DB")
            revision = conn.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return str(revision), int(conn.scalar(sa.text("SELECT count(*) FROM runs")) or 0)
    except sa.exc.SQLAlchemyError as error:
        from holter_db.open_errors import explain  # noqa: PLC0415 - only here

        raise explain(url, error) from error
    finally:
        engine.dispose()


def _address(url: sa.URL) -> str:
    """The address for libpq, without its password."""
    query = {name: value for name, value in url.query.items() if name not in ("password", "passfile")}
    bare = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string(hide_password=False)


def _environment(url: sa.URL) -> dict[str, str]:
    environment = {**os.environ, "LC_ALL": "C"}
    password = url.password or url.query.get("password")
    if password:
        environment["PGPASSWORD"] = str(password)
    if passfile := url.query.get("passfile"):
        environment["PGPASSFILE"] = str(passfile)
    return environment


def _hint(reason: str, url: sa.URL) -> str:
    if "version" in reason:
        return f"Use a pg_dump that is as new as the server. {WAY_OUT.format(url=_address(url))}"
    return "Nothing was written. Check the address, its rights, and the disk's free space."


def _verify(archive: Path, url: sa.URL) -> None:
    """``pg_restore`` can read the archive's contents, and every table is in it."""
    tool = _tool("pg_restore", url)
    done = subprocess.run([tool, "--list", str(archive)], capture_output=True, text=True, check=False)
    listed = {line.split()[-2] for line in done.stdout.splitlines() if " TABLE DATA " in line}
    missing = {"runs", "segments", "series"} - listed
    if done.returncode or missing:
        reason = done.stderr.strip() or f"it lacks {', '.join(sorted(missing))}"
        raise DatabaseError(f"The archive can't be read back: {reason}", "Try again; nothing was written.")
