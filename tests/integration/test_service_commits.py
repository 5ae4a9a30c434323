"""What shares a commit: frames of many runs in a few statements, each of them exactly as if it had come alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, CommandUpdate, Event, Frame, Receipt, RunStart
from holter_db import commands, events, incidents, runs
from holter_db.errors import Conflict, DatabaseError, NotFound
from holter_db.series import catalogue, read_series
from holter_server.notices import Notice

SICK = {"loss__total": 12.0, "loss__precursor": 7.0}


@pytest.fixture
def server(database, write_side):
    return write_side(database)


def started(server, *ids: str, **more: Any) -> None:
    for id in ids:
        server.do(server.pipeline.start_run, RunStart(project="denovo", id=id, **more))


def count(server, run: str) -> int:
    return sum(metric.count for metric in server.ask(catalogue, run))


# --- frames of one commit ---------------------------------------------------------------------------------------


def test_frames_of_many_runs_share_a_commit_and_a_bad_one_is_refused_alone(server):
    """Unknown runs, ambiguous names, used-up numbers: each gets its own answer, the others are kept."""
    started(server, *(f"run-{index:02}" for index in range(20)))
    good = [(f"run-{index:02}", server.frame(1, loss=float(index))) for index in range(20)]
    bad = [("nothing", server.frame(1, loss=1.0)), ("run-0", server.frame(1, loss=1.0))]
    used_up = [("run-00", server.frame(2**63 - 1, writer="rank1", loss=1.0))]
    assert [type(answer) for answer in server.ship(*used_up)] == [Receipt]
    answers, _, commits = server.commit(*good[:10], *bad, ("run-00", server.frame(0, writer="rank1")), *good[10:])
    assert commits == 1
    assert [answer.acknowledged for answer in answers[:10] + answers[13:]] == [1] * 20
    # A frame without points is a sign of life: it needs no number.
    assert [type(answer) for answer in answers[10:13]] == [NotFound, Conflict, Receipt]
    (refused,) = server.ship(("run-00", server.frame(0, writer="rank1", loss=2.0)))
    assert isinstance(refused, Conflict)
    assert [count(server, f"run-{index:02}") for index in range(20)] == [2, *[1] * 19]


def test_a_run_is_found_by_the_beginning_of_its_id(server):
    """Next to frames that name it in full."""
    started(server, "abcdef", "xyz")
    answers = server.ship(("abc", server.frame(1, loss=1.0)), ("abcdef", server.frame(2, loss=2.0)))
    assert [answer.acknowledged for answer in answers] == [1, 2]
    (series,) = server.ask(read_series, "abcdef", ["loss"])
    assert series.values.tolist() == [1.0, 2.0]


def test_a_frame_that_comes_twice_in_one_commit_counts_once(server):
    """Also next to one that is stored already; the first one is kept, whatever the second one holds."""
    started(server, "r")
    server.ship(("r", server.frame(1, step=1, loss=1.0)))
    answers = server.ship(
        ("r", server.frame(2, step=2, loss=2.0)),
        ("r", server.frame(1, step=9, loss=9.0)),
        ("r", server.frame(2, step=9, loss=9.0)),
        ("r", server.frame(3, step=3, loss=3.0)),
    )
    assert [(answer.acknowledged, answer.duplicate) for answer in answers] == [
        (2, False),
        (1, True),
        (2, True),
        (3, False),
    ]
    (series,) = server.ask(read_series, "r", ["loss"])
    assert series.values.tolist() == [1.0, 2.0, 3.0]
    assert server.ask(runs.get_run, "r").last_step == 3


def test_a_writer_may_be_several_times_in_one_commit(server):
    """Numbers that the service gives go up; the newest value is the last one of the greatest step."""
    started(server, "r")
    sent = [server.frame(0, step=step, loss=float(step), lr=0.1) for step in (1, 2, 5, 4)]
    answers = server.ship(*(("r", one) for one in sent))
    assert [answer.acknowledged for answer in answers] == [1, 2, 3, 4]
    found = {metric.name: metric for metric in server.ask(catalogue, "r")}
    assert (found["loss"].count, found["loss"].last, found["loss"].min, found["loss"].max) == (4, 5.0, 1.0, 5.0)
    assert (found["loss"].first_step, found["loss"].last_step, found["lr"].count) == (1, 5, 4)


def test_attempts_and_writers_are_opened_within_a_commit(server):
    """A frame of the old attempt that comes behind is late; one without an attempt belongs to the new one."""
    started(server, "r", attempt="a")
    server.do(server.pipeline.request_command, "r", "stop", {}, "ann")
    answers = server.ship(
        ("r", server.frame(1, step=5, attempt="a", loss=1.0)),
        ("r", server.frame(1, step=3, attempt="b", loss=2.0)),
        ("r", server.frame(1, step=4, attempt="b", writer="rank1", loss=3.0)),
        ("r", server.frame(2, step=6, attempt="a", loss=4.0)),
        ("r", server.frame(1, step=9, writer="rank2", loss=5.0)),
    )
    assert all(isinstance(answer, Receipt) for answer in answers)
    found = [(one.attempt, one.name, one.last_seq) for one in server.ask(runs.list_writers, "r")]
    assert found == [(1, "rank0", 2), (2, "rank0", 1), (2, "rank1", 1), (2, "rank2", 1)]
    assert [(one.key, one.first_step) for one in server.ask(runs.list_attempts, "r")] == [("a", 5), ("b", 3)]
    assert [row.state for row in server.ask(commands.list_commands, "r")] == ["expired"]
    run = server.ask(runs.get_run, "r")
    assert (run.attempt, run.last_step) == (2, 9)


def test_every_frame_of_a_commit_hears_of_what_it_caused(server):
    """Incidents and commands go to the run whose points they are about, events and answers are kept."""
    started(server, "sick", "well")
    server.do(server.pipeline.request_command, "well", "dump", {}, "ann")
    note = Event(time=1.0, text="stage 2", kind="stage")
    answers = server.ship(
        ("sick", server.frame(1, **SICK)),
        ("well", server.frame(1, loss__total=2.0, more={"events": [note]})),
        ("well", server.frame(1, writer="rank0/system", system__cpu=1.0)),
    )
    assert {notice.rule for notice in answers[0].incidents} == {"total-high", "precursor-high"}
    assert [order.name for order in answers[1].commands] == ["dump"]
    assert [answers[1].incidents, answers[2].commands, answers[2].incidents] == [[], [], []]
    assert {row.run for row in server.ask(incidents.list_incidents)[0]} == {"sick"}
    assert [row.text for row in server.ask(events.list_events, "well")] == ["stage 2"]
    done = CommandUpdate(answers[1].commands[0].id, "done", 2.0)
    server.ship(("well", server.frame(2, more={"commands": [done]})))
    assert [row.state for row in server.ask(commands.list_commands, "well")] == ["done"]


def test_other_jobs_keep_their_place_among_the_frames_of_their_run(server):
    """A frame that waits behind a run's end comes after it, in the same commit."""
    started(server, "r", "s")
    order: list[str] = []

    def end(tx: Any) -> None:
        order.append(server_state(tx))
        runs.set_state(tx.conn, "r", "finished", None, tx.now)

    def server_state(tx: Any) -> str:
        return f"{runs.get_run(tx.conn, 'r').state} at {runs.get_run(tx.conn, 'r').last_step}"

    shipped, _, commits = server.commit(
        ("r", server.frame(1, step=1, loss=1.0)), ("s", server.frame(1, loss=1.0)), jobs=[(end, "r")]
    )
    assert (commits, order) == (1, ["running at 1"])
    assert [answer.run_state for answer in shipped] == ["running", "running"]


# --- trouble ----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_metric(monkeypatch):
    """A bug that strikes when a record has the metric "broken"."""
    from holter.health import Engine

    observe = Engine.observe

    def fails(self, batch):
        if "broken" in batch.metrics:
            raise ZeroDivisionError("a bug")
        return observe(self, batch)

    monkeypatch.setattr(Engine, "observe", fails)


def test_a_bug_sinks_only_its_own_frame(server, broken_metric):
    """The others of its commit are kept; nothing of it is; its run works again with the next frame."""
    started(server, "a", "b", "c")
    answers = server.ship(
        ("a", server.frame(1, **SICK)), ("b", server.frame(1, loss=1.0, broken=1.0)), ("c", server.frame(1, loss=1.0))
    )
    assert [type(answer) for answer in answers] == [Receipt, ZeroDivisionError, Receipt]
    assert [count(server, run) for run in "abc"] == [2, 0, 1]
    assert len(server.ask(incidents.list_incidents)[0]) == 2
    (answer,) = server.ship(("b", server.frame(1, loss=1.0)))
    assert (answer.acknowledged, answer.duplicate, count(server, "b")) == (1, False, 1)


def test_a_run_in_trouble_is_kept_apart(server, broken_metric):
    """Once it has sunk a commit its frames are tried on their own, so that it can't slow down the others."""
    from holter_server.writing import WriterThread

    started(server, "a", "b")
    writer = WriterThread(server.database, server.told.extend, server.pipeline.take_frames)
    apart: list[int] = []
    split = writer._split

    def watched(batch):
        together, others = split(batch)
        apart.append(len(others))
        return together, others

    writer._split = watched  # type: ignore[method-assign]
    bad, good = server.frame(1, broken=1.0), server.frame(1, loss=1.0)
    batches = [[entry_of(writer, "a", good), entry_of(writer, "b", bad)] for _ in range(2)]
    for batch in batches:
        writer._commit(batch)
    assert apart == [0, 1]
    assert [type(entry.future.exception()) for entry in batches[1]] == [type(None), ZeroDivisionError]


def entry_of(writer, run, frame):
    from holter_server.writing import _Entry, _only

    return _Entry(run, 1, lambda tx: _only(writer._take(tx, [(run, frame)])), frame)


def test_a_commit_that_fails_is_repeated_and_nothing_is_remembered_of_the_first_try(server, monkeypatch):
    """The database goes away at the very commit: engines, positions and incidents are those of one try."""
    started(server, "a", "b")
    server.ship(("a", server.frame(1, loss__total=2.0, loss__precursor=1.0)))
    write, tries = server.database.write, itertools.count()

    class Failing:
        def __init__(self) -> None:
            self.inner = write()

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *error):
            failure = DatabaseError("The connection is gone", "Try again.")
            self.inner.__exit__(type(failure), failure, None) if error[0] is None else self.inner.__exit__(*error)
            raise failure

    monkeypatch.setattr(server.database, "write", lambda: Failing() if next(tries) == 0 else write())
    answers, _, commits = server.commit(("a", server.frame(2, step=2, **SICK)), ("b", server.frame(1, **SICK)))
    assert commits == 2
    assert [len(answer.incidents) for answer in answers] == [2, 2]
    assert [answer.duplicate for answer in answers] == [False, False]
    monkeypatch.undo()
    assert len(server.ask(incidents.list_incidents)[0]) == 4
    again = server.ship(("a", server.frame(3, step=3, **SICK)), ("b", server.frame(2, step=2, **SICK)))
    assert [answer.incidents for answer in again] == [[], []]


# --- the same as one by one -------------------------------------------------------------------------------------

VALUES = st.sampled_from([1.0, 2.5, 0.0, -3.0, math.nan, math.inf, -math.inf, 12.0, 1e-30])
LAYOUTS = st.sampled_from([("loss/total",), ("loss/total", "loss/precursor"), ("lr",)])
numbers = itertools.count()


@st.composite
def shipments(draw: st.DrawFn) -> list[tuple[str, Frame]]:
    """Frames for three runs: some again, some out of order, of several attempts and writers, some of nothing."""
    made: list[tuple[str, Frame]] = []
    for _ in range(draw(st.integers(1, 12))):
        blocks = []
        for metrics in draw(st.lists(LAYOUTS, max_size=2)):
            steps = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
            rows = [draw(st.tuples(*[VALUES] * len(metrics))) for _ in steps]
            times = draw(
                st.lists(st.sampled_from([1.7e9, 1.7e9 + 1, math.nan]), min_size=len(steps), max_size=len(steps))
            )
            blocks.append(Block.of(metrics, steps, times, rows))
        happened = [Event(time=1.0, text="note")] if draw(st.booleans()) else []
        attempt, writer = (
            draw(st.sampled_from(["", "a", "b"])),
            draw(st.sampled_from(["rank0", "rank1", "rank0/system"])),
        )
        promise = draw(st.sampled_from([None, 30.0]))
        sent = Frame(
            1, attempt, writer, draw(st.integers(0, 5)), blocks, happened, [], promise, draw(st.integers(0, 2))
        )
        made.append((draw(st.sampled_from("xyz")), sent))
    return made


def state_of(server, run: str) -> list[str]:
    """All that the database says of a run, but for the clocks of its incidents; NaN equals NaN as text."""
    with server.database.read() as conn:
        found, _ = incidents.list_incidents(conn, run=run, limit=1000)
        row = runs.get_run(conn, run)
        facts = [
            *((one.metric, one.writer, one.attempt, one.steps.tolist(), one.values.tolist())
              for one in read_series(conn, run, ["*"])),
            *((metric.name, one) for metric in catalogue(conn, run) for one in metric.series),
            *((one.attempt, one.name, one.last_seq, one.dropped, one.due_at) for one in runs.list_writers(conn, run)),
            *((one.key, one.first_step) for one in runs.list_attempts(conn, run)),
            *sorted((one.incident, one.state, one.message) for one in found),
            *((event.id, event.text) for event in events.list_events(conn, run)),
            (row.attempt, row.last_step, row.due_at, row.open_incidents),
        ]  # fmt: skip
    return [repr(fact) for fact in facts]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sent=shipments(), data=st.data())
def test_how_frames_are_cut_into_commits_makes_no_difference(server, sent, data):
    """To the points, the catalogue, the writers, the events, the incidents and the receipts."""
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(sent) - 1)), max_size=4)))
    one_by_one = play(server, [[one] for one in sent])
    assert play(server, [sent[start:end] for start, end in itertools.pairwise([0, *cuts, len(sent)])]) == one_by_one


def play(server, commits: list[list[tuple[str, Frame]]]) -> list[Any]:
    """What the frames' senders hear, and what the database says afterwards."""
    number = next(numbers)
    names = {letter: f"{letter}{number}" for letter in "xyz"}
    started(server, *names.values(), attempt="a")
    receipts = [answer for commit in commits for answer in server.ship(*((names[run], sent) for run, sent in commit))]
    heard: list[Any] = [(one.acknowledged, one.duplicate, one.run_state) for one in receipts]
    return heard + [fact for run in names.values() for fact in state_of(server, run)]


def test_what_a_commit_tells_comes_after_it_and_once(server):
    """Notices of the frames' runs, and the frames and points that were kept."""
    server.pipeline._heeded = lambda: True
    started(server, "a", "b")
    server.told.clear()
    server.ship(
        ("a", server.frame(1, loss=1.0, lr=2.0)), ("a", server.frame(1, loss=1.0, lr=2.0)), ("b", server.frame(1))
    )
    (told,) = server.told
    assert (told.frames, told.points) == (1, 2)
    kinds = sorted((notice.kind, notice.run) for notice in told.notices if isinstance(notice, Notice))
    assert kinds == [("points", "a"), ("run", "a"), ("run", "b")]
