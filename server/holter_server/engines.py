"""The health engines of the live runs, kept in memory between frames and rebuilt from what was saved of them.

Only the writer thread uses them. What is saved is behind the run by some segments; an engine that is needed and not in
memory is made of the newest saved state and observes the segments after it once more. The transitions of that replay
were written down with their points, so they are dropped: the same records lead to the same ones, however they are cut.

An engine in memory is believed only if nobody has saved another state since (its version), and catches up with the
segments that other servers have committed (its position). Rules change for the segments to come: a saved state names
the version of the rules that its replay takes, and is saved anew when they change. The facts of a run have no versions,
so whoever changes them has the state saved before.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from holter.health import Engine, Facts, RuleError, RuleSet
from holter.health.model import Batch, Transition, Vitals
from holter_db import rule_sets, rule_state, runs
from holter_db.locked import LockedRun
from holter_db.replay import iter_unobserved
from holter_db.rule_state import NOTHING, Saved
from holter_db.runs import LIVE_STATES, LiveRun, RunRow
from holter_server.writing import Transaction

__all__ = ["Desk", "Engines", "facts_of"]

log = logging.getLogger("holter.server")

# Of a run with 20 losses a state takes 14 kB and an engine 76 kB, an engine is made of its state in 0.1 ms and observes
# 64 frames again in 2 ms; saving takes 0.06 ms with the row.
SEGMENTS_BEHIND = 64  # not saved, at most
POINTS_BEHIND = 500_000
BYTES_KEPT = 128_000_000
BYTES_PER_STATE_BYTE = 6
BYTES_UNKNOWN = 50_000
RULE_SETS_KEPT = 64


@dataclass(slots=True)
class _Kept:
    engine: Engine
    position: int  # of the newest segment that it has observed
    saved: Saved  # of which it is the continuation
    rules: int
    revision: int
    heard_at: float = 0.0  # seconds, UTC: when it was used last
    points: int = 0  # since it was saved
    bytes: int = BYTES_UNKNOWN

    @property
    def behind(self) -> int:
        """Segments since it was saved."""
        return self.position - self.saved.position


class Engines:
    """Least recently used engines are dropped first."""

    def __init__(self, bytes_kept: int = BYTES_KEPT) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes_kept = bytes_kept
        self._bytes = 0
        self._rules: OrderedDict[str | None, RuleSet] = OrderedDict()

    @contextmanager
    def desks(self, tx: Transaction, locked: Sequence[LockedRun]) -> Iterator[dict[str, Desk]]:
        """A desk for each of these runs; where it must be, what their engines become is saved with the transaction."""
        marks = rule_state.marks(tx.conn, [run.id for run in locked])
        rules = rule_sets.versions(tx.conn, {run.project for run in locked})
        desks = {run.id: Desk(self, tx, run, marks.get(run.id, NOTHING), rules.get(run.project, 0)) for run in locked}
        yield desks
        for desk in desks.values():
            desk.close()

    @contextmanager
    def desk(self, tx: Transaction, run: LockedRun) -> Iterator[Desk]:
        """The desk of one run."""
        with self.desks(tx, [run]) as desks:
            yield desks[run.id]

    def take(self, run_id: str) -> _Kept | None:
        """The run's engine, out of the shelf: should anything fail while it changes, the next frame rebuilds it."""
        kept = self._kept.pop(run_id, None)
        if kept is not None:
            self._bytes -= kept.bytes
        return kept

    def keep(self, tx: Transaction, run_id: str, kept: _Kept) -> None:
        """Put an engine back; it is dropped if the transaction does not commit."""
        self.take(run_id)
        self._kept[run_id] = kept
        self._bytes += kept.bytes
        tx.on_rollback(lambda: self.take(run_id))
        while self._bytes > self._bytes_kept and len(self._kept) > 1:
            self.take(next(iter(self._kept)))

    def wake(self, run: LiveRun, rules: int, vitals: Vitals) -> float | None:
        """When the run has to be looked at by the clock again; None if this process can't tell without its engine.

        Args:
            rules: version of the project's rules that applies now.
        """
        kept = self._kept.get(run.id)
        if kept is None or kept.position != run.position:
            return None
        if (kept.rules, kept.revision) != (rules, run.revision):
            return vitals.now
        return kept.engine.wake(vitals)

    def unsaved(self, before: float = math.inf) -> list[str]:
        """The runs whose engines have observed more than was saved, and that were last used before ``before``."""
        return [run_id for run_id, kept in self._kept.items() if kept.behind and kept.heard_at < before]

    def rules(self, text: str | None) -> RuleSet:
        """The default rules with the project's ``text`` laid over them."""
        if text not in self._rules:
            self._rules[text] = _parse(text)
            if len(self._rules) > RULE_SETS_KEPT:
                self._rules.popitem(last=False)
        return self._rules[text]


@dataclass(slots=True)
class Desk:
    """Where the engine of one run works during one transaction. It is fetched only when it is needed."""

    engines: Engines
    tx: Transaction
    run: LockedRun
    mark: Saved  # what the database has
    rules: int  # version that applies now
    _kept: _Kept | None = None
    _must_save: bool = False
    _late: bool = False  # it has not caught up with the run

    def observe(self, batches: Sequence[Batch]) -> list[Transition]:
        """Judge the records of the run's next segment."""
        kept = self._current()
        kept.points += sum(batch.values.size for batch in batches)
        transitions = [transition for batch in batches for transition in kept.engine.observe(batch)]
        self._must_save = self._must_save or bool(transitions) or self.run.state not in LIVE_STATES
        return transitions

    def tick(self, vitals: Vitals) -> list[Transition]:
        """Judge the run by the clock; a replay knows nothing of clocks, so what that changes is saved."""
        kept = self._current()
        before = kept.engine.save()
        transitions = kept.engine.tick(vitals)
        self._must_save = self._must_save or bool(transitions) or kept.engine.save() != before
        return transitions

    def settle(self, points: float = math.inf) -> bool:
        """Have saved what is not yet; of a long history only the next ``points`` or so, and False is the answer."""
        if self.mark.version and self.mark.position >= self.run.position:
            return True
        self._fetch(points)
        self._must_save = True
        return not self._late

    def close(self) -> None:
        """Save the engine if it must be, and put it back."""
        kept = self._kept
        if kept is None:
            return
        kept.heard_at = self.tx.now
        if not self._late:
            kept.position = self.run.position
        if self._must_save or kept.behind >= SEGMENTS_BEHIND or kept.points >= POINTS_BEHIND:
            self._save(kept)
        self.engines.keep(self.tx, self.run.id, kept)

    def _save(self, kept: _Kept) -> None:
        state = kept.engine.save()
        now = Saved(kept.saved.version, kept.position, kept.rules, state)
        kept.saved = rule_state.save(self.tx.conn, self.run.id, now)
        kept.points, kept.bytes = 0, BYTES_PER_STATE_BYTE * len(state)

    def _current(self) -> _Kept:
        """The engine, having observed every segment that was there before this transaction, by the rules of now."""
        return self._kept if self._kept is not None else self._fetch(math.inf)

    def _fetch(self, points: float) -> _Kept:
        kept = self.engines.take(self.run.id)
        if kept is None or not self._believed(kept):
            kept = self._rebuilt()
        self._late = not self._caught_up(kept, points)
        if not self._late and kept.rules != self.rules:
            kept.engine, kept.rules = self._made(self.rules, kept.engine.save()), self.rules
            self._must_save = True
        self._must_save = self._must_save or kept.saved.version == 0
        self._kept = kept
        return kept

    def _believed(self, kept: _Kept) -> bool:
        same = (kept.saved.version, kept.revision) == (self.mark.version, self.run.revision)
        return same and kept.position <= self.run.before

    def _rebuilt(self) -> _Kept:
        saved = rule_state.load(self.tx.conn, self.run.id) if self.mark.version else NOTHING
        rules = saved.rules if saved.version else self.rules
        mark = Saved(saved.version, saved.position, saved.rules)
        return _Kept(self._made(rules, saved.state), saved.position, mark, rules, self.run.revision)

    def _made(self, rules: int, state: bytes | None) -> Engine:
        text = rule_sets.text_of(self.tx.conn, self.run.project, rules) if rules else None
        facts = Facts(*runs.get_facts(self.tx.conn, self.run.id))
        return Engine(self.engines.rules(text), facts, state)

    def _caught_up(self, kept: _Kept, points: float) -> bool:
        """Observe what was committed after the engine's position; False if that is more than ``points``."""
        if kept.position >= self.run.before:
            return True
        with closing(iter_unobserved(self.tx.conn, self.run.id, kept.position, self.run.before)) as pieces:
            for position, batches in pieces:
                for batch in batches:
                    kept.engine.observe(batch)
                    kept.points += batch.values.size
                kept.position = position
                if kept.points >= points:
                    break
        return kept.position == self.run.before


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
