"""What the flight recorder's record means: which tensor was non-finite first, at which step, and on which batch.

Pure: a record in, a finding and one sentence out. The reasoning, for the episode of bad steps that came last:

1. Weights are looked at before the step that is to change them, and forward uses them first. If one is non-finite,
   it was before any gradient of that step; the update before it did that, if it was recorded.
2. Backward runs from the output to the input, and what is non-finite spreads on its way. Of several gradients, the
   one that was made first is where it entered.
3. If every gradient is non-finite, and so is a loss of the same step, then it came with the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holter.health.roles import Role, role_of

__all__ = ["First", "Record", "find_first", "sentence"]

LOSSES = {Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.ADVERSARIAL}
NAMED_IDS = 2


@dataclass(frozen=True)
class Record:
    """The last n steps of a model with p tensors.

    A gradient norm is −1 where there was no gradient. ``losses`` holds n values each, None where nothing was logged.
    """

    names: list[str]
    backward_order: list[int]  # (p,), the least is made first
    steps: list[int]
    gradients: NDArray[np.float64]  # (n, p)
    weights: NDArray[np.float64]  # (n, p), before the step; −1 where they were not measured
    left_out: list[bool]  # the gradient scaler left the step out
    losses: dict[str, list[float | None]] = field(default_factory=dict)

    def sick(self, row: int) -> bool:
        """Whether anything of this step is non-finite."""
        numbers = np.concatenate([self.gradients[row], self.weights[row]])
        return not np.isfinite(numbers).all() or bool(self.sick_losses(row))

    def sick_losses(self, row: int) -> list[str]:
        """Losses that are non-finite at this step: parts before the whole, since the whole only sums them up."""
        found = []
        for name, values in self.losses.items():
            value = values[row]
            if value is not None and not math.isfinite(value) and role_of(name) in LOSSES:
                found.append(name)
        return sorted(found, key=lambda name: role_of(name) is Role.LOSS)


@dataclass(frozen=True)
class First:
    """What was non-finite first. ``row`` is that of the record whose batch is to blame."""

    what: Literal["gradient", "weight", "loss"]
    name: str
    step: int
    count: int  # tensors that were non-finite in that step
    of: int  # tensors
    row: int
    value: float
    by_update: bool = False  # weights: by the update of ``step``, whose gradients were all finite
    losses: tuple[str, ...] = ()  # non-finite in the same step
    recovered_at: int | None = None  # the first step at which all was finite again
    left_out: bool = False

    def as_data(self) -> dict[str, Any]:
        return {"what": self.what, "name": self.name, "step": self.step, "count": self.count, "of": self.of}


def find_first(record: Record) -> First | None:
    """None if everything that was recorded is finite."""
    sick = [record.sick(row) for row in range(len(record.steps))]
    real = [is_sick and not left_out for is_sick, left_out in zip(sick, record.left_out, strict=True)]
    rows = real if any(real) else sick  # a step that the gradient scaler leaves out is how it finds its scale
    if not any(rows):
        return None
    last = max(row for row, is_sick in enumerate(rows) if is_sick)
    start = last
    while start > 0 and rows[start - 1]:
        start -= 1
    recovered_at = record.steps[last + 1] if last + 1 < len(rows) else None
    return _first_of(record, start, recovered_at)


def _first_of(record: Record, row: int, recovered_at: int | None) -> First:
    losses = tuple(record.sick_losses(row))
    shared: dict[str, Any] = {"losses": losses, "recovered_at": recovered_at, "left_out": record.left_out[row]}
    weights, gradients = record.weights[row], record.gradients[row]
    if not np.isfinite(weights).all():
        place = int(np.flatnonzero(~np.isfinite(weights))[0])
        earlier = [index for index in range(row) if not record.left_out[index]]  # only those change weights
        before = earlier[-1] if earlier else row
        return First("weight", record.names[place], record.steps[before], int((~np.isfinite(weights)).sum()),
                     int((weights != -1).sum()), before, float(weights[place]), bool(earlier), **shared)  # fmt: skip
    there = ~(gradients < 0)  # NaN is there
    bad = ~np.isfinite(gradients)
    count, of = int(bad.sum()), int(there.sum())
    if losses and count == of:
        value = record.losses[losses[0]][row]
        return First("loss", losses[0], record.steps[row], count, of, row, math.nan if value is None else value,
                     **shared)  # fmt: skip
    if count:
        place = _first_made(record, np.flatnonzero(bad).tolist())
        return First("gradient", record.names[place], record.steps[row], count, of, row, float(gradients[place]),
                     **shared)  # fmt: skip
    value = record.losses[losses[0]][row]
    return First("loss", losses[0], record.steps[row], 0, of, row, math.nan if value is None else value, **shared)


def _first_made(record: Record, places: list[int]) -> int:
    """Of these gradients. A layer's bias and weight are made at once: then it is the weight."""
    place = min(places, key=record.backward_order.__getitem__)
    name = record.names[place]
    weight = f"{name.removesuffix('bias')}weight"
    if name.endswith("bias") and weight in record.names and record.names.index(weight) in places:
        return record.names.index(weight)
    return place


def sentence(record: Record, first: First | None, ids: list[str], count: int) -> str:
    """One true sentence for people."""
    if first is None:
        return _all_finite(record)
    text = {"gradient": _of_gradient, "weight": _of_weight, "loss": _of_loss}[first.what](record, first)
    if first.left_out:
        text += "; the gradient scaler left that step out"
    if first.recovered_at is not None:
        text += f"; all was finite again at step {first.recovered_at}"
    return text + _batch(ids, count)


def _of_gradient(record: Record, first: First) -> str:
    how = "to be non-finite" if math.isnan(first.value) else "whose norm overflowed"
    also = "".join(
        f"; {name} was {_word(record.losses[name][first.row])} in the same step" for name in first.losses[:1]
    )
    logged = any(values[first.row] is not None for values in record.losses.values())
    if first.count == first.of and not logged:
        also = ": it may have come with the loss, which was not logged"
    return f"gradient of {first.name} was the first {how}, at step {first.step} ({_tensors(first)}{also})"


def _of_weight(record: Record, first: First) -> str:
    # Inf is a norm whose square float32 can't hold, from 1.8e19 on: the weights may still be numbers.
    state, made = ("non-finite", "made non-finite") if math.isnan(first.value) else ("too large", "made to overflow")
    if not first.by_update:
        return (
            f"weight of {first.name} was {state} before any gradient, at step {first.step} already, the oldest that is "
            f"recorded ({_tensors(first)})"
        )
    largest = float(record.gradients[first.row].max(initial=0.0))
    if largest <= 0:
        return f"weight of {first.name} was {made} after step {first.step} ({_tensors(first)})"
    return (
        f"weight of {first.name} was {made} by the optimizer's update at step {first.step} ({_tensors(first)}), whose "
        f"gradients were all finite (largest norm {largest:.3g})"
    )


def _of_loss(_: Record, first: First) -> str:
    followed = f", and all {first.of} gradients with it" if first.count else ""
    if not first.count and first.of:
        followed = f", while all {first.of} gradients were finite"
    return f"{first.name} was the first to be non-finite ({_word(first.value)}), at step {first.step}{followed}"


def _all_finite(record: Record) -> str:
    if not record.steps:
        return "no optimizer step was recorded"
    known = f"all losses, gradients and weights of the steps {record.steps[0]} to {record.steps[-1]} were finite"
    if record.gradients.size == 0 or record.gradients.max() < 0:
        return known
    row, place = np.unravel_index(int(record.gradients.argmax()), record.gradients.shape)
    return (
        f"{known}; the largest gradient norm was {record.gradients[row, place]:.3g}, of {record.names[place]} at step "
        f"{record.steps[row]}"
    )


def _tensors(first: First) -> str:
    return f"{first.count} of {first.of} tensors"


def _word(value: float | None) -> str:
    return "NaN" if value is None or math.isnan(value) else "Inf" if value > 0 else "-Inf"


def _batch(ids: list[str], count: int) -> str:
    if not ids:
        return f"; batch of {count}" if count else ""
    named = ids[:NAMED_IDS]
    rest = count - len(named)
    return f"; batch: {', '.join(named)}" + (f" and {rest} more" if rest > 0 else "")
