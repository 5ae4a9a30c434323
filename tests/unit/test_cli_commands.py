"""The command line as a whole: its commands, its page in the docs, what each exit status means."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holter_server.cli import failure
from holter_server.cli.app import EXIT_CODES, app
from holter_server.cli.connection import DEFAULT_URL
from holter_server.cli.reference import cli_page
from holter_server.cli.serve import DEFAULT_DB, serve
from holter_server.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
COMMANDS = [
    "serve", "demo", "doctor", "runs", "show", "tail", "compare", "pin", "plan", "stop", "checkpoint", "dump",
    "export", "sync", "lint",
    "delete", "restore", "purge", "retention show", "retention set", "retention clear", "retention preview",
    "db info", "db check", "db backup", "mute", "unmute",
    "rules list", "rules check", "rules backtest", "rules put", "rules history", "rules restore",
    "webhook add", "webhook list", "webhook test", "webhook remove", "webhook deliveries", "webhook redeliver",
    "token create", "token list", "token revoke", "migrate-db",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_promised_command_explains_itself(command: str) -> None:
    """--help works at 80 columns for each name of docs/cli.md."""
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert command in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_the_page_in_the_docs_is_the_command_line() -> None:
    """Write it anew by `python -m holter_server.cli.reference > docs/cli.md`."""
    assert PAGE.read_text() == cli_page()


def test_the_page_has_every_command_and_nothing_more() -> None:
    """One heading per command."""
    headings = [line.removeprefix("## holter ") for line in cli_page().splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(COMMANDS)


def test_the_exit_codes_that_are_used_are_documented() -> None:
    """Scripts rely on them."""
    assert set(EXIT_CODES) == {0, failure.FAILED, failure.USAGE, failure.INTERRUPTED}


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["runs", "--nonsense"], ["show"], ["runs", "--limit", "none"], ["export", "x", "--format", "xml"]],
)
def test_a_mistyped_command_is_status_2(arguments: list[str]) -> None:
    """Usage errors are told apart from failures, and go to standard error."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_the_defaults_are_those_of_the_settings_and_the_agent() -> None:
    """The flags of serve, the settings and the agent's default address agree."""
    parameters = inspect.signature(serve).parameters
    for name in ("host", "port", "db"):
        assert parameters[name].default == Settings.model_fields[name].default
    settings = Settings.model_fields
    assert f"http://{settings['host'].default}:{settings['port'].default}" == DEFAULT_URL
    assert settings["db"].default == DEFAULT_DB


def test_a_wrong_variable_is_named() -> None:
    """A setting that can't be read names itself, not a class of pydantic's."""
    result = CliRunner().invoke(app, ["serve"], env={"HOLTER_QUEUE_LIMIT": "many"})
    assert result.exit_code == 2
    assert "HOLTER_QUEUE_LIMIT" in result.stderr
    assert "docs/settings.md" in result.stderr


def test_without_typer_it_says_what_to_install() -> None:
    """The agent alone has a `holter` on its path, too."""
    code = "import sys; sys.modules['typer'] = None; from holter_server.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'Error: typer is not installed\n  pip install "holter[server]"\n'


def test_an_old_locale_gets_question_marks_instead_of_a_traceback() -> None:
    """A log collector that is set to ASCII must not end the command."""
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    command = [sys.executable, "-m", "holter_server.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Holter watches trainings" in done.stdout
