"""Stability rows: which side's runs broke, by their incidents, where both had the same chance to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from holter.health.roles import Role, role_of
from holter_server.compare_data import Record, Row, Trouble, Winner

__all__ = ["CRITICAL", "EXPLOSION", "TERMINAL", "stability_rows"]

TERMINAL = "terminal non-finite"
EXPLOSION = "critical explosion"
CRITICAL = "other critical incidents"
# A lost connection, a full GPU or a slow disk say nothing about the training's own stability.
_MACHINE = ("lost", "hung", "failed", "memory", "gpu", "throughput", "starvation", "rank")
_SIGNALS = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.GRAD_NORM)


def stability_rows(baseline: Sequence[Record], candidate: Sequence[Record], last: int | None) -> list[Row]:
    """Runs with a terminal non-finite, with a critical explosion, with another critical incident, worst first."""
    return [
        _row(TERMINAL, lambda trouble: trouble.terminal, baseline, candidate, last),
        _row(EXPLOSION, lambda trouble: not trouble.terminal and _explosion(trouble), baseline, candidate, last),
        _row(CRITICAL, _other_critical, baseline, candidate, last),
    ]


def _explosion(trouble: Trouble) -> bool:
    """A warning becomes critical only once the explosion has lasted."""
    return trouble.severity == "critical" and trouble.kind == "explosion"


def _other_critical(trouble: Trouble) -> bool:
    if trouble.terminal or trouble.kind == "explosion" or trouble.kind in _MACHINE:
        return False
    return trouble.severity == "critical"


def _row(
    name: str,
    wanted: Callable[[Trouble], bool],
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    last: int | None,
) -> Row:
    sides = {"baseline": baseline, "candidate": candidate}
    known = frozenset.intersection(*(record.logged for record in (*baseline, *candidate)))
    hits = {
        side: [(record, _first(record, wanted, last, known)) for record in records] for side, records in sides.items()
    }
    bad = {side: [(record, trouble) for record, trouble in found if trouble] for side, found in hits.items()}
    old, new = len(bad["baseline"]), len(bad["candidate"])
    winner, why = _winner(name, sides, bad, last)
    text = "; ".join(
        f"{side} {len(bad[side])} of {len(records)} run(s){_listed(bad[side])}"
        + (f", {_non_finite(records, last)} non-finite values in losses and gradient norm" if name == TERMINAL else "")
        for side, records in sides.items()
    )
    return Row("stability", name, float(old), float(new), float(new - old), winner, f"{text}; {why}")


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


def _winner(
    name: str,
    sides: dict[str, Sequence[Record]],
    bad: dict[str, list[tuple[Record, Trouble]]],
    last: int | None,
) -> tuple[Winner, str]:
    if last is None:
        return "undetermined", "there is no step that all runs have reached"
    if bad["baseline"] and bad["candidate"]:
        return "undetermined", "both sides have it, and how often is a matter of chance"
    hit: Winner = "baseline" if bad["baseline"] else "candidate"
    clean: Winner = "candidate" if bad["baseline"] else "baseline"
    if not bad["baseline"] and not bad["candidate"]:
        if not all(_signals(record) for records in sides.values() for record in records):
            return "undetermined", "a run logs neither loss nor gradient norm, so none could be seen"
        return "tie", f"none on either side up to step {last}"
    doubt = _doubt(name, clean, sides[clean], bad[hit], last) or _chance(
        clean, len(sides[clean]), len(bad[hit]), len(sides[hit])
    )
    if doubt:
        return "undetermined", doubt
    return clean, f"only the {hit} has it up to step {last}, which all runs have reached"


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
