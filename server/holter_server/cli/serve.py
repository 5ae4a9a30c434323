"""`holter serve`: the service in the foreground, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from holter_server.cli.failure import USAGE, Failure
from holter_server.cli.screen import stdout

if TYPE_CHECKING:
    from holter_server.settings import Settings

__all__ = ["DEFAULT_DB", "Db", "read_settings", "serve"]

DEFAULT_DB = "sqlite:///holter.db"

Db = Annotated[
    str, typer.Option("--db", envvar="HOLTER_DB", help="Database: sqlite:///PATH or postgresql://USER@HOST/NAME.")
]


def serve(
    host: Annotated[
        str, typer.Option(envvar="HOLTER_HOST", help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="HOLTER_PORT", min=0, max=65535, help="Port; 0 takes a free one.")] = 8787,
    db: Db = DEFAULT_DB,
) -> None:
    """Run the service. Its other settings are the HOLTER_* variables of docs/settings.md."""
    settings = read_settings(host=host, port=port, db=db)
    from holter_server.errors import ServiceError  # noqa: PLC0415 - the other commands need not wait for the service
    from holter_server.service import serve as run_service  # noqa: PLC0415

    try:
        run_service(settings, on_ready=lambda address: _announce(address, settings))
    except ServiceError as error:
        raise Failure(error.message, error.hint) from None


def _announce(address: str, settings: Settings) -> None:
    console = stdout()
    console.print(Text.assemble("Holter is at ", (address, "bold cyan underline")), soft_wrap=True)
    sqlite = settings.db.startswith("sqlite:///")
    data = settings.db.removeprefix("sqlite:///") if sqlite else "PostgreSQL"  # its address may hold a password
    console.print(Text(f"Data: {data}. API: {address}/api/docs. Ctrl-C stops it.", style="dim"), soft_wrap=True)
    if not settings.loopback or settings.token_text:
        way = "Sign in there with a token; holter token create makes one. Trainings take it from HOLTER_TOKEN."
        console.print(Text(way, style="dim"), soft_wrap=True)


def read_settings(**given: Any) -> Settings:
    """Settings from ``given`` and, for the rest, from the environment; a `Failure` names the variable that is wrong."""
    from pydantic import ValidationError  # noqa: PLC0415

    from holter_server.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        name = f"HOLTER_{'_'.join(str(part) for part in fault['loc']).upper()}"
        raise Failure(f"{name}: {fault['msg']}", "docs/settings.md lists the settings", exit_code=USAGE) from None
