"""How a training's process can end, or multiply: real processes against a real HTTP server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from holter.sync import sync
from holter.testing import FakeService

LOOP = """
import holter, os, signal, sys, time
run = holter.init(project="p", id="r1")
for step in range(100):
    run.log({"loss": step / 7}, step=step)
"""


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


def train(code: str, service: FakeService, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a training script to its end."""
    environment = {**os.environ, "HOLTER_URL": service.url, "HOLTER_DIR": str(folder), **environ}
    return subprocess.run(
        [sys.executable, "-c", dedent(code)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a training's agent, without what its rules find in losses that were made up here."""
    return [line for line in done.stderr.splitlines() if not re.match(r"holter: (info|warning|critical): ", line)]


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def complete(service: FakeService) -> bool:
    return service.run.points("loss") == [(step, step / 7) for step in range(100)]


class Ending(NamedTuple):
    code: str
    status: int
    state: str
    reason: str | None


@pytest.mark.parametrize(
    "ending",
    [
        Ending("", 0, "finished", None),
        Ending("run.finish(); run.finish('failed')", 0, "finished", None),
        Ending("sys.exit()", 0, "finished", None),
        Ending("sys.exit(0)", 0, "finished", None),
        Ending("sys.exit(3)", 3, "failed", "SystemExit: 3"),
        Ending("sys.exit('no data')", 1, "failed", "SystemExit: no data"),
        Ending("raise ValueError('bad loss')", 1, "failed", "ValueError: bad loss"),
        Ending("1 / 0", 1, "failed", "ZeroDivisionError: division by zero"),
        Ending("signal.raise_signal(signal.SIGINT)", -2, "stopped", "KeyboardInterrupt"),
        Ending("with run: raise ValueError('inside')", 1, "failed", "ValueError: inside"),
        Ending("with run: sys.exit(0)", 0, "finished", None),
        Ending("try: sys.exit(3)\nexcept SystemExit: time.sleep(.01); run.log({'x': 1.0})", 0, "finished", None),
    ],
)
def test_the_end_of_a_program_is_the_end_of_its_run(service: FakeService, tmp_path: Path, ending: Ending) -> None:
    """The state says how, the reason why; every step is there, and the program's own ending is what it was."""
    done = train(f"{LOOP}\n{ending.code}", service, tmp_path)
    assert done.returncode == ending.status
    assert complete(service)
    assert [(finish.state, finish.reason) for finish in service.run.finishes] == [(ending.state, ending.reason)]
    exceptions = [event for event in service.run.events if event.kind == "exception"]
    assert len(exceptions) == (ending.state == "failed")
    assert ("Traceback" in done.stderr) == (ending.status in {1, -2} and "no data" not in ending.code)


def test_killed_right_after_log_then_synced(service: FakeService, tmp_path: Path) -> None:
    """kill -9 in the line after the last `log`, with the service down: every step is there, and so is the end."""
    service.stop()
    done = train(f"{LOOP}\nos.kill(os.getpid(), signal.SIGKILL)", service, tmp_path, HOLTER_LINGER="1")
    assert done.returncode == -signal.SIGKILL
    service.start()
    sync(tmp_path, service.url)
    eventually(lambda: service.runs and service.run.state != "running")
    assert complete(service)
    assert (service.run.state, service.run.finishes[-1].reason) == ("failed", "killed by SIGKILL")
    assert sync(tmp_path, service.url).points == 0


class Death(NamedTuple):
    code: str
    state: str
    reason: str
    says: str = ""  # stands in the stacks that were kept


@pytest.mark.parametrize(
    "death",
    [
        Death("os.kill(os.getpid(), signal.SIGKILL)", "failed", "killed by SIGKILL"),
        Death("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", "stopped", "terminated by SIGTERM", "in train"),
        Death("os._exit(3)", "failed", "exit code 3"),
        Death("os._exit(0)", "finished", "exit code 0"),
        Death("import ctypes; ctypes.string_at(0)", "failed", "crashed: Segmentation fault", "in train"),
        Death("os.abort()", "failed", "crashed: Aborted", "in train"),
    ],
    ids=lambda death: death.reason,
)
def test_a_process_that_says_nothing_is_spoken_for(service: FakeService, tmp_path: Path, death: Death) -> None:
    """The shipper outlives it, ships the rest, and reports how it ended and where its threads were."""
    train(f"{LOOP}\ndef train(): {death.code}\ntrain()", service, tmp_path)
    eventually(lambda: service.runs and service.run.state != "running")
    assert complete(service)
    (finish,) = service.run.finishes
    assert finish.state == death.state
    assert death.reason in (finish.reason or "")
    (event,) = (event for event in service.run.events if event.kind == "exit")
    assert death.reason in event.text
    assert death.says in event.data.get("stacks", "")


def test_a_stuck_training_s_stacks_are_kept(service: FakeService, tmp_path: Path) -> None:
    """Steps stop while the process lives, inside a call that holds the interpreter's lock."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - id: run-hung\n    at_least: 1\n")
    stuck = """
import ctypes
def stuck_in_a_library():
    ctypes.PyDLL(None).usleep(6_000_000)  # PyDLL keeps the lock
stuck_in_a_library()
"""
    done = train(LOOP + stuck, service, tmp_path / "spool", HOLTER_RULES=str(rules))
    assert done.returncode == 0, done.stderr
    (event,) = (event for event in service.run.events if event.kind == "stacks")
    assert "in stuck_in_a_library" in event.data["stacks"]
    assert event.step == 99
    assert "No step for" in event.text
    assert service.run.state == "finished"


def test_a_shipper_that_is_killed_is_started_again(service: FakeService, tmp_path: Path) -> None:
    """The next one goes on where it stopped; nothing is lost or doubled."""
    kill = """
import psutil
for round in range(3):
    for child in psutil.Process().children():
        if "holter.shipping" in " ".join(child.cmdline()):
            child.kill()
    for step in range(100 + round * 100, 200 + round * 100):
        run.log({"loss": step / 7}, step=step)
        time.sleep(0.01)
"""
    done = train(LOOP + kill, service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert service.run.points("loss") == [(step, step / 7) for step in range(400)]
    assert service.run.state == "finished"
    assert len(said(done)) == 2, done.stderr


def test_the_shipper_outlives_a_training_that_does_not_wait(service: FakeService, tmp_path: Path) -> None:
    """finish(timeout=0) returns at once, and the rest arrives all the same."""
    done = train(f"{LOOP}\nrun.finish(timeout=0)", service, tmp_path)
    assert done.returncode == 0
    eventually(lambda: service.runs and service.run.state == "finished")
    assert complete(service)


GUARDED = """
import holter, math, os, time
run = holter.init(project="p", id="r1")
saved = []
run.on_command("checkpoint", lambda reason: saved.append(reason))
step = 0
def log(**values):
    global step
    run.log(values, step=step)
    step += 1
for _ in range(300):
    log(loss=1.0 + step % 7 / 100, grad_norm=0.5)
deadline = time.monotonic() + 30
while not run._acts and time.monotonic() < deadline:  # until the shipper has read the rules
    time.sleep(0.01)
"""


@pytest.mark.parametrize("ship", ["process", "thread"])
def test_rules_stop_the_training_with_the_service_down(service: FakeService, tmp_path: Path, ship: str) -> None:
    """A non-finite loss within its own step: saved, then stopped; the update can be left out."""
    service.stop()
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - id: non-finite\n    actions: [notify, checkpoint, stop]\n")
    code = f"""{GUARDED}
assert not (run.should_stop or run.skip_step or saved)
log(loss=math.nan, grad_norm=0.5)
assert run.skip_step
assert run.should_stop
assert len(saved) == 1 and "NaN" in saved[0], saved
log(loss=1.0, grad_norm=0.5)
assert not run.skip_step and run.should_stop and len(saved) == 1
"""
    settings = {"HOLTER_RULES": str(rules), "HOLTER_SHIPPER": ship, "HOLTER_FINISH_TIMEOUT": "0", "HOLTER_LINGER": "0"}
    done = train(code, service, tmp_path / "spool", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("loss is NaN") == 1, done.stderr
    service.start()
    assert sync(tmp_path / "spool", service.url).complete
    assert service.run.state == "stopped"
    states = [(update.id.rpartition("-")[2], update.state) for update in service.run.updates]
    assert states == [
        ("checkpoint", "acknowledged"),
        ("stop", "acknowledged"),
        ("checkpoint", "done"),
        ("stop", "done"),
    ]


def test_other_rules_stop_it_within_a_moment(service: FakeService, tmp_path: Path) -> None:
    """An explosion is judged by the shipper, which needs no service either."""
    service.stop()
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules:\n  - {id: loss-explosion, actions: [notify, stop]}\n  - {id: non-finite, actions: [stop]}\n"
    )
    code = f"""{GUARDED}
deadline = time.monotonic() + 20
begun = None
while not run.should_stop and time.monotonic() < deadline:
    log(loss=1e6, grad_norm=0.5)
    begun = begun or time.monotonic()
    time.sleep(0.001)
assert run.should_stop
print(time.monotonic() - begun)
"""
    settings = {"HOLTER_RULES": str(rules), "HOLTER_FINISH_TIMEOUT": "0", "HOLTER_LINGER": "0"}
    done = train(code, service, tmp_path / "spool", **settings)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10


def test_values_beyond_the_disk_s_bound_are_counted(service: FakeService, tmp_path: Path) -> None:
    """The oldest go; how many, the service is told with the first frame."""
    service.stop()
    code = """
import holter
run = holter.init(project="p", id="r1")
for step in range(200_000):
    run.log({"loss": step / 7}, step=step)
"""
    settings = {"HOLTER_DISK_MAX": "4MB", "HOLTER_FINISH_TIMEOUT": "0", "HOLTER_LINGER": "0"}
    done = train(code, service, tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in tmp_path.rglob("rank0/journal/*.seg")) <= 4_000_000
    service.start()
    assert sync(tmp_path, service.url).complete
    steps = [step for step, _ in service.run.points("loss")]
    assert steps == list(range(steps[0], 200_000))
    assert max(frame.dropped for frame in service.run.frames.values() if frame.writer == "rank0") == steps[0] > 0


def test_killed_while_shipping_then_synced(service: FakeService, tmp_path: Path) -> None:
    """Wherever the kill falls among frames, answers and cursors, each step is committed exactly once."""
    code = """
    import holter, time
    run = holter.init(project="p", id="r1")
    step = 0
    while True:
        run.log({"loss": step / 7}, step=step)
        step += 1
        time.sleep(0.0005)
    """
    environment = {**os.environ, "HOLTER_URL": service.url, "HOLTER_DIR": str(tmp_path)}
    training = subprocess.Popen([sys.executable, "-c", dedent(code)], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (service.runs and len(service.run.frames) > 5) and time.monotonic() < deadline:
        time.sleep(0.005)
    training.kill()
    training.wait()
    shipped = len(service.run.points("loss"))
    assert sync(tmp_path, service.url).complete
    points = service.run.points("loss")
    assert len(points) >= shipped > 0
    assert points == [(step, step / 7) for step in range(len(points))]


def test_a_forked_child_records_nothing(service: FakeService, tmp_path: Path) -> None:
    """Neither its log calls nor its end touch the parent's run; a run of its own is its own."""
    done = train(
        f"""{LOOP}
child = os.fork()
if child == 0:
    run.log({{"loss": -1.0}}, step=1000)
    holter.log({{"loss": -1.0}}, step=1001)
    run.event("from the child")
    run.finish("failed")
    own = holter.init(project="p", id="child")
    own.log({{"loss": 5.0}}, step=0)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
run.log({{"loss": 100 / 7}}, step=100)
""",
        service,
        tmp_path,
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    parent, child = service.runs["r1"], service.runs["child"]
    assert parent.points("loss") == [(step, step / 7) for step in range(101)]
    assert [finish.state for finish in parent.finishes] == ["finished"]
    assert (child.points("loss"), child.state) == ([(0, 5.0)], "failed")


def test_dataloader_workers(service: FakeService, tmp_path: Path) -> None:
    """Forked workers that hold the run come and go without a trace."""
    done = train(
        f"""{LOOP}
import torch, warnings
warnings.simplefilter("ignore")
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        run.log({{"loss": -1.0}})
        return index
for _ in torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork"): pass
""",
        service,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert complete(service)
    assert service.run.state == "finished"


def test_spawned_workers(service: FakeService, tmp_path: Path) -> None:
    """A dataset that holds the run can be pickled; in the worker the run is silent."""
    script = tmp_path / "training.py"
    script.write_text("""
import holter, torch
class Data(torch.utils.data.Dataset):
    def __init__(self, run): self.run = run
    def __len__(self): return 4
    def __getitem__(self, index):
        self.run.log({"loss": -1.0})
        self.run.event("from the worker")
        return index
if __name__ == "__main__":
    run = holter.init(project="p", id="r1")
    for step in range(100):
        run.log({"loss": step / 7}, step=step)
    for _ in torch.utils.data.DataLoader(Data(run), num_workers=1, multiprocessing_context="spawn"): pass
""")
    done = train(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert complete(service)
    assert service.run.events == []
    assert len(said(done)) == 2, done.stderr


def test_a_disk_that_takes_no_more(service: FakeService, tmp_path: Path) -> None:
    """The loop goes on, one line says so, and what the disk took before is whole; here the kernel limits the files."""
    code = """
import holter, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
run = holter.init(project="p", id="r1", mode="offline")
for step in range(20_000):
    run.log({"loss": step / 7}, step=step)
"""
    done = train(code, service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the recording can't be written") == 1
    assert done.stderr.count("the disk did not take the last") == 1
    assert len(said(done)) <= 4, done.stderr
    sync(tmp_path, service.url)
    points = service.run.points("loss")
    assert points == [(step, step / 7) for step in range(len(points))]
    assert len(points) > 3_000


def test_ranks_of_a_launch_are_one_run(service: FakeService, tmp_path: Path) -> None:
    """As torchrun starts them: without an id, both ranks find the same run and attempt."""
    launcher = """
    import os, subprocess, sys
    code = '''
    import holter, os
    run = holter.init(project="p")
    run.log({"loss": float(os.environ["RANK"])}, step=0)
    '''
    code = "\\n".join(line.strip() for line in code.splitlines())
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2",
                         "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"})
        for rank in range(2)
    ]
    sys.exit(max(worker.wait() for worker in workers))
    """
    done = train(launcher, service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert service.run.points("loss", "rank0") == [(0, 0.0)]
    assert service.run.points("loss", "rank1") == [(0, 1.0)]
    assert len({frame.attempt for frame in service.run.frames.values()}) == 1


def test_the_service_down_from_beginning_to_end(service: FakeService, tmp_path: Path) -> None:
    """The program ends by the deadline, and says in one line where the recording is and how to ship it."""
    service.stop()
    begun = time.monotonic()
    done = train(LOOP, service, tmp_path, HOLTER_FINISH_TIMEOUT="0.5")
    assert done.returncode == 0
    assert time.monotonic() - begun < 30
    (line,) = [line for line in done.stderr.splitlines() if "not everything is shipped" in line]
    path = line.rpartition("holter sync ")[2]
    assert len(said(done)) <= 3
    service.start()
    assert sync(path, service.url).complete
    assert complete(service)
    assert service.run.state == "finished"
