"""`holter delete`, `restore`, `purge` and `retention`, against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holter_server.cli.app import app
from holter_server.cli.connection import Connection
from holter_server.service import running
from holter_server.settings import Settings


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running(Settings(port=0, db=f"sqlite:///{tmp_path / 'holter.db'}", token=None)) as service:
        yield service.url


def holter(url: str, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", url], input=typed, env={"COLUMNS": "120", "HOLTER_TOKEN": ""})


def made(url: str, name: str, state: str | None = "finished") -> str:
    connection = Connection(url)
    run: str = connection.post("/runs", {"project": "p", "name": name})["run"]["id"]
    if state:
        connection.post(f"/runs/{run}/finish", {"state": state})
    return run


def test_delete_and_restore(url: str) -> None:
    """Several at once; the way back is said, and taken by id, prefix or name."""
    one, two = made(url, "one"), made(url, "two", state=None)
    result = holter(url, "delete", "p/one", two)
    assert result.exit_code == 0
    assert [line.split(" (")[0] for line in result.stdout.splitlines()] == ["Deleted p/one", "Deleted p/two"]
    assert f"holter restore {one}" in result.stderr
    assert "training goes on" in result.stderr
    listed = holter(url, "runs", "--deleted").stdout
    assert one in listed
    assert two in listed
    assert "No runs yet" in holter(url, "runs").stderr
    assert "holter restore" in holter(url, "show", one).stderr
    assert holter(url, "restore", "p/one").stdout == f"Restored p/one ({one})\n"
    assert holter(url, "restore", two[:11]).exit_code == 0
    assert [run["id"] for run in json.loads(holter(url, "runs", "--json").stdout)["runs"]] == [two, one]
    assert "No run is deleted" in holter(url, "runs", "--deleted").stderr


def test_a_mistyped_run_deletes_nothing(url: str) -> None:
    """All of them are looked up first."""
    one = made(url, "one")
    result = holter(url, "delete", one, "p/nothing")
    assert result.exit_code == 1
    assert json.loads(holter(url, "runs", "--json").stdout)["runs"][0]["id"] == one
    missing = holter(url, "restore", "nothing")
    assert missing.exit_code == 1
    assert "No deleted run is called 'nothing'" in missing.stderr


def test_delete_for_machines(url: str) -> None:
    """--json says until when."""
    one = made(url, "one")
    (deleted,) = json.loads(holter(url, "delete", one, "--json").stdout)["deleted"]
    assert deleted["run"] == one
    assert deleted["purge_at"] > 0


def test_purge_asks_or_is_told(url: str) -> None:
    """It can't be undone: nobody to ask and no --yes is a mistake, and so is neither a run nor --all."""
    one, two = made(url, "one"), made(url, "two")
    assert "No deleted run" in holter(url, "purge", one, "--yes").stderr
    holter(url, "delete", one, two)
    for arguments in ([], [one, "--all"], [one], ["--all"]):
        refused = holter(url, "purge", *arguments)
        assert refused.exit_code == 2
        assert "Error" in refused.stderr
    assert len(json.loads(holter(url, "runs", "--deleted", "--json").stdout)["runs"]) == 2
    assert holter(url, "purge", one, "--yes").stdout == f"Purged p/one ({one})\n"
    assert json.loads(holter(url, "purge", "--all", "-y", "--json").stdout) == {"purged": [two], "purging": []}
    assert "nothing to purge" in holter(url, "purge", "--all", "--yes").stderr
    gone = holter(url, "show", two)
    assert gone.exit_code == 1
    assert "purged" in gone.stderr


def test_retention_is_tried_set_shown_and_cleared(url: str) -> None:
    """`preview` before `set`; nothing is deleted by looking."""
    old, new = made(url, "old"), made(url, "new")
    assert "No run would be deleted or lose points" in holter(url, "retention", "preview").stderr
    tried = holter(url, "retention", "preview", "p", "--runs", "1")
    assert old in tried.stdout
    assert new not in tried.stdout
    assert "keeps its newest 1" in tried.stdout
    wrong = holter(url, "retention", "set", "p")
    assert (wrong.exit_code, "--everything" in wrong.stderr) == (2, True)
    done = holter(url, "retention", "set", "p", "--runs", "1", "--days", "90")
    assert done.stdout == "p keeps its newest run, each for 90 days after its last sign of life\n"
    assert "1 of its runs will be deleted or thinned" in done.stderr
    assert json.loads(holter(url, "retention", "preview", "--json").stdout)["runs"][0]["run"] == old
    shown = holter(url, "retention", "show")
    assert "for it" in shown.stdout
    assert "Deleted runs are purged after 30 days" in shown.stderr
    assert "keeps everything" in holter(url, "retention", "set", "p", "--everything").stdout
    assert holter(url, "retention", "clear", "p").stdout == "p keeps everything, by default\n"
