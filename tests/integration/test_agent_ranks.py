"""Four processes of one training, started by torchrun with gloo, against the real service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

TRAINING = """
import math, time, torch, holter
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
run = holter.init(project="p", name="four", planned_steps=40)
run.watch(model, optimizer)
stopped_at = None
for step in range({steps}):
    torch.manual_seed(step * 4 + rank)
    x = torch.randn(16, 8)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value = math.nan if (rank, step) == (3, 20) else loss.item()
    run.log({{"loss": value, "rank/number": float(rank)}}, step=step)
    if {pause} and step < 10:
        time.sleep(0.02)
{end}
dist.destroy_process_group()
"""


def launch(folder: Path, url: str, code: str) -> subprocess.Popen[str]:
    script = folder / "training.py"
    script.write_text(dedent(code))
    environment = {
        **os.environ,
        "HOLTER_URL": url,
        "HOLTER_DIR": str(folder / "spool"),
        "HOLTER_HEARTBEAT": "0.5",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(script)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def the_run(service) -> dict:
    (run,) = service.get("/runs")["runs"]
    return run


def test_four_ranks_are_one_run(service, tmp_path: Path) -> None:
    """Nothing overwrites anything; the ranks are one metric's mean, least and greatest, and rank 3's NaN stands out."""
    training = launch(tmp_path, service.base, TRAINING.format(steps=40, pause=1, end=""))
    said, _ = training.communicate(timeout=180)
    assert training.returncode == 0, said
    run = the_run(service)
    assert (run["state"], run["last_step"], run["name"]) == ("finished", 39, "four")
    series = service.get(f"/runs/{run['id']}/series?metric=rank/number")["series"]
    assert {each["writer"]: (each["steps"], set(each["values"])) for each in series} == {
        f"rank{rank}": (list(range(40)), {float(rank)}) for rank in range(4)
    }
    (across,) = service.get(f"/runs/{run['id']}/series?metric=rank/number&across=ranks")["series"]
    assert set(across["min"]) == {0.0}
    assert set(across["mean"]) == {1.5}
    assert set(across["max"]) == {3.0}
    losses = service.get(f"/runs/{run['id']}/series?metric=loss")["series"]
    assert len({tuple(map(str, each["values"])) for each in losses}) == 4  # each rank has batches of its own
    assert [each["writer"] for each in losses if "NaN" in each["values"]] == ["rank3"]
    norms = service.get(f"/runs/{run['id']}/series?metric=watch/grad_norm")["series"]
    assert len(norms) == 4
    assert len({tuple(each["values"]) for each in norms}) == 1  # DDP has averaged the gradients
    ranks = service.get(f"/runs/{run['id']}/ranks")["ranks"]
    assert sorted(row["writer"] for row in ranks) == [f"rank{rank}" for rank in range(4)]
    assert {row["last_step"] for row in ranks} == {39}
    incidents = service.get(f"/incidents?run={run['id']}")["incidents"]
    assert [incident["rank"] for incident in incidents if incident["kind"] == "non_finite"] == [3]


def test_a_stop_reaches_every_rank(service, tmp_path: Path) -> None:
    """Each of them acknowledges it; the run is stopped once the last one has ended."""
    end = "while not run.should_stop:\n    step += 1\n    run.log({'loss': 1.0}, step=step)\n    time.sleep(0.02)"
    code = TRAINING.format(steps=5, pause=0, end=end)
    training = launch(tmp_path, service.base, code)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (
        service.get("/runs")["runs"] and (the_run(service)["last_step"] or 0) > 20
    ):
        time.sleep(0.1)
    run = the_run(service)["id"]
    service.post(f"/runs/{run}/commands", {"name": "stop"})
    said, _ = training.communicate(timeout=120)
    assert training.returncode == 0, said
    assert the_run(service)["state"] == "stopped"
    (command,) = service.get(f"/runs/{run}/commands")["commands"]
    assert command["state"] == "done"
    assert sorted(answer["writer"] for answer in command["answers"]) == [f"rank{rank}" for rank in range(4)]


@pytest.mark.parametrize("death", ["raise ValueError('bad batch')", "import os; os.kill(os.getpid(), 9)"])
def test_a_rank_that_dies_is_named(service, tmp_path: Path, death: str) -> None:
    """The others hang in the next collective operation until torchrun kills them; the first to die is the reason."""
    end = f"if rank == 2:\n    time.sleep(0.5)\n    {death}\ndist.barrier()"
    training = launch(tmp_path, service.base, TRAINING.format(steps=5, pause=0, end=end))
    training.communicate(timeout=180)
    assert training.returncode != 0
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and the_run(service)["state"] == "running":
        time.sleep(0.1)
    run = service.get(f"/runs/{the_run(service)['id']}")["run"]
    assert run["state"] == "failed"
    assert "rank2" in run["state_reason"]
