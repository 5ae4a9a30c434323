"""Criteria, decision tree and outcomes as data: read from YAML, every mistake answered with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args, get_type_hints

from holter.health.roles import Role
from holter.health.yaml_text import Entry, RuleError, TextFile

__all__ = [
    "NAMES",
    "SIDES",
    "Criteria",
    "Incidents",
    "Knobs",
    "Memory",
    "Node",
    "Outcome",
    "RuleError",
    "Smoothness",
    "Speed",
    "Stability",
    "Value",
    "parse",
    "shipped",
]

NAMES = ("default", "denovo")
Better = Literal["higher", "lower", "auto", "none"]
STATES = ("better", "equivalent", "worse", "much_worse")
SIDES = ("baseline", "candidate")
FATES = ("non_finite", "broken")  # a training that ended in non-finite values; or that, or exploded for good
VERDICTS = ("accepted", "rejected", "undetermined")


@dataclass(frozen=True, slots=True)
class Value:
    """The mean of a metric's last values: of what fits a glob or, where nothing does, the first role that is logged."""

    id: str
    title: str = ""
    metrics: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    better: Better = "auto"  # auto: by what the metric's name means; none: shown and not judged
    margin: float = 0.01  # in the metric's unit; for what is better lower by "auto", a share of the baseline
    last: int = 3
    kind: Literal["value"] = "value"


@dataclass(frozen=True, slots=True)
class Stability:
    """What breaks first, lexicographically: see `holter_server.verdict.stability`."""

    id: str
    title: str = ""
    total: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()  # a loss that both sides count in the same unit
    weighted: tuple[str, ...] = ()
    total_above: float | None = None
    weighted_above: float | None = None
    reference_above: float | None = None  # over the baseline, in the metric's unit
    grad_norm_above: float | None = None
    kind: Literal["stability"] = "stability"


@dataclass(frozen=True, slots=True)
class Incidents:
    """Which side's runs had grave incidents, by the health rules."""

    id: str
    title: str = ""
    kind: Literal["incidents"] = "incidents"


@dataclass(frozen=True, slots=True)
class Smoothness:
    """Roughness of a loss around its rolling median, as a ratio."""

    id: str
    title: str = ""
    metrics: tuple[str, ...] = ()
    smoother: float = 0.95
    rougher: float = 1.05
    kind: Literal["smoothness"] = "smoothness"


@dataclass(frozen=True, slots=True)
class Speed:
    """Share of steps per second that is lost."""

    id: str
    title: str = ""
    margin: float = 0.05
    much: float = 0.2
    kind: Literal["speed"] = "speed"


@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks; lower by more than both a share and an amount."""

    id: str
    title: str = ""
    share: float = 0.05
    megabytes: float = 100.0
    kind: Literal["memory"] = "memory"


Criterion = Value | Stability | Incidents | Smoothness | Speed | Memory
KINDS: dict[str, type[Any]] = {str(each.__dataclass_fields__["kind"].default): each for each in get_args(Criterion)}


@dataclass(frozen=True, slots=True)
class Node:
    """A question of the tree. ``ask``: states of criteria of which any makes the answer yes."""

    id: str
    question: str
    ask: Mapping[str, tuple[str, ...]]
    yes: str  # a node or an outcome
    no: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the tree ends."""

    id: str
    verdict: str
    say: str


@dataclass(frozen=True, slots=True)
class Knobs:
    """What to turn when the auxiliary losses are too strong or too weak."""

    reference: str = ""
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Criteria:
    """Everything that a verdict is by."""

    name: str
    summary: str = ""
    treatment: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    evaluation_set: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()
    seeds: int = 3
    criteria: tuple[Criterion, ...] = ()
    tree: tuple[Node, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    vetoes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    knobs: Knobs | None = None


@cache
def shipped(name: str) -> Criteria:
    """`default` or `denovo`."""
    text = (resources.files("holter_server.verdict") / "packs" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse(text, name)


def parse(text: str, name: str) -> Criteria:
    """Criteria from YAML. A file without a tree gets the default one's, over its own first criterion.

    Raises:
        RuleError: with the line of the mistake and what is allowed there.
    """
    return _Reader(TextFile(text, name)).criteria()


_TOP = ("summary", "treatment", "ignore", "evaluation_set", "entry", "seeds", "criteria", "tree", "outcomes",
        "vetoes", "knobs")  # fmt: skip
_GLOBS = ("treatment", "ignore", "evaluation_set", "entry")


class _Reader:
    """Reads one file; every check names the line of the key that is wrong."""

    def __init__(self, file: TextFile) -> None:
        self._file = file

    def criteria(self) -> Criteria:
        if self._file.root is None:
            raise self._file.error("the file is empty; it needs 'criteria:'", 1)
        top = self._file.mapping(self._file.root, "the file", raw=("criteria", "tree", "outcomes", "vetoes", "knobs"))
        self._known(top, _TOP, "the file")
        if "criteria" not in top.values:
            raise self._file.error("'criteria' is missing: a list of what is compared", top.line, _TOP)
        criteria = tuple(self._criterion(node) for node in self._file.items(top.values["criteria"], "criteria"))
        if not criteria:
            raise self._file.error("'criteria' is empty", top.lines["criteria"])
        ids = [each.id for each in criteria]
        if reserved := [each for each in ids if each in SIDES]:
            raise self._file.error(f"a criterion can't be called '{reserved[0]}'", top.lines["criteria"])
        if twice := sorted({each for each in ids if ids.count(each) > 1}):
            raise self._file.error(f"criterion '{twice[0]}' stands twice", top.lines["criteria"])
        common = {key: self._globs(top, key) for key in _GLOBS if key in top.values}
        seeds = self._number(top, "seeds", 3, least=1, whole=True)
        tree, outcomes = self._tree(top, ids)
        vetoes = self._vetoes(top, ids)
        knobs = self._knobs(top)
        summary = str(top.values.get("summary") or "")
        return Criteria(
            self._file.name, summary, seeds=int(seeds or 3), criteria=criteria, tree=tree, outcomes=outcomes,
            vetoes=vetoes, knobs=knobs, **common,
        )  # fmt: skip

    def _known(self, entry: Entry, allowed: tuple[str, ...], where: str) -> None:
        for key in entry.values:
            if key not in allowed:
                raise self._file.unknown_key(key, where, entry.lines[key], allowed)

    def _criterion(self, node: Any) -> Criterion:
        entry = self._file.mapping(node, "a criterion")
        kind = str(entry.values.get("kind", "value"))
        if kind not in KINDS:
            raise self._file.error(f"there is no kind '{kind}'", entry.lines["kind"], KINDS)
        struct = KINDS[kind]
        allowed = tuple(each.name for each in fields(struct))
        self._known(entry, allowed, f"a criterion of kind {kind}")
        name = entry.values.get("id")
        if not isinstance(name, str) or not name:
            raise self._file.error("a criterion needs an 'id'", entry.line)
        values: dict[str, Any] = {"id": name, "title": str(entry.values.get("title") or name)}
        hints = get_type_hints(struct)
        for key in entry.values.keys() - {"id", "title", "kind"}:
            values[key] = self._typed(entry, key, hints[key])
        if kind == "value" and not (values.get("metrics") or values.get("roles")):
            raise self._file.error(f"criterion '{name}' needs 'metrics' (globs) or 'roles'", entry.line, allowed)
        if kind == "smoothness" and not values.get("metrics"):
            raise self._file.error(f"criterion '{name}' needs 'metrics' (globs)", entry.line, allowed)
        made: Criterion = struct(**values)
        return made

    def _typed(self, entry: Entry, key: str, hint: Any) -> Any:
        if hint == tuple[str, ...]:
            given = self._globs(entry, key)
            if key == "roles":
                for role in given:
                    if role not in list(Role):
                        raise self._file.error(f"there is no role '{role}'", entry.lines[key], [str(r) for r in Role])
            return given
        if hint == Better:
            value = "none" if entry.values[key] is None else str(entry.values[key])
            if value not in get_args(Better):
                raise self._file.error(f"'{key}' can't be {value!r}", entry.lines[key], get_args(Better))
            return value
        if hint == float | None and entry.values[key] is None:
            return None
        number = self._number(entry, key, None, least=0, whole=hint is int)
        return int(number or 0) if hint is int else number

    def _globs(self, entry: Entry, key: str) -> tuple[str, ...]:
        value = entry.values[key]
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            raise self._file.error(f"'{key}' is a list of names or globs", entry.lines[key])
        return tuple(listed)

    def _number(
        self, entry: Entry, key: str, default: float | None, *, least: float, whole: bool = False
    ) -> float | None:
        if key not in entry.values:
            return default
        value = entry.values[key]
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
            kind = "a whole number" if whole else "a number"
            raise self._file.error(f"'{key}' is {kind} of at least {least:g}, not {value!r}", entry.lines[key])
        return float(value)

    def _tree(self, top: Entry, ids: list[str]) -> tuple[tuple[Node, ...], dict[str, Outcome]]:
        if "tree" not in top.values:
            if "outcomes" in top.values:
                raise self._file.error("'outcomes' without a 'tree' lead nowhere", top.lines["outcomes"])
            return _plain_tree(ids), {each.id: each for each in _PLAIN_OUTCOMES}
        if "outcomes" not in top.values:
            raise self._file.error("a 'tree' needs 'outcomes': where it ends", top.lines["tree"])
        named = self._file.mapping(top.values["outcomes"], "outcomes")
        outcomes = {key: self._outcome(key, value, named.lines[key]) for key, value in named.values.items()}
        nodes = self._file.items(top.values["tree"], "tree")
        entries = [self._file.mapping(node, "a question of the tree") for node in nodes]
        names = [str(entry.values.get("id")) for entry in entries]
        tree = tuple(self._node(entry, index, names, outcomes, ids) for index, entry in enumerate(entries))
        if not tree:
            raise self._file.error("'tree' is empty", top.lines["tree"])
        return tree, outcomes

    def _outcome(self, key: str, value: Any, line: int) -> Outcome:
        allowed = ("verdict", "say")
        if not isinstance(value, dict) or set(value) - set(allowed) or value.get("verdict") not in VERDICTS:
            raise self._file.error(f"outcome '{key}' needs verdict ({', '.join(VERDICTS)}) and say", line, allowed)
        return Outcome(key, value["verdict"], str(value.get("say") or key))

    def _node(
        self, entry: Entry, index: int, names: list[str], outcomes: Mapping[str, Outcome], ids: list[str]
    ) -> Node:
        allowed = ("id", "question", "ask", "then", "else")
        self._known(entry, allowed, "a question of the tree")
        for key in allowed:
            if key not in entry.values:
                raise self._file.error(f"a question of the tree needs '{key}'", entry.line, allowed)
        if names.index(names[index]) != index:
            raise self._file.error(f"question '{names[index]}' stands twice", entry.lines["id"])
        # Only onward, so that no tree can lead in a circle.
        onward = [*names[index + 1 :], *outcomes]
        for key in ("then", "else"):
            if entry.values[key] not in onward:
                target = entry.values[key]
                raise self._file.error(f"'{key}' leads to '{target}', no later question or outcome", entry.lines[key],
                                       onward)  # fmt: skip
        ask = self._asked(entry.values["ask"], entry.lines["ask"], ids)
        return Node(names[index], str(entry.values["question"]), ask, entry.values["then"], entry.values["else"])

    def _vetoes(self, top: Entry, ids: list[str]) -> Mapping[str, tuple[str, ...]]:
        if "vetoes" not in top.values:
            return {} if "tree" in top.values else dict.fromkeys(ids, ("worse",))
        value = self._file.value(top.values["vetoes"])
        return self._asked(value, top.lines["vetoes"], ids) if value else {}

    def _asked(self, value: Any, line: int, ids: list[str]) -> dict[str, tuple[str, ...]]:
        if not isinstance(value, dict) or not value:
            raise self._file.error("write it as {criterion: state}", line, [*ids, *SIDES])
        found = {}
        for name, given in value.items():
            states = tuple(given) if isinstance(given, list) else (given,)
            if name not in (*ids, *SIDES):
                raise self._file.error(f"there is no criterion '{name}'", line, [*ids, *SIDES])
            known = FATES if name in SIDES else STATES
            for state in states:
                if state not in known:
                    raise self._file.error(f"'{name}' can't be {state!r}", line, known)
            found[name] = states
        return found

    def _knobs(self, top: Entry) -> Knobs | None:
        if "knobs" not in top.values:
            return None
        entry = self._file.mapping(top.values["knobs"], "knobs")
        self._known(entry, ("reference", "strong", "weak"), "knobs")
        advice = {key: self._globs(entry, key) for key in ("strong", "weak") if key in entry.values}
        return Knobs(str(entry.values.get("reference") or ""), **advice)


_PLAIN_OUTCOMES = (
    Outcome("accept", "accepted", "The candidate is at least as good as the baseline."),
    Outcome("reject", "rejected", "Keep the baseline."),
)


def _plain_tree(ids: list[str]) -> tuple[Node, ...]:
    """For a file that only lists criteria: broken or worse in the first one is rejected, anything else accepted."""
    first = ids[0]
    broken = Node("broken", "Did the candidate's training break for good?", {"candidate": ("broken",)}, "reject",
                  "worse")  # fmt: skip
    return broken, Node("worse", f"Is its {first} worse?", {first: ("worse", "much_worse")}, "reject", "accept")
