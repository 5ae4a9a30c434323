"""A run and a service that fails in every way it can: the loop never notices, and nothing is lost or doubled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import holter
from holter.sync import sync
from holter.testing import FakeService, Fault
from holter.wire import IncidentNotice


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture(params=["process", "thread"])
def begin(
    tmp_path: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., holter.Run]]:
    """`holter.init` against the fake service, with short pauses, shipping from a process and from a thread."""
    monkeypatch.setenv("HOLTER_SHIPPER", request.param)
    monkeypatch.setenv("HOLTER_HEARTBEAT", "0.2")
    monkeypatch.setenv("HOLTER_SLOW_RETRY", "0.2")
    monkeypatch.setenv("HOLTER_LINGER", "0")

    def init(**arguments: object) -> holter.Run:
        return holter.init(**({"project": "p", "url": service.url, "dir": tmp_path} | arguments))  # type: ignore[arg-type]

    yield init
    holter.finish()


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def log_steps(run: holter.Run, first: int, last: int) -> None:
    for step in range(first, last):
        run.log({"loss": step / 7, "lr": 1e-3}, step=step)


def expect(service: FakeService, steps: int, state: str = "finished") -> None:
    """Every step once, in order, with its exact value."""
    assert service.run.points("loss") == [(step, step / 7) for step in range(steps)]
    assert service.run.state == state


def test_every_step_arrives(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """In columnar frames, with the run's description and its end."""
    run = begin(name="n", config={"lr": math.nan}, tags=["a"], group="g", notes="x", planned_steps=100, rank=0)
    log_steps(run, 0, 3_000)
    run.event("stage 2", kind="stage")
    run.finish()
    expect(service, 3_000)
    start = next(start for start in service.run.starts if start.writer.name == "rank0")
    assert (start.project, start.name, start.tags, start.group, start.planned_steps) == ("p", "n", ["a"], "g", 100)
    assert start.config == {"lr": "NaN"}
    assert start.environment["python"]
    assert [event.text for event in service.run.events] == ["stage 2"]
    assert {frame.attempt for frame in service.run.frames.values()} == {run.attempt}
    assert all(frame.promise for frame in service.run.frames.values())
    assert len(service.run.frames) < 20


def test_non_finite_values_arrive_as_they_are(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """NaN, ±Inf, 1e-30 and -0.0."""
    values = [math.nan, math.inf, -math.inf, 1e-30, -0.0, 5e-324]
    run = begin()
    for step, value in enumerate(values):
        run.log({"loss": value}, step=step)
    run.finish()
    assert repr([value for _, value in service.run.points("loss")]) == repr(values)


def test_the_run_is_there_before_its_first_step(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """A heartbeat registers it, and repeats while nothing is logged."""
    begin()
    eventually(lambda: service.runs and len(service.run.frames) >= 3)
    assert all(frame.promise and not frame.blocks for frame in service.run.frames.values())


def test_a_service_that_is_down_and_comes_back(
    begin: Callable[..., holter.Run], service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line when it is gone, one when it is back; every step arrives."""
    said = ""

    def has_said(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return text in said

    service.stop()
    run = begin()
    log_steps(run, 0, 50)
    eventually(lambda: has_said("connection refused"))
    log_steps(run, 50, 100)
    service.start()
    eventually(lambda: service.runs and len(service.run.points("loss")) == 100)
    run.finish()
    expect(service, 100)
    assert has_said("answers again")
    assert said.count("can't take data now") == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503, retry_after=0.2),
        Fault(429, retry_after=0.2),
        Fault(0),
        Fault(404, path="/frames"),
        Fault(502, kind=""),
    ],
    ids=["500", "503", "429", "cut off", "run forgotten", "502"],
)
def test_a_service_that_fails_for_a_while(begin: Callable[..., holter.Run], service: FakeService, fault: Fault) -> None:
    """What was refused is sent again."""
    service.fail(fault, 3)
    run = begin()
    log_steps(run, 0, 200)
    eventually(lambda: service.runs and len(service.run.points("loss")) == 200)
    run.finish()
    expect(service, 200)


def test_an_answer_that_is_lost_after_the_commit(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """The same records under the same number: the service sees a duplicate, and nothing is doubled or left out."""
    service.fail(Fault(0, committed=True, path="/frames"), 3)
    run = begin()
    for first in range(0, 400, 50):
        log_steps(run, first, first + 50)
        time.sleep(0.05)
    eventually(lambda: service.runs and len(service.run.points("loss")) == 400)
    run.finish()
    expect(service, 400)
    assert service.run.duplicates >= 3


def test_a_service_that_hangs(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """The loop doesn't wait for it; finish keeps to its deadline; sync brings the rest."""
    run = begin()
    service.fail(Fault(500, delay=60, path="/frames"), 50)
    log_steps(run, 0, 10)
    time.sleep(0.6)
    begun = time.monotonic()
    log_steps(run, 10, 1_000)
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    run.finish(timeout=0.5)
    assert time.monotonic() - begun < 5
    service.recover()
    assert run.directory is not None
    directory = run.directory  # its thread still waits for an answer, and lets go of the recording after 10 s
    eventually(lambda: sync(directory, service.url).complete, 60)
    expect(service, 1_000)


def test_a_token_that_is_missing(
    begin: Callable[..., holter.Run], service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says once what to do; the recording is kept, and shipped once the token is right."""
    service.token = "secret"
    run = begin()
    log_steps(run, 0, 20)
    eventually(lambda: service.requests.count("POST /runs") >= 3)
    run.finish()
    said = capsys.readouterr().err
    assert said.count("Set HOLTER_TOKEN") == 1
    assert f"holter sync {run.directory}" in said
    assert not service.runs
    assert run.directory is not None
    assert not sync(run.directory, service.url, "wrong").complete
    report = sync(run.directory, service.url, "secret")
    assert report.complete
    assert report.points == 40 + sum(each.shipped.points for each in report.spools if "/" in each.writer)
    expect(service, 20)


def test_a_token_that_expires_and_is_renewed(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """It is tried again, slowly, for as long as the training runs."""
    run = begin()
    log_steps(run, 0, 10)
    eventually(lambda: service.runs and len(service.run.points("loss")) == 10)
    service.token = "renewed"
    log_steps(run, 10, 20)
    before = len(service.requests)
    eventually(lambda: len(service.requests) > before + 1)
    service.token = None
    eventually(lambda: len(service.run.points("loss")) == 20)
    run.finish()
    expect(service, 20)


def test_a_frame_that_is_refused_for_good_is_set_aside(
    begin: Callable[..., holter.Run], service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is kept with the reason, and the next one is shipped."""
    run = begin()
    eventually(lambda: service.runs and service.run.frames)
    service.fail(Fault(422, kind="invalid_points", message="not like that", path="/frames"))
    run.log({"loss": 1.0}, step=1)
    assert run.directory is not None
    folder = run.directory / run.writer / "rejected"
    system = run.directory / f"{run.writer}.system" / "rejected"
    eventually(lambda: folder.exists() or system.exists())
    run.log({"loss": 2.0}, step=2)
    run.finish()
    assert service.run.points("loss")[-1] == (2, 2.0)
    assert service.run.state == "finished"
    assert "not like that" in capsys.readouterr().err
    assert len([*folder.glob("*.msgpack"), *system.glob("*.msgpack")]) == 1


def test_a_frame_that_is_too_large_is_divided(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """For a proxy with a small limit."""
    run = begin(mode="offline")
    log_steps(run, 0, 5_000)
    run.finish()
    service.fail(Fault(413, path="/frames"), 3)
    assert run.directory is not None
    assert sync(run.directory / run.writer, service.url).complete
    expect(service, 5_000)
    assert len(service.run.frames) > 1


def test_a_service_that_refuses_the_run(
    begin: Callable[..., holter.Run], service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training goes on, and its recording stays."""
    service.fail(Fault(422, message="no such project", path="/runs"), 1_000)
    run = begin()
    log_steps(run, 0, 10)
    eventually(lambda: service.requests.count("POST /runs") >= 2)
    run.finish()
    assert "no such project" in capsys.readouterr().err
    service.recover()
    assert run.directory is not None
    assert sync(run.directory, service.url).complete
    expect(service, 10)


def test_offline_then_sync_twice(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """Nothing is sent before, everything once after, also while the run is still writing."""
    run = begin(mode="offline")
    log_steps(run, 0, 100)
    assert run.directory is not None
    journal = run.directory / run.writer / "journal"
    eventually(lambda: journal.stat().st_size > 100 * 20)
    assert not service.requests
    first = sync(run.directory, service.url)
    assert first.complete
    assert len(service.run.points("loss")) == 100
    log_steps(run, 100, 150)
    run.finish()
    second = sync(run.directory, service.url)
    assert second.complete
    assert sum(each.shipped.points for each in second.spools if each.writer == "rank0") == 100
    expect(service, 150)
    requests = len(service.requests)
    third = sync([run.directory, run.directory.parent], service.url)
    assert (third.complete, third.points, third.runs) == (True, 0, [run.id])
    assert len(service.requests) == requests


def test_sync_says_why_it_is_not_complete(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """And leaves everything where it is."""
    run = begin(mode="offline")
    run.log({"loss": 0.0}, step=0)
    run.finish()
    service.stop()
    assert run.directory is not None
    report = sync(run.directory, service.url, patience=0.3)
    assert not report.complete
    assert "connection refused" in str(report.spools[-1].problem)
    service.start()
    assert sync(run.directory, service.url).complete
    assert service.run.points("loss") == [(0, 0.0)]


def test_a_recording_that_is_being_shipped_is_left_alone(
    begin: Callable[..., holter.Run], service: FakeService
) -> None:
    """Two shippers would give the same number to different records."""
    run = begin()
    eventually(lambda: service.runs and service.run.frames)
    assert run.directory is not None
    report = sync(run.directory / run.writer, service.url, patience=0.3)
    assert (report.complete, report.spools[0].problem) == (False, "Its own training is shipping it just now.")


def test_stop_reaches_the_loop_and_the_service_hears_of_it(
    begin: Callable[..., holter.Run], service: FakeService
) -> None:
    """Requested → acknowledged → done; the run ends as stopped."""
    run = begin()
    eventually(lambda: service.runs and service.run.frames)
    command = service.order(run.id, "stop")
    step = 0
    while not run.should_stop:
        run.log({"loss": step / 7}, step=step)
        step += 1
        time.sleep(0.01)
        assert step < 2_000
    eventually(lambda: [update.state for update in service.run.updates] == ["acknowledged"])
    run.finish()
    assert [(update.id, update.state) for update in service.run.updates] == [
        (command, "acknowledged"),
        (command, "done"),
    ]
    expect(service, step, "stopped")


def test_a_command_is_carried_out_between_two_steps(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """And an incident is known to the run."""
    run = begin()
    saved: list[str] = []
    run.on_command("checkpoint", lambda tag: saved.append(tag) or tag)
    eventually(lambda: service.runs and service.run.frames)
    service.order(run.id, "checkpoint", tag="best")
    service.report(IncidentNotice("i1", "r", "limit", "warning", "firing", "loss", "too high"))
    eventually(lambda: (run.log({"loss": 1.0}), saved)[1])
    eventually(lambda: "done" in [update.state for update in service.run.updates])
    assert saved == ["best"]
    assert run.incidents["i1"].message == "too high"


def test_a_resumed_run_counts_on(begin: Callable[..., holter.Run], service: FakeService, tmp_path: Path) -> None:
    """Another attempt of the same run: from its recording here, or from what the service knows."""
    first = begin(id="mine")
    log_steps(first, 0, 10)
    first.finish()
    second = begin(id="mine", resume=True)
    second.log({"loss": 10 / 7})
    second.finish()
    third = begin(id="mine", resume=True, dir=tmp_path / "another machine")
    third.log({"loss": 11 / 7})
    third.finish()
    expect(service, 12)
    assert len({first.attempt, second.attempt, third.attempt}) == 3


def test_ranks_write_beside_one_another(
    begin: Callable[..., holter.Run], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, one attempt, one series for each rank; each rank says its own end."""
    monkeypatch.setenv("HOLTER_RUN_ID", "shared")
    monkeypatch.setenv("HOLTER_ATTEMPT", "together")
    for rank in (1, 0):
        run = begin(rank=rank)
        run.log({"loss": float(rank)}, step=0)
        run.finish()
    assert [finish.writer for finish in service.run.finishes] == ["rank1", "rank0"]
    assert service.run.points("loss", "rank0") == [(0, 0.0)]
    assert service.run.points("loss", "rank1") == [(0, 1.0)]
    assert {frame.attempt for frame in service.run.frames.values()} == {"together"}


def test_an_attempt_that_was_given_twice_is_two(
    begin: Callable[..., holter.Run], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers would pass for those of the first, and the points would be lost."""
    monkeypatch.setenv("HOLTER_ATTEMPT", "again")
    for value in (1.0, 2.0):
        run = begin(id="mine")
        run.log({"loss": value}, step=0)
        run.finish()
    assert service.run.points("loss") == [(0, 1.0), (0, 2.0)]


def test_the_machine_is_recorded_beside_the_training(
    begin: Callable[..., holter.Run], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a writer of its own, at the run's latest step."""
    monkeypatch.setenv("HOLTER_SYSTEM_INTERVAL", "0.1")
    run = begin()
    run.log({"loss": 1.0}, step=5)
    eventually(lambda: service.runs and len(service.run.points("system/process_rss_gb", "rank0/system")) >= 2)
    run.finish()
    points = service.run.points("system/process_rss_gb", "rank0/system")
    assert {step for step, _ in points} == {5}
    assert all(0.01 < value < 100 for _, value in points)
    assert service.run.points("system/cpu_percent", "rank0/system")


def test_a_clock_that_jumps(
    begin: Callable[..., holter.Run], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day back, a year ahead: times are kept as the clock said them, and nothing waits for it."""
    times = [time.time() + jump for jump in (0.0, -86_400.0, 3.2e7, 1.0)]
    run = begin()
    for step, now in enumerate(times):
        monkeypatch.setattr("holter.training._now", lambda now=now: now)
        run.log({"loss": step / 7, "lr": 1e-3}, step=step)
    run.finish()
    expect(service, 4)
    blocks = [block for frame in service.run.frames.values() for block in frame.blocks if "loss" in block.metrics]
    assert [float(moment) for block in blocks for moment in block.time_array()] == times


def test_a_folder_that_cannot_be_written(
    begin: Callable[..., holter.Run],
    service: FakeService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recording goes to a temporary folder; where not even that works, the training runs on without one."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    run = begin(dir=tmp_path / "file")
    run.log({"loss": 0.0}, step=0)
    run.finish()
    expect(service, 1)
    assert "can't be written" in capsys.readouterr().err
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    run = begin(dir=tmp_path / "file")
    run.log({"loss": 1.0}, step=0)
    run.finish()
    assert "nothing can be recorded" in capsys.readouterr().err
    expect(service, 1)


def test_many_runs_in_one_process(begin: Callable[..., holter.Run], service: FakeService) -> None:
    """As in a notebook or a sweep: each is complete when the next one begins."""
    runs = []
    for number in range(3):
        runs.append(begin())
        holter.log({"loss": float(number)}, step=number)
    holter.finish()
    assert [service.runs[run.id].points("loss") for run in runs] == [[(0, 0.0)], [(1, 1.0)], [(2, 2.0)]]
    assert {fake.state for fake in service.runs.values()} == {"finished"}


@pytest.mark.parametrize("executable", ["", "/usr/bin/blender", "/nowhere/python"])
def test_where_no_process_can_be_had_a_thread_ships(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    """A sandbox, or a program that has Python inside."""
    monkeypatch.setattr("sys.executable", executable)
    run = holter.init(project="p", url=service.url, dir=tmp_path)
    log_steps(run, 0, 100)
    run.finish()
    expect(service, 100)
