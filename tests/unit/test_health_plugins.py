"""Rules of other packages: loaded by entry point, and never able to take the other rules down."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from holter.health import Batch, Engine, Facts, RuleSet, ruleset
from holter.health import plugins as loading

MODULE = '''
from holter.health.rules import Check


class Seven(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value is exactly seven."""

    kind = "limit"
    digit: float = 7.0

    def observe(self, scan, state, signs):
        for column in scan.columns:
            series = scan.series(column, signs)
            for index in np_flat(series.values == self.digit):
                series.sign("open", int(index), f"{series.name} is seven")


def np_flat(mask):
    import numpy as np

    return np.flatnonzero(mask)


class Broken(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind = "limit"

    def observe(self, scan, state, signs):
        scan.series(scan.columns[0], signs).sign("open", 0, "half seen")
        raise RuntimeError("boom")


class Odd(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind = "no such kind"


PACK = """
summary: Ours.
rules:
  - {id: seven, check: seven, metrics: [luck]}
  - {id: broken, check: broken, metrics: [luck]}
"""
BAD_PACK = "rules: [{id: x, check: nothing}]"
NUMBER = 42
'''
ENTRIES = """
[holter.rules]
seven = plugged_rules:Seven
broken = plugged_rules:Broken
odd = plugged_rules:Odd
limit = plugged_rules:Seven
missing = plugged_rules:Nowhere
gone = no_such_module:Anything
number = plugged_rules:NUMBER
our-pack = plugged_rules:PACK
bad-pack = plugged_rules:BAD_PACK
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with entry points of every kind, right and wrong."""
    (tmp_path / "plugged_rules.py").write_text(MODULE)
    about = tmp_path / "plugged-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    caches = (loading.load_plugins, loading.known_checks, ruleset._with_plugins)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def batch(*values: float) -> Batch:
    steps = np.arange(len(values))
    return Batch("rank0", ("luck", "loss"), steps, steps * 1.0, np.array([[v, np.nan] for v in values]))


def test_what_can_not_be_used_says_why(plugged: None, caplog: pytest.LogCaptureFixture) -> None:
    """Every other plug-in is loaded all the same, and Holter's own names stay Holter's."""
    with caplog.at_level(logging.ERROR):
        found = {plugin.name: plugin.describe() for plugin in loading.load_plugins()}
    assert {name: entry["kind"] for name, entry in found.items() if entry["error"] is None} == {
        "seven": "check", "broken": "check", "our-pack": "pack", "bad-pack": "pack",
    }  # fmt: skip
    assert found["seven"]["source"] == "plugged 1.2"
    for name, word in {
        "odd": "no such kind", "limit": "Holter's own", "missing": "Nowhere", "gone": "no_such_module",
        "number": "neither",
    }.items():  # fmt: skip
        assert word in found[name]["error"]
    assert len(caplog.records) == 5


def test_its_rules_run_beside_ours_and_may_fail(plugged: None, caplog: pytest.LogCaptureFixture) -> None:
    """A check that raises sees nothing, is named once in the log, and the others see what they see."""
    rules = RuleSet.default()
    assert {"seven", "broken", "non-finite"} <= {rule.id for rule in rules.rules}
    engine = Engine(rules, Facts())
    with caplog.at_level(logging.ERROR):
        changes = engine.observe(batch(1.0, 7.0)) + engine.observe(batch(1.0))
    assert {(change.rule, change.step) for change in changes if change.action == "open"} == {
        ("seven", 1), ("non-finite", 0),
    }  # fmt: skip
    assert sum("boom" in record.getMessage() for record in caplog.records) == 1
    assert next(p for p in loading.load_plugins() if p.name == "broken").error == "RuntimeError: boom"


def test_projects_can_set_a_plug_ins_rule(plugged: None) -> None:
    """Its parameters are checked like any other's, and its state is saved with the rest."""
    rules = RuleSet.parse("rules: [{id: seven, digit: 3}, {id: mine, check: seven, metrics: [luck]}]")
    engine = Engine(rules, Facts())
    engine.observe(batch(3.0))
    again = Engine(rules, Facts(), engine.save())
    assert [(c.rule, c.action) for c in again.observe(batch(7.0)) if c.rule == "mine"] == [("mine", "open")]
    with pytest.raises(ruleset.RuleError, match="dijit"):
        RuleSet.parse("rules: [{id: seven, dijit: 3}]")
