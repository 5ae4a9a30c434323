"""`for`: what a check sees becomes an incident only once it has lasted, however the records are cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter.health import Batch, Engine, Facts, RuleError, RuleSet, Transition

RULE = "rules: [{{id: high, check: limit, metrics: [score], above: 10, clear: 9, clear_for: 1, for: {}}}]"


def batch(values, first: int = 0, seconds: float = 1.0, writer: str = "rank0") -> Batch:
    steps = np.arange(first, first + len(values))
    return Batch(writer, ("score",), steps, steps * seconds, np.array(values, dtype=float)[:, None])


def seen(changes: list[Transition]) -> list[tuple[str, int | None]]:
    return [(change.action, change.step) for change in changes]


def test_it_opens_once_it_has_lasted():
    """At the record by which it has, with the step at which it began in its evidence; and it resolves as ever."""
    engine = Engine(RuleSet.parse(RULE.format(5)), Facts())
    changes = engine.observe(batch([1, 11, 12, 13, 14, 15, 16, 1, 1]))
    assert seen(changes) == [("open", 6), ("resolve", 7)]
    assert (changes[0].evidence["since_step"], changes[0].evidence["for"]) == (1, 5)


def test_what_ends_before_is_nothing():
    """Also in the very record in which it would have lasted; the count begins anew."""
    engine = Engine(RuleSet.parse(RULE.format(3)), Facts())
    assert engine.observe(batch([11, 11, 11, 1, 11, 11, 11])) == []
    assert seen(engine.observe(batch([11], first=7))) == [("open", 7)]


def test_it_may_be_a_time():
    """Of the records, not of the service."""
    engine = Engine(RuleSet.parse(RULE.format("1m")), Facts())
    assert seen(engine.observe(batch([11] * 10, seconds=10.0))) == [("open", 6)]


def test_each_writer_waits_for_itself():
    """Another rank's records say nothing about this one."""
    engine = Engine(RuleSet.parse(RULE.format(3)), Facts())
    changes = engine.observe(batch([11])) + engine.observe(batch([1] * 9, writer="rank1"))
    assert changes == []
    assert seen(engine.observe(batch([11] * 5, first=1))) == [("open", 3)]


@given(
    st.lists(st.sampled_from([1.0, 9.5, 11.0, 30.0]), min_size=1, max_size=60),
    st.lists(st.integers(1, 59), max_size=6),
    st.sampled_from(["4", "7s", "0.2m"]),
)
def test_neither_cuts_nor_a_restart_change_it(values, cuts, lasts):
    """One batch, or many with the memory saved and restored in between."""
    rules = RuleSet.parse(RULE.format(lasts))
    whole = Engine(rules, Facts()).observe(batch(values))
    places = sorted({0, *(cut for cut in cuts if cut < len(values)), len(values)})
    state: bytes | None = None
    parts: list[Transition] = []
    for start, stop in itertools.pairwise(places):
        engine = Engine(rules, Facts(), state)
        parts += engine.observe(batch(values[start:stop], first=start))
        state = engine.save()
    assert parts == whole


def test_a_rule_that_changes_forgets_what_waits():
    """One that is gone leaves nothing behind."""
    engine = Engine(RuleSet.parse(RULE.format(3)), Facts())
    engine.observe(batch([11]))
    assert Engine(RuleSet.default(), Facts(), engine.save()).observe(batch([11] * 9, first=1)) == []


@pytest.mark.parametrize("lasts", ["0", "-1", "soon", "3d", "1.5", "[1]"])
def test_nonsense_is_refused_with_its_line(lasts):
    """Steps from 1 on, or seconds, minutes, hours."""
    with pytest.raises(RuleError, match="'for' in rule 'high'"):
        RuleSet.parse(RULE.format(lasts))
