"""Criteria as data, the two readings of a tree, reports, and what none of them may do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_server.report.html import html_report
from holter_server.report.markdown import markdown_report
from holter_server.verdict.criteria import NAMES, Criteria, RuleError, parse, shipped
from holter_server.verdict.data import Record, Row, State
from holter_server.verdict.judge import judge
from holter_server.verdict.tree import combined, honest_reading, literal_reading

HELD = {"baseline": frozenset[str](), "candidate": frozenset[str]()}
DEAD = {"baseline": frozenset[str](), "candidate": frozenset({"non_finite", "broken"})}
ANYTHING: tuple[State, ...] = ("better", "equivalent", "worse")


def rows(**states: Any) -> list[Row]:
    """A row for each criterion of the plan; equivalent unless given."""
    every = {each.id: ("equivalent",) for each in shipped("denovo").criteria} | states
    return [
        Row(name, "value", name, 0.0, 0.0, 0.0, found, "why", needs="" if len(found) == 1 else f"more {name}")
        for name, found in every.items()
    ]


def literal(fates: Any = HELD, **states: Any) -> tuple[str, list[str]]:
    found = literal_reading(shipped("denovo"), rows(**states), fates)
    return found.outcome.id, [step.answer for step in found.path]


def test_the_plans_tree_literally() -> None:
    """Every leaf, by the answers that lead there."""
    assert literal(DEAD) == ("retest", ["yes"])
    assert literal(accuracy=("better",)) == ("adopt", ["no", "yes"])
    assert literal(smoothness=("better",)) == ("adopt", ["no", "no", "yes"])
    assert literal(stability=("better",)) == ("adopt", ["no", "no", "yes"])
    assert literal(speed=("much_worse",)) == ("hybrid", ["no", "no", "no", "yes"])
    assert literal() == ("adopt", ["no", "no", "no", "no"])


def test_what_was_not_shown_counts_as_no_literally() -> None:
    """Undetermined everywhere: the last leaf."""
    everything = dict.fromkeys(("accuracy", "smoothness", "stability"), ANYTHING)
    assert literal(**everything, speed=(*ANYTHING, "much_worse")) == ("adopt", ["no", "no", "no", "no"])
    assert literal(speed=("worse",))[0] == "adopt"


def test_worse_accuracy_or_stability_vetoes() -> None:
    """The plan's tree would adopt a smoother candidate whatever its accuracy; the honest reading doesn't."""
    for criterion in ("accuracy", "stability"):
        states = {criterion: ("worse",), "smoothness": ("better",)}
        assert literal(**states)[0] == "adopt"
        found = honest_reading(shipped("denovo"), rows(**states), HELD)
        assert (found.verdict, found.vetoes) == ("rejected", (criterion,))


def test_an_open_question_is_open_only_if_it_matters() -> None:
    """Accuracy that may be worse matters; speed that is at most slower, or accuracy that is not worse, doesn't."""
    found = honest_reading(shipped("denovo"), rows(accuracy=ANYTHING), HELD)
    assert found.verdict == "undetermined"
    assert found.needs == ("accuracy (accuracy): more accuracy",)
    assert found.leads["accuracy"]["worse"] == ("rejected: accuracy is worse, which vetoes",)
    assert found.leads["accuracy"]["better"] == ("Adopt the Gaussian losses.",)
    assert honest_reading(shipped("denovo"), rows(accuracy=("better", "equivalent")), HELD).verdict == "accepted"
    assert honest_reading(shipped("denovo"), rows(speed=("equivalent", "worse")), HELD).verdict == "accepted"
    slow = honest_reading(shipped("denovo"), rows(speed=("worse", "much_worse")), HELD)
    assert (slow.verdict, list(slow.leads)) == ("undetermined", ["speed"])


@given(st.lists(st.sets(st.sampled_from(["better", "equivalent", "worse", "much_worse"]), min_size=1), min_size=5,
                max_size=5))  # fmt: skip
def test_more_knowledge_never_contradicts(given_states: list[set[State]]) -> None:
    """A determined verdict stays what it is when anything that is open is settled."""
    criteria = shipped("denovo")
    ids = [each.id for each in criteria.criteria]
    open_rows = rows(**{name: tuple(sorted(found)) for name, found in zip(ids, given_states, strict=True)})
    settled = rows(**{name: (sorted(found)[0],) for name, found in zip(ids, given_states, strict=True)})
    before = honest_reading(criteria, open_rows, HELD).verdict
    after = honest_reading(criteria, settled, HELD).verdict
    assert after != "undetermined"
    assert before in (after, "undetermined")


def test_rows_of_one_criterion_combine() -> None:
    """One worse makes it worse, one better makes it better, and both mean worse."""

    def of(*found: tuple[State, ...]) -> tuple[State, ...]:
        return combined(Row("a", "value", str(at), 0, 0, 0, each, "") for at, each in enumerate(found))

    assert of(("better",), ("equivalent",)) == ("better",)
    assert of(("better",), ("worse",)) == ("worse",)
    assert of(("equivalent",), ("equivalent", "worse")) == ("equivalent", "worse")
    assert combined([]) == ANYTHING


def test_the_criteria_that_are_shipped_are_right() -> None:
    """And every question of them can be reached."""
    for name in NAMES:
        criteria = shipped(name)
        targets = {target for node in criteria.tree for target in (node.yes, node.no)}
        assert {node.id for node in criteria.tree[1:]} | set(criteria.outcomes) == targets


OK = "criteria:\n  - {id: a, metrics: [x]}\n"
TREE = (
    OK + "outcomes:\n  fine: {verdict: accepted, say: s}\n"
    "tree:\n  - {id: q, question: s, ask: %s, then: %s, else: fine}\n"
)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "empty"),
        ("criteria: 3\n", 1, "must be a list"),
        ("seeds: 3\n", 1, "'criteria' is missing"),
        ("criteria: []\n", 1, "is empty"),
        (OK + "sseds: 3\n", 3, "did you mean 'seeds'?"),
        (OK + "seeds: 0\n", 3, "at least 1"),
        (OK + "  - {id: a, metrics: [y]}\n", 1, "stands twice"),
        ("criteria:\n  - {id: candidate, metrics: [x]}\n", 1, "can't be called"),
        ("criteria:\n  - {id: a, kind: speedy}\n", 2, "no kind"),
        ("criteria:\n  - {id: a, roles: [acuracy]}\n", 2, "no role"),
        ("criteria:\n  - {id: a, metrics: [x], margin: wide}\n", 2, "a number"),
        (OK + "tree:\n  - {id: q}\n", 3, "needs 'outcomes'"),
        (TREE % ("{b: better}", "fine"), 6, "no criterion 'b'"),
        (TREE % ("{a: good}", "fine"), 6, "can't be 'good'"),
        (TREE % ("{candidate: better}", "fine"), 6, "non_finite"),
        (TREE % ("{a: better}", "q"), 6, "no later question or outcome"),
    ],
)
def test_a_mistake_is_answered_with_its_line(text: str, line: int, says: str) -> None:
    """And with what would have been right."""
    with pytest.raises(RuleError) as error:
        parse(text, "mine.yaml")
    assert error.value.line == line
    assert says in str(error.value)


def test_a_file_without_a_tree_gets_one() -> None:
    """Its first criterion decides, and everything vetoes."""
    found: Criteria = parse(OK + "  - {id: b, metrics: [y]}\n", "mine")
    assert [node.ask for node in found.tree] == [{"candidate": ("broken",)}, {"a": ("worse", "much_worse")}]
    assert dict(found.vetoes) == {"a": ("worse",), "b": ("worse",)}


def test_reports_show_names_as_text() -> None:
    """What a user named is never read as HTML or as a table."""
    evil = Record(id="a", project="<script>alert(1)</script>", name="x|y", last_step=5)
    found = judge(shipped("default"), [evil], [Record(id="b", last_step=5)])
    page = html_report(found, "</title><script>alert(2)</script>")
    assert "<script>alert" not in page
    text = markdown_report(found, "T")
    assert "x\\|y" in text
    assert "<script>" not in text.replace("\\<script>", "")
    for section in ("## Table", "## The decision tree, literally", "## The honest reading", "## The arithmetic"):
        assert section in text


def test_scipy_is_not_imported_before_it_is_needed() -> None:
    """A service that is never asked for a verdict starts without it."""
    code = (
        "import sys; from holter_server.app import create_app; from holter_server.settings import Settings\n"
        "from holter_server.cli.app import app; create_app(Settings())\n"
        "sys.exit(any(name.split('.')[0] == 'scipy' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
