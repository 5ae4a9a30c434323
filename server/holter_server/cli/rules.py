"""`holter rules`: what the service watches for, whether a file of rules is right, and what it would have said."""

from __future__ import annotations

import getpass
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import plain_table, print_json, severity_text, stdout, step

if TYPE_CHECKING:
    from holter.health import RuleError, RuleSet

__all__ = ["rules"]

rules = typer.Typer(no_args_is_help=True, help="What is watched for: the health rules.")

RuleFile = Annotated[Path, typer.Argument(metavar="FILE", help="Rules in YAML.")]


@rules.command("list")
def show_all(
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Your rules, laid over the default ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the rules: how grave, from which pack, and when they fire."""
    from holter.health import RuleSet  # noqa: PLC0415 - the other commands need not wait for numpy

    described = (RuleSet.default() if file is None else _parse(file)).describe()
    if as_json:
        print_json({"rules": described})
        return
    table = plain_table("rule", "severity", "pack", "fires when", flexible=("fires when",))
    for rule in described:
        table.add_row(rule["id"], severity_text(rule["severity"]), rule["pack"], rule["summary"])
    stdout().print(table)


@rules.command()
def check(file: RuleFile, as_json: AsJson = False) -> None:
    """Read a file of rules; a mistake is shown with its line and the keys that are allowed there."""
    from holter.health import RuleError  # noqa: PLC0415

    try:
        described = _read(file).describe()
    except RuleError as error:
        if as_json:
            problem = {"message": str(error), "line": error.line, "allowed_keys": list(error.allowed_keys or ())}
            print_json({"file": str(file), "valid": False, "error": problem})
        raise _wrong(error) from None
    if as_json:
        print_json({"file": str(file), "valid": True, "rules": len(described)})
        return
    stdout().print(Text(f"{file}: right; {len(described)} rules watch with it"))


@rules.command()
def backtest(
    file: RuleFile,
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Ids, unique prefixes, or project/name.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Try a file of rules on stored runs: the incidents they would have had, beside how many they really had."""
    _parse(file)  # a mistake is told in the file's own name, before the service is asked
    connection = Connection(url, token)
    ids = dict.fromkeys(connection.run(run)["id"] for run in runs)
    text = file.read_text(encoding="utf-8")
    # One call each: a long run may take as long as a call may last.
    answers = [connection.post("/rules/backtest", {"rules": text, "runs": [run]}) for run in ids]
    results = [result for answer in answers for result in answer["runs"]]
    counts = Counter(incident["rule"] for result in results for incident in result["incidents"])
    if as_json:
        print_json({"runs": results, "fired": counts.total(), "rules": dict(counts)})
        return
    _show_backtest(results)


Project = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.")]
Comment = Annotated[str, typer.Option(help="Why, for the history.")]


@rules.command("put")
def put_file(
    project: Project,
    file: RuleFile,
    *,
    comment: Comment = "",
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Give a project these rules, as a new version."""
    _parse(file)
    text = file.read_text(encoding="utf-8")
    path = f"/projects/{quote(project, safe='')}/rules"
    answer = Connection(url, token).put(path, {"rules": text}, by=_me(), comment=comment)
    _said(project, answer, as_json=as_json)


@rules.command()
def history(project: Project, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List the versions of a project's rules, newest first: who, when and why."""
    found = Connection(url, token).get(f"/projects/{quote(project, safe='')}/rules/versions")["versions"]
    if as_json:
        print_json({"versions": found})
        return
    table = plain_table("version", "when", "who", "why", flexible=("why",))
    for row in found:
        when = datetime.fromtimestamp(row["created_at"]).isoformat(" ", "seconds")
        table.add_row(str(row["version"]), when, Text(row["author"] or "–"), Text(row["comment"] or "–"))
    stdout().print(table)


@rules.command()
def restore(
    project: Project,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="As holter rules history lists it.")],
    *,
    comment: Comment = "",
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier version of a project's rules the newest one again."""
    path = f"/projects/{quote(project, safe='')}/rules/restore?by={quote(_me(), safe='')}"
    answer = Connection(url, token).post(path, {"version": version, "comment": comment})
    _said(project, answer, as_json=as_json)


def _said(project: str, answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"project": project, "version": answer["version"], "rules": len(answer["rules"])})
        return
    stdout().print(Text(f"{project}: version {answer['version']}; {len(answer['rules'])} rules watch with it"))


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return ""


def _show_backtest(results: list[dict[str, Any]]) -> None:
    summary = plain_table("run", "name", "incidents", "really had", right=("incidents", "really had"))
    table = plain_table("run", "severity", "rule", "step", "until", "message", flexible=("rule", "message"))
    for result in results:
        summary.add_row(result["run"], Text(result["name"]), str(len(result["incidents"])), str(result["already"]))
        for found in result["incidents"]:
            steps = (step(found["step"]), step(found["resolved_step"]))
            severity, rule, message = severity_text(found["severity"]), Text(found["rule"]), Text(found["message"])
            table.add_row(result["run"], severity, rule, *steps, message)
    stdout().print(summary)
    if table.row_count:
        stdout().print(Text(""), table, sep="\n")


def _parse(file: Path) -> RuleSet:
    from holter.health import RuleError  # noqa: PLC0415

    try:
        return _read(file)
    except RuleError as error:
        raise _wrong(error) from None


def _read(file: Path) -> RuleSet:
    from holter.health import RuleSet  # noqa: PLC0415

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Failure(f"Can't read {file}: {reason}", "Name a YAML file of rules") from None
    return RuleSet.parse(text, name=str(file))


def _wrong(error: RuleError) -> Failure:
    """The message names file and line; the keys that are allowed there go into the second line."""
    if not error.allowed_keys:
        return Failure(str(error), "docs/health.md shows rules that are right")
    what = str(error).split(" allowed: ", maxsplit=1)[0].rstrip(";")
    return Failure(what, f"Allowed here: {', '.join(error.allowed_keys)}")
