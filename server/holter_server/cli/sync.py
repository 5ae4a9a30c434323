"""`holter sync`: ship what trainings without a service have left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Token, Url
from holter_server.cli.failure import FAILED, Failure
from holter_server.cli.screen import plain_table, print_json, stderr, stdout

if TYPE_CHECKING:
    from holter.sync import SpoolReport, SyncReport

__all__ = ["sync"]


def sync(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Recordings, or folders that hold some.")],
    *,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying while the service is down.")] = 30.0,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Ship offline or leftover recordings. Doing it again changes nothing."""
    report = _ship(paths, url, token, patience)
    if as_json:
        print_json({"complete": report.complete, "recordings": [_row(spool) for spool in report.spools]})
    else:
        _print(report)
    if not report.complete:
        raise typer.Exit(FAILED)


def _ship(paths: list[Path], url: str, token: str | None, patience: float) -> SyncReport:
    from holter.errors import SpoolError  # noqa: PLC0415 - the other commands need not wait for the agent
    from holter.sync import sync as ship  # noqa: PLC0415

    try:
        with stderr().status("Shipping …") as status:
            return ship(
                paths,
                url,
                token,
                patience=patience,
                on_progress=lambda spool, shipped: status.update(f"{spool.start.id}: {shipped.points:,} points"),
            )
    except SpoolError as error:
        raise Failure(error.message, "Offline recordings are in ./.holter, or where HOLTER_DIR says") from None
    except ValueError as error:
        raise Failure(str(error)) from None


def _row(spool: SpoolReport) -> dict[str, object]:
    return {
        "path": str(spool.path),
        "run": spool.run,
        "writer": spool.writer,
        "points": spool.shipped.points,
        "events": spool.shipped.events,
        "rejected": spool.shipped.rejected,
        "complete": spool.complete,
        "problem": spool.problem,
    }


def _print(report: SyncReport) -> None:
    table = plain_table("run", "writer", "new points", "all of it there", right=("new points",))
    for spool in report.spools:
        table.add_row(spool.run, spool.writer, f"{spool.shipped.points:,}", "✓" if spool.complete else "✗")
    stdout().print(table)
    for spool in report.spools:
        if spool.problem:
            stderr().print(Text.assemble(("Error: ", "bold red"), f"{spool.run} {spool.writer}: {spool.problem}"))
