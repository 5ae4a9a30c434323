"""Runs that have stopped saying anything: hung, lost, failed. These checks look at the clock, not at records."""

from __future__ import annotations

import math
import statistics
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from holter.health.model import Kind, Vitals
from holter.health.rules.contract import Check, Progress, Sign, State, number

__all__ = ["ENDED", "Failed", "Hung", "Lost"]

ENDED = ("finished", "failed", "stopped")
Seconds = Annotated[float, Meta(gt=0)]
NAMED = 8  # ranks named in one sentence
SLACK_S = 1e-3  # sums of clock values are rounded; to be asked a moment early costs nothing


def named(writers: tuple[str, ...]) -> str:
    """The ranks in words.

    >>> named(("rank0", "rank2", "rank3"))
    'rank0, rank2 and rank3'
    """
    shown = list(writers[:NAMED])
    if len(writers) > NAMED:
        return f"{', '.join(shown)} and {len(writers) - NAMED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


class SilenceState(State):
    """Memory of `Hung`, `Lost` and `Failed`."""

    since: float | None = None  # when the incident opened, by the service's clock


class Hung(Check, frozen=True, kw_only=True):
    """Fires when a running training is still heard of, but has logged no step for far longer than it usually takes.

    "Far longer" is the largest of `at_least` seconds, `intervals` times the median interval between its last 64 logged
    steps, and 1.5 times the longest of these: the pause of an evaluation is known after the first one.
    """

    kind: ClassVar[Kind] = "hung"
    scope: ClassVar[Literal["writer", "run"]] = "run"
    memory: ClassVar[type[State]] = SilenceState

    at_least: Seconds = 60.0
    intervals: Annotated[float, Meta(gt=1)] = 10.0
    min_records: Annotated[int, Meta(ge=2)] = 5  # too few say nothing of the usual interval
    heard_within: Seconds = 60.0  # otherwise it is not hung but lost

    def tick(self, vitals: Vitals, progress: Progress, state: Any, signs: list[Sign]) -> None:
        allowed = self._allowed(progress)
        quiet = 0.0 if progress.moved_at is None else vitals.now - progress.moved_at
        alive = vitals.state in ("running", "hung") and vitals.now - vitals.last_seen_at <= self.heard_within
        if state.since is None and allowed is not None and alive and quiet > allowed:
            state.since = vitals.now
            signs.append(self._open(quiet, allowed, progress))
        elif state.since is not None and (vitals.state in ENDED or (allowed is not None and quiet <= allowed)):
            text = f"The run has {'ended' if vitals.state in ENDED else f'reached step {progress.step}'}"
            state.since = None
            signs.append(Sign("resolve", "", text))

    def wake(self, vitals: Vitals, progress: Progress, state: Any) -> float:
        soonest = math.inf if progress.moved_at is None else progress.moved_at + self.at_least - SLACK_S
        if state.since is None and vitals.now < soonest:
            return soonest  # without a look at the intervals: this is asked every second
        allowed = self._allowed(progress)
        if state.since is not None:
            quiet = 0.0 if progress.moved_at is None else vitals.now - progress.moved_at
            over = vitals.state in ENDED or (allowed is not None and quiet <= allowed)
            return vitals.now if over else math.inf
        if allowed is None or progress.moved_at is None or vitals.state not in ("running", "hung"):
            return math.inf
        then = progress.moved_at + allowed - SLACK_S
        return then if then <= vitals.last_seen_at + self.heard_within else math.inf

    def _allowed(self, progress: Progress) -> float | None:
        if progress.records < self.min_records or not progress.gaps:
            return None
        usual = statistics.median(progress.gaps)
        return max(self.at_least, self.intervals * usual, 1.5 * max(progress.gaps))

    def _open(self, quiet: float, allowed: float, progress: Progress) -> Sign:
        usual = statistics.median(progress.gaps)
        text = f"No step for {number(quiet)} s after step {progress.step}, though the process is alive; "
        text += f"a step is usually logged every {number(usual)} s"
        evidence = {
            "formula": f"quiet > max({self.at_least:g} s, {self.intervals:g} x median interval, 1.5 x longest)",
            "quiet_s": quiet,
            "allowed_s": allowed,
            "median_interval_s": usual,
            "longest_interval_s": max(progress.gaps),
        }
        return Sign("open", "", text, value=quiet, threshold=allowed, baseline=usual, evidence=evidence)


class Lost(Check, frozen=True, kw_only=True):
    """Fires when a run is `grace` seconds late with the sign of life that it had promised."""

    kind: ClassVar[Kind] = "lost"
    scope: ClassVar[Literal["writer", "run"]] = "run"
    memory: ClassVar[type[State]] = SilenceState

    grace: Annotated[float, Meta(ge=0)] = 10.0

    def tick(self, vitals: Vitals, progress: Progress, state: Any, signs: list[Sign]) -> None:
        late = 0.0 if vitals.due_at is None else vitals.now - vitals.due_at
        missing = vitals.state not in ENDED and late > self.grace
        if state.since is None and missing:
            state.since = vitals.now
            signs.append(self._open(vitals, progress, late))
        elif state.since is not None and not missing:
            text = "The run has ended" if vitals.state in ENDED else "The run is heard of again"
            silent = vitals.now - state.since
            state.since = None
            signs.append(Sign("resolve", "", f"{text}, {number(silent)} s after it was lost"))

    def wake(self, vitals: Vitals, progress: Progress, state: Any) -> float:  # noqa: ARG002
        then = math.inf if vitals.due_at is None or vitals.state in ENDED else vitals.due_at + self.grace
        if state.since is None:
            return then - SLACK_S
        return vitals.now if then >= vitals.now - SLACK_S else math.inf

    def _open(self, vitals: Vitals, progress: Progress, late: float) -> Sign:
        silent = vitals.now - vitals.last_seen_at
        step = "" if progress.step is None else f"; its last step was {progress.step}"
        whom = f" from {named(vitals.silent)}" if vitals.silent else ""
        others = f"; {named(vitals.ended)} {'has' if len(vitals.ended) == 1 else 'have'} ended" if vitals.ended else ""
        text = f"Nothing heard{whom} for {number(silent)} s, {number(late)} s later than promised{step}{others}"
        evidence: dict[str, Any] = {
            "silent_s": silent,
            "late_s": late,
            "grace_s": self.grace,
            "formula": "now > due + grace",
        }
        if vitals.silent:
            evidence |= {"silent": list(vitals.silent[:NAMED]), "silent_ranks": len(vitals.silent)}
        return Sign("open", "", text, value=late, threshold=self.grace, evidence=evidence)


class Failed(Check, frozen=True, kw_only=True):
    """Fires when the training has ended with an error."""

    kind: ClassVar[Kind] = "failed"
    scope: ClassVar[Literal["writer", "run"]] = "run"
    memory: ClassVar[type[State]] = SilenceState

    def tick(self, vitals: Vitals, progress: Progress, state: Any, signs: list[Sign]) -> None:
        failed = vitals.state == "failed"
        if state.since is None and failed:
            state.since = vitals.now
            step = "" if progress.step is None else f" after step {progress.step}"
            text = f"The training failed{step}: {vitals.reason or 'no reason was given'}"
            signs.append(Sign("open", "", text, evidence={"reason": vitals.reason}))
        elif state.since is not None and not failed:
            state.since = None
            signs.append(Sign("resolve", "", f"The run is {vitals.state} again"))

    def wake(self, vitals: Vitals, progress: Progress, state: Any) -> float:  # noqa: ARG002
        return math.inf if (state.since is not None) == (vitals.state == "failed") else vitals.now
