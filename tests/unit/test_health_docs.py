"""The documentation of the rules is what the rules say."""

from __future__ import annotations

import re
from pathlib import Path

from holter.health import RuleSet
from holter.health.document import render

HEALTH = Path(__file__).parents[2] / "docs" / "health.md"


def test_the_tables_are_those_of_the_code() -> None:
    """When this fails: python -m holter.health.document docs/health.md"""
    text = HEALTH.read_text(encoding="utf-8")
    assert render(text) == text


def test_the_example_of_a_projects_rules_can_be_used() -> None:
    example = re.search(r"```yaml\n(.*?)```", HEALTH.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    rules = {rule.id: rule for rule in RuleSet.parse(example.group(1)).rules}
    assert rules["precursor-high"].describe()["parameters"]["above"] == 8
    assert "grad-norm-high" not in rules
    assert rules["val-loss-limit"].kind == "limit"
