"""A comparison from end to end: gate, table, both readings of the tree, knobs, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from holter_server.verdict.criteria import Criteria, Incidents, Memory, Smoothness, Speed, Stability, Value
from holter_server.verdict.data import (
    Difference,
    Gate,
    Record,
    Row,
    Sides,
    common_last_step,
    config_differences,
    matches,
)
from holter_server.verdict.gate import gate, same_evaluation_set
from holter_server.verdict.incidents import EXPLOSION, TERMINAL, incident_rows
from holter_server.verdict.knobs import knobs_of
from holter_server.verdict.smoothness import smoothness_rows
from holter_server.verdict.speed import memory_rows, speed_row
from holter_server.verdict.stability import EXPLODED, stability_rows, terminal
from holter_server.verdict.tree import Answer, Fates, Honest, honest_reading, literal_reading
from holter_server.verdict.values import value_rows
from holter_server.verdict.windows import entry_step

EXPLOSIONS = (EXPLOSION, EXPLODED)

__all__ = ["judge", "needed_metrics"]


def judge(
    criteria: Criteria,
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    *,
    seed: int = 0,
    wanted: Callable[[str], bool] = lambda _name: True,
) -> dict[str, Any]:
    """The comparison.

    Args:
        baseline, candidate: at least one run each; several are seeds.
        seed: of every bootstrap, so that equal questions get equal answers.
        wanted: which metrics get a row of their own among values.

    Returns:
        ``criteria, seed, gate, runs, common_last_step, entry_step, config_differences, rows, verdict, reason, path,
        literal, honest, standing, knobs``. ``verdict`` is accepted, rejected, undetermined or not_comparable.
    """
    everyone = [*baseline, *candidate]
    differences = config_differences(baseline, candidate, criteria.treatment, criteria.ignore)
    passed = gate(criteria, baseline, candidate, differences)
    last = common_last_step(everyone)
    entry = entry_step(everyone, criteria.entry) if criteria.entry else None
    sides = Sides(baseline, candidate, last, entry, criteria.seeds, seed)
    rows = _rows(criteria, sides, wanted)
    fates = _fates(rows, candidate, last)
    literal = literal_reading(criteria, rows, fates)
    honest = honest_reading(criteria, rows, fates)
    verdict, reason = _verdict(passed, honest)
    waiting = passed.status == "INCOMPLETE" and any(record.running for record in everyone)
    return {
        "criteria": criteria.name,
        "seed": seed,
        "gate": {"status": passed.status, "blocks": passed.blocks, "reasons": list(passed.reasons)},
        "runs": {"baseline": _about(baseline), "candidate": _about(candidate)},
        "common_last_step": last,
        "entry_step": entry,
        "config_differences": [asdict(difference) for difference in differences],
        "rows": [_row(criteria, row) for row in rows],
        "verdict": verdict,
        "reason": reason,
        "path": _gate_path(passed, differences, last) + [_answer(each) for each in literal.path],
        "literal": {**asdict(literal.outcome), "path": [asdict(each) for each in literal.path]},
        "honest": {
            "verdict": honest.verdict,
            "say": honest.say,
            "vetoes": list(honest.vetoes),
            "leads": [
                {"criterion": name, "state": state, "outcomes": list(outcomes)}
                for name, found in honest.leads.items()
                for state, outcomes in found.items()
            ],
            "needs": list(honest.needs),
        },
        "tree": [
            {"id": node.id, "question": node.question, "then": node.yes, "else": node.no} for node in criteria.tree
        ],
        "outcomes": [asdict(outcome) for outcome in criteria.outcomes.values()],
        "standing": _standing(last, rows) if waiting else None,
        "knobs": [asdict(knob) for knob in knobs_of(criteria.knobs, sides)] if criteria.knobs else [],
    }


def _rows(criteria: Criteria, sides: Sides, wanted: Callable[[str], bool]) -> list[Row]:
    rows: list[Row] = []
    other_set = same_evaluation_set(criteria, sides.baseline, sides.candidate)
    for each in criteria.criteria:
        match each:
            case Value():
                found = value_rows(each, sides)
                rows += [_unless(other_set, row) for row in found if wanted(row.metric)]
            case Stability():
                rows += stability_rows(each, sides)
            case Incidents():
                rows += incident_rows(each.id, sides)
            case Smoothness():
                rows += smoothness_rows(each, sides)
            case Speed():
                rows.append(speed_row(each, sides))
            case Memory():
                rows += memory_rows(each, sides)
    return rows


def _fates(rows: Sequence[Row], candidate: Sequence[Record], last: int | None) -> Fates:
    """A candidate that ended in NaN is broken whatever the baseline did; the rest is said by the table's rows."""
    dead = last is not None and any(terminal(record, last) for record in candidate)
    won = {(row.metric, row.winner) for row in rows if row.kind in ("stability", "incidents")}
    fates: dict[str, set[str]] = {"baseline": set(), "candidate": {"non_finite", "broken"} if dead else set()}
    for side, winner in (("baseline", "candidate"), ("candidate", "baseline")):
        if (TERMINAL, winner) in won:
            fates[side] |= {"non_finite", "broken"}
        if any((metric, winner) in won for metric in EXPLOSIONS):
            fates[side].add("broken")
    return {side: frozenset(found) for side, found in fates.items()}


def _unless(other_set: Sequence[str], row: Row) -> Row:
    """Numbers of different evaluation sets are shown, and nothing follows from them."""
    if not other_set:
        return row
    return Row(
        row.criterion, row.kind, row.metric, row.baseline, row.candidate, row.difference,
        ("better", "equivalent", "worse"), f"{row.arithmetic}; not judged: {'; '.join(other_set)}", None,
        needs="runs evaluated on the same set",
    )  # fmt: skip


def _verdict(passed: Gate, honest: Honest) -> tuple[str, str]:
    if passed.status == "CONFOUNDED" and passed.blocks:
        return (
            "undetermined",
            f"CONFOUNDED: {'; '.join(passed.reasons)}. Needed: runs that differ in it alone.",
        )
    if passed.blocks:
        needed = {
            "INCOMPLETE": "runs that get as far as planned",
            "NOT_EXERCISED": "a training that is long enough for what is compared to take effect",
            "NOT_APPLIED": "a treatment that is applied",
        }[passed.status]
        return "not_comparable", f"{passed.status}: {'; '.join(passed.reasons)}. Needed: {needed}."
    needs = f" Needs {'; '.join(honest.needs)}." if honest.needs else ""
    return honest.verdict, honest.say + needs


def _about(side: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            "id": record.id,
            "project": record.project,
            "name": record.name,
            "seed": record.seed,
            "state": record.state,
            "last_step": record.last_step,
            "planned_steps": record.planned_steps,
            "commit": record.environment.get("commit"),
        }
        for record in side
    ]


def _row(criteria: Criteria, row: Row) -> dict[str, Any]:
    title = next(each.title for each in criteria.criteria if each.id == row.criterion)
    return {
        "criterion": row.criterion,
        "title": title,
        "kind": row.kind,
        "metric": row.metric,
        "baseline": row.baseline,
        "candidate": row.candidate,
        "difference": row.difference,
        "interval": None if row.interval is None else [row.interval.low, row.interval.high],
        "measure": row.measure,
        "unit": row.unit,
        "winner": row.winner,
        "assessment": row.assessment,
        "states": list(row.states),
        "arithmetic": row.arithmetic,
        "needs": row.needs,
    }


def _answer(each: Answer) -> dict[str, str]:
    return {"question": each.question, "answer": each.answer, "because": each.because}


def _gate_path(passed: Gate, differences: Sequence[Difference], last: int | None) -> list[dict[str, str]]:
    reasons = "; ".join(passed.reasons)
    complete, exercised = passed.status != "INCOMPLETE", passed.status != "NOT_EXERCISED"
    applied = passed.status != "NOT_APPLIED"
    reached = f"all runs have reached step {last}" if last is not None else "there is no common step"
    keys = ", ".join(difference.key for difference in differences) or "none"

    def step(question: str, good: bool, because: str) -> dict[str, str]:
        return {"question": question, "answer": "yes" if good else "no", "because": because if good else reasons}

    path = [step("Did every run get far enough?", complete, reached)]
    if complete:
        path.append(step("Did what is compared take effect?", exercised, "nothing says otherwise"))
    if complete and exercised:
        path.append(step("Was the treatment applied?", applied, "the losses differ, or the configs are the same"))
    path.append({"question": "Which config keys differ?", "answer": str(len(differences)), "because": keys})
    return path


def _standing(last: int | None, rows: Sequence[Row]) -> dict[str, Any]:
    """How a candidate that is still running stands at the step that all runs have reached."""
    said = [
        f"{row.metric}: {row.assessment.replace('_', ' ')}"
        for row in rows
        if row.difference is not None and row.kind in ("value", "speed", "smoothness")
    ]
    broken = [row.metric for row in rows if row.kind in ("stability", "incidents") and row.winner == "baseline"]
    if last is None:
        return {"step": None, "say": "There is no step that all runs have reached."}
    found = "; ".join([*said, *(f"{metric}: worse" for metric in broken)]) or "not to be told apart"
    return {"step": last, "say": f"At the same step, {last}, the candidate is {found}."}


def needed_metrics(criteria: Criteria) -> Callable[[str], bool]:
    """Which metrics the criteria name, beside those whose meaning is read off their names."""
    globs = [*criteria.entry]
    for each in criteria.criteria:
        match each:
            case Value() | Smoothness():
                globs += each.metrics
            case Stability():
                globs += [*each.total, *each.reference, *each.weighted]
    if criteria.knobs:
        globs.append(criteria.knobs.reference)
    return lambda name: matches(name, globs)
