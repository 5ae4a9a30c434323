"""The command line, `holter`. Importing this loads neither Typer nor the service."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        import rich  # noqa: F401, PLC0415 - only tested for, so that the agent alone gets a clear answer
        import typer  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        sys.stderr.write(f'Error: {error.name} is not installed\n  pip install "holter[server]"\n')
        raise SystemExit(2) from None

    from holter_server.cli.app import app  # noqa: PLC0415 - see above

    for stream in (sys.stdout, sys.stderr):
        # A terminal in an old locale can't show "●"; a "?" there is better than a UnicodeEncodeError.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="holter")
