"""The workload really learns, and every recipe really shows its pattern.

One training is taken to step 1,000; every recipe goes on from its checkpoint, at the step where the auxiliary losses
enter, so that what differs afterwards is the recipe.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from math import inf, isfinite, isinf, isnan
from pathlib import Path
from typing import Any

import pytest
import torch

from denovo.config import load_config
from denovo.train import Trainer, train

# One group: the workers of a parallel run would each train the common start again.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("denovo")]

ENTRY = 1000
Rows = list[dict[str, float]]


class Recorder:
    """A run that keeps every row and stops in time."""

    def __init__(self, last_step: float = inf) -> None:
        self.rows: Rows = []
        self._last_step = last_step
        self._step = -1

    def log(self, values: Mapping[str, Any], /, *, step: int) -> None:
        self._step = step
        self.rows.append({name: float(value) for name, value in values.items()})

    def event(self, text: str, /, *, kind: str, step: int, data: Mapping[str, Any]) -> None:
        pass

    def on_command(self, name: str, function: Callable[..., Any], /) -> None:
        pass

    @property
    def should_stop(self) -> bool:
        return self._step >= self._last_step

    def values(self, metric: str) -> list[float]:
        return [row[metric] for row in self.rows]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the configurations ask for, and as many as before for whatever is tested next."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """A healthy training up to the entry of the auxiliary losses: its record, and its checkpoint."""
    folder = tmp_path_factory.mktemp("denovo")
    trainer = Trainer(load_config("tiny", overrides=["training.validate_every=500"]))
    run = Recorder(last_step=ENTRY - 1)
    train(trainer, run, checkpoints=folder)
    return run, trainer.save(folder)


@pytest.fixture
def follow(start: tuple[Recorder, Path], tmp_path: Path) -> Callable[[str, int], Recorder]:
    """Train a recipe for some steps from the entry of the auxiliary losses on."""

    def go_on(recipe: str, steps: int) -> Recorder:
        settings = ["training.max_steps=5000", "training.curriculum_scale=0.05", "training.validate_every=5000"]
        trainer = Trainer(load_config(f"recipes/{recipe}", overrides=settings))
        assert trainer.curriculum.entry_of_auxiliary_losses() == ENTRY
        trainer.load(start[1])
        run = Recorder(last_step=ENTRY + steps - 1)
        train(trainer, run, checkpoints=tmp_path)
        assert len(run.rows) == steps
        return run

    return go_on


def test_it_learns(start: tuple[Recorder, Path]) -> None:
    """More than 40 % of the tokens right before step 1,000, in training and on the fixed easy set at step 500."""
    rows = start[0].rows
    assert statistics.mean(row["train/token_acc"] for row in rows[-100:]) > 0.4
    assert rows[0]["train/token_acc"] < 0.1
    assert statistics.mean(row["loss/ce"] for row in rows[-100:]) < 2.0
    assert rows[500]["val/easy/token_acc"] > rows[500]["val/hard/token_acc"] > 0.1


@pytest.mark.parametrize("recipe", ["healthy_new", "healthy_old"])
def test_healthy_recipes_stay_healthy(follow: Callable[[str, int], Recorder], recipe: str) -> None:
    """Everything finite, both auxiliary losses small beside the cross-entropy, gradients as before."""
    run = follow(recipe, 100)
    assert all(isfinite(value) for row in run.rows for value in row.values())
    assert max(run.values("loss/total")) < 3
    assert all(0 < row["weighted/spectrum"] + row["weighted/precursor"] < 0.2 * row["loss/ce"] for row in run.rows)
    assert statistics.median(run.values("grad_norm")) < 2


def test_precursor_x100_exceeds_5_and_stays_there(
    start: tuple[Recorder, Path], follow: Callable[[str, int], Recorder]
) -> None:
    """The weighted precursor loss alone is above 5, and the gradient's norm many times what it was."""
    before = statistics.median(start[0].values("grad_norm")[-100:])
    run = follow("precursor_x100", 100)
    assert statistics.median(run.values("weighted/precursor")) > 5
    assert statistics.median(run.values("loss/total")) > 6
    assert statistics.median(run.values("grad_norm")) > 5 * before
    assert all(isfinite(value) for value in run.values("loss/total"))


def test_explosion_destroys_what_was_learned_without_ever_being_infinite(
    start: tuple[Recorder, Path], follow: Callable[[str, int], Recorder]
) -> None:
    before = start[0].rows[-100:]
    after = follow("explosion", 200).rows
    assert all(isfinite(row["loss/total"]) and isfinite(row["grad_norm"]) for row in after)
    assert max(row["loss/total"] for row in after) > 60
    lost = statistics.mean(row["loss/ce"] for row in after[-50:]) - statistics.mean(row["loss/ce"] for row in before)
    assert lost > 1
    assert statistics.mean(row["train/token_acc"] for row in after[-50:]) < 0.25


def test_one_empty_spectrum_makes_everything_nan_for_ever(follow: Callable[[str, int], Recorder]) -> None:
    """Kind C: healthy until then; from that step on all four losses and the gradient's norm are NaN."""
    rows = follow("nan_empty_spectra", 150).rows
    first = next(index for index, row in enumerate(rows) if isnan(row["loss/total"]))
    assert 0 < first < 140
    sick = ("loss/total", "loss/ce", "loss/spectrum", "loss/precursor", "grad_norm")
    assert all(isfinite(row[metric]) for row in rows[:first] for metric in sick)
    assert all(isnan(row[metric]) for row in rows[first:] for metric in sick)


def test_float16_makes_a_metric_infinite_and_nothing_else(
    follow: Callable[[str, int], Recorder],
) -> None:
    """Kind A: the precursor loss and with it the total are infinite; gradient and cross-entropy don't notice."""
    rows = follow("inf_fp16", 60).rows
    assert all(isinf(row["loss/precursor"]) and isinf(row["loss/total"]) for row in rows)
    assert all(isfinite(row["grad_norm"]) and isfinite(row["loss/ce"]) for row in rows)
    healthy = follow("healthy_old", 60).rows
    difference = [row["loss/ce"] - other["loss/ce"] for row, other in zip(rows, healthy, strict=True)]
    assert abs(statistics.mean(difference)) < 0.02


def test_a_clamped_loss_is_flat_and_dead_but_for_spikes(follow: Callable[[str, int], Recorder]) -> None:
    """100 at nearly every step; where an error is below 100 ppm by chance, its gradient is hundreds of times larger."""
    run = follow("clamp", 150)
    assert statistics.median(run.values("loss/precursor")) == 100.0
    assert statistics.median(run.values("grad_norm")) < 2
    assert max(run.values("grad_norm")) > 20


def test_the_literal_grid_is_many_times_slower(follow: Callable[[str, int], Recorder]) -> None:
    """In CPU time, which a busy machine doesn't inflate; and worth the same loss but for what coarse bins alias."""
    slow, fast = follow("grid_slow", 4), follow("healthy_new", 4)
    ratio = statistics.median(slow.values("perf/step_cpu_time")) / statistics.median(fast.values("perf/step_cpu_time"))
    assert ratio > 5
    assert slow.rows[0]["loss/spectrum"] == pytest.approx(fast.rows[0]["loss/spectrum"], abs=0.05)
