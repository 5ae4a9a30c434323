"""What watch says about real optimizer steps: clipping, mixed precision, groups, compiled models, its own faults."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_ as clip_imported_by_name

from holter import patches
from holter.norms import SAMPLE_MAX, Norms, Sample
from holter.testing import Recorder


def _norm(parameters: Any) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))


class Loop:
    """A small training that is watched."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.run = Recorder()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.run.watch(self.model, self.optimizer, **options)

    def backward(self, scale: float = 1.0) -> None:
        self.optimizer.zero_grad()
        (self.model(torch.randn(8, 4)).square().sum() * scale).backward()

    def log(self, step: int) -> dict[str, float]:
        self.run.log({"loss": 1.0}, step=step)
        return self.run.rows[-1].values


@pytest.mark.parametrize("recorder", [0, 8])
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, clip_imported_by_name])
def test_the_norm_is_the_one_before_clipping(clip: Any, recorder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the function was imported before watch; without a recorder nothing is computed again."""
    loop = Loop(flight_recorder=recorder)
    measured = []
    original = Norms.of
    monkeypatch.setattr(Norms, "of", lambda *args, **kwargs: measured.append(1) or original(*args, **kwargs))
    for step in range(3):
        loop.backward()
        before = _norm(loop.model.parameters())
        clip(loop.model.parameters(), 0.5)
        assert _norm(loop.model.parameters()) == pytest.approx(0.5, rel=1e-3)
        loop.optimizer.step()
        assert loop.log(step)["watch/grad_norm"] == pytest.approx(before, rel=1e-6)
    assert len(measured) == (6 if recorder else 0)


def test_clipping_part_by_part_and_by_another_norm() -> None:
    """The total is over all gradients as they were before the first part was clipped, and a 2-norm in any case."""
    loop = Loop()
    loop.backward()
    before = _norm(loop.model.parameters())
    clip_imported_by_name(loop.model[0].parameters(), 0.1)
    clip_imported_by_name(loop.model[2].parameters(), 0.1)
    loop.optimizer.step()
    assert loop.log(0)["watch/grad_norm"] == pytest.approx(before, rel=1e-6)
    loop.backward()
    before = _norm(loop.model.parameters())
    clip_imported_by_name(loop.model.parameters(), 0.1, norm_type=math.inf)
    loop.optimizer.step()
    assert loop.log(1)["watch/grad_norm"] == pytest.approx(before, rel=1e-6)


def test_clipping_during_accumulation_counts_the_last_time() -> None:
    """Some loops clip after every backward pass."""
    loop = Loop()
    loop.backward()
    clip_imported_by_name(loop.model.parameters(), 0.1)
    loop.model(torch.randn(8, 4)).square().sum().backward()
    before = _norm(loop.model.parameters())
    clip_imported_by_name(loop.model.parameters(), 0.1)
    loop.optimizer.step()
    assert loop.log(0)["watch/grad_norm"] == pytest.approx(before, rel=1e-6)


def test_accumulation_is_one_step() -> None:
    """Three backward passes, one optimizer step, one norm: that of their sum."""
    loop = Loop()
    for _ in range(3):
        loop.model(torch.randn(8, 4)).square().sum().backward()
    expected = _norm(loop.model.parameters())
    loop.optimizer.step()
    loop.log(0)
    assert loop.run.values("watch/grad_norm") == pytest.approx([expected], rel=1e-6)


def test_groups_have_norms_of_their_own() -> None:
    """Before clipping, too."""
    run = Recorder()
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD([{"params": part.parameters(), "lr": 0.1} for part in model])
    run.watch(model, optimizer)
    model(torch.randn(8, 4)).square().sum().backward()
    expected = [_norm(part.parameters()) for part in model]
    clip_imported_by_name(model.parameters(), 0.01)
    optimizer.step()
    run.log({"loss": 1.0}, step=0)
    values = run.rows[-1].values
    assert [values[f"watch/grad_norm/group{index}"] for index in (0, 1)] == pytest.approx(expected, rel=1e-6)
    assert values["watch/grad_norm"] == pytest.approx(math.hypot(*expected), rel=1e-6)


@pytest.mark.parametrize("clip", ["no", "unscaled", "scaled"])
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision(clip: str, fused: bool) -> None:
    """Norms are those of the unscaled gradients wherever they are taken; left out steps are counted."""
    loop = Loop()
    loop.run.finish()
    loop.run = Recorder()
    loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr=1e-3, fused=fused)
    loop.run.watch(loop.model, loop.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        loop.optimizer.zero_grad()
        loss = loop.model(torch.randn(8, 4)).square().sum() * (math.inf if step == 2 else 1.0)
        scaler.scale(loss).backward()
        expected, scale = _norm(loop.model.parameters()) / scaler.get_scale(), scaler.get_scale()
        if clip == "unscaled":
            scaler.unscale_(loop.optimizer)
        if clip != "no":
            clip_imported_by_name(loop.model.parameters(), 1e-3 if clip == "unscaled" else 1.0)
        scaler.step(loop.optimizer)
        scaler.update()
        values = loop.log(step)
        assert values["watch/amp_scale"] == scale
        assert values["watch/amp_skipped"] == (1 if step >= 2 else 0)
        if step == 2:
            assert not math.isfinite(values["watch/grad_norm"])
        else:
            assert values["watch/grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_a_scaler_that_is_switched_off_is_none() -> None:
    """As on a machine without mixed precision."""
    loop = Loop()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loop.backward()
    scaler.step(loop.optimizer)
    scaler.update()
    assert "watch/amp_scale" not in loop.log(0)


def test_the_update_ratio_is_exact_for_small_models() -> None:
    """At every tenth step: ‖Δw‖ / ‖w‖ over all parameters."""
    loop = Loop()
    expected = []
    for step in range(21):
        before = torch.cat([p.detach().clone().reshape(-1) for p in loop.model.parameters()])
        loop.backward()
        loop.optimizer.step()
        after = torch.cat([p.detach().reshape(-1) for p in loop.model.parameters()])
        if step % 10 == 0:
            expected.append(float((after - before).norm() / before.norm()))
        loop.log(step)
    assert loop.run.values("watch/update_ratio") == pytest.approx(expected, rel=1e-5)


def test_a_sample_is_small_and_spread() -> None:
    """At most 65,536 elements of a parameter, of any layout; a move of all elements alike is measured exactly."""
    large = nn.Parameter(torch.ones(300, 1000))
    transposed = nn.Parameter(torch.ones(500, 400).t())
    sample = Sample([large, transposed])
    sample.take()
    assert all(part.numel() <= 2 * SAMPLE_MAX for part in sample._before)
    with torch.no_grad():
        large.mul_(1.5)
        transposed.mul_(1.5)
    ratio = sample.ratio()
    assert float(ratio) == pytest.approx(0.5, rel=1e-5)


def test_sparse_double_and_absent_gradients() -> None:
    """Mixed kinds in one model."""
    run = Recorder()
    model = nn.ModuleDict(
        {"embed": nn.Embedding(10, 4, sparse=True), "wide": nn.Linear(4, 2).double(), "idle": nn.Linear(2, 2)}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer)
    model["wide"](model["embed"](torch.tensor([1, 1, 3])).double()).square().sum().backward()
    dense = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters() if p.grad is not None]
    expected = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in dense))
    optimizer.step()
    run.log({"loss": 1.0}, step=0)
    assert run.values("watch/grad_norm") == pytest.approx([expected], rel=1e-5)


def test_layers_that_are_unfrozen_later_count() -> None:
    """A curriculum sets requires_grad in the middle; within ten steps they are in the norm."""
    loop = Loop()
    loop.model[0].requires_grad_(False)
    for step in range(25):
        if step == 5:
            loop.model[0].requires_grad_(True)
        loop.backward()
        expected = _norm(loop.model.parameters())
        loop.optimizer.step()
        values = loop.log(step)
    assert values["watch/grad_norm"] == pytest.approx(expected, rel=1e-6)


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds between optimizer steps, steps and samples a second; from the second step on."""
    times = iter([10.0, 10.5, 12.5])
    monkeypatch.setattr("holter.watcher.time.perf_counter", lambda: next(times))
    loop = Loop()
    for step in range(3):
        loop.run.batch(range(16))
        loop.backward()
        loop.optimizer.step()
        loop.log(step)
    assert loop.run.values("watch/step_time") == [0.5, 2.0]
    assert loop.run.values("watch/throughput") == [2.0, 0.5]
    assert loop.run.values("watch/samples_per_second") == [32.0, 8.0]


def test_a_compiled_model() -> None:
    """torch.compile of the model changes nothing; of the step, that is said."""
    loop = Loop()
    compiled = torch.compile(loop.model, backend="eager")
    compiled(torch.randn(8, 4)).square().sum().backward()
    expected = _norm(loop.model.parameters())
    loop.optimizer.step()
    assert loop.log(0)["watch/grad_norm"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_optimizer_step_is_watched_too() -> None:
    """Its graph breaks at the hook, as it does at torch's own decorator in any case."""
    loop = Loop()
    compiled = torch.compile(loop.optimizer.step, backend="eager")
    for step in range(3):
        loop.backward()
        expected, before = _norm(loop.model.parameters()), loop.model[0].weight.detach().clone()
        compiled()
        assert not torch.equal(before, loop.model[0].weight)
        assert loop.log(step)["watch/grad_norm"] == pytest.approx(expected, rel=1e-6)


def test_the_patches_are_gone_when_the_run_ends() -> None:
    """torch is as it was before, also with two runs that overlap."""
    module: Any = __import__("sys").modules["torch.nn.utils.clip_grad"]

    def standing() -> list[Any]:
        return [module._get_total_norm, module._clip_grads_with_norm_, torch.nn.utils.clip_grads_with_norm_,
                torch.nn.utils.get_total_norm, torch.amp.GradScaler.step]  # fmt: skip

    for leftover in list(patches._listeners):  # other tests' runs that were not ended
        patches.stop_listening(leftover)
    before = standing()
    first, second = Loop(), Loop()
    assert all(one is not other for one, other in zip(before, standing(), strict=True))
    first.run.finish()
    assert standing() != before
    second.run.finish()
    assert standing() == before


def test_a_fault_of_its_own_ends_watching_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the training goes on; the user's other hooks, too."""
    loop = Loop()
    called = []
    loop.optimizer.register_step_pre_hook(lambda *_: called.append(1))
    monkeypatch.setattr(Norms, "of", lambda *_, **__: 1 / 0)
    for step in range(3):
        loop.backward()
        clip_imported_by_name(loop.model.parameters(), 1.0)
        loop.optimizer.step()
        loop.log(step)
    assert len(called) == 3
    assert capsys.readouterr().err == "holter: watch has stopped: ZeroDivisionError: division by zero\n"
    assert len(loop.run.values("loss")) == 3


def test_unwatched_clipping_is_left_alone() -> None:
    """Another model's gradients are clipped while this one is watched."""
    loop = Loop()
    other = nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    total = clip_imported_by_name(other.parameters(), 0.1)
    assert float(total) == pytest.approx(math.sqrt(6))
    assert _norm(other.parameters()) == pytest.approx(0.1, rel=1e-3)
    loop.backward()
    expected = _norm(loop.model.parameters())
    loop.optimizer.step()
    assert loop.log(0)["watch/grad_norm"] == pytest.approx(expected, rel=1e-6)
