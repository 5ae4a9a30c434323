"""`holter migrate-db`: a whole database from SQLite to PostgreSQL, or back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from holter_server.cli.connection import AsJson
from holter_server.cli.failure import Failure
from holter_server.cli.screen import duration, plain_table, print_json, stderr, stdout

if TYPE_CHECKING:
    from holter_db.transfer import Progress as Told
    from holter_db.transfer import Transferred

__all__ = ["migrate_db"]

Address = "sqlite:///PATH or postgresql://USER@HOST/NAME"


def migrate_db(
    source: Annotated[str, typer.Argument(metavar="FROM", help=f"The database to copy, {Address}. It is only read.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The database to copy into. Its tables are made.")],
    replace: Annotated[bool, typer.Option("--replace", help="Delete what TO holds before.")] = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Copy although a service works on FROM; what it takes in is missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a whole database into another one, between SQLite and PostgreSQL in either direction.

    All or nothing: every row is written in one transaction, read back and compared, and only then kept. If anything
    fails, or Ctrl-C is pressed, TO is as it was before. Stop the service first; start it on TO afterwards.
    """
    from holter_db.errors import StoreError  # noqa: PLC0415 - the other commands need not wait for the database
    from holter_db.transfer import transfer  # noqa: PLC0415

    begun = time.monotonic()
    try:
        with _progress(shown=not as_json) as tell:
            done = transfer(source, target, replace=replace, snapshot=snapshot, progress=tell)
    except StoreError as error:
        raise Failure(str(error), error.hint) from None
    _report(done, time.monotonic() - begun, as_json)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Told]:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=not shown) as bars:
        bar: TaskID = bars.add_task("")
        yield lambda stage, table, rows, total: bars.update(
            bar, description=f"{stage} {table}", completed=rows, total=total
        )


def _report(done: Transferred, seconds: float, as_json: bool) -> None:
    tables: list[dict[str, Any]] = [
        {"table": copied.table, "rows": copied.rows, "checksum": copied.checksum} for copied in done.tables
    ]
    if as_json:
        about = {
            "revision": done.revision,
            "rows": done.rows,
            "seconds": seconds,
            "source_changed": done.source_changed,
        }
        print_json({**about, "tables": tables})
        return
    table = plain_table("table", "rows", "checksum", right=("rows",))
    for row in tables:
        table.add_row(row["table"], f"{row['rows']:,}", row["checksum"])
    stdout().print(table)
    stdout().print(f"Copied {done.rows:,} rows in {duration(seconds)}; all were read back and are equal.")
    if done.source_changed:
        note = "FROM has changed since: what came after the copy began is not in TO."
        stderr().print(Text(note, style="yellow"), soft_wrap=True)
