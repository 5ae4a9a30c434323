"""`holter token`: who may talk to the service. Works on the database itself, so only where that can be reached."""

from __future__ import annotations

import itertools
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
    from holter_db.tokens import TokenRow

__all__ = ["tokens"]

tokens = typer.Typer(no_args_is_help=True, help="Who may talk to the service; works on its database directly.")


@tokens.command()
def create(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Whose it is: a person, a cluster.")
    ] = None,
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. Only its hash is kept."""
    from holter_db import tokens as store  # noqa: PLC0415 - the other commands need not wait for the database

    with _database(db, make=True) as database, database.write() as connection:
        name = name or _free_name(store.list_tokens(connection))
        secret = store.create(connection, name, time.time())
    if as_json:
        print_json({"token": {"name": name, "secret": secret}})
        return
    stdout().print(secret, soft_wrap=True)
    stderr().print(Text(f"Made for {name!r}, shown only now. A training takes it from HOLTER_TOKEN.", style="dim"))


@tokens.command("list")
def show_all(db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    from holter_db import tokens as store  # noqa: PLC0415

    with _database(db) as database, database.read() as connection:
        found = store.list_tokens(connection)
    if as_json:
        print_json({"tokens": [{"name": row.name, "created_at": row.created_at} for row in found]})
        return
    if not found:
        stderr().print("No tokens yet. Make one: holter token create NAME")
        return
    table = plain_table("name", "made", flexible=("name",))
    for row in found:
        table.add_row(row.name, clock(row.created_at))
    stdout().print(table)


@tokens.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A token's name, from holter token list.")],
    db: Db = DEFAULT_DB,
) -> None:
    """Make a token worthless; the service forgets it within seconds."""
    from holter_db import tokens as store  # noqa: PLC0415

    with _database(db) as database, database.write() as connection:
        store.revoke(connection, name)
    stdout().print(f"Revoked {name}")


def _free_name(taken: list[TokenRow]) -> str:
    names = {row.name for row in taken}
    return next(name for number in itertools.count(1) if (name := f"token-{number}") not in names)


@contextmanager
def _database(url: str, *, make: bool = False) -> Iterator[Database]:
    """The service's database. Only ``make`` creates one: an empty list from a mistyped path would be a lie."""
    from holter_db.database import Database  # noqa: PLC0415
    from holter_db.errors import StoreError  # noqa: PLC0415

    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not make and not file.exists():
        raise Failure(f"There is no database at {file}", "Name the service's: --db sqlite:///PATH, or HOLTER_DB")
    try:
        database = Database.open(url)
        try:
            yield database
        finally:
            database.close()
    except StoreError as error:
        raise Failure(str(error), error.hint) from None
