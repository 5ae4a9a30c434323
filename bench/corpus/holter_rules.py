"""Holter's rules as a detector of the corpus."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from corpus.entries import Entry
from corpus.scoring import Alarm, Outcome, outcome_of
from holter.health import Batch, Engine, Facts, RuleSet
from holter.lint import lint
from holter.logfiles import LogFile

__all__ = ["alarms_of", "replay", "row_by_row_is_the_same"]


def alarms_of(log: LogFile, rules: RuleSet) -> list[Alarm]:
    """What `holter lint` says, of which the severity is the one that it had at that row or got later."""
    return [
        Alarm(finding.row, finding.kind, finding.severity, finding.rule, finding.metric, finding.message)
        for finding in lint(log, rules)
    ]


def replay(entries: Iterable[Entry], rules: RuleSet) -> list[Outcome]:
    return [outcome_of(entry, alarms_of(entry.log, rules)) for entry in entries]


def row_by_row_is_the_same(log: LogFile, rules: RuleSet) -> bool:
    """Whether the engine says the same of single rows, saved and restored at each tenth, as of whole batches."""
    whole, single = Engine(rules, Facts()), Engine(rules, Facts())
    for first, batch in log.batches():
        told = [repr(change) for _, change in whole.locate(batch)]
        each: list[str] = []
        for row in range(len(batch.steps)):
            if (first + row) % 10 == 0:
                single = Engine(rules, Facts(), single.save())
            each += [repr(change) for change in single.observe(_row(batch, row))]
        if each != told:
            return False
    return True


def _row(batch: Batch, row: int) -> Batch:
    part = np.s_[row : row + 1]
    return Batch(batch.writer, batch.metrics, batch.steps[part], batch.times[part], batch.values[part])
