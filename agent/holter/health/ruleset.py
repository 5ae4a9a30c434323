"""Rules as data: packs that come with Holter, a project's own rules laid over them, and what is wrong with a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from holter.health.model import SEVERITIES, Facts, Kind, Severity
from holter.health.patterns import Selector, first_match
from holter.health.plugins import known_checks, pack_texts
from holter.health.roles import Role, role_of
from holter.health.rules import Check
from holter.health.yaml_text import Entry, RuleError, TextFile

log = logging.getLogger("holter")
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

__all__ = ["PACKS", "Pack", "Rule", "RuleError", "RuleSet", "load_packs"]

PACKS = ("default", "denovo")  # in the order in which they are laid over one another
ActionName = Literal["notify", "checkpoint", "stop", "dump"]
WOULD = "would-"  # before the name of an action that a dry run only writes down
Scalar = str | int | float | bool
Lasting = Annotated[int, msgspec.Meta(ge=1)] | Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?[smh]$")]
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
T = TypeVar("T")


class RuleText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"lasts": "for"}):
    """The keys that every rule may have, besides the parameters of its check."""

    id: str
    check: str | None = None
    enabled: bool = True
    summary: str = ""
    severity: Severity = "warning"
    metrics: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    exclude: tuple[str, ...] = ()
    when: dict[str, Scalar | list[Scalar]] = {}
    tags: tuple[str, ...] = ()
    advice: str = ""
    advice_for: dict[str, str] = {}
    lasts: Lasting | None = None  # how long what the check sees must last before it fires
    actions: tuple[ActionName, ...] = ("notify",)
    dry_run: bool = False


class AppliesTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metrics that a run must log for a pack to apply to it."""

    metrics: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()


COMMON_KEYS = RuleText.__struct_encode_fields__
FILE_KEYS = ("summary", "applies_to", "rules")
_PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Pack:
    """Rules that come together. ``applies_to``: only for runs that log such a metric (None: for every run)."""

    name: str
    summary: str = ""
    applies_to: Selector | None = None

    def applies(self, names: Sequence[str]) -> bool:
        """Whether a record with these metrics shows that the pack is meant for this run."""
        if self.applies_to is None:
            return True
        return bool(self.applies_to.select(names, [role_of(name) for name in names]).columns)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a check with its parameters, the metrics it looks at, and what to say and do when it fires."""

    pack: Pack
    text: RuleText
    check: Check
    check_name: str
    given: dict[str, Any] = field(default_factory=dict)  # as written, for laying other rules over it

    @property
    def id(self) -> str:
        return self.text.id

    @property
    def kind(self) -> Kind:
        return self.check.kind

    @property
    def actions(self) -> tuple[str, ...]:
        """What follows when it fires; in a dry run the training is asked for nothing, and "would-stop" says so."""
        if not self.text.dry_run:
            return self.text.actions
        return tuple(name if name == "notify" else f"{WOULD}{name}" for name in self.text.actions)

    def lasted(self, steps: IntArray, times: FloatArray, since: tuple[int, float]) -> BoolArray:
        """For records at ``steps`` (n,) and ``times`` (n,): whether what was seen at ``since`` has lasted by then."""
        wanted = self.text.lasts
        if isinstance(wanted, str):
            return np.asarray(times - since[1] >= float(wanted[:-1]) * SECONDS[wanted[-1]])
        return np.asarray(steps - since[0] >= (wanted or 0))

    def selector(self) -> Selector:
        return Selector(self.text.metrics, self.text.roles, self.text.exclude)

    def advice(self, metric: str, evidence: dict[str, Any]) -> str:
        """What to do: the first of `advice_for` that fits "class A" (of the evidence) or the metric, else `advice`."""
        patterns = tuple(self.text.advice_for)
        for subject in (f"class {evidence.get('class')}", metric):
            index = first_match(patterns, subject)
            if index is not None:
                return self.text.advice_for[patterns[index]]
        return self.text.advice

    def wanted(self, facts: Facts) -> bool:
        """Whether the run's config is one that the rule is `when` for, and one of its tags one that it asks for."""
        if self.text.tags and not any(first_match(self.text.tags, tag) is not None for tag in facts.tags):
            return False
        flat = _flat(facts.config)
        return all(_fits(flat, pattern, wanted) for pattern, wanted in self.text.when.items())

    def describe(self) -> dict[str, Any]:
        """The rule as plain values: for the API, the page and the docs."""
        text: dict[str, Any] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in msgspec.to_builtins(self.text).items()
        }
        text.pop("enabled")
        return {
            **text,
            "check": self.check_name,
            "kind": self.kind,
            "parameters": msgspec.to_builtins(self.check),
            "pack": self.pack.name,
        }


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in order. A rule of a later pack replaces one of the same id in runs to which that pack applies."""

    rules: tuple[Rule, ...]

    @classmethod
    def default(cls) -> RuleSet:
        """The packs that come with Holter, and those of plug-ins after them."""
        return _with_plugins()

    @classmethod
    def parse(cls, yaml_text: str, name: str = "rules.yaml") -> RuleSet:
        """A project's rules, laid over the default: the same id changes the keys it names, ``enabled: false`` removes.

        Raises:
            RuleError: with the line, and the keys that are allowed there.
        """
        file = TextFile(yaml_text, name)
        rules = list(cls.default().rules)
        _, entries = _read_file(file, _PROJECT)
        for entry in entries:
            _lay_over(file, entry, rules)
        return cls(tuple(rule for rule in rules if rule.text.enabled))

    def describe(self) -> list[dict[str, Any]]:
        """Every rule as plain values."""
        return [rule.describe() for rule in self.rules]

    def packs(self) -> tuple[Pack, ...]:
        """The packs that have rules here, in order."""
        return tuple(dict.fromkeys(rule.pack for rule in self.rules))

    def active(self, packs: Sequence[str], facts: Facts) -> tuple[Rule, ...]:
        """The rules of a run to which the packs of these names apply, one for each id."""
        chosen: dict[str, Rule] = {}
        for rule in self.rules:
            if rule.pack.name in packs and rule.wanted(facts):
                chosen[rule.id] = rule
        return tuple(chosen.values())


@cache
def load_packs(*names: str) -> RuleSet:
    """The packs of these names, in this order.

    Raises:
        RuleError: a pack lays a rule over that of a pack which is not among the ``names``.
    """
    rules: list[Rule] = []
    for name in names:
        resource = files("holter.health").joinpath("packs", f"{name}.yaml")
        file = TextFile(resource.read_text(encoding="utf-8"), f"{name}.yaml")
        pack, entries = _read_file(file, name)
        for entry in entries:
            rule_id = _rule_id(file, entry)
            base = next((rule for rule in rules if rule.id == rule_id), None)
            rules.append(_rule(file, entry, pack, base))
    return RuleSet(tuple(rule for rule in rules if rule.text.enabled))


@cache
def _with_plugins() -> RuleSet:
    rules = load_packs(*PACKS)
    for name, text in pack_texts().items():
        try:
            rules = _with_pack(rules, name, text)
        except RuleError as error:  # a package of somebody else's must not take the other rules down
            log.error("The rules of the plug-in %s are not used: %s", name, error)
    return rules


def _with_pack(rules: RuleSet, name: str, text: str) -> RuleSet:
    file = TextFile(text, f"{name}.yaml")
    pack, entries = _read_file(file, name)
    found = list(rules.rules)
    for entry in entries:
        rule_id = _rule_id(file, entry)
        base = next((rule for rule in found if rule.id == rule_id), None)
        found.append(_rule(file, entry, pack, base))
    return RuleSet(tuple(rule for rule in found if rule.text.enabled))


# --- from text to rules -----------------------------------------------------------------------------------------


def _read_file(file: TextFile, pack_name: str) -> tuple[Pack, list[Entry]]:
    allowed = ("rules",) if pack_name == _PROJECT else FILE_KEYS
    if file.root is None:
        return Pack(pack_name), []
    root = file.entry(file.root, "the file")
    for key, line in root.lines.items():
        if key not in allowed:
            raise file.unknown_key(key, "the file", line, allowed)
    pack = Pack(pack_name, str(root.values.get("summary", "")), _applies_to(root))
    nodes = file.items(root.values["rules"]) if "rules" in root.values else []
    return pack, [file.entry(node, "a rule") for node in nodes]


def _applies_to(root: Entry) -> Selector | None:
    if "applies_to" not in root.values:
        return None
    applies = msgspec.convert(root.values["applies_to"], AppliesTo)
    return Selector(applies.metrics, applies.roles)


def _rule_id(file: TextFile, entry: Entry) -> str:
    rule_id = entry.values.get("id")
    if not isinstance(rule_id, str) or not rule_id or len(rule_id) > 64:
        raise file.error("a rule needs an id of 1 to 64 characters", entry.lines.get("id", entry.line), COMMON_KEYS)
    return rule_id


def _lay_over(file: TextFile, entry: Entry, rules: list[Rule]) -> None:
    """A project's rule: over every pack's rule of that id, or new and for every run."""
    rule_id = _rule_id(file, entry)
    found = [index for index, rule in enumerate(rules) if rule.id == rule_id]
    for index in found:
        changed = _rule(file, entry, rules[index].pack, rules[index])
        rules[index] = replace(changed, pack=rules[index].pack)
    if found:
        return
    if "check" not in entry.values:
        near = get_close_matches(rule_id, [rule.id for rule in rules], n=1)
        guess = f" (did you mean '{near[0]}'?)" if near else ""
        text = f"there is no rule '{rule_id}' to change{guess}; a new rule needs a check"
        raise file.error(text, entry.lines["id"], known_checks())
    rules.append(_rule(file, entry, Pack(_PROJECT), None))


def _rule(file: TextFile, entry: Entry, pack: Pack, base: Rule | None) -> Rule:
    rule_id = _rule_id(file, entry)
    check_name = _check_name(file, entry, rule_id, base)
    check_type = known_checks()[check_name]
    parameters = check_type.__struct_fields__
    allowed = (*COMMON_KEYS, *parameters)
    for key, line in entry.lines.items():
        if key not in allowed:
            raise file.unknown_key(key, f"rule '{rule_id}'", line, allowed)
    inherited = base.given if base is not None and base.check_name == check_name else {}
    given = {**inherited, **entry.values}
    text = _convert(file, entry, {key: given[key] for key in given if key in COMMON_KEYS}, RuleText, rule_id)
    check = _convert(file, entry, {key: given[key] for key in given if key in parameters}, check_type, rule_id)
    return Rule(pack, text, check, check_name, given)


def _check_name(file: TextFile, entry: Entry, rule_id: str, base: Rule | None) -> str:
    line = entry.lines.get("check", entry.line)
    name = entry.values.get("check", None if base is None else base.check_name)
    if name is None:
        raise file.error(f"rule '{rule_id}' is new and needs a check", line, known_checks())
    if name not in known_checks():
        raise file.error(f"rule '{rule_id}' names the check {name!r}, which there is not", line, known_checks())
    return str(name)


def _convert(file: TextFile, entry: Entry, values: dict[str, Any], wanted: type[T], rule_id: str) -> T:
    try:
        return msgspec.convert(values, wanted)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`").partition("[")[0].partition(".")[0]
        line = entry.lines.get(key, entry.line)
        about = f"'{key}' in rule '{rule_id}'" if key else f"rule '{rule_id}'"
        raise file.error(f"{about}: {problem[:1].lower()}{problem[1:]}", line, _choices(key)) from None


def _choices(key: str) -> tuple[str, ...]:
    choices = {"severity": SEVERITIES, "roles": tuple(role.value for role in Role), "actions": get_args(ActionName)}
    return choices.get(key, ())


# --- conditions on the run's config -----------------------------------------------------------------------------


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _fits(flat: dict[str, Any], pattern: str, wanted: Scalar | list[Scalar]) -> bool:
    choices = [str(choice).lower() for choice in (wanted if isinstance(wanted, list) else [wanted])]
    found = [value for key, value in flat.items() if first_match((pattern,), key) is not None]
    return any(first_match(choices, str(value).lower()) is not None for value in found)
