"""`holter token` works on the service's database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holter_db import tokens
from holter_db.database import Database
from holter_server.cli.app import app


@pytest.fixture
def db(blank_url: str) -> str:
    return blank_url


def _holter(db: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["token", *arguments, "--db", db])


def test_a_made_token_is_good_and_a_revoked_one_is_not(db: str) -> None:
    """The secret alone is on standard output, ready for TOKEN=$(holter token create)."""
    made = _holter(db, "create", "cluster")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    database = Database.open(db)
    with database.read() as connection:
        assert tokens.verify(connection, secret) == "cluster"
    assert _holter(db, "revoke", "cluster").exit_code == 0
    with database.read() as connection:
        assert tokens.verify(connection, secret) is None
    database.close()


def test_tokens_without_a_name_get_one_each(db: str) -> None:
    """`holter token create` needs no argument, however often."""
    for _ in range(2):
        assert _holter(db, "create").exit_code == 0
    listed = json.loads(_holter(db, "list", "--json").stdout)["tokens"]
    assert [token["name"] for token in listed] == ["token-1", "token-2"]
    assert "token-1" in _holter(db, "list").stdout


def test_a_secret_is_never_listed(db: str) -> None:
    """It is shown once."""
    secret = _holter(db, "create", "once").stdout.strip()
    assert secret not in _holter(db, "list").stdout
    assert secret not in _holter(db, "list", "--json").stdout


def test_the_same_name_twice_is_refused(db: str) -> None:
    """Or nobody would know which of the two to revoke."""
    _holter(db, "create", "ann")
    again = _holter(db, "create", "ann")
    assert again.exit_code == 1
    assert "Revoke it first" in again.stderr


def test_what_is_not_there_can_not_be_revoked(db: str) -> None:
    """A typo must not look like success."""
    _holter(db, "create", "ann")
    result = _holter(db, "revoke", "anne")
    assert result.exit_code == 1
    assert "'anne'" in result.stderr


def test_listing_makes_no_database(tmp_path: Path) -> None:
    """A mistyped path would otherwise give an empty, convincing list."""
    result = _holter(f"sqlite:///{tmp_path / 'tokens.db'}", "list")
    assert result.exit_code == 1
    assert "There is no database" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_can_t_be_opened_is_two_lines(tmp_path: Path) -> None:
    """A folder in place of a file."""
    result = _holter(f"sqlite:///{tmp_path}", "create", "x")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
