"""`holter migrate-db`: what it prints, what it answers machines, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holter.wire import RunStart
from holter_db.database import Database
from holter_db.runs import list_runs, start_run
from holter_server.cli.app import app

OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}


def _holter(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["migrate-db", *arguments])


@pytest.fixture
def source(database: Database, database_url: str) -> str:
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r", name="first"), 1.0)
    database.close()
    return database_url


def test_the_tables_are_listed_and_the_runs_are_there(source: str, dialect: str, new_url: Callable[[str], str]) -> None:
    """A row for each table; then `--db TO` is all that a service needs."""
    there = new_url(OTHER[dialect])
    result = _holter(source, there)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("runs ")]
    assert line.split()[1] == "1"
    assert "Copied 4 rows" in result.stdout  # project, run, attempt, writer
    with closing(Database.open(there)) as database, database.read() as conn:
        assert [run.name for run in list_runs(conn)[0]] == ["first"]


def test_for_machines_it_is_one_document(source: str, dialect: str, new_url: Callable[[str], str]) -> None:
    """Nothing else on standard output, and no progress on standard error; there and back the checksums are equal."""
    there = new_url(OTHER[dialect])
    answers = []
    for arguments in ((source, there), (there, new_url(dialect))):
        result = _holter(*arguments, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        answers.append(json.loads(result.stdout))
    first, second = answers
    assert (first["rows"], first["source_changed"]) == (4, False)
    assert first["tables"] == second["tables"]
    assert {"table": "tokens", "rows": 0, "checksum": "0" * 32} in first["tables"]


def test_a_failure_is_two_lines(source: str, dialect: str, new_url: Callable[[str], str], tmp_path: Path) -> None:
    """What is in the way, and what to do; status 1."""
    there = new_url(OTHER[dialect])
    assert _holter(source, there).exit_code == 0
    for arguments, what, todo in (
        ((source, there), "already holds rows", "--replace"),
        ((source, source), "into itself", "Name another"),
        ((f"sqlite:///{tmp_path / 'x.db'}", there), "There is no database", "Name the one"),
        ((source, "mysql://x"), "Holter can't use 'mysql'", "sqlite:///holter.db"),
    ):
        result = _holter(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 2
        assert what in lines[0]
        assert todo in lines[1]
    assert _holter(source, there, "--replace").exit_code == 0
    assert _holter(source).exit_code == 2


def test_a_password_is_not_printed(tmp_path: Path) -> None:
    """Not even where the server can't be reached."""
    result = _holter("postgresql://ann:hunter2@127.0.0.1:1/x", f"sqlite:///{tmp_path / 'x.db'}")
    assert result.exit_code == 1
    assert "hunter2" not in result.output
