"""Opening a database, and the two ways to use it: one transaction that writes, many snapshots that read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from holter_db.errors import DatabaseError
from holter_db.migrate import migrate, revision_of
from holter_db.notifications import Listener
from holter_db.open_errors import explain
from holter_db.tail import TailCache

__all__ = ["Connection", "Database", "parse_url"]

BUSY_TIMEOUT_MS = 15_000  # another process, such as `holter webhook add`, holds SQLite's write lock only for moments
CACHE_BYTES = 64 * 2**20


class Database:
    """A store of runs on SQLite or PostgreSQL, brought up to date when opened.

    Threads share it. On SQLite one thread writes at a time and waits for the others; readers have connections of
    their own and see a snapshot, as they do on PostgreSQL.
    """

    url: str  # the password, if any, is hidden
    dialect: Literal["sqlite", "postgresql"]

    def __init__(self, url: sa.URL) -> None:
        cache = TailCache(CACHE_BYTES)
        self.url = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            self.dialect = "sqlite"
            self._writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", pool_size=1)
            self._reader = _sqlite_engine(url, begin="BEGIN", pool_size=8)
        else:
            self.dialect = "postgresql"
            named = {"application_name": "holter"} if "application_name" not in url.query else {}
            self._writer = sa.create_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True, connect_args=named)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # Only connections that read may fill the cache: what a writer sees could still be rolled back.
        self._reader = self._reader.execution_options(tail_cache=cache)
        self._write_lock = threading.Lock()

    @classmethod
    def open(cls, url: str, *, as_it_is: bool = False) -> Database:
        """Connect, and create or migrate the tables.

        Args:
            url: ``sqlite:///holter.db`` (a file) or ``postgresql://user:password@host/name``.
            as_it_is: create and migrate nothing; the tables may be of any revision.

        Raises:
            DatabaseError: with what is in the way and what to do about it.
        """
        parsed = parse_url(url)
        if as_it_is and parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
            raise DatabaseError(f"There is no database at {parsed.database}", "Name one: sqlite:///PATH")
        database = cls(parsed)
        try:
            if as_it_is:
                with database._reader.connect() as conn:
                    revision_of(conn)
                return database
            with database._migrating() as conn:
                migrate(conn)
        except SQLAlchemyError as error:
            database.close()
            raise explain(parsed, error) from error
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def attach(cls, url: sa.URL) -> Database:
        """Connect to a database as it is, whatever its tables are.

        Raises:
            DatabaseError: it can't be reached.
        """
        database = cls(url)
        try:
            with database._reader.connect() as conn, conn.begin():
                conn.execute(sa.text("SELECT 1"))
        except SQLAlchemyError as error:
            database.close()
            raise explain(url, error) from error
        return database

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, synced to disk, or rolls back on an exception.

        Raises:
            DatabaseError: the database can't be reached, is full, or has been locked for too long.
        """
        with _translated(), self._writer_connection() as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only snapshot.

        Raises:
            DatabaseError: the database can't be reached.
        """
        with _translated(), self._reader.connect() as conn, conn.begin():
            yield conn

    def ping(self) -> None:
        """Raise `DatabaseError` unless the database answers."""
        with self.read() as conn:
            conn.execute(sa.text("SELECT 1 FROM runs LIMIT 1"))

    def listen(self) -> Listener:
        """A new connection that hears what servers on this PostgreSQL announce; SQLite has one server.

        Raises:
            DatabaseError: PostgreSQL can't be reached.
        """
        args, params = self._writer.dialect.create_connect_args(self._writer.url)
        return Listener(args, params)

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _writer_connection(self) -> Iterator[Connection]:
        if self.dialect == "postgresql":
            with self._writer.begin() as conn:
                yield conn
        else:
            with self._write_lock, self._writer.begin() as conn:
                yield conn

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        """A transaction in which a table may be made anew: SQLite would first delete its rows, and refuse to while
        others refer to them. It takes no notice of this pragma inside a transaction.
        """
        if self.dialect == "postgresql":
            with self._writer.begin() as conn:
                yield conn
            return
        with self._write_lock, self._writer.connect() as conn:
            driver: Any = conn.connection.driver_connection
            driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with conn.begin():
                    yield conn
            finally:
                driver.execute("PRAGMA foreign_keys = ON")


@contextmanager
def _translated() -> Iterator[None]:
    """Trouble with the database as `DatabaseError`; a broken constraint is a bug of ours and stays what it is."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, sa.exc.TimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise DatabaseError(f"The database does not do its work: {cause}", "Try again; see its log.") from error


def parse_url(url: str) -> sa.URL:
    """The address of a database that Holter can use.

    Raises:
        DatabaseError: it is none, and what one looks like.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise DatabaseError(
            "The database's address can't be read", "Use sqlite:///holter.db or postgresql://user:password@host/name."
        ) from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise DatabaseError(
            f"Holter can't use {parsed.drivername!r}",
            "Use sqlite:///holter.db or postgresql://user:password@host/name.",
        )
    if parsed.database in (None, "", ":memory:"):
        raise DatabaseError("Holter needs a database file", "Name one: sqlite:///holter.db")
    folder = Path(str(parsed.database)).absolute().parent
    if not folder.is_dir():
        raise DatabaseError(f"The folder {folder} does not exist", f"Create it (mkdir -p {folder}) or name another.")
    return parsed


def _sqlite_engine(url: sa.URL, *, begin: str, pool_size: int) -> Engine:
    overflow = 0 if pool_size == 1 else 24
    engine = sa.create_engine(url, pool_size=pool_size, max_overflow=overflow, pool_timeout=60)
    reads_only = begin == "BEGIN"

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        if reads_only:
            cursor.execute("PRAGMA query_only = ON")
        else:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; see `Database.trim`
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged frame survives a power cut
            cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(conn: Connection) -> None:
        conn.exec_driver_sql(begin)

    return engine
