"""docs/cli.md, written from the commands themselves: `python -m holter_server.cli.reference > docs/cli.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from holter_server.cli.app import EXIT_CODES, app

__all__ = ["cli_page"]

_HEAD = """\
# The command line

This page is generated: `python -m holter_server.cli.reference > docs/cli.md`.

RUN is a run's id, a unique prefix of one, or `project/name` (then the newest of that name). `--json`
prints the same content for machines, with non-finite numbers as "NaN", "Infinity" and "-Infinity". Results go to
standard output, remarks and errors to standard error, so that `holter runs --json | jq` works; colour only to a
terminal, and not when `NO_COLOR` is set.

An error is two lines: what happened, and what to do.

| exit status | means |
| --- | --- |
"""


def cli_page() -> str:
    """The whole page, in Markdown."""
    command = typer.main.get_command(app)
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    sections = "".join(_section(name, leaf) for name, leaf in _leaves("holter", command))
    return _HEAD + codes + sections


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child in children.values():
        yield from _leaves(f"{name} {child.name}", child)


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join([name, *(_metavar(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"\n## {name}\n", f"    {usage}\n", inspect.cleandoc(command.help or "") + "\n"]
    lines += [f"`{_metavar(argument)}`: {argument.help}\n" for argument in arguments if argument.help]
    if options:
        lines.append("| option | default | what it does |\n| --- | --- | --- |")
        lines += [_row(option) for option in options]
    return "\n".join(lines).rstrip() + "\n"


def _metavar(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return f"{name}…" if argument.nargs == -1 else name


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    described = getattr(option, "type_descriptor", None) or getattr(option, "type", None)  # newer and older Typer
    choices = getattr(described, "choices", None)
    text = option.help + (f" One of {', '.join(_cell(choice) for choice in choices)}." if choices else "")
    variable = f" (`{option.envvar}`)" if option.envvar else ""
    return f"| {names} | {_default(option)} | {text}{variable} |"


def _cell(choice: Any) -> str:
    return f"`{getattr(choice, 'value', choice)}`"


def _default(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    if value is None or value is False or value == "":
        return "–"
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(cli_page())
