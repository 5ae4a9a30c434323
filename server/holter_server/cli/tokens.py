"""`holter token`: who may talk to the service. Works on the database itself, so only where that can be reached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from holter_server.cli.connection import AsJson
from holter_server.cli.failure import Failure
from holter_server.cli.screen import clock, plain_table, print_json, stderr, stdout
from holter_server.cli.serve import DEFAULT_DB, Db

if TYPE_CHECKING:
    from holter_db.database import Database

__all__ = ["tokens"]

tokens = typer.Typer(no_args_is_help=True, help="Who may talk to the service; works on its database directly.")


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Whose it is: a person, a cluster.")] = "token",
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. Only its hash is kept."""
    from holter_db import tokens as store  # noqa: PLC0415 - the other commands need not wait for the database

    with _database(db, make=True) as database, database.write() as connection:
        secret = store.create(connection, name, time.time())
    if as_json:
        print_json({"token": {"name": name, "secret": secret}})
        return
    stdout().print(secret, soft_wrap=True)
    stderr().print(Text(f"Made for {name}, shown only now. A training uses it as HOLTER_TOKEN.", style="dim"))


@tokens.command("list")
def show_all(db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    from holter_db import tokens as store  # noqa: PLC0415

    with _database(db) as database, database.read() as connection:
        found = store.list(connection)
    if as_json:
        print_json({"tokens": [{"id": row.id, "name": row.name, "created_at": row.created_at} for row in found]})
        return
    if not found:
        stderr().print("No tokens yet. Make one: holter token create NAME")
        return
    table = plain_table("id", "name", "made", flexible=("name",))
    for row in found:
        table.add_row(row.id, row.name, clock(row.created_at))
    stdout().print(table)


@tokens.command()
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A token's id, from holter token list.")],
    db: Db = DEFAULT_DB,
) -> None:
    """Make a token worthless."""
    from holter_db import tokens as store  # noqa: PLC0415

    with _database(db) as database, database.write() as connection:
        store.revoke(connection, identifier)
    stdout().print(f"Revoked {identifier}")


@contextmanager
def _database(url: str, *, make: bool = False) -> Iterator[Database]:
    """The service's database. Only ``make`` creates one: an empty list from a mistyped path would be a lie."""
    from holter_db.database import Database  # noqa: PLC0415

    from holter_db.errors import DatabaseError, NotFound  # noqa: PLC0415

    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not make and not file.exists():
        raise Failure(f"There is no database at {file}", "Name the service's: --db sqlite:///PATH, or HOLTER_DB")
    try:
        database = Database.open(url)
        try:
            yield database
        finally:
            database.close()
    except DatabaseError as error:
        raise Failure(str(error), error.hint) from None
    except NotFound as error:
        raise Failure(str(error), "holter token list shows the ids") from None
