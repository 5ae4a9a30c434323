"""A project's rules as the guard beside one run should have them.

The guard runs the rules itself, so that a stop works with the service down. What the service has been told of one run,
mutes and a dry run, reaches it as further entries of the rules' text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from holter.health import Rule, RuleError, RuleSet
from holter_db.mutes import MuteRow

__all__ = ["rules_of_agent"]

ACTS = frozenset({"stop", "checkpoint", "dump"})


def rules_of_agent(text: str, muted: Iterable[MuteRow], *, dry_run: bool = False) -> str:
    """``text`` with what mutes and a dry run change laid over it; itself where nothing does.

    A muted rule asks nothing of the training; one that is muted for a metric does not look at that metric.
    """
    try:
        rules = RuleSet.parse(text, name="project rules").rules
    except RuleError:  # accepted by another version, and not followed here either
        return text
    by_id: dict[str, list[Rule]] = {}
    for rule in rules:
        by_id.setdefault(rule.id, []).append(rule)
    over: list[dict[str, Any]] = []
    for mute in muted:
        found = by_id.get(mute.rule)
        if found and mute.metric:
            known = [pattern for rule in found for pattern in rule.text.exclude]
            over.append({"id": mute.rule, "exclude": [*dict.fromkeys([*known, mute.metric])]})
        elif found:
            over.append({"id": mute.rule, "actions": ["notify"]})
    if dry_run:
        over += [
            {"id": id, "dry_run": True} for id, same in by_id.items() if any(ACTS & {*r.text.actions} for r in same)
        ]
    return _with(text, over) if over else text


def _with(text: str, over: list[dict[str, Any]]) -> str:
    parsed = yaml.safe_load(text) or {}
    return str(yaml.safe_dump({"rules": [*(parsed.get("rules") or []), *over]}, sort_keys=False, allow_unicode=True))
