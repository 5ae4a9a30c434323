"""How a detector's alarms on one log are scored, and the figures over many logs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from corpus.entries import Entry

__all__ = ["Alarm", "Figures", "Outcome", "figures_of", "outcome_of", "table_by_kind"]

EARLY_SHARE, EARLY_ROWS = 0.03, 2  # how much before the onset an alarm still counts
LOSS_KINDS = frozenset({"spike", "explosion", "divergence", "grad_norm", "variance", "non_finite"})
RIGHT = {"nan": {"non_finite"}, "plateau": {"plateau"}, "overfit": {"overfitting"}, "other": {"dead"}}


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector has said, and at which row it knew."""

    row: int
    kind: str
    severity: str
    rule: str = ""
    metric: str = ""
    message: str = ""


@dataclass(frozen=True)
class Outcome:
    """One log under one detector. ``delay`` counts rows from the labelled onset; None where it was not found."""

    entry: Entry
    alarms: tuple[Alarm, ...]
    delay: int | None

    @property
    def found(self) -> bool:
        return self.delay is not None

    @property
    def warned(self) -> bool:
        return any(alarm.severity != "info" for alarm in self.alarms)


def outcome_of(entry: Entry, alarms: Iterable[Alarm]) -> Outcome:
    """A sick run is found by an alarm of the right kind, not earlier than 3 % of the run (at least 2 rows) before."""
    alarms = tuple(sorted(alarms, key=lambda alarm: alarm.row))
    if entry.onset is None:
        return Outcome(entry, alarms, None)
    earliest = entry.onset - max(EARLY_ROWS, EARLY_SHARE * entry.rows)
    right = RIGHT.get(entry.label, LOSS_KINDS)
    rows = [alarm.row for alarm in alarms if alarm.kind in right and alarm.row >= earliest]
    return Outcome(entry, alarms, min(rows) - entry.onset if rows else None)


@dataclass(frozen=True)
class Figures:
    """Counts over logs."""

    found: int
    sick: int
    warned: int  # healthy runs with a warning or critical
    told: int  # healthy runs with anything at all
    healthy: int

    @property
    def recall(self) -> float:
        return self.found / self.sick if self.sick else float("nan")

    def text(self) -> str:
        return f"{self.found}/{self.sick} found, {self.warned} and {self.told} of {self.healthy} healthy alarmed"


def figures_of(outcomes: Iterable[Outcome], wanted: Callable[[Entry], bool] = lambda _: True) -> Figures:
    chosen = [outcome for outcome in outcomes if wanted(outcome.entry)]
    sick = [outcome for outcome in chosen if not outcome.entry.healthy]
    healthy = [outcome for outcome in chosen if outcome.entry.healthy]
    return Figures(
        sum(outcome.found for outcome in sick),
        len(sick),
        sum(outcome.warned for outcome in healthy),
        sum(bool(outcome.alarms) for outcome in healthy),
        len(healthy),
    )


def table_by_kind(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Rows of label, found among the sure ones, found among the likely ones, median and p90 of the delay."""
    rows = []
    for label in sorted({outcome.entry.label for outcome in outcomes if not outcome.entry.healthy}):
        chosen = [outcome for outcome in outcomes if outcome.entry.label == label]
        counts = [
            f"{sum(outcome.found for outcome in part)}/{len(part)}" if part else "–"
            for part in (
                [outcome for outcome in chosen if outcome.entry.sure],
                [outcome for outcome in chosen if not outcome.entry.sure],
            )
        ]
        delays = sorted(outcome.delay for outcome in chosen if outcome.delay is not None)
        rows.append([label, *counts, *_quantiles(delays)])
    return rows


def _quantiles(delays: list[int]) -> list[str]:
    if not delays:
        return ["–", "–"]
    p90 = delays[min(len(delays) - 1, round(0.9 * (len(delays) - 1)))]
    return [f"{statistics.median(delays):g}", str(p90)]
