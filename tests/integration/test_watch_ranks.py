"""watch in DDP and FSDP: two gloo processes, of which only the first one watches, and nobody hangs."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

MODES = ["ddp", "fsdp1", "fsdp1 clip", "fsdp2", "fsdp2 clip"]
CLIP_AT = 0.01
STEPS = 4


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def _data(step: int) -> torch.Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(step))


def _wrapped(mode: str) -> nn.Module:
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    model = _model()
    if mode.startswith("ddp"):
        return nn.parallel.DistributedDataParallel(model)
    if mode.startswith("fsdp1"):
        return fsdp.FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    mesh = init_device_mesh("cpu", (2,))
    for part in (model[0], model[2], model):  # type: ignore[index]
        fsdp.fully_shard(part, mesh=mesh)
    return model


def _train(mode: str, rank: int) -> dict[str, list[float]]:
    from holter.testing import Recorder

    model, run = _wrapped(mode), Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if rank == 0:
        run.watch(model, optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(_data(step)[rank]).square().mean().backward()
        if mode == "fsdp1 clip":
            model.clip_grad_norm_(CLIP_AT)  # type: ignore[operator]
        elif "clip" in mode:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_AT)
        optimizer.step()
        run.log({"loss": 1.0}, step=step)
    run.finish()
    return {name: run.values(name) for name in ("watch/grad_norm", "watch/grad_norm_local", "loss")}


def _norms(*, clip: bool) -> list[float]:
    """Of one process that has the whole batch."""
    model, found = _model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(_data(step).reshape(12, 8)).square().mean().backward()
        norms = [float(p.grad.double().norm()) for p in model.parameters() if p.grad is not None]
        found.append(math.hypot(*norms))
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_AT)
        optimizer.step()
    return found


@pytest.mark.slow
def test_the_norm_is_that_of_all_ranks_or_says_that_it_is_not() -> None:
    """Clipping sums over the ranks, and watch takes it from there, with no collective that only one rank joins."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env=common | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    first, second = (json.loads(output) for output in outputs)
    for mode in MODES:
        assert second[mode] == {"watch/grad_norm": [], "watch/grad_norm_local": [], "loss": [1.0] * STEPS}
        whole, local = first[mode]["watch/grad_norm"], first[mode]["watch/grad_norm_local"]
        expected = _norms(clip="clip" in mode)
        if "clip" in mode or mode == "ddp":
            assert whole == pytest.approx(expected, rel=1e-5)
            assert local == []
        else:
            assert whole == []
            assert all(0 < part < total for part, total in zip(local, expected, strict=True))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "agent"))
    own_rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", rank=own_rank, world_size=2)
    results = {mode: _train(mode, own_rank) for mode in MODES}
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    print(json.dumps(results))  # noqa: T201 - what the test reads
