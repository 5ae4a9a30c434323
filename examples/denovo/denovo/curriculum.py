"""The staged curriculum: what is trained on, and what the auxiliary losses weigh, from which step on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from denovo.spectra import Difficulty

REFERENCE_STEPS = 30_000  # the length of the plan's full run, in whose steps the stages are written


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage, from its start until the next stage's."""

    title: str
    start: Annotated[int, Meta(ge=0)]  # in steps of the full run; `curriculum_scale` stretches it
    spectra: Difficulty
    spectrum_loss_weight: Annotated[float, Meta(ge=0)] = 0.0
    precursor_loss_weight: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class Curriculum:
    """Stages at their real steps. Numbers of stages count from 1, as the plan does."""

    stages: tuple[Stage, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, stages: Iterable[Stage], scale: float) -> Curriculum:
        """Raises `ValueError` unless one stage starts at 0 and no two start at the same step."""
        ordered = tuple(sorted(stages, key=lambda stage: stage.start))
        starts = tuple(round(stage.start * scale) for stage in ordered)
        if not starts or starts[0] != 0:
            raise ValueError("The first stage of the curriculum must start at step 0")
        for (one, other), start, later in zip(pairwise(ordered), starts, starts[1:], strict=False):
            if start == later:
                raise ValueError(f"The stages {one.title!r} and {other.title!r} would both start at step {start}")
        return cls(ordered, starts)

    def number_at(self, step: int) -> int:
        """The number of the stage that `step` belongs to, from 1 on."""
        return sum(start <= step for start in self.starts)

    def at(self, step: int) -> Stage:
        return self.stages[self.number_at(step) - 1]

    def begins_at(self, step: int) -> bool:
        return step in self.starts

    def entry_of_auxiliary_losses(self) -> int | None:
        """The first step at which an auxiliary loss weighs anything; None if none ever does."""
        for stage, start in zip(self.stages, self.starts, strict=True):
            if stage.spectrum_loss_weight or stage.precursor_loss_weight:
                return start
        return None


def curriculum_scale(setting: float | str, max_steps: int) -> float:
    """`auto` keeps the stages' shares of the run: 5,000 steps enter stage 3 at 3,333 instead of 20,000."""
    return max_steps / REFERENCE_STEPS if isinstance(setting, str) else setting
