"""The decision tree, read twice: literally, as it is written, and honestly, with everything that may be true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

from holter_server.verdict.criteria import SIDES, Criteria, Node, Outcome
from holter_server.verdict.data import ALL_STATES, Row, State

__all__ = ["Answer", "Fates", "Honest", "Literal_", "combined", "honest_reading", "literal_reading"]

_RANK: dict[State, int] = {"equivalent": 0, "better": 1, "worse": 2, "much_worse": 3}
Fates = Mapping[str, frozenset[str]]  # of "baseline" and "candidate": non_finite, broken


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of the tree as it was answered."""

    node: str
    question: str
    answer: str  # yes | no | open
    because: str


@dataclass(frozen=True, slots=True)
class Literal_:
    """The tree as it is written: what was not shown to be so counts as no."""

    outcome: Outcome
    path: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Honest:
    """The same tree with vetoes and open questions.

    ``leads``: for every criterion that is open, what each of its possible states leads to, given all else that is open.
    """

    verdict: str  # accepted | rejected | undetermined
    say: str
    vetoes: tuple[str, ...]
    leads: Mapping[str, Mapping[str, tuple[str, ...]]]
    needs: tuple[str, ...]


def combined(rows: Iterable[Row]) -> tuple[State, ...]:
    """What may be true of a criterion with several rows: worst if any is worse, better if any is and none is worse."""
    sets = [set(row.states) for row in rows]
    if not sets:
        return ALL_STATES

    def both(old: set[State], new: set[State]) -> set[State]:
        return {max(a, b, key=lambda state: _RANK[state]) for a in old for b in new}

    found = reduce(both, sets)
    return tuple(state for state in (*ALL_STATES, "much_worse") if state in found)


def _by_criterion(criteria: Criteria, rows: Sequence[Row]) -> dict[str, tuple[State, ...]]:
    return {each.id: combined(row for row in rows if row.criterion == each.id) for each in criteria.criteria}


def _holds(ask: Mapping[str, tuple[str, ...]], states: Mapping[str, State], fates: Fates) -> bool:
    for criterion, wanted in ask.items():
        if criterion in SIDES:
            if fates[criterion] & set(wanted):
                return True
        elif states[criterion] in wanted or ("worse" in wanted and states[criterion] == "much_worse"):
            return True
    return False


def _shown(states: Sequence[State]) -> str:
    return states[0].replace("_", " ") if len(states) == 1 else "undetermined"


def _because(node: Node, states: Mapping[str, Sequence[State]], fates: Fates) -> str:
    return "; ".join(f"{name}: {_fate(fates[name]) if name in SIDES else _shown(states[name])}" for name in node.ask)


def _fate(found: frozenset[str]) -> str:
    return "ended in non-finite values" if "non_finite" in found else "exploded for good" if found else "held"


def literal_reading(criteria: Criteria, rows: Sequence[Row], fates: Fates) -> Literal_:
    """Follow the tree. An undetermined criterion is no reason to say yes.

    Args:
        fates: of both sides, whether their trainings ended in non-finite values, or broke at all.
    """
    possible = _by_criterion(criteria, rows)
    # "equivalent" stands for what was not shown: no question of a tree that asks for improvement is answered by it.
    states: dict[str, State] = {
        name: found[0] if len(found) == 1 else "worse" if set(found) <= {"worse", "much_worse"} else "equivalent"
        for name, found in possible.items()
    }
    path: list[Answer] = []
    nodes = {node.id: node for node in criteria.tree}
    at = criteria.tree[0].id
    while at in nodes:
        node = nodes[at]
        yes = _holds(node.ask, states, fates)
        path.append(Answer(node.id, node.question, "yes" if yes else "no", _because(node, possible, fates)))
        at = node.yes if yes else node.no
    return Literal_(criteria.outcomes[at], tuple(path))


def _end(criteria: Criteria, states: Mapping[str, State], fates: Fates) -> tuple[Outcome, str]:
    """(where the tree ends, the veto that speaks against it)."""
    nodes = {node.id: node for node in criteria.tree}
    at = criteria.tree[0].id
    while at in nodes:
        node = nodes[at]
        at = node.yes if _holds(node.ask, states, fates) else node.no
    outcome = criteria.outcomes[at]
    veto = next((name for name, wanted in criteria.vetoes.items() if _holds({name: wanted}, states, fates)), "")
    return outcome, veto if outcome.verdict == "accepted" else ""


def honest_reading(criteria: Criteria, rows: Sequence[Row], fates: Fates) -> Honest:
    """Follow the tree for everything that may be true; the verdict is determined if all of it leads to the same one."""
    possible = _by_criterion(criteria, rows)
    asked = {name for node in criteria.tree for name in node.ask} | set(criteria.vetoes)
    names = [name for name in possible if name in asked]
    ends: list[tuple[dict[str, State], str, str]] = []
    vetoes: dict[str, None] = {}
    for states in product(*(possible[name] for name in names)):
        assignment = dict(zip(names, states, strict=True)) | {
            name: found[0] for name, found in possible.items() if name not in asked
        }
        outcome, veto = _end(criteria, assignment, fates)
        if veto:
            vetoes[veto] = None
            ends.append((assignment, "rejected", f"rejected: {veto} is worse, which vetoes"))
        else:
            ends.append((assignment, outcome.verdict, outcome.say))
    verdicts = {verdict for _, verdict, _ in ends}
    says = list(dict.fromkeys(say for _, _, say in ends))
    open_ones = [name for name in names if len(possible[name]) > 1]
    if len(verdicts) == 1:
        verdict = verdicts.pop()
        text = " Or: ".join(says)
        if open_ones and verdict != "undetermined":
            text += f" (whatever is true of {', '.join(open_ones)})"
        return Honest(verdict, text, tuple(vetoes) if verdict == "rejected" else (), {}, ())
    by_name = {name: _leads(ends, name) for name in open_ones}
    telling = {name: found for name, found in by_name.items() if len({frozenset(says) for says in found.values()}) > 1}
    leads = telling or by_name
    needs = tuple(
        dict.fromkeys(
            f"{row.criterion} ({row.metric}): {row.needs}"
            for row in rows
            if row.criterion in leads and len(row.states) > 1 and row.needs
        )
    )
    return Honest("undetermined", f"{', '.join(leads).capitalize()} can't be told yet.", (), leads, needs)


def _leads(ends: Sequence[tuple[dict[str, State], str, str]], name: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for states, _, say in ends:
        found.setdefault(states[name], {})[say] = None
    return {state: tuple(says) for state, says in found.items()}
