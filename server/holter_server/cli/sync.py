"""`holter sync`: ship what trainings without a service have left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holter_server.cli.connection import DEFAULT_URL, AsJson, Token, Url

__all__ = ["sync"]


def sync(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Recordings, or folders that hold some.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Ship offline or leftover recordings. Doing it again changes nothing."""
