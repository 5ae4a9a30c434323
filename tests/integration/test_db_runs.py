"""The life of a run in the store: start, resume, signs of life, end, and finding it again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter.wire import RunFinish, RunStart, Writer
from holter_db.cursors import decode_cursor, encode_cursor
from holter_db.database import Database
from holter_db.errors import Conflict, Gone, NotFound, QueryError
from holter_db.names import new_id
from holter_db.runs import (
    delete_run,
    finish_run,
    get_run,
    list_attempts,
    list_projects,
    list_runs,
    list_writers,
    live_runs,
    resolve_run,
    set_state,
    start_run,
    touch_run,
    update_run,
)

NOW = 1_700_000_000.0


def test_a_run_keeps_what_it_was_started_with(database: Database) -> None:
    """Config with NaN, tags, notes with a NUL, environment: all of it is read back."""
    start = RunStart(
        project="denovo",
        name="gaussian",
        config={"lr": 1e-3, "limit": math.inf, "layers": [1, 2]},
        tags=["a", "two words"],
        group="seeds",
        notes="first\x00line\nsecond",
        planned_steps=500,
        started_at=NOW - 3,
        environment={"python": "3.11"},
        writer=Writer(name="rank0", rank=0, world_size=2, host="node", device="H200", pid=12),
    )
    with database.write() as conn:
        run = start_run(conn, start, NOW)
        (writer,) = list_writers(conn, run.id)
    assert (run.project, run.name, run.group, run.tags) == ("denovo", "gaussian", "seeds", ("a", "two words"))
    assert run.config == {"lr": 1e-3, "limit": "Infinity", "layers": [1, 2]}
    assert run.notes == "first\ufffdline\nsecond"
    assert (run.state, run.health, run.attempt, run.created_at, run.started_at) == (
        "running",
        "healthy",
        1,
        NOW,
        NOW - 3,
    )
    assert run.open_incidents == {"critical": 0, "warning": 0, "info": 0}
    assert (writer.name, writer.rank, writer.world_size, writer.host, writer.pid) == ("rank0", 0, 2, "node", 12)


def test_starting_twice_changes_nothing_but_adds_a_rank(database: Database) -> None:
    """The same id and attempt: the same row; another writer joins it."""
    with database.write() as conn:
        first = start_run(conn, RunStart(project="p", id="abc", attempt="x", name="n", config={"a": 1}), NOW)
        again = start_run(conn, RunStart(project="p", id="abc", attempt="x", name="other", config={"a": 2}), NOW + 9)
        start_run(conn, RunStart(project="p", id="abc", attempt="x", writer=Writer(name="rank1", rank=1)), NOW)
        assert again == first
        assert [writer.name for writer in list_writers(conn, "abc")] == ["rank0", "rank1"]
        assert len(list_attempts(conn, "abc")) == 1


def test_a_new_attempt_runs_again(database: Database) -> None:
    """State, end and reason are reset; what the new start says anew replaces the old, the rest stays."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="abc", attempt="x", name="n", tags=["a"], config={"lr": 1}), NOW)
        touch_run(conn, "abc", seen_at=NOW + 5, last_step=700, last_step_at=NOW + 5, attempt=1)
        finish_run(conn, "abc", RunFinish(state="failed", attempt="x", reason="KeyError"), NOW + 9)
        resumed = start_run(conn, RunStart(project="p", id="abc", attempt="y", tags=["b"]), NOW + 60)
        touch_run(conn, "abc", seen_at=NOW + 61, last_step=800, last_step_at=NOW + 61, attempt=1)
        touch_run(conn, "abc", seen_at=NOW + 62, last_step=500, last_step_at=NOW + 62, attempt=2)
        row = get_run(conn, "abc")
        states = [(attempt.key, attempt.state, attempt.state_reason) for attempt in list_attempts(conn, "abc")]
    assert (resumed.state, resumed.state_reason, resumed.finished_at, resumed.attempt) == ("running", None, None, 2)
    assert (resumed.name, resumed.tags, resumed.config) == ("n", ("a", "b"), {"lr": 1})
    assert row.last_step == 500
    assert states == [("x", "failed", "KeyError"), ("y", "running", None)]


def test_the_worst_end_of_several_ranks_stays(database: Database) -> None:
    """failed outlasts stopped and finished, in whatever order they are told."""
    with database.write() as conn:
        for order in (["finished", "failed", "stopped"], ["failed", "finished", "stopped"]):
            run = start_run(conn, RunStart(project="p", attempt="x"), NOW)
            for state in order:
                ended = finish_run(conn, run.id, RunFinish(state=state, attempt="x"), NOW)  # type: ignore[arg-type]
            assert ended.state == "failed"


def test_a_late_end_of_an_old_attempt_leaves_the_run_running(database: Database) -> None:
    """The crash report of the attempt before arrives after the run was resumed."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="abc", attempt="x"), NOW)
        start_run(conn, RunStart(project="p", id="abc", attempt="y"), NOW)
        row = finish_run(conn, "abc", RunFinish(state="failed", attempt="x", time=NOW - 1), NOW)
        first, second = list_attempts(conn, "abc")
    assert row.state == "running"
    assert (first.state, first.finished_at, second.state) == ("failed", NOW - 1, "running")


def test_a_deleted_run_is_gone_but_its_id_is_not_free(database: Database) -> None:
    """No list shows it; starting it again is refused, and nothing is added to it."""
    with database.write() as conn:
        run = start_run(conn, RunStart(project="p"), NOW)
        delete_run(conn, run.id, NOW)
        assert list_runs(conn)[0] == []
        with pytest.raises(NotFound):
            get_run(conn, run.id)
        with pytest.raises(Gone, match="deleted"):
            start_run(conn, RunStart(project="p", id=run.id), NOW)


@pytest.mark.parametrize(
    "start",
    [RunStart(project=""), RunStart(project="a/b"), RunStart(project="p", id="../x"), RunStart("p", id="a" * 65)],
)
def test_names_that_can_not_be_kept_say_what_can(database: Database, start: RunStart) -> None:
    """A slash would make project/name ambiguous; ids stand in addresses."""
    with pytest.raises(QueryError) as caught, database.write() as conn:
        start_run(conn, start, NOW)
    assert "Use 1 to" in caught.value.hint


def test_a_run_can_not_change_its_project(database: Database) -> None:
    """The same id under another project is a conflict that names the right one."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="abc"), NOW)
        with pytest.raises(Conflict, match="'p'"):
            start_run(conn, RunStart(project="q", id="abc", attempt="2"), NOW)


def test_signs_of_life_and_the_step_rate(database: Database) -> None:
    """Steps only rise, the promise is kept, and the rate is that of the steps."""
    with database.write() as conn:
        run = start_run(conn, RunStart(project="p"), NOW).id
        for second in range(1, 121):
            touch_run(
                conn,
                run,
                seen_at=NOW + second,
                due_at=NOW + second + 30,
                last_step=4 * second,
                last_step_at=NOW + second,
            )
        touch_run(conn, run, seen_at=NOW + 60, last_step=7, last_step_at=NOW + 60)
        row = get_run(conn, run)
        (live,) = live_runs(conn)
    assert (row.last_step, row.last_step_at, row.last_seen_at, row.due_at) == (480, NOW + 120, NOW + 120, NOW + 150)
    assert row.steps_per_second == pytest.approx(4.0)
    vitals = live.vitals(NOW + 200)
    assert (vitals.now, vitals.state, vitals.due_at, vitals.last_step_at) == (
        NOW + 200,
        "running",
        NOW + 150,
        NOW + 120,
    )


def test_only_live_runs_are_watched(database: Database) -> None:
    """Lost and hung runs still are; ended ones are not."""
    with database.write() as conn:
        for state in ("running", "lost", "hung", "finished", "failed", "stopped"):
            run = start_run(conn, RunStart(project="p", id=state), NOW)
            row = set_state(conn, run.id, state, "why", NOW + 1)
            assert (row.finished_at is None) == (state in ("running", "lost", "hung"))
        assert {run.id for run in live_runs(conn)} == {"running", "lost", "hung"}


def test_people_change_names_notes_and_tags(database: Database) -> None:
    """None leaves a field, "" empties it."""
    with database.write() as conn:
        run = start_run(conn, RunStart(project="p", name="a", notes="n", group="g", tags=["x"]), NOW).id
        row = update_run(conn, run, name="b", tags=["y", "z"], group="")
        assert (row.name, row.notes, row.group, row.tags) == ("b", "n", None, ("y", "z"))
        assert update_run(conn, run, tags=[]).tags == ()
        with pytest.raises(QueryError):
            update_run(conn, run, name=" ")
        with pytest.raises(NotFound):
            update_run(conn, "nothing", name="b")


def test_runs_are_found_by_what_people_type(database: Database) -> None:
    """id, unique prefix, project/name (the newest); an ambiguous prefix lists what it could be."""
    with database.write() as conn:
        for at, (id, name) in enumerate([("abc1", "x"), ("abc2", "y"), ("b%d", "x")]):
            start_run(conn, RunStart(project="p", id=id.replace("%", "."), name=name), NOW + at)
        assert resolve_run(conn, "abc1") == "abc1"
        assert resolve_run(conn, "b.") == "b.d"
        assert resolve_run(conn, "p/x") == "b.d"
        with pytest.raises(Conflict) as caught:
            resolve_run(conn, "abc")
        assert "abc1 (p/x), abc2 (p/y)" in caught.value.hint
        for missing in ("", "%", "abc_", "p/none", "zzz"):
            with pytest.raises(NotFound):
                resolve_run(conn, missing)


def test_filters_find_the_runs_they_name(database: Database) -> None:
    """Tags match whole and in their own case; q matches a part of any text in any case."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="one", name="Gaussian", tags=["fast", "50%"]), NOW)
        start_run(conn, RunStart(project="q", id="two", name="b", tags=["Fast", "fa"], notes="uses gaussian"), NOW + 1)
        set_state(conn, "two", "failed", None, NOW)

        def found(**filters: str) -> list[str]:
            return [run.id for run in list_runs(conn, **filters)[0]]  # type: ignore[arg-type]

        assert found() == ["two", "one"]
        assert found(project="p") == ["one"]
        assert found(state="failed") == ["two"]
        assert found(health="healthy", project="q") == ["two"]
        assert found(tag="fast") == ["one"]
        assert found(tag="fa") == ["two"]
        assert found(q="GAUSS") == ["two", "one"]
        assert found(q="50%") == ["one"]
        assert found(q="_") == []
        projects = [(project.name, project.runs, project.running) for project in list_projects(conn)]
    assert projects == [("p", 1, 1), ("q", 1, 0)]


@pytest.mark.parametrize(
    "sort", ["-created_at", "created_at", "name", "-last_step", "last_step", "state", "-last_seen_at"]
)
def test_pages_give_every_run_once_in_order(database: Database, sort: str) -> None:
    """Pages of two equal one page of all, with ties and missing steps."""
    with database.write() as conn:
        for index in range(7):
            run = start_run(conn, RunStart(project="p", name=f"n{index % 3}"), NOW + index // 2).id
            if index % 2:
                touch_run(conn, run, seen_at=NOW + index % 3, last_step=index % 4, last_step_at=NOW)
        whole = [run.id for run in list_runs(conn, sort=sort)[0]]
        paged: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = list_runs(conn, sort=sort, limit=2, cursor=cursor)
            paged += [run.id for run in page]
            if cursor is None:
                break
    assert paged == whole
    assert len(set(paged)) == 7


def test_questions_that_can_not_be_answered_say_what_can(database: Database) -> None:
    """Unknown sort key, foreign cursors, limits out of range."""
    with database.read() as conn:
        for question in (
            {"sort": "colour"},
            {"cursor": "!!!"},
            {"cursor": "é"},
            {"cursor": encode_cursor("name", "a", "b")},
            {"limit": 0},
            {"limit": 10**6},
        ):
            with pytest.raises(QueryError) as caught:
                list_runs(conn, **question)  # type: ignore[arg-type]
            assert caught.value.hint


@given(st.text(max_size=30))
def test_no_text_breaks_a_cursor(text: str) -> None:
    """Whatever is typed is either a cursor or a clear error."""
    with pytest.raises(QueryError):
        decode_cursor(text, "-created_at")


def test_ids_sort_by_time() -> None:
    """A later id is greater, and ids of one second differ."""
    assert new_id(NOW) < new_id(NOW + 1) < new_id(NOW + 10**8)
    assert len({new_id(NOW) for _ in range(200)}) == 200
    assert all(len(new_id(at)) == 12 for at in (0.0, NOW, 2.5e9))
