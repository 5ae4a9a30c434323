"""On a real GPU: nothing of log, watch and the flight recorder ever waits for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import holter
from holter.device import snapshot
from holter.flight import Trigger
from holter.records import START, Names, Points
from holter.spool import Reader, find_spools
from holter.system import SystemSampler
from holter.testing import Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: torch.cuda.is_available() is False"),
]


@pytest.fixture
def strict() -> Iterator[None]:
    """Every synchronisation raises."""
    torch.ones(1, device="cuda").item()  # the context, which synchronises while it is made
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def _training(*, fused: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    with torch.device("cuda"):  # made there: moving it there would wait
        model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, *, clip: bool) -> Any:
    optimizer.zero_grad()
    loss = model(torch.randn(32, 64, device="cuda")).square().mean()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()
    return loss.detach()


@pytest.mark.usefixtures("strict")
def test_the_double_would_notice() -> None:
    """The mode is on: .item() raises."""
    with pytest.raises(RuntimeError):
        torch.ones(1, device="cuda").item()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_a_watched_training_never_waits(clip: bool, fused: bool, tmp_path: Path) -> None:
    """log of device tensors and watch with the recorder, through a real journal; values and steps are right."""
    run = holter.init(project="gpu", mode="offline", dir=tmp_path)
    model, optimizer = _training(fused=fused)
    run.watch(model, optimizer, flight_recorder=16)
    kept = []
    for step in range(50):
        run.batch(torch.arange(4, device="cuda") + step)
        loss = _step(model, optimizer, clip=clip)
        kept.append(loss.clone())
        run.log({f"loss/{index}": loss * index for index in range(8)}, step=step)
        loss.zero_()  # in place, after it was logged
    torch.cuda.set_sync_debug_mode("default")
    run.finish()
    rows = _rows(tmp_path)
    assert [step for step, _ in rows] == list(range(50))
    expected = [float(loss) for loss in kept]
    assert [values["loss/1"] for _, values in rows] == expected
    assert all(math.isfinite(values["watch/grad_norm"]) for _, values in rows)
    assert all(values["watch/memory_allocated_gb"] > 0 for _, values in rows[::10])


def _rows(folder: Path) -> list[tuple[int, dict[str, float]]]:
    (spool,) = (spool for spool in find_spools(folder) if "system" not in spool.start.writer.name)
    rows, names = [], {}
    for found, _ in Reader(spool.path).read(START):
        if isinstance(found, Names):
            names[found.number] = found.metrics
        elif isinstance(found, Points):
            rows.append((found.step, dict(zip(names[found.names], found.values, strict=True))))
    return rows


@pytest.mark.usefixtures("strict")
def test_a_stream_of_the_user_s_own() -> None:
    """The copy is enqueued where the value is made."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        value = torch.zeros((), device="cuda")
        for _ in range(200):
            value = value + 1
        row = snapshot([value, 0.5], [0])
        value.zero_()
    assert row.resolve() == [200.0, 0.5]


def test_capturing_a_graph_is_not_disturbed(capsys: pytest.CaptureFixture[str]) -> None:
    """log within a capture leaves the device's values out; the graph replays."""
    run = Recorder()
    x = torch.ones(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = x * 2
        run.log({"y": y.sum(), "lr": 0.5}, step=0)
    graph.replay()
    assert float(y.sum()) == 16.0
    assert [row.values for row in run.rows] == [{"lr": 0.5}]
    assert "CUDA graph" in capsys.readouterr().err


def test_the_recorder_names_the_culprit_of_a_training_on_the_device(tmp_path: Path) -> None:
    """The batch's ids were on the device all along."""
    run = Recorder()
    run.directory = tmp_path
    model, optimizer = _training(fused=True)
    run.watch(model, optimizer)
    for step in range(6):
        run.batch(torch.arange(3, device="cuda") + 100 * step)
        x = torch.randn(32, 64, device="cuda")
        if step == 4:
            x[0, 0] = math.nan
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.log({"loss": loss}, step=step)
    text = run.dump_flight(Trigger("incident", incident="i"))
    assert text == (
        "loss was the first to be non-finite (NaN), at step 4, and all 4 gradients with it; batch: 400, 401 and 1 more"
    )


def test_a_gpu_tells_whether_it_is_throttled_and_its_memory_errors() -> None:
    """What the rules gpu-throttled and gpu-errors look at; a GPU without ECC leaves the second out."""
    values = SystemSampler().sample()
    assert values["system/gpu0/throttled"] in (0.0, 1.0)
    assert values.get("system/gpu0/ecc_uncorrected", 0.0) >= 0.0
    assert 0.0 < values["system/gpu0/temperature"] < 120.0
