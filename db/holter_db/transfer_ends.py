"""The two ends of a transfer: a snapshot of a source that is there, and a target that nobody else writes to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_db.migrate import revision_of
from holter_db.open_errors import explain
from holter_db.raw_rows import PostgresqlRows, RawRows, SqliteRows
from holter_db.schema import REVISION, metadata, runs

__all__ = ["changed", "pulse", "pulse_now", "reading", "refuse_rows", "refuse_same", "writing"]

_NOTHING = "Nothing was copied."
GONE_AFTER_S = 1.0  # a connection that was closed is listed by PostgreSQL for a moment


@contextmanager
def reading(url: sa.URL, snapshot: bool) -> Iterator[tuple[Connection, RawRows]]:
    """One snapshot of the source, which has to be there and of this revision."""
    if url.get_backend_name() == "sqlite":
        if not Path(str(url.database)).is_file():
            raise DatabaseError(f"There is no database at {url.database}", "Name the one that is to be copied.")
        if not snapshot and _opened_by_others(url):
            raise _in_use(url, _STOP_SOURCE)
    with closing(Database.attach(url)) as database, database.read() as conn:
        _check_revision(url, conn)
        if database.dialect == "postgresql" and not snapshot and _services(conn):
            raise _in_use(url, _STOP_SOURCE)
        yield conn, _raw(conn)


def _check_revision(url: sa.URL, conn: Connection) -> None:
    found = revision_of(conn)
    if found is None:
        raise DatabaseError(f"{_name(url)} holds no runs of Holter", "Name the database of the service.")
    if found != REVISION:
        older = "Bring it up to date first: this Holter does so when it opens it, e.g. with holter serve --db …"
        newer = "It was written by a newer Holter: pip install -U 'holter[server]'."
        raise DatabaseError(
            f"{_name(url)} has revision {found!r} of the schema, and this Holter copies {REVISION!r}",
            older if found < REVISION else newer,
        )


def pulse(conn: Connection) -> tuple[object, ...]:
    """What changes whenever a service works on a live run."""
    query = sa.select(sa.func.count(), sa.func.sum(runs.c.position), sa.func.max(runs.c.last_seen_at)).select_from(runs)
    return tuple(conn.execute(query).one())


def pulse_now(url: sa.URL) -> tuple[object, ...]:
    with closing(Database.attach(url)) as database, database.read() as conn:
        return pulse(conn)


def _in_use(url: sa.URL, todo: str) -> DatabaseError:
    return DatabaseError(f"A service, or another program, has {_name(url)} open", f"{todo} {_NOTHING}")


_STOP_SOURCE = "Stop it, as what it takes in from now on would be missing; or copy what is there now with --snapshot."
_STOP_TARGET = "Stop it first."


def changed(url: sa.URL) -> DatabaseError:
    """The source is not any more what was read of it."""
    return DatabaseError(
        f"Somebody has written to {_name(url)} while it was copied", f"Stop the service that does. {_NOTHING}"
    )


# --- the target -----------------------------------------------------------------------------------------------------


@contextmanager
def writing(url: sa.URL) -> Iterator[RawRows]:
    """A transaction on the target that nobody else writes beside, committed at the end of the block."""
    if url.get_backend_name() == "sqlite":
        with _writing_sqlite(Path(str(url.database))) as rows:
            yield rows
        return
    Database.open(url.render_as_string(hide_password=False)).close()
    with closing(Database.attach(url)) as database, database.write() as conn:
        if _services(conn):
            raise _in_use(url, _STOP_TARGET)
        conn.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
        conn.execute(sa.text(f"LOCK TABLE {', '.join(metadata.tables)} IN EXCLUSIVE MODE"))
        yield _raw(conn)


@contextmanager
def _writing_sqlite(path: Path) -> Iterator[RawRows]:
    """With a rollback journal instead of the write-ahead log, which would hold everything a second time.

    The journal's mode can only be changed while nobody else has the file open.
    """
    made = not path.exists()
    Database.open(f"sqlite:///{path}").close()
    conn = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _change_journal(conn, path)
        conn.execute("BEGIN EXCLUSIVE")
        yield SqliteRows(conn)
        conn.execute("COMMIT")  # the next one to open it turns the write-ahead log on again
    except BaseException as error:
        conn.close()
        if made:
            path.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise explain(sa.make_url(f"sqlite:///{path}"), error) from error
        raise
    conn.close()


def _change_journal(conn: sqlite3.Connection, path: Path) -> None:
    try:
        conn.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        raise _in_use(sa.make_url(f"sqlite:///{path}"), _STOP_TARGET) from error


def refuse_rows(url: sa.URL, target: RawRows) -> None:
    held = [table.name for table in metadata.sorted_tables if target.count(table)]
    if held:
        raise DatabaseError(
            f"{_name(url)} already holds rows ({', '.join(held)})",
            "Name an empty database, or delete what this one holds with --replace. " + _NOTHING,
        )


def refuse_same(source: sa.URL, target: sa.URL, conn: Connection) -> None:
    if source.get_backend_name() != target.get_backend_name():
        return
    if source.get_backend_name() == "sqlite":
        here, there = Path(str(source.database)), Path(str(target.database))
        same = there.exists() and here.samefile(there)
    else:
        with closing(Database.attach(target)) as database, database.read() as other:
            same = _identity(other) == _identity(conn)
    if same:
        raise DatabaseError(f"{_name(source)} can't be copied into itself", "Name another database to copy into.")


# --- both -----------------------------------------------------------------------------------------------------------


def _raw(conn: Connection) -> RawRows:
    driver = conn.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        return SqliteRows(driver)
    assert isinstance(driver, psycopg.Connection)
    return PostgresqlRows(driver)


def _identity(conn: Connection) -> tuple[object, ...]:
    return tuple(conn.execute(sa.text("SELECT pg_postmaster_start_time(), current_database()")).one())


def _services(conn: Connection) -> bool:
    """Whether other connections of Holter's are open to the PostgreSQL database, and stay so."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND application_name LIKE 'holter%'"
    )
    until = time.monotonic() + GONE_AFTER_S
    while conn.scalar(query):
        if time.monotonic() > until:
            return True
        conn.execute(sa.text("SELECT pg_stat_clear_snapshot()"))  # else a transaction sees the same list again
        time.sleep(0.05)
    return False


def _opened_by_others(url: sa.URL) -> bool:
    """Whether another connection has the SQLite file open: then there is no exclusive access to it."""
    conn = sqlite3.connect(str(url.database), timeout=0, isolation_level=None)
    try:
        conn.execute("PRAGMA locking_mode = EXCLUSIVE")
        conn.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)  # whatever else is the matter is said when it is opened
    finally:
        conn.close()
    return False


def _name(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True).replace("postgresql+psycopg", "postgresql")
