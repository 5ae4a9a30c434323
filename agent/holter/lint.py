"""The health rules over a log file: what an online monitor would have said, and at which row it would have known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holter.health import Engine, Facts, RuleSet, Severity, Transition, Vitals
from holter.logfiles import LogFile

__all__ = ["Finding", "lint"]


@dataclass(slots=True)
class Finding:
    """One incident that the file's run would have had."""

    kind: str
    rule: str
    severity: Severity
    metric: str
    step: int | None
    row: int  # from 0: the row at which it was first known
    value: float | None
    message: str
    advice: str
    writer: str = ""
    threshold: float | None = None
    baseline: float | None = None
    resolved_step: int | None = None
    resolved_row: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def unhealthy(self) -> bool:
        """Worse than a remark."""
        return self.severity != "info"


def lint(log: LogFile, rules: RuleSet | None = None, facts: Facts | None = None) -> list[Finding]:
    """Feed the rows of ``log`` to the engine in the order in which they were logged, then the run's end.

    A finding is an incident. One that opens as info and gets worse is two findings: the second at the row at which it
    became a warning. The clock of the file is not replayed: no run is hung or lost here.
    """
    engine = Engine(rules or RuleSet.default(), facts or Facts())
    replay = _Replay()
    for first, batch in log.batches():
        for row, change in engine.locate(batch):
            replay.take(first + row, change)
    last = max(len(log.rows) - 1, 0)
    ended = Vitals(now=0.0, state="finished", started_at=0.0, last_seen_at=0.0, due_at=None, last_step_at=None)
    for change in engine.tick(ended):
        replay.take(last, change)
    return replay.findings


class _Replay:
    """Incidents by id while they are open, and all findings in order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._open: dict[str, Finding] = {}

    def take(self, row: int, change: Transition) -> None:
        finding = self._open.get(change.incident)
        if finding is None or (change.severity != "info" and not finding.unhealthy):
            finding = self._open[change.incident] = _finding(row, change)
            self.findings.append(finding)
        elif change.action == "resolve":
            finding.resolved_step, finding.resolved_row = change.step, row
            del self._open[change.incident]
        else:
            finding.kind, finding.severity, finding.message = change.kind, change.severity, change.message
            finding.advice = change.advice or finding.advice
            finding.evidence = change.evidence


def _finding(row: int, change: Transition) -> Finding:
    return Finding(
        kind=change.kind,
        rule=change.rule,
        severity=change.severity,
        metric=change.metric,
        step=change.step,
        row=row,
        value=change.value,
        message=change.message,
        advice=change.advice,
        writer=change.writer,
        threshold=change.threshold,
        baseline=change.baseline,
        evidence=change.evidence,
    )
