"""The health rules beside the training: the service's own engine, run where the service may be out of reach.

It tells the training thread what the rules want of it (stop, checkpoint) and the terminal what is wrong. It raises no
alerts: that is the service's. Both come to the same incidents under the same ids, since the engine is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from holter.frames import Batch
from holter.health import Batch as Rows
from holter.health import Engine, Facts, RuleError, RuleSet
from holter.health.model import Transition, Vitals
from holter.wire import CommandOrder, IncidentNotice, Receipt

__all__ = ["Guard", "Sentry", "acts_on_non_finite", "parse_rules", "receipt_of"]

ACTIONS = ("checkpoint", "dump", "stop")  # saved first, then stopped


def parse_rules(text: str | None) -> RuleSet:
    """The default rules with ``text`` laid over them; the default ones where it can't be read."""
    if not text:
        return RuleSet.default()
    try:
        return RuleSet.parse(text, name="project rules")
    except RuleError:
        return RuleSet.default()


class Guard:
    """Judges what one writer has logged; lives in the shipper."""

    def __init__(self, rules: RuleSet, facts: Facts, writer: str, started_at: float) -> None:
        self._facts, self._writer, self._started_at = facts, writer, started_at
        self._engine = Engine(rules, facts)
        self.step: int | None = None
        self.time: float | None = None  # of the latest record, seconds UTC
        self.moved_at: float | None = None  # when a step was last seen, by this machine's clock

    def follow(self, rules: RuleSet) -> None:
        """From now on judge by ``rules``, with the memory of those before."""
        self._engine = Engine(rules, self._facts, self._engine.save())

    def observe(self, batch: Batch, now: float) -> list[Transition]:
        changes: list[Transition] = []
        for block in batch.blocks:
            steps = block.step_array()
            rows = Rows(self._writer, block.metrics, steps, block.time_array(), block.value_matrix())
            changes += self._engine.observe(rows)
            if len(steps):
                self.step, self.time, self.moved_at = int(steps[-1]), float(block.time_array()[-1]), now
        return changes

    def tick(self, now: float, state: str = "running") -> list[Transition]:
        """Judge by the clock: has it hung?"""
        return self._engine.tick(Vitals(now, state, self._started_at, now, None, self.moved_at))


class Sentry:
    """Judges non-finite rows on the training thread itself, so that a stop for one takes effect within its step.

    It is made at the first such row and fed from then on; healthy rows before it say nothing to these rules but what
    the row before says.
    """

    def __init__(self, rules_text: str | None, facts: Facts, run: str, writer: str) -> None:
        rules = parse_rules(rules_text)
        chosen = tuple(rule for rule in rules.rules if rule.check_name == "non_finite")
        self._engine, self._run, self._writer = Engine(RuleSet(chosen), facts), run, writer
        self._open: set[str] = set()

    @property
    def idle(self) -> bool:
        """Nothing is wrong any more."""
        return not self._open

    def observe(self, metrics: tuple[str, ...], step: int, time: float, row: list[float]) -> Receipt | None:
        steps, times = np.array([step], dtype=np.int64), np.array([time])
        changes = self._engine.observe(Rows(self._writer, metrics, steps, times, np.array([row])))
        for change in changes:
            (self._open.discard if change.action == "resolve" else self._open.add)(change.incident)
        return receipt_of(self._run, changes)


def acts_on_non_finite(rules: RuleSet) -> bool:
    """Whether a non-finite value may make the training stop or save."""
    return any(rule.check_name == "non_finite" and set(ACTIONS) & set(rule.actions) for rule in rules.rules)


def receipt_of(run: str, changes: Iterable[Transition]) -> Receipt | None:
    """What the training is to hear of ``changes``, in the form in which the service would say it; None for nothing.

    Ids are made as the service makes them, of the run's, the incident's and the action's, so that an incident is told
    once and a command carried out once.
    """
    incidents: list[IncidentNotice] = []
    commands: list[CommandOrder] = []
    for change in changes:
        incident = f"{run}-{change.incident}"
        state = "resolved" if change.action == "resolve" else "firing"
        incidents.append(
            IncidentNotice(
                incident,
                change.rule,
                change.kind,
                change.severity,
                state,
                change.metric,
                change.message,
                change.step,
            )
        )
        if change.action in {"open", "escalate"}:
            args = {"incident": incident, "reason": change.message}
            wanted = [name for name in ACTIONS if name in change.actions]
            commands += [CommandOrder(f"{incident}-{name}", name, args, f"rule {change.rule}") for name in wanted]
    return Receipt(0, commands=commands, incidents=incidents) if incidents else None
