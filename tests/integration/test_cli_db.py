"""`holter db`: info, check and backup on a database beside its service, and on what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from typer.testing import CliRunner, Result

from holter.wire import Block, Frame, RunStart
from holter_db.database import Database
from holter_db.deletion import delete_run
from holter_db.ingest import append
from holter_db.migrate import alembic_config
from holter_db.runs import start_run
from holter_db.schema import REVISION, metadata
from holter_server.cli.app import app

NOW = 1_700_000_000.0


def holter(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["db", *arguments, "--db", url], env={"COLUMNS": "120"})


@pytest.fixture
def filled(database: Database) -> Database:
    block = Block.of(("loss", "lr"), [1, 2, 3], [NOW] * 3, [[1.0, 2.0]] * 3)
    with database.write() as conn:
        for run in ("a", "b", "c"):
            start_run(conn, RunStart(project="p", id=run), NOW)
            append(conn, run, Frame(1, "", "rank0", 1, blocks=[block]), NOW)
        delete_run(conn, "c", NOW)
    return database


def older(url: str, revision: str) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as conn:
        command.downgrade(alembic_config(conn), revision)
    engine.dispose()


def test_info_says_what_is_there(filled: Database, database_url: str) -> None:
    """Size, revision, runs, points, and the rows of every table."""
    result = holter(database_url, "info")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.strip())
    assert lines["revision"] == REVISION
    assert lines["runs"] == "2 running" or lines["runs"] == "3"  # the second of two lines of that name is the table's
    assert lines["deleted"] == "1 runs; holter purge removes them for good"
    assert lines["points"].startswith("18, ")
    assert set(metadata.tables) <= set(lines)
    contents = json.loads(holter(database_url, "info", "--json").stdout)
    assert (contents["runs"], contents["deleted_runs"], contents["points"]) == ({"running": 2}, 1, 18)
    assert contents["bytes_per_point"] == contents["size"] / 18
    assert contents["rows"]["segments"] == 3


def test_check_finds_repairs_and_is_silent_then(filled: Database, database_url: str) -> None:
    """By its exit status as well; and for machines."""
    sound = holter(database_url, "check")
    assert (sound.exit_code, sound.stdout) == (0, "The database is sound.\n")
    with filled.write() as conn:
        conn.execute(sa.text("UPDATE series SET count = 9 WHERE run_id = 'a' AND metric = 'loss'"))
        conn.execute(sa.text("UPDATE segments SET payload = :junk WHERE run_id = 'b'"), {"junk": b"\x09"})
    result = holter(database_url, "check")
    assert result.exit_code == 1
    assert "catalogue    run a: The catalogue of 'loss' of writer 1 is not what its points say: count" in result.stdout
    assert "2 things are wrong; holter db check --repair can put 1 of them right" in result.stderr
    found = json.loads(holter(database_url, "check", "--json").stdout)
    assert not found["sound"]
    assert [(row["check"], row["run"], row["repairable"], row["repaired"]) for row in found["findings"]] == [
        ("catalogue", "a", True, False),
        ("segments", "b", False, False),
    ]
    repaired = holter(database_url, "check", "--repair")
    assert repaired.exit_code == 1
    assert "1 thing is wrong, 1 repaired" in repaired.stderr
    with filled.write() as conn:
        conn.execute(sa.text("DELETE FROM segments WHERE run_id = 'b'"))
        conn.execute(sa.text("UPDATE runs SET position = 0 WHERE id = 'b'"))
        conn.execute(sa.text("DELETE FROM series WHERE run_id = 'b'"))
    repaired = holter(database_url, "check", "--repair")
    assert repaired.exit_code == 0
    assert "is repaired (1)" in repaired.stdout
    assert holter(database_url, "check").exit_code == 0


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_an_older_database_is_looked_at_and_not_changed(filled: Database, database_url: str, revision: str) -> None:
    """info says its revision; check says what to do, with the status of what can't be checked."""
    filled.close()
    older(database_url, revision)
    result = holter(database_url, "info")
    assert result.exit_code == 0
    assert f"{revision} (this Holter makes {REVISION})" in result.stdout
    result = holter(database_url, "check")
    assert result.exit_code == 2
    assert "holter db backup" in result.stderr
    assert json.loads(holter(database_url, "info", "--json").stdout)["revision"] == revision


@pytest.mark.parametrize("name", ["info", "check"])
def test_what_is_no_database_is_status_2(tmp_path: Path, name: str) -> None:
    """In two lines; and nothing is made by looking."""
    other = tmp_path / "other.db"
    other.write_text("these are my notes\n" * 1000)
    for url in (f"sqlite:///{tmp_path / 'typo.db'}", f"sqlite:///{other}", "mysql://a/b"):
        result = holter(url, name)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_backup_copies_and_refuses_to_overwrite(filled: Database, database_url: str, tmp_path: Path) -> None:
    """With the size and what is in it; --overwrite is asked for."""
    copy = tmp_path / "copy.db"
    result = holter(database_url, "backup", str(copy))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{copy}: ")
    assert "3 runs" in result.stdout
    assert "sound" in result.stderr
    again = holter(database_url, "backup", str(copy))
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    done = json.loads(holter(database_url, "backup", str(copy), "--overwrite", "--compact", "--json").stdout)["backup"]
    assert (done["file"], done["runs"], done["revision"]) == (str(copy), 3, REVISION)
    assert holter(f"sqlite:///{copy}", "check").exit_code == 0
