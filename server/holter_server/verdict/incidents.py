"""Stability rows: which side's runs broke, by their incidents, where both had the same chance to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from holter.health.roles import Role, role_of
from holter_server.verdict.data import Record, Row, Sides, State, Trouble

__all__ = ["CRITICAL", "EXPLOSION", "TERMINAL", "incident_rows"]

TERMINAL = "terminal non-finite"
EXPLOSION = "critical explosion"
CRITICAL = "other critical incidents"
# A lost connection, a full GPU or a slow disk say nothing about the training's own stability.
_MACHINE = ("lost", "hung", "failed", "memory", "gpu", "throughput", "starvation", "rank")
_SIGNALS = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.GRAD_NORM)


def incident_rows(criterion: str, sides: Sides) -> list[Row]:
    """Runs with a terminal non-finite, with a critical explosion, with another critical incident, worst first."""
    return [
        _row(criterion, TERMINAL, lambda trouble: trouble.terminal, sides),
        _row(criterion, EXPLOSION, lambda trouble: not trouble.terminal and _explosion(trouble), sides),
        _row(criterion, CRITICAL, _other_critical, sides),
    ]


def _explosion(trouble: Trouble) -> bool:
    """A warning becomes critical only once the explosion has lasted."""
    return trouble.severity == "critical" and trouble.kind == "explosion"


def _other_critical(trouble: Trouble) -> bool:
    if trouble.terminal or trouble.kind == "explosion" or trouble.kind in _MACHINE:
        return False
    return trouble.severity == "critical"


def _row(criterion: str, name: str, wanted: Callable[[Trouble], bool], both: Sides) -> Row:
    sides = {"baseline": both.baseline, "candidate": both.candidate}
    last = both.last
    known = frozenset.intersection(*(record.logged for record in both.everyone))
    hits = {
        side: [(record, _first(record, wanted, last, known)) for record in records] for side, records in sides.items()
    }
    bad = {side: [(record, trouble) for record, trouble in found if trouble] for side, found in hits.items()}
    old, new = len(bad["baseline"]), len(bad["candidate"])
    states, why = _judged(name, sides, bad, last)
    text = "; ".join(
        f"{side} {len(bad[side])} of {len(records)} run(s){_listed(bad[side])}"
        + (f", {_non_finite(records, last)} non-finite values in losses and gradient norm" if name == TERMINAL else "")
        for side, records in sides.items()
    )
    needs = "" if len(states) == 1 else "more runs a side that log losses and gradient norms"
    return Row(
        criterion, "incidents", name, float(old), float(new), float(new - old), states, f"{text}; {why}", needs=needs
    )


def _first(
    record: Record, wanted: Callable[[Trouble], bool], last: int | None, known: frozenset[str]
) -> Trouble | None:
    """The first such incident on the steps that all runs have reached; on a metric that all of them log, if any is."""
    found = [
        (trouble.metric not in known, trouble.step, trouble)
        for trouble in record.troubles
        if wanted(trouble) and trouble.step is not None and last is not None and trouble.step <= last
    ]
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _listed(bad: Sequence[tuple[Record, Trouble]]) -> str:
    if not bad:
        return ""
    return " (" + ", ".join(f"{record.id}: {trouble.metric} at step {trouble.step}" for record, trouble in bad) + ")"


def _judged(
    name: str,
    sides: dict[str, Sequence[Record]],
    bad: dict[str, list[tuple[Record, Trouble]]],
    last: int | None,
) -> tuple[tuple[State, ...], str]:
    anything: tuple[State, ...] = ("better", "equivalent", "worse")
    if last is None:
        return anything, "there is no step that all runs have reached"
    if bad["baseline"] and bad["candidate"]:
        return anything, "both sides have it, and how often is a matter of chance"
    hit, clean = ("baseline", "candidate") if bad["baseline"] else ("candidate", "baseline")
    state: State = "better" if bad["baseline"] else "worse"
    if not bad["baseline"] and not bad["candidate"]:
        if not all(_signals(record) for records in sides.values() for record in records):
            return anything, "a run logs neither loss nor gradient norm, so none could be seen"
        return ("equivalent",), f"none on either side up to step {last}"
    doubt = _doubt(name, clean, sides[clean], bad[hit], last) or _chance(
        clean, len(sides[clean]), len(bad[hit]), len(sides[hit])
    )
    if doubt:
        return ("equivalent", state), doubt
    return (state,), f"only the {hit} has it up to step {last}, which all runs have reached"


def _doubt(
    name: str, side: str, clean: Sequence[Record], failed: Sequence[tuple[Record, Trouble]], last: int
) -> str | None:
    """Why the clean side need not be better, or None."""
    if not all(_signals(record) for record in clean):
        return f"a run of the {side} logs neither loss nor gradient norm, so none could be seen"
    if name == TERMINAL:
        ends = any(_dead_end(record, last) for record in clean)
        return f"losses of the {side} end non-finite, too, though no rule has called it terminal" if ends else None
    missing = {trouble.metric for _, trouble in failed} - frozenset.intersection(*(record.logged for record in clean))
    return f"a run of the {side} does not log {', '.join(sorted(missing))}, so none could be seen" if missing else None


def _chance(side: str, clean: int, failed: int, affected: int) -> str | None:
    """At the other side's rate at least one of the clean runs should have failed, or its being clean says nothing."""
    if failed * clean >= affected:
        return None
    return f"the {side} has {clean} run(s), of which {failed / affected * clean:.2g} would have failed at that rate"


def _signals(record: Record) -> list[str]:
    return [name for name in record.curves if role_of(name) in _SIGNALS]


def _dead_end(record: Record, last: int) -> bool:
    """Its loss's last three values are non-finite."""
    for name, curve in record.curves.items():
        if role_of(name) is Role.LOSS:
            end = curve.until(last).values[-3:]
            if end.size and not np.isfinite(end).any():
                return True
    return False


def _non_finite(records: Sequence[Record], last: int | None) -> int:
    if last is None:
        return 0
    curves = [record.curves[name].until(last) for record in records for name in _signals(record)]
    return sum(int(np.count_nonzero(~np.isfinite(curve.values))) for curve in curves)
