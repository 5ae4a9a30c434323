"""`holter doctor`: what is in order here, what is not, and how to mend it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from holter_server.cli.checks import Finding, examine
from holter_server.cli.connection import DEFAULT_URL, AsJson, Token, Url
from holter_server.cli.failure import FAILED
from holter_server.cli.screen import print_json, stdout
from holter_server.cli.serve import DEFAULT_DB, Db

__all__ = ["doctor"]

_MARKS = {"good": ("✓", "green"), "note": ("·", "cyan"), "warning": ("▲", "yellow"), "bad": ("✗", "bold red")}


def doctor(
    url: Url = DEFAULT_URL,
    token: Token = None,
    db: Db = DEFAULT_DB,
    directory: Annotated[
        str, typer.Option("--dir", envvar="HOLTER_DIR", help="Where the agent keeps what it could not ship.")
    ] = ".holter",
    as_json: AsJson = False,
) -> None:
    """Check Python, torch, the GPU, the service, the token, the database, leftovers and the clock."""
    findings = examine(url, token, db, directory)
    if as_json:
        print_json({"checks": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            _print(finding)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(FAILED)


def _print(finding: Finding) -> None:
    mark, style = _MARKS[finding.state]
    console = stdout()
    console.print(Text.assemble((mark, style), f" {finding.name:<10} {finding.detail}"))
    if finding.fix:
        console.print(Padding(Text(f"→ {finding.fix}"), (0, 0, 0, 13), expand=False))
