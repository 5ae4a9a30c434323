"""The health engine: records and clock values in, transitions of incidents out. Pure: no I/O, no clock, no chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from holter.health.book import Book
from holter.health.model import Batch, Facts, Transition, Vitals
from holter.health.patterns import Selection
from holter.health.roles import Role, is_unstable_by_nature, role_of
from holter.health.rules import Check, Progress, Scan, Sign, State
from holter.health.rules.contract import FEW
from holter.health.rules.silence import ENDED
from holter.health.ruleset import Rule, RuleSet

__all__ = ["Engine", "readable"]

VERSION = 1
GAPS = 64  # intervals between steps that are remembered
LAYOUTS_MAX = 512  # distinct sets of metrics of which the columns are remembered
SYSTEM_SUFFIX = "/system"  # of writers that log what the machine does, whether or not the training gets on


class SavedRule(msgspec.Struct):
    """One rule's memory: of each writer, or of the run under the name ""."""

    check: str
    states: dict[str, msgspec.Raw]


class Saved(msgspec.Struct):
    """Everything that the engine remembers."""

    version: int
    rules: dict[str, SavedRule]
    book: Book
    progress: Progress
    packs: list[str]
    unstable: bool


@dataclass(slots=True)
class Layout:
    """One set of metrics: what they mean, and which columns each rule looks at."""

    roles: tuple[Role, ...]
    selections: list[tuple[int, Rule, Selection]]


class Engine:
    """Judges one run. Feed it every record once, in order; how they are cut into batches makes no difference.

    ``state`` is what an earlier engine's `save` returned; None starts afresh. A state that this version can't read, in
    whole or for one rule, is dropped for a fresh one.

    >>> import numpy as np
    >>> from holter.health.model import Batch, Facts
    >>> engine = Engine(RuleSet.default(), Facts())
    >>> loss = np.array([[2.0], [1.9], [np.nan], [1.8]])
    >>> batch = Batch("rank0", ("loss",), np.arange(1, 5), np.arange(4.0), loss)
    >>> [(change.action, change.kind, change.step) for change in engine.observe(batch)]
    [('open', 'non_finite', 3)]
    """

    def __init__(self, rules: RuleSet, facts: Facts, state: bytes | None = None) -> None:
        self._ruleset = rules
        self._facts = facts
        self._states: dict[str, dict[str, State]] = {}
        self._book = Book()
        self._progress = Progress()
        self._packs = [pack.name for pack in rules.packs() if pack.applies_to is None]
        self._unstable = False
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._orphans: list[str] = []  # rules that have left incidents open
        saved = _decode(state)
        if saved is not None:
            self._restore(saved)
        self._activate()

    def observe(self, batch: Batch) -> list[Transition]:
        """Judge the records of ``batch``: the transitions they cause, in the order of the records."""
        return [change for _, change in self.locate(batch)]

    def locate(self, batch: Batch) -> list[tuple[int, Transition]]:
        """As `observe`, each transition with the row of ``batch`` that caused it."""
        if len(batch.steps) == 0:
            return []
        self._learn(batch.metrics)
        changes = [(0, change) for change in self._close_orphans(float(batch.times[0]))]
        found = self._look(batch, self._layout(batch.metrics))
        ripe = 0  # rows before it have been looked at for what has lasted by then
        for row, _, rule, sign in found:
            changes += self._ripen(batch, ripe, row)
            ripe = row
            writer = batch.writer if rule.check.scope == "writer" else ""
            change = self._book.enter(sign, rule, writer, int(batch.steps[row]), float(batch.times[row]))
            if change is not None:
                changes.append((row, change))
        changes += self._ripen(batch, ripe, len(batch.steps))
        if not batch.writer.endswith(SYSTEM_SUFFIX):
            self._advance(batch)
        return changes

    def tick(self, vitals: Vitals) -> list[Transition]:
        """Judge the run by the clock: hung, lost, failed, and what its end makes certain."""
        self._note_clock(vitals)
        changes = self._close_orphans(vitals.now)
        for rule in self._clocked:
            for writer in self._writers(rule):
                signs: list[Sign] = []
                rule.check.tick(vitals, self._progress, self._state(rule, writer), signs)
                for sign in signs:
                    change = self._book.enter(sign, rule, writer, self._progress.step, vitals.now)
                    if change is not None:
                        changes.append(change)
        return changes

    def wake(self, vitals: Vitals) -> float:
        """The first moment of the service's clock at which `tick` may change anything, if nothing new is heard.

        It notes when the run last moved, as `tick` does: whoever calls it at the times at which they would call `tick`,
        and `tick` only from the moment that it says, gets the same transitions.
        """
        progress = self._progress
        if self._orphans or (_silent(vitals) and progress.moved_at is not None):
            return vitals.now
        self._note_clock(vitals)
        return min(
            (
                rule.check.wake(vitals, progress, self._state(rule, writer))
                for rule in self._clocked
                for writer in self._writers(rule)
            ),
            default=math.inf,
        )

    def save(self) -> bytes:
        """Everything that the engine remembers; ``Engine(rules, facts, saved)`` continues exactly."""
        checks = {rule.id: rule.check_name for rule in self._active}
        rules = {
            rule_id: {"check": checks[rule_id], "states": states}
            for rule_id, states in self._states.items()
            if rule_id in checks
        }
        return _encoder.encode(
            {
                "version": VERSION,
                "rules": rules,
                "book": self._book,
                "progress": self._progress,
                "packs": self._packs,
                "unstable": self._unstable,
            }
        )

    # --- looking at records

    def _ripen(self, batch: Batch, start: int, stop: int) -> list[tuple[int, Transition]]:
        """Open what has lasted for as long as its rule asks by one of the rows from ``start`` to ``stop - 1``.

        A row is looked at after its own signs: what ends in the very row in which it would have lasted, has not.
        """
        if not self._book.waiting or start == stop:
            return []
        rules = {rule.id: rule for rule in self._active}
        ripe: list[tuple[int, str, Rule]] = []
        for key, waiting in self._book.waiting.items():
            rule = rules[waiting.rule]
            if waiting.writer in ("", batch.writer):
                since = (waiting.step, waiting.time)
                lasted = np.flatnonzero(rule.lasted(batch.steps[start:stop], batch.times[start:stop], since))
                if len(lasted):
                    ripe.append((start + int(lasted[0]), key, rule))
        ripe.sort(key=lambda entry: entry[0])  # of one row: in the order in which they were seen
        return [(row, self._open_ripe(batch, row, key, rule)) for row, key, rule in ripe]

    def _open_ripe(self, batch: Batch, row: int, key: str, rule: Rule) -> Transition:
        writer = self._book.waiting[key].writer
        return self._book.ripen(key, rule, writer, int(batch.steps[row]), float(batch.times[row]))

    def _look(self, batch: Batch, layout: Layout) -> list[tuple[int, int, Rule, Sign]]:
        values = np.ascontiguousarray(batch.values.T, dtype=np.float64)
        finite: list[bool] = np.asarray(np.isfinite(values).all(axis=1)).tolist()
        few: list[list[float]] | None = values.tolist() if len(batch.steps) <= FEW else None
        found: list[tuple[int, int, Rule, Sign]] = []
        signs: list[Sign] = []
        steps, times = batch.steps, batch.times
        scan = Scan(batch.writer, batch.metrics, layout.roles, steps, times, values, finite, (), (), self._facts, few)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the values may be anything
            for order, rule, selection in layout.selections:
                scan.columns, scan.ranks = selection.columns, selection.ranks
                rule.check.observe(scan, self._state(rule, batch.writer), signs)
                if signs:
                    found.extend((sign.row, order, rule, sign) for sign in signs)
                    signs = []
        found.sort(key=lambda entry: entry[:2])
        return found

    def _learn(self, metrics: tuple[str, ...]) -> None:
        """What the names of these metrics say about the run as a whole, once and for all."""
        if metrics in self._layouts:
            return
        unstable = self._unstable or is_unstable_by_nature(metrics)
        packs = [pack.name for pack in self._ruleset.packs() if pack.name in self._packs or pack.applies(metrics)]
        if (unstable, packs) == (self._unstable, self._packs):
            return
        self._unstable, self._packs = unstable, packs
        self._layouts.clear()
        self._activate()

    def _layout(self, metrics: tuple[str, ...]) -> Layout:
        layout = self._layouts.get(metrics)
        if layout is None:
            if len(self._layouts) >= LAYOUTS_MAX:
                self._layouts.clear()
            layout = self._layouts[metrics] = self._new_layout(metrics)
        return layout

    def _new_layout(self, metrics: tuple[str, ...]) -> Layout:
        roles = tuple(self._role(name) for name in metrics)
        selections = []
        for order, rule in enumerate(self._active):
            selection = rule.selector().select(metrics, roles)
            chosen = [roles[column] for column in selection.columns]
            matters = rule.check.concerns(chosen) if chosen else Role.LOSS_SCALE in roles
            if _observes(rule.check) and matters:
                selections.append((order, rule, selection))
        return Layout(roles, selections)

    def _role(self, name: str) -> Role:
        role = role_of(name)
        if not self._unstable:
            return role
        if role in (Role.LOSS, Role.COMPONENT):
            return Role.ADVERSARIAL
        return Role.OTHER if role in (Role.STEP_TIME, Role.THROUGHPUT) else role  # episodes have any length

    # --- memory

    def _state(self, rule: Rule, writer: str) -> State:
        """The rule's memory of the writer, or of the run."""
        writer = writer if rule.check.scope == "writer" else ""
        states = self._states.get(rule.text.id)
        if states is None:
            states = self._states[rule.text.id] = {}
        state = states.get(writer)
        if state is None:
            state = states[writer] = rule.check.memory()
        return state

    def _writers(self, rule: Rule) -> list[str]:
        return [""] if rule.check.scope == "run" else list(self._states.get(rule.id, {}))

    def _restore(self, saved: Saved) -> None:
        self._book, self._progress, self._unstable = saved.book, saved.progress, saved.unstable
        known = [pack.name for pack in self._ruleset.packs()]
        self._packs = [name for name in known if name in saved.packs or name in self._packs]
        rules = {rule.id: rule for rule in self._ruleset.active(self._packs, self._facts)}
        for rule_id, memory in saved.rules.items():
            rule = rules.get(rule_id)
            if rule is None or rule.check_name != memory.check:
                continue
            try:
                self._states[rule_id] = {
                    writer: msgspec.msgpack.decode(raw, type=rule.check.memory) for writer, raw in memory.states.items()
                }
            except msgspec.ValidationError:
                continue

    def _activate(self) -> None:
        """Choose the rules of this run, and drop what the others remember."""
        self._active = self._ruleset.active(self._packs, self._facts)
        self._clocked = tuple(rule for rule in self._active if type(rule.check).tick is not Check.tick)
        self._drop_inactive()

    def _drop_inactive(self) -> None:
        memories = {rule.id: rule.check.memory for rule in self._active}
        self._states = {
            rule_id: states
            for rule_id, states in self._states.items()
            if rule_id in memories and all(isinstance(state, memories[rule_id]) for state in states.values())
        }
        waiting = {key: kept for key, kept in self._book.waiting.items() if kept.rule in memories}
        self._book.waiting = waiting
        opened = {incident.rule for incident in self._book.open.values()}
        self._orphans = sorted(opened - set(self._states))

    def _close_orphans(self, time: float) -> list[Transition]:
        orphans, self._orphans = self._orphans, []
        reason = "The rule that opened this does not apply to the run any more"
        return [change for rule_id in orphans for change in self._book.close_rule(rule_id, reason, time)]

    # --- how the run gets on

    def _advance(self, batch: Batch) -> None:
        progress = self._progress
        steps = batch.steps
        if len(steps) == 1:
            self._advance_by_one(int(steps[0]), float(batch.times[0]))
            return
        moved = np.empty(len(steps), dtype=bool)
        moved[0] = progress.step is None or int(steps[0]) != progress.step
        moved[1:] = steps[1:] != steps[:-1]
        times = batch.times[moved]
        progress.step = int(steps[-1])
        progress.records += len(steps)
        if not len(times):
            return
        earlier = times[:1] if progress.time is None else np.array([progress.time])
        with np.errstate(invalid="ignore"):  # times are the sender's, and may be anything
            gaps = np.diff(np.concatenate([earlier, times]))
        gaps = gaps[np.isfinite(gaps) & (gaps > 0)][-GAPS:]
        progress.gaps = [*progress.gaps, *gaps.tolist()][-GAPS:]
        progress.time, progress.moved = float(times[-1]), True

    def _advance_by_one(self, step: int, time: float) -> None:
        """The same for a single record, without arrays."""
        progress = self._progress
        moved = step != progress.step
        progress.step = step
        progress.records += 1
        if not moved:
            return
        gap = math.nan if progress.time is None else time - progress.time
        if math.isfinite(gap) and gap > 0:
            progress.gaps = [*progress.gaps, gap][-GAPS:]
        progress.time, progress.moved = time, True

    def _note_clock(self, vitals: Vitals) -> None:
        """When the run last moved, by the service's clock; unknown while it is over or silent, until it moves again."""
        progress = self._progress
        if _silent(vitals):
            progress.moved_at = None
        elif progress.moved:
            heard = vitals.now if vitals.last_step_at is None else vitals.last_step_at
            progress.moved_at = min(vitals.now, heard)
        progress.moved = False


def _silent(vitals: Vitals) -> bool:
    return vitals.state in ENDED or vitals.state == "lost"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


def _observes(check: Check) -> bool:
    """Whether it looks at records, and not at the clock alone."""
    return type(check).observe is not Check.observe


def _decode(state: bytes | None) -> Saved | None:
    """The saved memory; None where there is none, or none that this version can read."""
    if not state:
        return None
    try:
        saved = _decoder.decode(state)
    except msgspec.DecodeError:
        return None
    return saved if saved.version == VERSION else None


def readable(state: bytes) -> bool:
    """Whether this version can go on from what an engine's `save` returned, instead of afresh."""
    return _decode(state) is not None
