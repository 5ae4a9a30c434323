"""`holter db`: what is in the service's database, whether it is sound, and a copy of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from holter_server.cli.connection import AsJson
from holter_server.cli.failure import FAILED, UNREADABLE, Failure
from holter_server.cli.screen import clock, plain_table, print_json, stderr, stdout
from holter_server.cli.serve import DEFAULT_DB, Db

if TYPE_CHECKING:
    from holter_db.check import Finding
    from holter_db.database import Database

__all__ = ["database"]

database = typer.Typer(
    no_args_is_help=True,
    help="The database itself: what is in it, whether it is sound, a copy of it. The service may go on running.",
)


@database.command()
def info(db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """Show what the database holds: size, revision, runs, points, rows of each table. Changes nothing."""
    from dataclasses import asdict  # noqa: PLC0415

    from holter_db.contents import look  # noqa: PLC0415 - the other commands need not wait for the database

    with _opened(db) as opened:
        contents = look(opened)
    if as_json:
        print_json(asdict(contents))
        return
    older = "" if contents.revision == contents.newest_revision else f" (this Holter makes {contents.newest_revision})"
    per_point = "" if contents.bytes_per_point is None else f", {contents.bytes_per_point:.1f} bytes each"
    facts = {
        "database": contents.database,
        "revision": contents.revision + older,
        "size": _size(contents.size) + (f", of which {_size(contents.free)} is free again" if contents.free else ""),
        "runs": ", ".join(f"{count} {state}" for state, count in contents.runs.items()) or "none",
        "deleted": f"{contents.deleted_runs} runs; holter purge removes them for good" if contents.deleted_runs else "",
        "since": clock(contents.oldest_run) if contents.oldest_run else "",
        "points": f"{contents.points:,}{per_point}",
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, style="dim"), Text(value))
    stdout().print(grid)
    table = plain_table("table", "rows", right=("rows",))
    for name, count in contents.rows.items():
        table.add_row(name, f"{count:,}")
    stdout().print(Padding(table, (1, 0, 0, 0), expand=False))


@database.command()
def check(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what follows from the stored points; never removes a point.")
    ] = False,
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """Look whether the database is sound: the file, its tables, every stored point, and what is said of them.

    Ends with status 0 when all is well, 1 when something is wrong, 2 when it can't be read.
    """
    from holter_db import check as checks  # noqa: PLC0415

    findings: list[tuple[Finding, bool]] = []
    with _opened(db) as opened, _progress("Looking at run {} of {}") as on_progress:
        _refuse_another_revision(opened)
        for finding in checks.check_database(opened, on_progress):
            mended = repair and checks.repair(opened, finding)
            findings.append((finding, mended))
            if not as_json:
                _show(finding, mended)
    left = [finding for finding, mended in findings if not mended]
    if as_json:
        print_json({"sound": not left, "findings": [_as_json(*entry) for entry in findings]})
    else:
        _sum_up(findings, repair)
    if left:
        raise typer.Exit(FAILED)


def _show(finding: Finding, mended: bool) -> None:
    mark = Text("✓ ", style="green") if mended else Text("✗ ", style="bold red")
    where = Text(f"run {finding.run}: ", style="dim") if finding.run else Text()
    stdout().print(mark + Text(f"{finding.check:<12} ") + where + Text(finding.message), soft_wrap=True)
    said = "Repaired." if mended else finding.advice
    stdout().print(Text(f"  → {said}"), soft_wrap=True)


def _sum_up(findings: list[tuple[Finding, bool]], repair: bool) -> None:
    mended = sum(done for _, done in findings)
    left = len(findings) - mended
    if not findings:
        stdout().print("The database is sound.")
    elif not left:
        stdout().print(f"Everything that was wrong is repaired ({mended}). Look again to be sure: holter db check")
    else:
        rest = f"{left} {'thing is' if left == 1 else 'things are'} wrong"
        can = sum(finding.repair is not None for finding, done in findings if not done)
        hint = f"; holter db check --repair can put {can} of them right" if can and not repair else ""
        stderr().print(f"{rest}{f', {mended} repaired' if mended else ''}{hint}", soft_wrap=True)


def _as_json(finding: Finding, mended: bool) -> dict[str, Any]:
    plain = {name: getattr(finding, name) for name in ("check", "run", "message", "advice")}
    return plain | {"repairable": finding.repair is not None, "repaired": mended}


@database.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; a name that is free.")],
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of FILE if it is there.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Leave out room that purged runs have left; SQLite only, takes longer.")
    ] = False,
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """Copy the database while the service goes on, check the copy, and only then give it its name.

    Of SQLite the copy is a database: holter serve --db sqlite:///FILE opens it. Of PostgreSQL it is an archive for
    pg_restore, and needs pg_dump. It holds webhooks' secrets: keep it as you keep the database.
    """
    from dataclasses import asdict  # noqa: PLC0415

    from holter_db.backup import back_up  # noqa: PLC0415
    from holter_db.errors import StoreError  # noqa: PLC0415

    with _progress("Copying") as on_progress:
        try:
            done = back_up(
                db,
                file,
                overwrite=overwrite,
                compact=compact,
                on_progress=lambda part: on_progress(int(part * 100), 100),
            )
        except StoreError as error:
            raise Failure(error.message, error.hint) from None
    if as_json:
        print_json({"backup": asdict(done)})
        return
    stdout().print(f"{done.file}: {_size(done.size)}, {done.runs} runs, in {done.seconds:.1f} s", soft_wrap=True)
    stderr().print(Text("The copy was read back and is sound. docs/operations.md has how to restore it.", style="dim"))


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    """The database as it is: nothing is created or migrated by looking."""
    from holter_db.database import Database  # noqa: PLC0415
    from holter_db.errors import StoreError  # noqa: PLC0415

    try:
        opened = Database.open(url, as_it_is=True)
        try:
            yield opened
        finally:
            opened.close()
    except StoreError as error:
        raise Failure(error.message, error.hint, exit_code=UNREADABLE) from None


def _refuse_another_revision(opened: Database) -> None:
    from holter_db.migrate import revision_of  # noqa: PLC0415
    from holter_db.schema import REVISION  # noqa: PLC0415

    with opened.read() as conn:
        found = revision_of(conn)
    if found is None:
        raise Failure("The database holds nothing of Holter's", "Name the service's: --db", exit_code=UNREADABLE)
    if found != REVISION:
        todo = (
            "Copy it (holter db backup FILE), then start holter serve once, which brings it up to date"
            if found < REVISION
            else "It was written by a newer Holter: pip install -U 'holter[server]'"
        )
        what = f"The database has revision {found}, and this Holter can check {REVISION}"
        raise Failure(what, todo, exit_code=UNREADABLE)


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing in a pipe. ``text`` may have places for what is done and for all."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(text.format(0, 0))

        def update(done: int, every: int) -> None:
            bar.update(task, completed=done, total=every, description=text.format(min(done + 1, every), every))

        yield update


def _size(count: int) -> str:
    """Bytes as people read them.

    >>> _size(999), _size(1_500_000)
    ('999 bytes', '1.5 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"
