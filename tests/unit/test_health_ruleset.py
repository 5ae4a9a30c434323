"""Rule files: what they may say, and what is answered to what they may not."""

from __future__ import annotations

import pytest

from holter.health import KINDS, Facts, RuleError, RuleSet, load_packs
from holter.health.rules import CHECKS


def refused(text: str) -> RuleError:
    with pytest.raises(RuleError) as caught:
        RuleSet.parse(text, name="project.yaml")
    return caught.value


def test_the_packs_describe_themselves_in_full() -> None:
    """What the API, the page and the docs show of a rule."""
    for rule in RuleSet.default().describe():
        assert {"id", "kind", "severity", "metrics", "roles", "parameters", "advice", "pack", "actions"} <= set(rule)
        assert rule["kind"] in KINDS
        assert rule["check"] in CHECKS
        assert rule["summary"]
        assert rule["advice"] or set(rule["advice_for"]) == {"class A", "class B", "class C"}
        assert rule["actions"] == ["notify"]


def test_every_check_is_used_by_a_pack() -> None:
    assert {rule.check_name for rule in RuleSet.default().rules} == set(CHECKS)


def test_an_empty_file_changes_nothing() -> None:
    for text in ("", "# nothing yet\n", "rules: []\n"):
        assert RuleSet.parse(text) == RuleSet.default()


def test_the_same_id_changes_only_what_it_names() -> None:
    rules = RuleSet.parse("rules:\n  - id: precursor-high\n    above: 8\n    actions: [notify, stop]\n")
    rule = next(rule.describe() for rule in rules.rules if rule.id == "precursor-high")
    assert rule["parameters"]["above"] == 8
    assert rule["parameters"]["clear"] == 4.5
    assert rule["actions"] == ["notify", "stop"]
    assert rule["pack"] == "denovo"


def test_a_change_reaches_every_pack_that_has_the_rule() -> None:
    rules = RuleSet.parse("rules:\n  - {id: near-oom, share: 0.8}\n").rules
    found = [rule for rule in rules if rule.id == "near-oom"]
    assert [rule.pack.name for rule in found] == ["default", "denovo"]
    assert all(rule.describe()["parameters"]["share"] == 0.8 for rule in found)
    assert found[0].text.advice != found[1].text.advice


def test_enabled_false_removes() -> None:
    rules = RuleSet.parse("rules:\n  - {id: loss-explosion, enabled: false}\n").rules
    assert "loss-explosion" not in {rule.id for rule in rules}


def test_a_pack_applies_only_to_its_runs() -> None:
    rules = RuleSet.default()
    denovo = next(pack for pack in rules.packs() if pack.name == "denovo")
    assert denovo.applies(["loss/precursor"])
    assert not denovo.applies(["loss", "precursor_mz", "lr"])
    assert "precursor-high" not in {rule.id for rule in rules.active(["default"], Facts())}
    active = {rule.id: rule.pack.name for rule in rules.active(["default", "denovo"], Facts())}
    assert active["near-oom"] == "denovo"
    assert active["loss-explosion"] == "default"


def test_when_asks_the_config() -> None:
    def ids(kind: str) -> set[str]:
        facts = Facts(config={"losses": {"spectrum": {"kind": kind}}})
        return {rule.id for rule in load_packs("default", "denovo").active(["default", "denovo"], facts)}

    assert "spectrum-out-of-range" in ids("gaussian_grid")
    assert "spectrum-out-of-range" not in ids("hard_min_huber")


def test_a_typo_is_answered_with_its_line_and_the_allowed_keys() -> None:
    error = refused("rules:\n  - id: precursor-high\n    severity: critical\n    abvoe: 5\n")
    assert error.line == 4
    start = "project.yaml line 4: unknown key 'abvoe' in rule 'precursor-high'; did you mean 'above'? allowed: "
    assert error.message.startswith(start)
    assert {"above", "window", "severity", "advice"} <= set(error.allowed_keys)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("rules:\n  - id: total-high\n    above: much\n", 3, "'above' in rule 'total-high'"),
        ("rules:\n  - id: total-high\n    severity: fatal\n", 3, "allowed: critical, info, warning"),
        ("rules:\n  - id: total-high\n    window: 100\n", 3, "'window'"),
        ("rules:\n  - id: total-high\n    actions: [explode]\n", 3, "allowed: checkpoint, dump, notify, stop"),
        ("rules:\n  - id: mine\n    check: magic\n", 3, "names the check 'magic'"),
        ("rules:\n  - id: mine\n    check: limit\n", 2, "a limit needs `above` or `below`"),
        ("rules:\n  - id: total-hihg\n    above: 5\n", 2, "did you mean 'total-high'?"),
        ("rules:\n  - severity: info\n", 2, "a rule needs an id"),
        ("rules:\n  - just words\n", 2, "must be a mapping"),
        ("rules: precursor\n", 1, "must be a list"),
        ("rulse: []\n", 1, "did you mean 'rules'?"),
        ("applies_to: {}\nrules: []\n", 1, "unknown key 'applies_to'"),
        ("rules:\n  - id: a\n    id: b\n", 3, "stands twice"),
        ("rules:\n  - id: a\n  b\n", 4, "could not find"),
        ("rules:\n  - id: [1, 2\n", 3, "line 3"),
        ("rules:\n  - id: total-high\n    above: !!python/object:os.system x\n", 3, "can't be read"),
        ("a: &a [1]\nrules: *a\n", 2, "aliases"),
    ],
)
def test_mistakes_are_answered_with_their_line(text: str, line: int, words: str) -> None:
    error = refused(text)
    assert error.line == line, error.message
    assert words in error.message
    assert error.message.startswith(f"project.yaml line {line}: ")


def test_huge_and_deeply_nested_files_are_refused() -> None:
    assert "more than" in refused("#" * 300_000).message
    assert "deep" in refused("[" * 50_000).message
