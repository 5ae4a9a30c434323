"""`holter lint`: the health rules over log files, as if they had been watched while they were written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from holter_server.cli.connection import AsJson
from holter_server.cli.failure import Failure
from holter_server.cli.screen import print_json, severity_text, stderr, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from holter.health import RuleSet
    from holter.lint import Finding
    from holter.logfiles import LogFile, Unreadable

__all__ = ["lint"]

HEALTHY, UNHEALTHY, UNREADABLE = 0, 1, 2
PLOTS = 3  # metrics of one file that are drawn
IN_JSON = (
    "kind", "rule", "severity", "metric", "step", "row", "value", "message", "advice", "threshold", "baseline",
    "resolved_step", "resolved_row", "evidence",
)  # fmt: skip


def lint(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="csv, jsonl, trainer_state.json, TensorBoard event files or their folder, or what a training printed.",
        ),
    ],
    rules: Annotated[
        Path | None, typer.Option("--rules", "-r", metavar="RULES", help="Your rules, laid over the default ones.")
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot/--no-plot", help="Draw the metrics that something is wrong with.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Look for what is unhealthy in log files. Exit status: 0 healthy, 1 unhealthy, 2 a file could not be read.

    Every rule works as it does on a live run; `row` counts from 0 the rows of numbers of the file, and is the one at
    which a live monitor would have known. Remarks (info) leave a file healthy.
    """
    from holter.lint import lint as findings_of  # noqa: PLC0415 - the other commands need not wait for numpy
    from holter.logfiles import Unreadable, read_log  # noqa: PLC0415

    ruleset = _rules(rules)
    status = HEALTHY
    answers: list[dict[str, Any]] = []
    for path in files:
        try:
            log = read_log(path)
        except Unreadable as error:
            status = UNREADABLE
            answers.append(_unreadable(path, error))
            if not as_json:
                _show_unreadable(path, error)
            continue
        findings = findings_of(log, ruleset)
        healthy = not any(finding.unhealthy for finding in findings)
        status = max(status, HEALTHY if healthy else UNHEALTHY)
        answers.append(_answer(path, log, findings, healthy=healthy))
        if not as_json:
            _show(path, log, findings, plot=plot)
    if as_json:
        print_json({"files": answers})
    raise typer.Exit(status)


def _rules(path: Path | None) -> RuleSet:
    from holter.health import RuleError, RuleSet  # noqa: PLC0415

    if path is None:
        return RuleSet.default()
    try:
        return RuleSet.parse(path.read_text(encoding="utf-8"), name=str(path))
    except RuleError as error:
        raise Failure(str(error), "holter rules check tells more", exit_code=UNREADABLE) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Failure(f"Can't read {path}: {reason}", "Name a YAML file of rules", exit_code=UNREADABLE) from None


# --- for machines


def _answer(path: Path, log: LogFile, findings: list[Finding], *, healthy: bool) -> dict[str, Any]:
    return {
        "path": str(path),
        "healthy": healthy,
        "format": log.format,
        "rows": len(log.rows),
        "findings": [{key: value for key, value in asdict(finding).items() if key in IN_JSON} for finding in findings],
    }


def _unreadable(path: Path, error: Unreadable) -> dict[str, Any]:
    problem = {"type": "unreadable", "message": error.message, "hint": error.hint}
    return {"path": str(path), "healthy": None, "rows": 0, "findings": [], "error": problem}


# --- for people


def _show_unreadable(path: Path, error: Unreadable) -> None:
    console = stderr()
    console.print(Text.assemble(("Error: ", "bold red"), f"Can't read {path}: {error.message}"), soft_wrap=True)
    if error.hint:
        console.print(Text(f"  {error.hint}"), soft_wrap=True)


def _show(path: Path, log: LogFile, findings: list[Finding], *, plot: bool) -> None:
    from holter_server.cli.plot import Points, draw  # noqa: PLC0415

    console = stdout()
    sick = [finding for finding in findings if finding.unhealthy]
    what = f"{len(sick)} unhealthy" if sick else "healthy"
    remarks = len(findings) - len(sick)
    more = f", {remarks} remark{'' if remarks == 1 else 's'}" if remarks else ""
    head = Text.assemble((f"{path}", "bold"), f": {what}{more}; {len(log.rows):,} rows ({log.format})")
    console.print(head, soft_wrap=True)
    for finding in findings:
        _show_finding(console, finding)
    metrics = dict.fromkeys(finding.metric for finding in sick if finding.metric)
    for metric in list(metrics)[:PLOTS] if plot else ():
        rows, values = log.series(metric)
        marks = [finding.row for finding in sick if finding.metric == metric]
        console.print(draw(metric, Points([log.rows[row].step for row in rows], rows, values), marks))


def _show_finding(console: Console, finding: Finding) -> None:
    until = f" to {finding.resolved_step}" if finding.resolved_step is not None else ""
    place = "" if finding.step is None else f" · step {finding.step}{until}"
    head = Text.assemble("  ", severity_text(finding.severity), f" {finding.kind}{place} · row {finding.row}")
    console.print(head, soft_wrap=True)
    lines = [finding.message, finding.evidence.get("formula", ""), finding.advice]
    for line, style in zip(lines, ("default", "dim", "italic"), strict=True):
        if line:
            console.print(Text(f"    {line}", style=style), soft_wrap=True)
