"""The one error of the command line: a line that says what happened, and a line that says what to do."""

from __future__ import annotations

from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from holter_server.cli.screen import stderr

__all__ = ["FAILED", "INTERRUPTED", "UNREADABLE", "USAGE", "CommandGroup", "Failure"]

FAILED = 1  # the service said no, or is not there; a file has errors; a check did not pass
USAGE = 2  # the command was not typed right, or "holter[server]" is not installed
UNREADABLE = 2  # `holter db check` can't say whether the database is sound
INTERRUPTED = 130  # Ctrl-C before the work was done


class Failure(Exception):
    """A command can't do what it was asked. ``what`` and ``todo`` are one sentence each."""

    def __init__(self, what: str, todo: str = "", *, exit_code: int = FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo
        self.exit_code = exit_code

    def show(self) -> None:
        console = stderr()
        console.print(Text.assemble(("Error: ", "bold red"), self.what), soft_wrap=True)
        if self.todo:
            console.print(Text(f"  {self.todo}"), soft_wrap=True)


class CommandGroup(TyperGroup):
    """Turns a `Failure` of any command below it into two lines and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            failure.show()
            raise typer.Exit(failure.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
