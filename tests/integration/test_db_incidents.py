"""Incidents: written once, changed in one direction, with their evidence; the run's health follows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from holter.health.model import Action, Severity, Transition
from holter.wire import RunStart
from holter_db import rule_sets, rule_state
from holter_db.database import Connection, Database
from holter_db.errors import Conflict, NotFound, QueryError
from holter_db.incidents import acknowledge, apply, get_incident, list_incidents, snooze
from holter_db.rule_state import NOTHING, Saved
from holter_db.runs import delete_run, get_run, start_run

NOW = 1_700_000_000.0


def transition(action: Action, incident: str = "i1", severity: Severity = "critical", **more: object) -> Transition:
    fields = {"step": 7, "time": NOW, "message": f"{action}: 7.5 > 5", "value": 7.5, "threshold": 5.0} | more
    return Transition(
        action,
        incident,
        "precursor_high",
        "limit",
        severity,
        "loss/precursor",
        "rank1",
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def run(database: Database) -> str:
    with database.write() as conn:
        return start_run(conn, RunStart(project="denovo", id="r-1", name="gaussian"), NOW).id


def test_an_incident_opens_changes_and_resolves(database: Database, run: str) -> None:
    """Each transition changes the row; what was known at the opening stays as evidence."""
    opening = transition("open", severity="warning", advice="clip it", evidence={"mean": math.nan, "first": [1, 2]})
    with database.write() as conn:
        (opened,) = apply(conn, run, [opening], NOW + 1)
        (escalated,) = apply(conn, run, [transition("escalate", step=9, value=math.inf)], NOW + 2)
        (resolved,) = apply(conn, run, [transition("resolve", step=20, evidence={"mean": 2.0, "calm": 10})], NOW + 3)
    first, second, last = opened.incident, escalated.incident, resolved.incident
    assert (opened.action, first.state, first.severity, first.step, first.opened_at) == (
        "open",
        "firing",
        "warning",
        7,
        NOW + 1,
    )
    assert (first.id, first.incident, first.run, first.run_name, first.project) == (
        "r-1-i1",
        "i1",
        "r-1",
        "gaussian",
        "denovo",
    )
    assert first.rank == 1
    assert first.evidence == {"mean": "NaN", "first": [1, 2]}
    assert (second.severity, second.value, second.last_step, second.step) == ("critical", math.inf, 9, 7)
    assert (last.state, last.resolved_step, last.resolved_at, last.last_step) == ("resolved", 20, NOW + 3, 20)
    assert last.evidence == {"mean": 2.0, "first": [1, 2], "calm": 10}
    assert (last.message, last.resolution, last.advice) == ("escalate: 7.5 > 5", "resolve: 7.5 > 5", "clip it")


def test_a_spike_that_stays_becomes_an_explosion(database: Database, run: str) -> None:
    """The kind follows the engine, as the severity does."""
    with database.write() as conn:
        (spike,) = apply(conn, run, [replace(transition("open", severity="warning"), kind="spike")], NOW)
        (stayed,) = apply(conn, run, [replace(transition("escalate"), kind="explosion")], NOW + 1)
    assert (spike.incident.kind, stayed.incident.kind) == ("spike", "explosion")


def test_the_value_that_fired_may_be_nan(database: Database, run: str) -> None:
    """NaN is kept as NaN, not as nothing."""
    with database.write() as conn:
        apply(conn, run, [transition("open", value=math.nan, threshold=None)], NOW)
    with database.read() as conn:
        row = get_incident(conn, "r-1-i1")
    assert row.value is not None
    assert math.isnan(row.value)
    assert row.threshold is None


def test_the_same_transitions_again_change_nothing(database: Database, run: str) -> None:
    """A replay after a crash gives no second incident, and a resolved one stays resolved."""
    story = [transition("open"), transition("resolve", step=9)]
    with database.write() as conn:
        assert len(apply(conn, run, story, NOW)) == 2
        before = get_incident(conn, "r-1-i1")
        assert apply(conn, run, [*story, transition("update"), transition("resolve", "unknown")], NOW + 5) == []
        assert get_incident(conn, "r-1-i1") == before


def test_the_health_is_that_of_the_worst_open_incident(database: Database, run: str) -> None:
    """Info counts as healthy; resolving brings the health back."""

    def health(conn: Connection) -> tuple[str, dict[str, int]]:
        row = get_run(conn, run)
        return row.health, row.open_incidents

    with database.write() as conn:
        apply(conn, run, [transition("open", "a", "info")], NOW)
        assert health(conn) == ("healthy", {"critical": 0, "warning": 0, "info": 1})
        apply(conn, run, [transition("open", "b", "warning"), transition("open", "c", "critical")], NOW)
        assert health(conn) == ("critical", {"critical": 1, "warning": 1, "info": 1})
        acknowledge(conn, "r-1-c", "ann", NOW)
        assert health(conn)[0] == "critical"
        apply(conn, run, [transition("resolve", "c", "critical")], NOW)
        assert health(conn) == ("warning", {"critical": 0, "warning": 1, "info": 1})
        apply(conn, run, [transition("resolve", "b", "warning")], NOW)
        assert health(conn)[0] == "healthy"


def test_people_acknowledge_and_snooze(database: Database, run: str) -> None:
    """The first to acknowledge is kept; a resolved incident stays resolved."""
    with database.write() as conn:
        apply(conn, run, [transition("open", "a"), transition("open", "b"), transition("resolve", "b")], NOW)
        seen = acknowledge(conn, "r-1-a", "ann", NOW + 1)
        again = acknowledge(conn, "r-1-a", "bob", NOW + 2)
        assert (seen.state, again.acknowledged_by, again.acknowledged_at) == ("acknowledged", "ann", NOW + 1)
        assert acknowledge(conn, "r-1-b", "ann", NOW + 1).state == "resolved"
        assert snooze(conn, "r-1-a", NOW + 3600, NOW).snoozed_until == NOW + 3600
        for call in (lambda: acknowledge(conn, "x", "ann", NOW), lambda: snooze(conn, "x", NOW, NOW)):
            with pytest.raises(NotFound):
                call()


def test_incidents_are_listed_newest_first_in_pages(database: Database, run: str) -> None:
    """Filters, pages without gaps, and none of a deleted run."""
    with database.write() as conn:
        for index in range(5):
            apply(
                conn, run, [transition("open", f"i{index}", "critical" if index % 2 else "warning")], NOW + index // 2
            )
        apply(conn, run, [transition("resolve", "i0", "warning")], NOW + 9)
        whole = [row.incident for row in list_incidents(conn)[0]]
        paged: list[str] = []
        cursor: str | None = None
        while len(paged) < 5:
            page, cursor = list_incidents(conn, limit=2, cursor=cursor)
            paged += [row.incident for row in page]
        assert (paged, cursor) == (whole, None)
        assert whole[0] == "i4"
        assert [row.incident for row in list_incidents(conn, state="resolved")[0]] == ["i0"]
        assert len(list_incidents(conn, state="open", run=run)[0]) == 4
        assert len(list_incidents(conn, severity="critical", project="denovo")[0]) == 2
        assert list_incidents(conn, project="other")[0] == []
        with pytest.raises(QueryError, match="never"):
            list_incidents(conn, state="asleep")
        delete_run(conn, run, NOW)
        assert list_incidents(conn)[0] == []


def test_the_engines_state_is_saved_against_a_version(database: Database, run: str) -> None:
    """Saving over a state that has moved on is a conflict; how far it has seen the run is known without it."""
    with database.write() as conn:
        assert rule_state.load(conn, run) == NOTHING
        assert (rule_state.marks(conn, [run]), rule_state.saved_position(conn, run)) == ({}, 0)
        assert rule_state.save(conn, run, Saved(0, 5, 0, b"one")) == Saved(1, 5, 0)
        assert rule_state.load(conn, run) == Saved(1, 5, 0, b"one")
        for version in (0, 2):
            with pytest.raises(Conflict):
                rule_state.save(conn, run, Saved(version, 6, 0, b"two"))
        assert rule_state.save(conn, run, Saved(1, 7, 2, b"two")) == Saved(2, 7, 2)
    with database.read() as conn:
        assert rule_state.marks(conn, [run, "nothing"]) == {run: Saved(2, 7, 2)}
        assert (rule_state.saved_position(conn, run), rule_state.saved_position(conn, "nothing")) == (7, 0)


def test_a_projects_rules_keep_their_history(database: Database) -> None:
    """The newest text applies; the same text is no new version; an empty one takes the rules away."""
    with database.write() as conn:
        assert rule_sets.get(conn, "denovo") is None
        for text in ("rules: []", "rules: []", "rules: [1]"):
            rule_sets.put(conn, "denovo", text, NOW)
        assert rule_sets.get(conn, "denovo") == "rules: [1]"
        assert [(row.version, row.text) for row in rule_sets.history(conn, "denovo")] == [
            (2, "rules: [1]"),
            (1, "rules: []"),
        ]
        rule_sets.put(conn, "denovo", "", NOW)
        assert rule_sets.get(conn, "denovo") is None
