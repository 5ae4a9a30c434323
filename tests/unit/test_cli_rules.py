"""`holter rules`: what is watched for, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from holter.health import RuleSet
from holter_server.cli.app import app


def _rules(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rules", *arguments], env={"COLUMNS": "80"})


def test_list_has_every_rule() -> None:
    """One row per rule, and the whole description for machines."""
    described = RuleSet.default().describe()
    assert json.loads(_rules("list", "--json").stdout)["rules"] == json.loads(json.dumps(described))
    listed = _rules("list").stdout
    for rule in described:
        assert rule["id"] in listed


def test_a_right_file_is_status_0(tmp_path: Path) -> None:
    """It is laid over the default rules, which the list then shows."""
    file = tmp_path / "project.yaml"
    file.write_text("rules:\n  - id: near-oom\n    severity: critical\n")
    assert _rules("check", str(file)).exit_code == 0
    assert json.loads(_rules("check", str(file), "--json").stdout)["valid"] is True
    changed = json.loads(_rules("list", "--file", str(file), "--json").stdout)["rules"]
    assert {rule["severity"] for rule in changed if rule["id"] == "near-oom"} == {"critical"}


def test_a_typo_names_line_and_allowed_keys(tmp_path: Path) -> None:
    """Both lines of the error are needed to mend the file."""
    file = tmp_path / "project.yaml"
    file.write_text("rules:\n  - id: near-oom\n    severty: critical\n")
    result = _rules("check", str(file))
    assert result.exit_code == 1
    what, todo = result.stderr.splitlines()
    assert "line 3" in what
    assert "'severty'" in what
    assert what.endswith("did you mean 'severity'?")  # the keys are listed once, in the second line
    assert todo.startswith("  Allowed here: ")
    assert "severity" in todo
    assert _rules("list", "--file", str(file)).exit_code == 1


def test_a_typo_for_machines(tmp_path: Path) -> None:
    """Line and keys as data; still status 1."""
    file = tmp_path / "project.yaml"
    file.write_text("rules:\n  - id: near-oom\n    severty: critical\n")
    result = _rules("check", str(file), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["valid"] is False
    assert found["error"]["line"] == 3
    assert "severity" in found["error"]["allowed_keys"]


def test_what_can_t_be_read_is_two_lines(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing.yaml", tmp_path, binary):
        result = _rules("check", str(file))
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 2
