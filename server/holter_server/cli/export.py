"""`holter export`: every point of a run, into a file or a pipe."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
import urllib3

from holter_server.cli.connection import DEFAULT_URL, Connection, Run, Token, Url
from holter_server.cli.failure import USAGE, Failure
from holter_server.cli.screen import stderr

__all__ = ["export"]

_PIECE = 1 << 16  # bytes


class Format(StrEnum):
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


def export(
    run: Run,
    *,
    fmt: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.csv,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help='Pattern such as "loss/*"; may be given again.')
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; without it, standard output.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Write every point of a run: each writer, each attempt, NaN and infinities included."""
    if output is None and fmt is Format.parquet and sys.stdout.isatty():
        raise Failure("Parquet is not text for a terminal", "Name a file: -o points.parquet", exit_code=USAGE)
    connection = Connection(url, token)
    found = connection.run(run)
    answer = connection.stream(f"/runs/{found['id']}/export", format=fmt.value, metric=metric)
    try:
        if output is None:
            _copy(answer, sys.stdout.buffer)
            return
        written = _into_file(answer, output)
    except urllib3.exceptions.HTTPError as error:
        raise Failure(f"The export broke off: {error}", "Run the same command again; nothing was kept of it") from None
    finally:
        answer.release_conn()
    stderr().print(f"{output}: {written:,} bytes")


def _into_file(answer: urllib3.BaseHTTPResponse, output: Path) -> int:
    """Write beside ``output`` first, so that it is never half a file. Returns the bytes written."""
    partial = output.with_name(f".{output.name}.part")
    try:
        with partial.open("wb") as file:
            written = _copy(answer, file)
        partial.replace(output)
    except OSError as error:
        raise Failure(f"Can't write {output}: {error.strerror}", "Name another file: -o FILE") from None
    finally:
        partial.unlink(missing_ok=True)
    return written


def _copy(answer: urllib3.BaseHTTPResponse, file: BinaryIO) -> int:
    written = 0
    for piece in answer.stream(_PIECE):
        file.write(piece)
        written += len(piece)
    file.flush()
    return written
