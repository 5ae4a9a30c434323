"""The rules' memory is saved now and then; whatever happens in between, the incidents are those of one long watch."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Event, RunFinish, RunStart
from holter_db import incidents, replay, rule_sets, rule_state, runs
from holter_db.database import Database
from holter_db.rule_state import saved_position
from holter_server import engines
from holter_server.service import running
from holter_server.watchdog import Watchdog
from holter_server.writing import WriterThread

STRICT = "rules: [{id: total-high, above: 3.5, clear: 3}, {id: run-hung, at_least: 5, intervals: 2}]"
WATCHED = {"loss__total": 2.0, "loss__precursor": 1.0, "grad_norm": 1.0}
HIGH = {**WATCHED, "loss__total": 12.0}
NAN = {**WATCHED, "loss__total": math.nan, "grad_norm": math.nan}
numbers = itertools.count()


@pytest.fixture
def server(database, write_side):
    return write_side(database)


def start(server, run: str = "r", **more: Any) -> None:
    server.do(server.pipeline.start_run, RunStart(project="denovo", id=run, **more))


def found(server, run: str = "r") -> list[tuple[Any, ...]]:
    """The incidents of a run in words; their names and numbers in them are the engine's."""
    rows, _ = server.ask(incidents.list_incidents, run=run, limit=1000)
    shown = ("incident", "rule", "severity", "writer", "state", "step", "last_step", "message", "resolution")
    return sorted((tuple(getattr(row, name) for name in shown) for row in rows), key=lambda row: row[1:2] + row)


# --- an arbitrary history, with and without interruptions -------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """Something that happens to a run: a frame, a look at the clock, new rules, a new config."""

    what: str
    values: dict[str, float] = field(default_factory=dict)
    rows: int = 1
    writer: str = "rank0"


MOMENTS = st.one_of(
    st.builds(
        Moment,
        what=st.just("frame"),
        values=st.sampled_from([WATCHED, WATCHED, HIGH, NAN, {"loss__total": 30.0}, {"system__cpu": 1.0}]),
        rows=st.sampled_from([1, 3, 20]),
        writer=st.sampled_from(["rank0", "rank0", "rank1"]),
    ),
    st.builds(Moment, what=st.sampled_from(["tick", "silence", "rules", "no rules", "config", "event", "sign"])),
)


def play(server, moments: list[Moment], run: str, before: Any) -> None:
    """Let it happen; ``before`` is called with the index of each moment first."""
    server.now = 1_700_000_000.0
    start(server, run, config={"rows": 1}, planned_steps=10_000)
    steps: dict[str, int] = {}
    for index, moment in enumerate(moments):
        before(index)
        server.now += 1.0
        HAPPEN[moment.what](server, moment, run, steps)


def happen_frame(server, moment: Moment, run: str, steps: dict[str, int]) -> None:
    step = steps.get(moment.writer, 0)
    steps[moment.writer] = step + moment.rows
    more = {"promise": 30.0}
    sent = server.frame(0, step=step, writer=moment.writer, rows=moment.rows, more=more, **moment.values)
    server.ship((run, sent))


def happen_tick(server, _moment: Moment, run: str, _steps: dict[str, int]) -> None:
    server.do(server.pipeline.tick, run)


def happen_silence(server, moment: Moment, run: str, steps: dict[str, int]) -> None:
    """Long enough to be lost; then it is heard of again."""
    server.now += 100.0
    happen_tick(server, moment, run, steps)
    server.now += 1.0
    happen_tick(server, moment, run, steps)


def happen_sign(server, _moment: Moment, run: str, _steps: dict[str, int]) -> None:
    server.ship((run, server.frame(0, more={"promise": 30.0})))


def happen_event(server, _moment: Moment, run: str, _steps: dict[str, int]) -> None:
    server.ship((run, server.frame(0, more={"events": [Event(time=1.0, text="note")]})))


def happen_rules(server, moment: Moment, run: str, _steps: dict[str, int]) -> None:
    text = STRICT if moment.what == "rules" else ""
    server.do(lambda tx: rule_sets.put(tx.conn, "denovo", text, tx.now))


def happen_config(server, _moment: Moment, run: str, steps: dict[str, int]) -> None:
    config = {"losses": {"spectrum": {"kind": "gaussian"}}, "writers": len(steps)}
    server.do(server.pipeline.change_run, run, {"config": config})


HAPPEN = {
    "frame": happen_frame, "tick": happen_tick, "silence": happen_silence, "rules": happen_rules,
    "no rules": happen_rules, "config": happen_config, "event": happen_event, "sign": happen_sign,
}  # fmt: skip
often = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def uninterrupted(server, moments: list[Moment]) -> list[tuple[Any, ...]]:
    run = f"run-{next(numbers)}"
    reset_rules(server)
    play(server, moments, run, lambda _index: None)
    return found(server, run)


def reset_rules(server) -> None:
    server.do(lambda tx: rule_sets.put(tx.conn, "denovo", "", tx.now))


@often
@given(moments=st.lists(MOMENTS, min_size=1, max_size=25), data=st.data())
def test_a_kill_at_any_moment_changes_no_incident(server, moments, data):
    """Engines are rebuilt from what was saved, however rarely that is: the incidents are the same, none twice."""
    kills = data.draw(st.sets(st.integers(0, len(moments)), max_size=6))
    behind = data.draw(st.sampled_from([1, 3, 1000]))
    expected = uninterrupted(server, moments)
    run = f"run-{next(numbers)}"
    reset_rules(server)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines, "SEGMENTS_BEHIND", behind)
        play(server, moments, run, lambda index: server.restart() if index in kills else None)
    assert found(server, run) == expected


@often
@given(moments=st.lists(MOMENTS, min_size=1, max_size=25), data=st.data())
def test_two_servers_in_turns_are_as_one(server, write_side, moments, data):
    """Each notices what the other has committed, ticked or learned, whoever saved last."""
    expected = uninterrupted(server, moments)
    run = f"run-{next(numbers)}"
    reset_rules(server)
    other = Database.open(server.database.url if server.database.dialect == "sqlite" else url_of(server.database))
    try:
        both = (server, write_side(other))
        turns = [data.draw(st.integers(0, 1)) for _ in moments]
        clock = 1_700_000_000.0
        server.now = clock
        start(server, run, config={"rows": 1}, planned_steps=10_000)
        steps: dict[str, int] = {}
        for moment, turn in zip(moments, turns, strict=True):
            acting = both[turn]
            acting.now = max(one.now for one in both) + 1.0
            HAPPEN[moment.what](acting, moment, run, steps)
        server.now = max(one.now for one in both)
    finally:
        other.close()
    assert found(server, run) == expected


def url_of(database: Database) -> str:
    return database._writer.url.set(drivername="postgresql").render_as_string(hide_password=False)


# --- when it is saved -------------------------------------------------------------------------------------------


@pytest.fixture
def saves(monkeypatch) -> list[tuple[str, int]]:
    """Every save: of which run, at which position."""
    made: list[tuple[str, int]] = []
    save = rule_state.save

    def noted(conn, run_id, saved):
        made.append((run_id, saved.position))
        return save(conn, run_id, saved)

    monkeypatch.setattr(rule_state, "save", noted)
    return made


def test_it_is_saved_once_in_many_frames(server, saves):
    """At first, so that a replay knows its rules, then once in 64 segments."""
    start(server)
    for step in range(1, 140):
        server.ship(("r", server.frame(0, step=step, **WATCHED)))
    assert [position for _, position in saves] == [1, 65, 129]
    assert server.ask(saved_position, "r") == 129


def test_it_is_saved_after_many_points(server, saves):
    """So that a replay never takes long."""
    start(server)
    wide = {f"m{index}": 1.0 for index in range(100)}
    for step in (1, 2, 3, 4):
        server.ship(("r", server.frame(0, step=step * 2000, rows=2000, **wide)))
    assert [position for _, position in saves] == [1, 4]


def test_what_the_rules_have_told_is_saved_with_it(server, saves):
    """Else a replay would tell it again."""
    start(server)
    for step, values in enumerate([WATCHED, HIGH, HIGH, WATCHED]):
        server.ship(("r", server.frame(0, step=step, **values)))
    assert [position for _, position in saves] == [1, 2]
    server.restart()
    server.ship(("r", server.frame(0, step=9, **HIGH)))
    assert len(found(server)) == 1


def test_the_end_of_a_run_saves_all_of_it_and_so_does_a_late_frame(server, saves):
    """What is not saved can't be folded into chunks."""
    start(server)
    for step in range(5):
        server.ship(("r", server.frame(0, step=step, **WATCHED)))
    server.do(server.pipeline.finish_run, "r", RunFinish())
    assert server.ask(saved_position, "r") == 5
    server.ship(("r", server.frame(0, step=6, **WATCHED)))
    assert server.ask(saved_position, "r") == 6


def test_the_last_thing_a_service_does_is_to_save(settings, client_of):
    """So that a newer version, with other rules of its own, begins where this one ends."""
    with running(settings) as base:
        service = client_of(base)
        run = service.start()
        for step in range(1, 5):
            service.log(run, step, loss=1.0)
    database = Database.open(settings.db)
    with database.read() as conn:
        assert saved_position(conn, run) == 4
    database.close()


def test_a_replay_reads_only_what_was_not_saved(server, monkeypatch):
    """And nothing at all while the engine is in memory."""
    read: list[tuple[int, int]] = []
    unobserved = replay.iter_unobserved

    def noted(conn, run_id, after, up_to):
        read.append((after, up_to))
        return unobserved(conn, run_id, after, up_to)

    monkeypatch.setattr(engines, "iter_unobserved", noted)
    start(server)
    for step in range(1, 71):
        server.ship(("r", server.frame(0, step=step, **WATCHED)))
    assert read == []
    server.restart()
    server.ship(("r", server.frame(0, step=71, **WATCHED)))
    server.ship(("r", server.frame(0, step=72, **WATCHED)))
    assert read == [(65, 70)]


def test_the_rules_that_judged_a_point_are_those_of_its_time(server):
    """A value that the old rules let pass is not told later, by a replay, as an incident of the new ones."""
    start(server)
    server.ship(("r", server.frame(0, step=1, loss__total=4.0, loss__precursor=1.0)))
    server.ship(("r", server.frame(0, step=2, loss__total=4.0, loss__precursor=1.0)))
    server.do(lambda tx: rule_sets.put(tx.conn, "denovo", STRICT, tx.now))
    server.restart()
    server.ship(("r", server.frame(0, step=3, loss__total=3.0, loss__precursor=1.0)))
    assert found(server) == []
    server.ship(("r", server.frame(0, step=4, loss__total=4.0, loss__precursor=1.0)))
    assert [(row[1], row[5]) for row in found(server)] == [("total-high", 4)]


def test_engines_that_are_not_used_make_room(server):
    """One that was dropped comes back as it was: its run has the incidents of one whose engine stayed."""

    def judged(bytes_kept: int, name: str) -> list[list[tuple[Any, ...]]]:
        ids = [f"{name}-{index}" for index in range(4)]
        for run in ids:
            start(server, run)
        server.engines = server.pipeline._engines = engines.Engines(bytes_kept=bytes_kept)
        for step in range(30):
            values = {**WATCHED, "loss__total": 2.0 + 0.01 * (step % 7)}  # values that only repeat are no level
            server.ship(*((run, server.frame(0, step=step, **values)) for run in ids))
            assert len(server.engines._kept) == (1 if bytes_kept == 1 else 4)
        server.ship(*((run, server.frame(0, step=30, **HIGH)) for run in ids))
        return [found(server, run) for run in ids]

    stayed = judged(engines.BYTES_KEPT, "stayed")
    assert {row[1] for row in stayed[0]} >= {"loss-explosion", "total-high"}
    assert judged(1, "dropped") == stayed


# --- quiet and forgotten runs -----------------------------------------------------------------------------------


@pytest.fixture
def watchdog(server):
    """On a writer thread of its own; its rounds are the test's to call."""
    writer = WriterThread(server.database, server.told.extend, server.pipeline.take_frames, clock=lambda: server.now)
    writer.start()
    yield Watchdog(server.database, writer, server.pipeline, 60.0)
    writer.stop()


def test_runs_that_have_gone_quiet_are_saved(server, watchdog):
    """Those whose engines are in memory, and those that another server has left behind."""
    server.now = time.time() - 100
    for run in ("here", "left"):
        start(server, run)
        for step in range(4):
            server.ship((run, server.frame(0, step=step, **WATCHED)))
    assert (server.ask(saved_position, "here"), server.ask(saved_position, "left")) == (1, 1)
    server.engines.take("left")
    watchdog.settle()
    assert (server.ask(saved_position, "here"), server.ask(saved_position, "left")) == (4, 1)
    watchdog.settle()
    assert server.ask(saved_position, "left") == 4
    assert server.ask(rule_state.behind, time.time(), 10) == []


def test_runs_that_are_heard_of_are_left_alone(server, watchdog):
    """They are saved as they go on."""
    server.now = time.time()
    start(server)
    for step in range(4):
        server.ship(("r", server.frame(0, step=step, **WATCHED)))
    watchdog.settle()
    assert server.ask(saved_position, "r") == 1


def test_a_long_history_is_taken_in_pieces(server, watchdog, monkeypatch):
    """Nobody waits for all of it; and a run that nobody ever judged is no exception."""
    monkeypatch.setattr("holter_server.watchdog.SETTLED_POINTS", 100)
    monkeypatch.setattr(replay, "VALUES_PER_PIECE", 50)
    server.now = time.time() - 100
    start(server)
    for step in range(10):
        server.ship(("r", server.frame(0, step=step * 10, rows=10, **WATCHED)))
    with server.database.write() as conn:
        conn.execute(sa.text("DELETE FROM rule_state"))
    server.restart()
    watchdog._pipeline = server.pipeline
    reached = []
    for _ in range(6):
        watchdog.settle()
        reached.append(server.ask(saved_position, "r"))
    assert reached[0] < 10
    assert reached == sorted(reached)
    assert reached[-1] == 10


def test_damage_in_one_run_stops_nothing_else(server, watchdog, caplog):
    """It is said once."""
    server.now = time.time() - 100
    for run in ("bad", "good"):
        start(server, run)
        for step in range(3):
            server.ship((run, server.frame(0, step=step, **WATCHED)))
    with server.database.write() as conn:
        conn.execute(sa.text("UPDATE segments SET payload = :payload WHERE run_id = 'bad'"), {"payload": b"\x09\x09"})
    server.restart()
    watchdog._pipeline = server.pipeline
    for _ in range(3):
        watchdog.settle()
    assert (server.ask(saved_position, "bad"), server.ask(saved_position, "good")) == (1, 3)
    assert len([record for record in caplog.records if "bad" in record.getMessage()]) == 1


# --- who has to be looked at ------------------------------------------------------------------------------------


@pytest.fixture
def ticks(server, monkeypatch) -> list[str]:
    made: list[str] = []
    tick = server.pipeline.tick
    monkeypatch.setattr(server.pipeline, "tick", lambda tx, run_id: (made.append(run_id), tick(tx, run_id))[1])
    return made


def statements(database: Database, work: Any) -> int:
    """How many statements ``work`` costs."""
    counted = itertools.count()
    listeners = [(engine, lambda *_: next(counted)) for engine in {database._writer, database._reader}]
    for engine, listener in listeners:
        sa.event.listen(engine, "before_cursor_execute", listener)
    work()
    for engine, listener in listeners:
        sa.event.remove(engine, "before_cursor_execute", listener)
    return next(counted)


def test_a_look_at_runs_that_are_well_costs_the_same_for_any_number(server, watchdog, ticks):
    """And none of them gets a tick."""
    server.now = time.time()
    costs = []
    for number in (1, 30):
        for index in range(number):
            start(server, f"run-{number}-{index}")
            sent = server.frame(0, more={"promise": 30.0}, **WATCHED)
            server.ship((f"run-{number}-{index}", sent))
        costs.append(statements(server.database, watchdog.look))
    assert ticks == []
    assert costs[0] == costs[1] < 10


def test_a_run_that_is_late_gets_ticks_until_it_is_lost_and_then_sleeps(server, watchdog, ticks):
    """A thousand runs that were never finished cost nothing."""
    server.now = time.time() - 60
    start(server)
    server.ship(("r", server.frame(0, more={"promise": 5.0}, **WATCHED)))
    server.now = time.time()
    for _ in range(5):
        watchdog.look()
        server.now = time.time()
    assert server.ask(runs.get_run, "r").state == "lost"
    assert 1 <= len(ticks) <= 2
    server.engines.take("r")
    for _ in range(3):
        watchdog.look()
    assert len(ticks) <= 2


def test_new_rules_reach_a_run_that_only_says_that_it_lives(server, watchdog, ticks):
    """It has logged nothing since, so that no frame takes them to it."""
    server.now = time.time() - 20
    start(server)
    for step in range(8):
        server.ship(("r", server.frame(0, step=step, **WATCHED)))
    server.now = time.time()
    server.ship(("r", server.frame(0, more={"promise": 30.0})))
    watchdog.look()
    assert (ticks, server.ask(runs.get_run, "r").state) == ([], "running")
    server.do(lambda tx: rule_sets.put(tx.conn, "denovo", STRICT, tx.now))
    watchdog.look()
    assert server.ask(runs.get_run, "r").state == "hung"


def test_a_run_whose_engine_is_not_here_is_looked_at_when_it_is_late_or_silent(server, watchdog, ticks):
    """A server that was started anew, or one of several."""
    server.now = time.time() - 5
    for run in ("fresh", "quiet", "late"):
        start(server, run)
    server.ship(("fresh", server.frame(0, more={"promise": 30.0}, **WATCHED)))
    server.now = time.time() - 300
    for step in range(8):
        server.ship(("quiet", server.frame(0, step=step, **WATCHED)))
    server.ship(("late", server.frame(0, more={"promise": 1.0}, **WATCHED)))
    server.now = time.time()
    server.ship(("quiet", server.frame(0, more={"promise": 30.0})))
    server.restart()
    tick = server.pipeline.tick
    server.pipeline.tick = lambda tx, run_id: (ticks.append(run_id), tick(tx, run_id))[1]
    watchdog._pipeline = server.pipeline
    watchdog.look()
    assert sorted(ticks) == ["late", "quiet"]
    states = {run: server.ask(runs.get_run, run).state for run in ("fresh", "quiet", "late")}
    assert states == {"fresh": "running", "quiet": "hung", "late": "lost"}
