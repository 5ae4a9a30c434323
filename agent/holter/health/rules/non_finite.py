"""NaN and infinities, with the three kinds told apart: a metric only, one step's gradient, the end of the run.

A: a metric is non-finite while the gradient, or another loss that moves, is fine (weight 0 times infinity, an overflow
in float16). B: one step's gradient. C: losses and gradient are non-finite record after record: the weights are gone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from holter.health.model import SEVERITIES, Kind, Severity, Vitals
from holter.health.roles import Role
from holter.health.rules.contract import Check, Progress, Scan, Sign, State, number
from holter.health.rules.silence import ENDED

__all__ = ["NonFinite"]

Class = Literal["A", "B", "C"]
Record = list[tuple[str, Role, float]]

_TRAINING = (Role.LOSS, Role.ADVERSARIAL, Role.COMPONENT, Role.WEIGHTED)
_IMPORTANCE = (*_TRAINING, Role.VAL_LOSS, Role.GRAD_NORM, Role.ACCURACY)
_RECENT_GRADIENTS = 10  # logged grad norms; 3 non-finite ones among them lead a dead loss by 180 to 1,168 steps
_MEANING: dict[Class, str] = {
    "A": "only what is logged, as far as the records tell (class A)",
    "B": "one step's gradient, unless it goes on (class B)",
    "C": "the weights are gone (class C, terminal)",
}


class Bad(msgspec.Struct, array_like=True):
    """One metric's first non-finite value."""

    importance: int  # 0 is the highest
    step: int
    value: float


class Episode(msgspec.Struct):
    """Non-finite values that belong together."""

    metric: str
    since: int  # step
    kind: Class
    severity: Severity
    metrics: dict[str, Bad] = msgspec.field(default_factory=dict)
    streak: int = 0  # records in a row with bad losses and no sign of health
    records: int = 0  # bad ones
    calm: int = 0  # records in a row that were fine
    grad_step: int | None = None  # of the newest grad norm since it opened
    grad_bad: bool = False


class NonFiniteState(State):
    """Memory of `NonFinite`."""

    last: dict[str, float] = msgspec.field(default_factory=dict)  # the newest value of each metric that matters
    gradients: int = 0  # the newest grad norms as bits, newest lowest, 1 for non-finite
    mixed_precision: bool = False  # a loss scale is logged
    training: Episode | None = None
    evaluation: Episode | None = None


class NonFinite(Check, frozen=True, kw_only=True):
    """Fires at the first non-finite loss or grad norm (warning), becomes critical once class C is certain.

    Class C: losses non-finite (or exactly 0 under a non-finite gradient, as some trainers log it) and the gradient
    non-finite or not logged, `terminal_after` records in a row without any healthy sign, or at the run's end. A single
    non-finite gradient has the severity `gradient`, or info where a loss scale is logged (its scaler skips such steps);
    three among the last ten logged are a warning. Validation losses and accuracies have an incident of their own.
    """

    kind: ClassVar[Kind] = "non_finite"
    memory: ClassVar[type[State]] = NonFiniteState

    terminal_after: Annotated[int, Meta(ge=1)] = 3  # records
    clear_for: Annotated[int, Meta(ge=1)] = 20  # records
    gradient: Literal["info", "warning"] = "info"  # a single non-finite gradient without mixed precision

    def observe(self, scan: Scan, state: NonFiniteState, signs: list[Sign]) -> None:
        if Role.LOSS_SCALE in scan.roles:
            state.mixed_precision = True
        if not scan.columns:
            return
        if state.training is None and state.evaluation is None and all(scan.finite[column] for column in scan.columns):
            self._calm(scan, state)
            return
        names = [scan.names[column] for column in scan.columns]
        roles = [scan.roles[column] for column in scan.columns]
        rows = zip(*(scan.values[column].tolist() for column in scan.columns), strict=True)
        for row, values in enumerate(rows):
            look = Look(self, state, scan.step(row), list(zip(names, roles, values, strict=True)))
            look.take()
            signs.extend(replace(sign, row=row) for sign in look.signs)

    @staticmethod
    def _calm(scan: Scan, state: NonFiniteState) -> None:
        """A scan without anything non-finite, while nothing is open."""
        last = scan.values[:, -1].tolist()
        for column in scan.columns:
            state.last[scan.names[column]] = last[column]
            if scan.roles[column] is Role.GRAD_NORM:
                state.gradients = (state.gradients << min(scan.rows, _RECENT_GRADIENTS)) & _mask()

    def wake(self, vitals: Vitals, progress: Progress, state: NonFiniteState) -> float:  # noqa: ARG002
        return math.inf if self._undecided(vitals, state) is None else vitals.now

    @staticmethod
    def _undecided(vitals: Vitals, state: NonFiniteState) -> Episode | None:
        """The episode that the run's end makes terminal."""
        episode = state.training
        ended = vitals.state in ENDED or vitals.state == "lost"
        if episode is None or not ended or episode.kind == "C" or episode.streak == 0:
            return None
        return episode

    def tick(self, vitals: Vitals, progress: Progress, state: NonFiniteState, signs: list[Sign]) -> None:
        episode = self._undecided(vitals, state)
        if episode is None:
            return
        episode.kind, episode.severity = "C", "critical"
        text = f"{_listed(episode)}: the run ended so at step {progress.step}, {_MEANING['C']}"
        sign = Sign("escalate", episode.metric, text, subject="training", severity="critical")
        signs.append(replace(sign, evidence=_evidence(episode)))


class Look:
    """One record under the rule: names, roles and values of the metrics that matter."""

    __slots__ = ("check", "record", "signs", "state", "step")

    def __init__(self, check: NonFinite, state: NonFiniteState, step: int, record: Record) -> None:
        self.check = check
        self.state = state
        self.step = step
        self.record = record
        self.signs: list[Sign] = []

    def take(self) -> None:
        bad = [(name, role, value) for name, role, value in self.record if not math.isfinite(value)]
        training = [entry for entry in bad if entry[1] in _TRAINING or entry[1] is Role.GRAD_NORM]
        others = [entry for entry in bad if entry not in training]
        healthy = self._healthy_signs()
        self._remember()
        self._training(training, others, healthy)
        self._evaluation(others)

    def _healthy_signs(self) -> bool:
        """A finite gradient, or a finite loss that is not 0 and has moved since its last record."""
        for name, role, value in self.record:
            if role is Role.GRAD_NORM and math.isfinite(value) and value != 0:
                return True
            moved = value != self.state.last.get(name, value)
            if role in _TRAINING and math.isfinite(value) and value != 0 and moved:
                return True
        return False

    def _remember(self) -> None:
        state = self.state
        for name, role, value in self.record:
            state.last[name] = value
            if role is Role.GRAD_NORM:
                state.gradients = (state.gradients << 1 | (not math.isfinite(value))) & _mask()
                if state.training is not None:
                    state.training.grad_step = self.step
                    state.training.grad_bad = not math.isfinite(value)

    # --- the training: losses and gradient

    def _training(self, bad: Record, others: Record, ok: bool) -> None:
        episode = self.state.training
        if not bad:
            if episode is not None:
                self._good_record(episode, "training", ok)
            return
        opens = episode is None
        if episode is None:
            episode = self.state.training = self._new(bad)
        before = (episode.kind, episode.severity, len(episode.metrics))
        self._join(episode, bad + others)
        self._classify(episode, bad, ok)
        self._tell(episode, "training", before, opens=opens)

    def _new(self, bad: Record) -> Episode:
        first = min(bad, key=lambda entry: _IMPORTANCE.index(entry[1]))
        episode = Episode(first[0], self.step, "A", "info")
        gradients = [value for _, role, value in self.record if role is Role.GRAD_NORM]
        if gradients:
            episode.grad_step = self.step
            episode.grad_bad = any(not math.isfinite(value) for value in gradients)
        return episode

    def _join(self, episode: Episode, bad: Record) -> None:
        episode.records, episode.calm = episode.records + 1, 0
        for name, role, value in bad:
            episode.metrics.setdefault(name, Bad(_IMPORTANCE.index(role), self.step, value))

    def _classify(self, episode: Episode, bad: Record, ok: bool) -> None:
        losses = any(role is not Role.GRAD_NORM for _, role, _ in bad) or self._zero_loss()
        if losses:
            gradient_known = episode.grad_step is not None
            fine = ok or (gradient_known and not episode.grad_bad)
            episode.streak = 0 if fine else episode.streak + 1
        if episode.streak >= self.check.terminal_after:
            episode.kind = "C"
        elif episode.kind != "C":
            episode.kind = "B" if episode.grad_bad else "A"
        episode.severity = max(episode.severity, self._severity(episode, losses=losses), key=SEVERITIES.index)

    def _zero_loss(self) -> bool:
        """Some trainers replace a NaN loss by 0.0 in their log and leave the gradient to tell."""
        return any(role is Role.LOSS and value == 0 for _, role, value in self.record)

    def _severity(self, episode: Episode, *, losses: bool) -> Severity:
        if episode.kind == "C":
            return "critical"
        if losses or self.state.gradients.bit_count() >= 3:
            return "warning"
        return "info" if self.state.mixed_precision else self.check.gradient

    # --- validation losses and accuracies

    def _evaluation(self, bad: Record) -> None:
        state = self.state
        episode = state.evaluation
        if not bad:
            if episode is not None:
                self._good_record(episode, "evaluation", ok=False)
            return
        if state.training is not None:
            self._add_to_training(state.training, bad)
            return
        if episode is None:
            first = min(bad, key=lambda entry: _IMPORTANCE.index(entry[1]))
            episode = state.evaluation = Episode(first[0], self.step, "A", "warning")
            self._join(episode, bad)
            self._tell(episode, "evaluation", ("A", "warning", 0), opens=True)
            return
        before = (episode.kind, episode.severity, len(episode.metrics))
        self._join(episode, bad)
        self._tell(episode, "evaluation", before, opens=False)

    def _add_to_training(self, episode: Episode, bad: Record) -> None:
        """While the training itself is sick, its evaluations are no news of their own."""
        if all(name in episode.metrics for name, _, _ in bad):
            return
        self._join(episode, bad)
        self._tell(episode, "training", (episode.kind, episode.severity, -1), opens=False)

    # --- what is told

    def _tell(self, episode: Episode, subject: str, before: tuple[Class, Severity, int], *, opens: bool) -> None:
        if opens:
            self._sign("open", episode, subject, self._text(episode))
        elif episode.severity != before[1]:
            self._sign("escalate", episode, subject, self._text(episode))
        elif (episode.kind, len(episode.metrics)) != (before[0], before[2]):
            self._sign("update", episode, subject, self._text(episode))

    @staticmethod
    def _text(episode: Episode) -> str:
        return f"{_listed(episode)}: {_MEANING[episode.kind]}"

    def _good_record(self, episode: Episode, subject: str, ok: bool) -> None:
        """A record in which nothing of this kind is bad: towards the end of the episode if its metrics are fine."""
        if ok:
            episode.streak = 0
        if not any(name in episode.metrics for name, _, _ in self.record):
            return
        if any(not math.isfinite(self.state.last.get(name, 0.0)) for name in episode.metrics):
            return
        episode.calm += 1
        if episode.calm < self.check.clear_for:
            return
        setattr(self.state, subject, None)
        text = f"{_names(episode)} finite for {episode.calm} records again, after {episode.records} that were not"
        self._sign("resolve", episode, subject, text)

    def _sign(self, action: Any, episode: Episode, subject: str, text: str) -> None:
        self.signs.append(
            Sign(
                action,
                episode.metric,
                text,
                subject=subject,
                severity=episode.severity,
                value=None if action == "resolve" else episode.metrics[episode.metric].value,
                evidence=_evidence(episode),
            )
        )


def _mask() -> int:
    return (1 << _RECENT_GRADIENTS) - 1


def _ordered(episode: Episode) -> list[str]:
    return sorted(episode.metrics, key=lambda name: (episode.metrics[name].importance, name))


def _split(episode: Episode) -> tuple[list[str], list[str]]:
    importance = _IMPORTANCE.index(Role.GRAD_NORM)
    names = _ordered(episode)
    gradients = [name for name in names if episode.metrics[name].importance == importance]
    return [name for name in names if name not in gradients], gradients


def _names(episode: Episode) -> str:
    losses, gradients = _split(episode)
    names = losses or gradients
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more are"
    return f"{' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)} {_verb(names)}"


def _verb(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(episode: Episode) -> str:
    """ "loss/total, loss/ce and 3 more are NaN since step 3390 and grad_norm too"."""
    losses, gradients = _split(episode)
    value = number(episode.metrics[(losses or gradients)[0]].value)
    too = f" and {gradients[0]} too" if losses and gradients else ""
    return f"{_names(episode)} {value} since step {episode.since}{too}"


def _evidence(episode: Episode) -> dict[str, Any]:
    return {
        "class": episode.kind,
        "meaning": _MEANING[episode.kind],
        "metrics": _ordered(episode),
        "first_bad_step": {name: episode.metrics[name].step for name in _ordered(episode)},
        "first_bad_value": {name: episode.metrics[name].value for name in _ordered(episode)},
        "since_step": episode.since,
        "records": episode.records,
    }
