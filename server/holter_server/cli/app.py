"""`holter`: every command under one roof. Each is a function in a module of its own; here they get their names."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from holter_server.cli.compare import compare, pin
from holter_server.cli.database import database
from holter_server.cli.deletion import delete, purge, restore
from holter_server.cli.demo import demo
from holter_server.cli.doctor import doctor
from holter_server.cli.export import export
from holter_server.cli.failure import CommandGroup
from holter_server.cli.lint import lint
from holter_server.cli.migrate_db import migrate_db
from holter_server.cli.mutes import mute, unmute
from holter_server.cli.orders import checkpoint, dump, stop
from holter_server.cli.plan import plan
from holter_server.cli.retention import retention
from holter_server.cli.rules import rules
from holter_server.cli.runs import runs, show
from holter_server.cli.serve import serve
from holter_server.cli.sync import sync
from holter_server.cli.tail import tail
from holter_server.cli.tokens import tokens
from holter_server.cli.webhooks import webhooks

__all__ = ["EXIT_CODES", "app"]

EXIT_CODES = {
    0: "done",
    1: "not done: the service is not there or said no, a file has errors, a check did not pass; lint: unhealthy",
    2: 'not typed right, "holter[server]" is not installed, or a database or a log to be checked can not be read',
    130: "interrupted by Ctrl-C before the work was done",
}

SERVICE = "The service"
RUNS = "Runs"
ADMINISTRATION = "Rules and administration"

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holter {importlib.metadata.version('holter')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Holter watches trainings: it records every step and says at once when a run is sick, and why."""


app.command(rich_help_panel=SERVICE)(serve)
app.command(rich_help_panel=SERVICE)(demo)
app.command(rich_help_panel=SERVICE)(doctor)
app.command(rich_help_panel=RUNS)(runs)
app.command(rich_help_panel=RUNS)(show)
app.command(rich_help_panel=RUNS)(tail)
app.command(rich_help_panel=RUNS)(compare)
app.command(rich_help_panel=RUNS)(pin)
app.command(rich_help_panel=RUNS)(plan)
app.command(rich_help_panel=RUNS)(stop)
app.command(rich_help_panel=RUNS)(checkpoint)
app.command(rich_help_panel=RUNS)(dump)
app.command(rich_help_panel=RUNS)(export)
app.command(rich_help_panel=RUNS)(sync)
app.command(rich_help_panel=RUNS)(lint)
app.command(rich_help_panel=RUNS)(delete)
app.command(rich_help_panel=RUNS)(restore)
app.command(rich_help_panel=RUNS)(purge)
app.add_typer(rules, name="rules", rich_help_panel=ADMINISTRATION)
app.command(rich_help_panel=ADMINISTRATION)(mute)
app.command(rich_help_panel=ADMINISTRATION)(unmute)
app.add_typer(retention, name="retention", rich_help_panel=ADMINISTRATION)
app.add_typer(database, name="db", rich_help_panel=ADMINISTRATION)
app.add_typer(webhooks, name="webhook", rich_help_panel=ADMINISTRATION)
app.add_typer(tokens, name="token", rich_help_panel=ADMINISTRATION)
app.command("migrate-db", rich_help_panel=ADMINISTRATION)(migrate_db)
