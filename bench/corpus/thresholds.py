"""What becomes of the figures when a threshold is moved, and when it is chosen without a source's logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from corpus.entries import Entry
from corpus.holter_rules import alarms_of
from corpus.scoring import Alarm, Figures, Outcome, figures_of, outcome_of
from holter.health import Rule, RuleSet

__all__ = ["Grid", "Variant", "leave_one_source_out"]

FACTORS = (0.8, 1.2)
COUNTED_FROM_ONE = ("ratio", "jump", "grown")  # names of factors: 1.15 moved by 20 % is 1.12 or 1.18


@dataclass(frozen=True)
class Variant:
    """One threshold of one rule, moved."""

    rule: str
    name: str
    factor: float
    was: float
    value: float

    @property
    def text(self) -> str:
        return f"{self.rule}.{self.name} {self.was:g} → {self.value:g}"


class Grid:
    """Every rule's alarms by itself, as it is and with each threshold moved: rules do not depend on one another."""

    def __init__(self, entries: Sequence[Entry], rules: RuleSet) -> None:
        self.entries, self.rules = entries, rules
        self._alarms: dict[tuple[str, str, float], list[list[Alarm]]] = {}

    @cached_property
    def variants(self) -> list[Variant]:
        return [variant for rule in self.rules.rules for variant in _variants(rule)]

    def base(self, rule: Rule) -> list[list[Alarm]]:
        return self._of((rule.id, "", 1.0), rule)

    def moved(self, variant: Variant) -> list[list[Alarm]]:
        rule = self._rule(variant.rule)
        changed = msgspec.structs.replace(rule.check, **{variant.name: _typed(rule, variant)})
        return self._of((variant.rule, variant.name, variant.factor), replace(rule, check=changed))

    def outcomes(self, chosen: Mapping[str, Variant]) -> list[Outcome]:
        """With at most one moved threshold for each rule, by the rule's id."""
        alarms: list[list[Alarm]] = [[] for _ in self.entries]
        for rule in self.rules.rules:
            of_rule = self.moved(chosen[rule.id]) if rule.id in chosen else self.base(rule)
            for mine, more in zip(alarms, of_rule, strict=True):
                mine.extend(more)
        return [outcome_of(entry, mine) for entry, mine in zip(self.entries, alarms, strict=True)]

    def _rule(self, rule_id: str) -> Rule:
        return next(rule for rule in self.rules.rules if rule.id == rule_id)

    def _of(self, key: tuple[str, str, float], rule: Rule) -> list[list[Alarm]]:
        if key not in self._alarms:
            alone = RuleSet((rule,))
            self._alarms[key] = [alarms_of(entry.log, alone) for entry in self.entries]
        return self._alarms[key]


def _variants(rule: Rule) -> Iterator[Variant]:
    for name, value in msgspec.structs.asdict(rule.check).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        for factor in FACTORS:
            moved = _moved(name, value, factor)
            if moved != value:
                yield Variant(rule.id, name, factor, float(value), float(moved))


def _moved(name: str, value: float, factor: float) -> float:
    if isinstance(value, int):
        step = max(1, round(abs(value) * 0.2))
        return max(1, value - step) if factor < 1 else value + step
    if any(word in name for word in COUNTED_FROM_ONE) and value > 1:
        return 1 + (value - 1) * factor
    return value * factor


def _typed(rule: Rule, variant: Variant) -> Any:
    was = getattr(rule.check, variant.name)
    return int(variant.value) if isinstance(was, int) else variant.value


def leave_one_source_out(grid: Grid, variants: Sequence[Variant]) -> tuple[Figures, dict[str, int]]:
    """Choose each rule's threshold on all sources but one, score it on that one, for each source in turn.

    A threshold is moved only if that finds more sick runs than it alarms healthy ones, on the other sources. Returns
    the sure entries' figures, put together, and how often each variant was chosen.
    """
    sources = sorted({entry.source for entry in grid.entries})
    base = grid.outcomes({})
    moved = {variant.text: grid.outcomes({variant.rule: variant}) for variant in variants}
    outcomes: list[Outcome] = []
    chosen_how_often: dict[str, int] = {}
    for source in sources:
        others = [index for index, entry in enumerate(grid.entries) if entry.source != source and entry.sure]
        chosen: dict[str, tuple[int, Variant]] = {}
        for variant in variants:
            gain = _worth(moved[variant.text], others) - _worth(base, others)
            if gain > 0 and gain > chosen.get(variant.rule, (0, variant))[0]:
                chosen[variant.rule] = (gain, variant)
        for _, variant in chosen.values():
            chosen_how_often[variant.text] = chosen_how_often.get(variant.text, 0) + 1
        tuned = grid.outcomes({rule: variant for rule, (_, variant) in chosen.items()})
        outcomes += [outcome for outcome in tuned if outcome.entry.source == source]
    return figures_of(outcomes, lambda entry: entry.sure), chosen_how_often


def _worth(outcomes: Sequence[Outcome], indices: Sequence[int]) -> int:
    """Sick runs that are found, less healthy ones that are alarmed."""
    return sum(
        outcomes[index].found - (outcomes[index].entry.healthy and bool(outcomes[index].alarms)) for index in indices
    )
