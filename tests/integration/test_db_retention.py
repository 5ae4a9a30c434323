"""Retention: what goes by age and by number, and what never goes."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, Frame, RunStart
from holter_db import fold, retention
from holter_db.compaction import mark_compacted
from holter_db.database import Connection, Database
from holter_db.deletion import KEEP_TAG, delete_run, restore_run
from holter_db.errors import QueryError
from holter_db.ingest import append
from holter_db.retention import (
    DAY,
    Policy,
    carry_out,
    clear_policy,
    due_runs,
    get_policy,
    policies,
    set_policy,
)
from holter_db.runs import get_run, list_runs, set_state, start_run, touch_run, update_run
from holter_db.schema import attempts, projects, runs, writers
from holter_db.series import view_series

NOW = 1_700_000_000.0


def run_of(conn: Connection, id: str, age: float, state: str = "finished", tags: tuple[str, ...] = ()) -> None:
    """A run that was made, and last heard of, ``age`` days ago."""
    start_run(conn, RunStart(project="p", id=id, tags=list(tags)), NOW - age * DAY)
    set_state(conn, id, state, None, NOW - age * DAY)


def due(conn: Connection, policy: Policy) -> list[str]:
    return [row.run for row in due_runs(conn, "p", policy, NOW)]


def test_age_counts_from_the_last_sign_of_life(database: Database) -> None:
    """A run that was shipped yesterday is new, however long ago its training says it ended."""
    with database.write() as conn:
        run_of(conn, "old", 91)
        run_of(conn, "lost", 91, "lost")
        run_of(conn, "young", 89)
        run_of(conn, "synced", 200)
        touch_run(conn, "synced", seen_at=NOW - 1)
        assert due(conn, Policy(days=90)) == ["lost", "old"]
        (first, _) = due_runs(conn, "p", Policy(days=90), NOW)
        assert first.because == "last heard of more than 90 days ago"


def test_the_newest_are_kept(database: Database) -> None:
    """By creation; those with the tag are kept beside them and not counted."""
    with database.write() as conn:
        for age in range(6):
            run_of(conn, f"r{age}", age)
        update_run(conn, "r1", tags=["x", KEEP_TAG])
        assert due(conn, Policy(runs=3)) == ["r5", "r4"]
        assert due(conn, Policy(runs=5)) == []
        assert [row.because for row in due_runs(conn, "p", Policy(runs=4), NOW)] == ["the project keeps its newest 4"]


def test_what_runs_and_what_is_tagged_never_goes(database: Database) -> None:
    """However old."""
    with database.write() as conn:
        run_of(conn, "running", 1000, "running")
        run_of(conn, "hung", 1000, "hung")
        run_of(conn, "kept", 1000, tags=("a", KEEP_TAG, "b"))
        run_of(conn, "other-tag", 1000, tags=("keeper",))
        assert due(conn, Policy(days=1, runs=1)) == ["other-tag"]


AGES = st.floats(0, 20, allow_nan=False)
RUNS = st.lists(
    st.tuples(AGES, AGES, st.sampled_from(["running", "hung", "lost", "finished", "failed", "stopped"]), st.booleans()),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=RUNS, days=st.none() | st.floats(0.1, 15), count=st.none() | st.integers(1, 8))
def test_it_is_what_the_rules_say(database: Database, made, days, count) -> None:
    """Against a plain reading of the rules, over any runs."""
    with database.write() as conn:
        for table in (writers, attempts, runs, projects):
            conn.execute(sa.delete(table))
        expected = set()
        facts = []
        for number, (a, b, state, kept) in enumerate(made):
            created, seen = NOW - max(a, b) * DAY, NOW - min(a, b) * DAY
            id = f"r{number:02}"
            start_run(conn, RunStart(project="p", id=id, tags=[KEEP_TAG] if kept else []), created)
            set_state(conn, id, state, None, seen)
            touch_run(conn, id, seen_at=seen)
            facts.append((created, id, seen, state, kept))
        ranked = sorted((fact for fact in facts if not fact[4]), reverse=True)
        for rank, (_, id, seen, state, _) in enumerate(ranked):
            too_old = days is not None and seen < NOW - days * DAY
            too_many = count is not None and rank >= count
            if (too_old or too_many) and state not in ("running", "hung"):
                expected.add(id)
        found = due(conn, Policy(days, count))
        assert set(found) == expected
        order = {id: (created, id) for created, id, *_ in facts}
        assert found == sorted(found, key=order.__getitem__)


def test_a_run_that_has_come_back_meanwhile_stays(database: Database) -> None:
    """Between the look and the deed it may be resumed, heard of again, tagged, or deleted by somebody."""
    with database.write() as conn:
        changes = {
            "resumed": lambda: set_state(conn, "resumed", "running", None, NOW),
            "heard": lambda: touch_run(conn, "heard", seen_at=NOW),
            "tagged": lambda: update_run(conn, "tagged", tags=[KEEP_TAG]),
            "deleted": lambda: delete_run(conn, "deleted", NOW, "ann"),
            "same": lambda: None,
        }
        for id in changes:
            run_of(conn, id, 100)
        found = due_runs(conn, "p", Policy(days=90), NOW)
        assert len(found) == 5
        for change in changes.values():
            change()
        assert [row.run for row in found if carry_out(conn, row, NOW)] == ["same"]
        assert {row.id: row.deleted_because for row in list_runs(conn, deleted=True)[0]} == {
            "deleted": "ann",
            "same": "retention: last heard of more than 90 days ago",
        }


def test_what_is_restored_is_not_deleted_again(database: Database) -> None:
    """It gets the tag, where retention had deleted it; where a person had, it is as it was."""
    with database.write() as conn:
        run_of(conn, "a", 100, tags=("x",))
        run_of(conn, "b", 100)
        (first, _) = due_runs(conn, "p", Policy(days=90), NOW)
        assert carry_out(conn, first, NOW)
        delete_run(conn, "b", NOW)
        assert restore_run(conn, "a").tags == ("x", KEEP_TAG)
        assert restore_run(conn, "b").tags == ()
        assert due(conn, Policy(days=90)) == ["b"]
        assert get_run(conn, "a").deleted_because is None


def test_a_project_may_differ_from_the_default(database: Database) -> None:
    """Also to keep everything; and be as the others again."""
    default = Policy(days=90)
    with database.write() as conn:
        run_of(conn, "a", 0)
        start_run(conn, RunStart(project="q"), NOW)
        assert policies(conn, default) == {"p": default, "q": default}
        set_policy(conn, "p", Policy(runs=10), NOW)
        set_policy(conn, "p", Policy(), NOW)
        assert get_policy(conn, "p") == Policy()
        assert get_policy(conn, "q") is None
        assert policies(conn, default) == {"p": Policy(), "q": default}
        assert Policy().off
        clear_policy(conn, "p")
        assert policies(conn, default) == {"p": default, "q": default}


@pytest.mark.parametrize("policy", [Policy(days=0), Policy(days=-1), Policy(runs=0), Policy(days=float("nan"))])
def test_a_limit_that_keeps_nothing_is_refused(database: Database, policy: Policy) -> None:
    """A typo must not delete a project."""
    with database.write() as conn, pytest.raises(QueryError) as caught:
        set_policy(conn, "p", policy, NOW)
    assert caught.value.hint


def compact(database: Database, run: str) -> None:
    """What the compactor does with a run that has ended."""
    with database.write() as conn:
        for waiting in fold.pending(conn, run, 2**62):
            prepared = fold.prepare(conn, waiting, 2**62)
            assert prepared is not None
            assert fold.commit(conn, prepared)
        mark_compacted(conn, run, position_of(conn, run))


def position_of(conn: Connection, run: str) -> int:
    return conn.scalar(sa.select(runs.c.position).where(runs.c.id == run)) or 0


def logged(conn: Connection, run: str, seq: int) -> None:
    steps = np.arange(5000 * seq, 5000 * (seq + 1))
    values = np.sin(steps)
    values[100], values[200] = np.nan, 50.0
    block = Block.of(("loss", "other"), steps, NOW - 100 * DAY + steps, np.stack([values, values], 1))
    append(conn, run, Frame(1, "", "rank0", seq + 1, blocks=[block]), NOW - 100 * DAY)


def test_raw_points_go_and_charts_stay(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that is compacted for good; not before, a few chunks at a time, and only once."""
    monkeypatch.setattr(retention, "THINNED_AT_ONCE", 1)
    policy = Policy(raw_days=90)
    with database.write() as conn:
        run_of(conn, "a", 100)
        logged(conn, "a", 0)
        logged(conn, "a", 1)
        assert due_runs(conn, "p", policy, NOW) == []  # not compacted
    compact(database, "a")
    with database.write() as conn:
        (found,) = due_runs(conn, "p", policy, NOW)
        assert (found.deed, found.run) == ("thin", "a")
        view = view_series(conn, "a", ["loss"], width=10)
        deeds = 0
        while left := due_runs(conn, "p", policy, NOW):  # a chunk of each metric, one at a time
            assert carry_out(conn, left[0], NOW)
            deeds += 1
        assert deeds == 2
        assert not carry_out(conn, found, NOW)
        (before,), (after,) = view, view_series(conn, "a", ["loss"], width=10)
        assert after.values.tobytes() == before.values.tobytes()
        assert (after.max, after.nan, after.count) == (50.0, 2, 10_000)
        assert get_run(conn, "a").deleted_at is None


def test_a_tag_keeps_raw_points_too(database: Database) -> None:
    """The tag keeps a run as it is."""
    with database.write() as conn:
        run_of(conn, "a", 100, tags=(KEEP_TAG,))
        logged(conn, "a", 0)
    compact(database, "a")
    with database.write() as conn:
        assert due_runs(conn, "p", Policy(raw_days=90), NOW) == []
        update_run(conn, "a", tags=[])
        assert [row.deed for row in due_runs(conn, "p", Policy(raw_days=90), NOW)] == ["thin"]
        assert [row.deed for row in due_runs(conn, "p", Policy(days=95, raw_days=90), NOW)] == ["delete"]
