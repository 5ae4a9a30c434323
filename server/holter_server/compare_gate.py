"""The gate: whether two sides can be compared at all, before anything is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holter.health.roles import Role, role_of
from holter.wire import FloatArray
from holter_server.compare_data import Curve, Difference, Gate, Record, common_last_step

__all__ = ["gate"]

REACHED = 0.9  # of the planned steps
LOSSES = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.VAL_LOSS)


def gate(baseline: Sequence[Record], candidate: Sequence[Record], differences: Sequence[Difference]) -> Gate:
    """INCOMPLETE before NOT_APPLIED before CONFOUNDED; the reasons name everything that was seen, whatever won."""
    incomplete = [
        text for name, side in (("baseline", baseline), ("candidate", candidate)) for text in _unfinished(name, side)
    ]
    twins = [
        (new.id, old.id, steps) for new in candidate for old in baseline if (steps := identical_steps(old, new)) > 0
    ]
    copied = {new for new, _, _ in twins}
    applied = not differences or len(copied) < len(candidate)
    reasons = [*incomplete, *(_twin(*twin, configs_differ=bool(differences)) for twin in twins)]
    confounded = len(differences) > 1
    if confounded:
        reasons.append(
            f"{len(differences)} config keys differ and none is declared as the treatment: "
            "what differs can't be put down to one of them"
        )
    projects = sorted({record.project for record in (*baseline, *candidate)})
    if len(projects) > 1:
        reasons.append(f"the runs are of different projects ({', '.join(projects)}), whose health rules may differ")
    if incomplete:
        return Gate("INCOMPLETE", tuple(reasons))
    if not applied:
        return Gate("NOT_APPLIED", tuple(reasons))
    return Gate("CONFOUNDED" if confounded else "ok", tuple(reasons))


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
    ours, theirs = _once(old), _once(new)
    steps, at_ours, at_theirs = np.intersect1d(ours.steps, theirs.steps, assume_unique=True, return_indices=True)
    return (ours.values[at_ours], theirs.values[at_theirs]) if len(steps) else None


def _once(curve: Curve) -> Curve:
    last = np.append(np.diff(curve.steps) > 0, True)[: len(curve.steps)]
    return Curve(curve.steps[last], curve.times[last], curve.values[last])
