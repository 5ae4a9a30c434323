"""How a training's process can end, or multiply: real processes against a real HTTP server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


def test_killed_at_once_then_synced(service: FakeService, tmp_path: Path) -> None:
    """kill -9 with the service down: what was logged more than 50 ms before is there (here: a generous second)."""
    service.stop()
    done = train(f"{LOOP}\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)", service, tmp_path)
    assert done.returncode == -signal.SIGKILL
    service.start()
    report = sync(tmp_path, service.url)
    assert report.complete
    assert complete(service)
    assert service.run.state == "running"
    assert sync(tmp_path, service.url).points == 0


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
    assert len(done.stderr.splitlines()) <= 3
    service.start()
    assert sync(path, service.url).complete
    assert complete(service)
    assert service.run.state == "finished"
