"""Opening a database: what it creates, what it keeps, and what it says when it can't."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from holter.wire import RunStart
from holter_db.database import Database
from holter_db.errors import DatabaseError, NotFound
from holter_db.migrate import MIGRATIONS
from holter_db.runs import get_run, start_run
from holter_db.schema import REVISION, metadata


def test_an_empty_database_gets_its_tables_and_keeps_its_rows(blank_url: str) -> None:
    """Opening creates the tables; opening again finds what was written."""
    first = Database.open(blank_url)
    with first.write() as conn:
        run = start_run(conn, RunStart(project="denovo"), 1000.0)
    first.close()
    again = Database.open(blank_url)
    again.ping()
    with again.read() as conn:
        assert get_run(conn, run.id) == run
    again.close()


def test_the_migrations_make_what_the_code_expects(database: Database) -> None:
    """`alembic check` finds no difference between the migrated database and the metadata, on both databases."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    with database.write() as conn:
        config.attributes["connection"] = conn
        command.check(config)


def test_downgrade_undoes_the_migration(database: Database) -> None:
    """Every revision can be taken back."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as conn:
        config.attributes["connection"] = conn
        command.downgrade(config, "base")
        assert sa.inspect(conn).get_table_names() == ["alembic_version"]


def test_a_database_of_an_older_revision_is_brought_up_and_keeps_its_rows(database_url: str) -> None:
    """Opening it is enough."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    older = Database.open(database_url)
    with older.write() as conn:
        run = start_run(conn, RunStart(project="denovo"), 1000.0)
    older.close()
    # As Alembic's own command line does it: without the foreign keys, which on SQLite forbid to make a table anew.
    engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as conn:
        config.attributes["connection"] = conn
        command.downgrade(config, "0001")
    engine.dispose()
    opened = Database.open(database_url)
    with opened.read() as conn:
        assert get_run(conn, run.id) == run
        assert set(metadata.tables) <= set(sa.inspect(conn).get_table_names())
    opened.close()


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    """An exception inside write() rolls everything back."""
    with pytest.raises(NotFound):
        _start_and_fail(database)
    with database.read() as conn:
        assert conn.scalar(sa.text("SELECT count(*) FROM runs")) == 0


def _start_and_fail(database: Database) -> None:
    with database.write() as conn:
        start_run(conn, RunStart(project="denovo"), 1000.0)
        get_run(conn, "nothing")


def test_a_reader_can_not_write(database: Database) -> None:
    """read() is a read-only snapshot; the database itself refuses a write in it."""
    with pytest.raises(DatabaseError), database.read() as conn:
        start_run(conn, RunStart(project="denovo"), 1000.0)


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """WAL, and every commit synced to disk."""
    database = Database.open(f"sqlite:///{tmp_path / 'holter.db'}")
    with database.write() as conn:
        assert conn.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert conn.scalar(sa.text("PRAGMA synchronous")) == 2
        assert conn.scalar(sa.text("PRAGMA foreign_keys")) == 1
    database.close()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the folder and how to make it."""
    with pytest.raises(DatabaseError, match="nowhere does not exist") as caught:
        Database.open(f"sqlite:///{tmp_path / 'nowhere' / 'holter.db'}")
    assert "mkdir" in caught.value.hint


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A text file is refused and not touched."""
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, not a database\n" * 100)
    with pytest.raises(DatabaseError, match="is not a database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes")


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """A path where SQLite can't make its file, here a folder, gives an error with what to check."""
    (tmp_path / "holter.db").mkdir()
    with pytest.raises(DatabaseError, match="can't be opened") as caught:
        Database.open(f"sqlite:///{tmp_path / 'holter.db'}")
    assert "written" in caught.value.hint


def test_a_newer_schema_is_refused(database_url: str, dialect: str) -> None:
    """A database of a newer Holter is not touched; the hint says to upgrade."""
    database = Database.open(database_url)
    with database.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(DatabaseError, match="'9999'") as caught:
        Database.open(database_url)
    assert "pip install -U" in caught.value.hint


def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    """A database that has a table `runs` of somebody else's is not migrated over."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE runs (id INTEGER)")
    conn.close()
    with pytest.raises(DatabaseError, match="another program"):
        Database.open(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["nonsense", "mysql://root@localhost/holter", "sqlite://", "sqlite:///:memory:"])
def test_an_address_that_can_not_be_used_says_what_can(url: str) -> None:
    """The hint shows an address that works."""
    with pytest.raises(DatabaseError) as caught:
        Database.open(url)
    assert "sqlite:///holter.db" in caught.value.hint


def test_postgresql_that_is_not_there(tmp_path: Path) -> None:
    """Nothing listens: the error says where it looked."""
    with pytest.raises(DatabaseError, match="can't be reached") as caught:
        Database.open(f"postgresql://postgres@/holter?host={tmp_path}")
    assert "host and port" in caught.value.hint


def test_postgresql_without_that_database(postgresql_url: str) -> None:
    """The hint names the command that creates it."""
    with pytest.raises(DatabaseError, match='"nothing" does not exist') as caught:
        Database.open(postgresql_url.format("nothing"))
    assert "createdb nothing" in caught.value.hint


def test_postgresql_refuses_a_password(postgresql_url: str) -> None:
    """The error names the user and never the password."""
    with psycopg.connect(postgresql_url.format("postgres"), autocommit=True) as conn:
        (hba,) = conn.execute("SHOW hba_file").fetchone() or ("",)
        conn.execute("CREATE ROLE walled LOGIN PASSWORD 'right'")
        path = Path(hba)
        path.write_text("local all walled scram-sha-256\n" + path.read_text())
        conn.execute("SELECT pg_reload_conf()")
    url = postgresql_url.format("postgres").replace("postgres:@", "walled:wrong@")
    with pytest.raises(DatabaseError, match="password of 'walled'") as caught:
        Database.open(url)
    assert "wrong" not in caught.value.message + caught.value.hint
