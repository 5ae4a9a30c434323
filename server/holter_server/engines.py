"""The health engines of the live runs, kept in memory between frames and rebuilt from their committed state.

Only the writer thread uses them. A cached engine is believed only while the version that it was saved under is still
the one in the database, so a rolled-back transaction, a second server or a new rule set each lead to a rebuilt one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holter.health import Engine, Facts, RuleError, RuleSet
from holter_db import rule_sets, rule_state
from holter_db.runs import RunRow
from holter_server.writing import Transaction

__all__ = ["Engines", "facts_of"]

log = logging.getLogger("holter.server")

ENGINES_KEPT = 256
RULE_SETS_KEPT = 64


@dataclass(slots=True)
class _Kept:
    engine: Engine
    version: int
    rules: str | None
    facts: Facts


class Engines:
    """Least recently used engines are dropped first; their state is in the database."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._rules: OrderedDict[str | None, RuleSet] = OrderedDict()

    @contextmanager
    def engine(self, transaction: Transaction, run: RunRow) -> Iterator[Engine]:
        """The run's engine; what it becomes inside the block is saved with the transaction."""
        conn = transaction.conn
        version, saved = rule_state.load(conn, run.id)
        text = rule_sets.get(conn, run.project)
        facts = facts_of(run)
        # Taken out while it changes: should anything fail below, the next frame rebuilds it.
        kept = self._kept.pop(run.id, None)
        if kept is None or (kept.version, kept.rules, kept.facts) != (version, text, facts):
            kept = _Kept(Engine(self.rules(text), facts, saved), version, text, facts)
        yield kept.engine
        state = kept.engine.save()
        if state != saved:
            kept.version = rule_state.save(conn, run.id, state, version)
        self._keep(run.id, kept)
        transaction.on_rollback(lambda: self._kept.pop(run.id, None))

    def _keep(self, run_id: str, kept: _Kept) -> None:
        self._kept[run_id] = kept
        if len(self._kept) > ENGINES_KEPT:
            self._kept.popitem(last=False)

    def rules(self, text: str | None) -> RuleSet:
        """The default rules with the project's ``text`` laid over them."""
        if text not in self._rules:
            self._rules[text] = _parse(text)
            if len(self._rules) > RULE_SETS_KEPT:
                self._rules.popitem(last=False)
        return self._rules[text]


def facts_of(run: RunRow) -> Facts:
    """What the rules may know of a run besides its points."""
    return Facts(run.planned_steps, dict(run.config), tuple(run.tags))


def _parse(text: str | None) -> RuleSet:
    if text is None:
        return RuleSet.default()
    try:
        return RuleSet.parse(text, name="project rules")
    except RuleError as error:  # accepted by an older version: a run without any rules would be worse
        log.error("A project's rules no longer parse (%s); its runs are judged by the default rules", error)
        return RuleSet.default()
