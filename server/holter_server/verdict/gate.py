"""The gate: whether two sides can be compared at all, before anything is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holter.health.roles import Role, role_of
from holter.wire import FloatArray
from holter_server.verdict.criteria import Criteria
from holter_server.verdict.data import Curve, Difference, Gate, Record, Status, common_last_step, flat, matches
from holter_server.verdict.windows import entry_step

__all__ = ["gate", "identical_steps", "same_evaluation_set"]

REACHED = 0.9  # of the planned steps
LOSSES = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.VAL_LOSS)


def gate(
    criteria: Criteria, baseline: Sequence[Record], candidate: Sequence[Record], differences: Sequence[Difference]
) -> Gate:
    """INCOMPLETE, NOT_EXERCISED, NOT_APPLIED, CONFOUNDED, in this order; the reasons name all that was seen.

    The first three block: there is nothing to judge. CONFOUNDED blocks where a treatment is declared and something
    else differs, too; where none is declared it only says that no single key can be credited.
    """
    incomplete = [
        text for name, side in (("baseline", baseline), ("candidate", candidate)) for text in _unfinished(name, side)
    ]
    unexercised = [] if incomplete else _unexercised(criteria, baseline, candidate)
    twins = [
        (new.id, old.id, steps) for new in candidate for old in baseline if (steps := identical_steps(old, new)) > 0
    ]
    copied = {new for new, _, _ in twins}
    applied = not differences or len(copied) < len(candidate)
    confounded = _confounded(criteria, differences)
    other_set = same_evaluation_set(criteria, baseline, candidate)
    reasons = [
        *incomplete,
        *unexercised,
        *(_twin(*twin, configs_differ=bool(differences)) for twin in twins),
        *confounded,
        *other_set,
        *_projects([*baseline, *candidate]),
    ]
    status: Status = "ok"
    if incomplete:
        status = "INCOMPLETE"
    elif unexercised:
        status = "NOT_EXERCISED"
    elif not applied:
        status = "NOT_APPLIED"
    elif confounded or other_set:
        status = "CONFOUNDED"
    blocks = status not in ("ok", "CONFOUNDED") or bool(other_set) or bool(confounded and criteria.treatment)
    return Gate(status, tuple(reasons), blocks)


def _confounded(criteria: Criteria, differences: Sequence[Difference]) -> list[str]:
    if criteria.treatment:
        others = [difference.key for difference in differences if not difference.declared]
        declared = ", ".join(criteria.treatment)
        return [f"beside the treatment ({declared}) differ {', '.join(others)}"] if others else []
    if len(differences) > 1:
        return [
            f"{len(differences)} config keys differ and none is declared as the treatment: "
            "what differs can't be put down to one of them"
        ]
    return []


def same_evaluation_set(criteria: Criteria, baseline: Sequence[Record], candidate: Sequence[Record]) -> list[str]:
    """Why the evaluation sets are not the same; empty where nothing says so."""
    everyone = [*baseline, *candidate]
    found = []
    prints = [
        {k: repr(v) for k, v in flat(record.config) if matches(k, criteria.evaluation_set)} for record in everyone
    ]
    if any(each != prints[0] for each in prints):
        found.append(f"the runs were not evaluated on the same sets ({', '.join(criteria.evaluation_set)} differ)")
    for metric in sorted({metric for record in everyone for metric in record.evaluations}):
        kept = [record.evaluations[metric] for record in everyone if metric in record.evaluations]
        weights = [next(iter(each.values())).weight for each in kept]
        if any(not np.array_equal(each, weights[0]) for each in weights):
            found.append(f"the examples of {metric} are not the same in all runs")
    return found


def _projects(records: Sequence[Record]) -> list[str]:
    projects = sorted({record.project for record in records})
    if len(projects) < 2:
        return []
    return [f"the runs are of different projects ({', '.join(projects)}), whose health rules may differ"]


def _unexercised(criteria: Criteria, baseline: Sequence[Record], candidate: Sequence[Record]) -> list[str]:
    """Runs in which what is compared never took effect."""
    if not criteria.entry:
        return []
    last = common_last_step([*baseline, *candidate])
    found = []
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        for record in side:
            logged = [metric for metric in record.curves if matches(metric, criteria.entry)]
            entry = entry_step([record], criteria.entry)
            if logged and (entry is None or (last is not None and entry > last)):
                found.append(f"{name} {record.id}: {', '.join(sorted(logged))} stay 0 up to step {last}, so what is "
                             "compared never took effect")  # fmt: skip
    return found


def _unfinished(name: str, side: Sequence[Record]) -> list[str]:
    """Why a side is not complete. A run that has ended in non-finite values has shown what it had to show."""
    found = []
    for record in side:
        if record.last_step is None:
            found.append(f"{name} {record.id} has logged nothing")
        elif record.terminal:
            continue
        elif record.planned_steps:
            # Steps may count from 0, so the last one may be the plan − 1.
            if record.last_step + 1 < REACHED * record.planned_steps:
                found.append(
                    f"{name} {record.id} reached step {record.last_step} of {record.planned_steps} planned, "
                    f"less than {REACHED:.0%}"
                )
        elif record.running:
            found.append(f"{name} {record.id} is still running and no plan says how far")
    return found


def _twin(new: str, old: str, steps: int, *, configs_differ: bool) -> str:
    why = "though the configs differ" if configs_differ else "and the configs are the same"
    return f"the losses of candidate {new} and baseline {old} are identical to the bit on {steps} common steps, {why}"


def identical_steps(old: Record, new: Record) -> int:
    """On how many common steps all losses that both runs log are the same to the bit; 0 where any differs.

    A loss that never moves proves nothing, so at least one of them has to.
    """
    last = common_last_step([old, new])
    shared = [name for name in old.curves if name in new.curves and role_of(name) in LOSSES]
    if last is None or not shared:
        return 0
    most, moved = 0, False
    for name in shared:
        pair = _on_common_steps(old.curves[name].until(last), new.curves[name].until(last))
        if pair is None:
            continue
        ours, theirs = pair
        if ours.tobytes() != theirs.tobytes():
            return 0
        most = max(most, len(ours))
        finite = ours[np.isfinite(ours)]
        moved = moved or bool(finite.size and finite.min() != finite.max())
    return most if moved else 0


def _on_common_steps(old: Curve, new: Curve) -> tuple[FloatArray, FloatArray] | None:
    """The values at the steps that both have; the newest one where a step was logged twice."""
    if np.array_equal(old.steps, new.steps):
        return (old.values, new.values) if len(old.steps) else None
    ours, theirs = old.once(), new.once()
    steps, at_ours, at_theirs = np.intersect1d(ours.steps, theirs.steps, assume_unique=True, return_indices=True)
    return (ours.values[at_ours], theirs.values[at_theirs]) if len(steps) else None
