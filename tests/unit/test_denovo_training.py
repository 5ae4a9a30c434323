"""The workload's loop: what it logs, that it stops when told, and that a checkpoint goes on exactly."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denovo.config import Config, load_config
from denovo.evaluate import count_correct, evaluate, validation_sets
from denovo.model import DeNovoModel
from denovo.progress import Progress
from denovo.spectra import Difficulty, draw_batch
from denovo.train import Trainer, learning_rate_factor, train

EVERY_STEP = {
    "loss/total", "loss/ce", "loss/spectrum", "loss/precursor", "weighted/ce", "weighted/spectrum",
    "weighted/precursor", "weight/spectrum", "weight/precursor", "grad_norm", "lr", "train/token_acc",
    "curriculum/stage", "perf/step_time", "perf/step_cpu_time", "perf/it_per_s",
}  # fmt: skip
VALIDATION = {"val/easy/loss", "val/easy/token_acc", "val/hard/loss", "val/hard/token_acc"}


class Recorder:
    """A run that keeps what it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.events: list[tuple[str, str, int, Mapping[str, Any]]] = []
        self.commands: dict[str, Callable[..., Any]] = {}
        self._stop_after = stop_after

    def log(self, values: Mapping[str, Any], /, *, step: int) -> None:
        assert step == len(self.rows)
        self.rows.append({name: float(value) for name, value in values.items()})

    def event(self, text: str, /, *, kind: str, step: int, data: Mapping[str, Any]) -> None:
        self.events.append((text, kind, step, data))

    def on_command(self, name: str, function: Callable[..., Any], /) -> None:
        self.commands[name] = function

    @property
    def should_stop(self) -> bool:
        return self._stop_after is not None and len(self.rows) > self._stop_after


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def short(*overrides: str) -> Config:
    return load_config(
        "tiny",
        overrides=[
            "training.max_steps=12",
            "training.batch_size=8",
            "training.validate_every=5",
            "training.validation_size=16",
            "training.print_every=4",
            *overrides,
        ],
    )


def test_every_step_is_logged_with_its_parts(tmp_path: Path) -> None:
    """All metrics at every step, the total the sum of its weighted parts, auxiliary losses 0 until they enter."""
    run = Recorder()
    trained = train(Trainer(short()), run, checkpoints=tmp_path)
    assert trained.steps == len(run.rows) == 12
    for step, row in enumerate(run.rows):
        assert set(row) >= EVERY_STEP
        weighted = row["weighted/ce"] + row["weighted/spectrum"] + row["weighted/precursor"]
        assert row["loss/total"] == pytest.approx(weighted, rel=1e-5)
        assert row["weighted/precursor"] == pytest.approx(row["weight/precursor"] * row["loss/precursor"], rel=1e-5)
        assert (row["loss/spectrum"] > 0) is (row["loss/precursor"] > 0) is (step >= 8)
        assert row["grad_norm"] > 0
    assert [step for step, row in enumerate(run.rows) if set(row) >= VALIDATION] == [5, 10, 11]


def test_stages_are_announced_where_they_begin(tmp_path: Path) -> None:
    run = Recorder()
    train(Trainer(short()), run, checkpoints=tmp_path)
    stages = [event for event in run.events if event[1] == "stage"]
    assert [(kind, step, data["stage"]) for _, kind, step, data in stages] == [
        ("stage", 0, 1),
        ("stage", 3, 2),
        ("stage", 8, 3),
    ]
    assert stages[2][0] == "stage 3: auxiliary losses"
    assert stages[2][3]["spectrum_loss_weight"] == 0.08

    assert [row["curriculum/stage"] for row in run.rows] == [1] * 3 + [2] * 5 + [3] * 4


def test_every_evaluation_keeps_its_examples(tmp_path: Path) -> None:
    """What each spectrum came to adds up to the accuracy that is logged at the same step."""
    run = Recorder()
    train(Trainer(short()), run, checkpoints=tmp_path)
    kept = [(step, data) for _, kind, step, data in run.events if kind == "evaluation"]
    assert {(step, data["metric"]) for step, data in kept} == {
        (step, f"val/{name}/token_acc") for step in (5, 10, 11) for name in ("easy", "hard")
    }
    for step, data in kept:
        assert sum(data["n_correct"]) / sum(data["n_tokens"]) == pytest.approx(run.rows[step][data["metric"]])


def test_gradient_shares_are_logged_once_the_auxiliary_losses_weigh_something() -> None:
    """‖w·∇L‖ / ‖∇CE‖ of the last layer, every 200 steps."""
    trainer = Trainer(load_config("tiny", overrides=["training.batch_size=8", "training.validation_size=8"]))
    trainer.next_step = 3400
    logged = {name: float(value) for name, value in trainer.step().items() if name.startswith("gshare/")}
    assert set(logged) == {"gshare/spectrum", "gshare/precursor"}
    assert all(0 < value < 10 for value in logged.values())
    for step in (200, 3401):
        trainer.next_step = step
        assert not [name for name in trainer.step() if name.startswith("gshare/")]


def test_it_stops_at_the_step_at_which_it_is_told(tmp_path: Path) -> None:
    run = Recorder(stop_after=6)
    assert train(Trainer(short()), run, checkpoints=tmp_path).steps == 7
    assert len(run.rows) == 7


def test_the_same_seed_gives_the_same_training(tmp_path: Path) -> None:
    """Bit for bit, apart from the clock; and another seed another one."""
    one, again, other = (Recorder() for _ in range(3))
    for run, seed in ((one, 0), (again, 0), (other, 1)):
        train(Trainer(short(f"seed={seed}")), run, checkpoints=tmp_path)
    losses = [[row["loss/total"] for row in run.rows] for run in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_both_loss_families_see_the_same_data_until_the_losses_enter(tmp_path: Path) -> None:
    """So that a comparison of two runs compares the losses, and a treatment that was not applied is seen."""
    new = ["losses.spectrum={kind: gaussian_kernel}", "losses.precursor={kind: scaled_l1}"]
    old_run, new_run = Recorder(), Recorder()
    train(Trainer(short()), old_run, checkpoints=tmp_path)
    train(Trainer(short(*new)), new_run, checkpoints=tmp_path)
    same = [one["loss/ce"] == other["loss/ce"] for one, other in zip(old_run.rows, new_run.rows, strict=True)]
    assert same == [True] * 9 + [False] * 3  # the first step with auxiliary losses still starts from equal weights


def test_a_checkpoint_goes_on_exactly_where_it_was_written(tmp_path: Path) -> None:
    """Asked for by a command after step 6; the steps from 7 on are those of the run that was not interrupted."""
    whole, first, second = Recorder(), Recorder(stop_after=6), Recorder()
    train(Trainer(short()), whole, checkpoints=tmp_path)
    train(Trainer(short()), first, checkpoints=tmp_path)
    path = Path(first.commands["checkpoint"]())
    assert path == tmp_path / "tiny-000007.pt"

    resumed = Trainer(short("seed=0"))
    resumed.load(path)
    second.rows = list(first.rows)
    assert train(resumed, second, checkpoints=tmp_path).steps == 12
    assert [row["loss/total"] for row in second.rows] == [row["loss/total"] for row in whole.rows]


def test_the_printed_line_reads_as_the_plan_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Trainer(short()), Recorder(), checkpoints=tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Step ")]
    assert [line.split("|")[0].strip() for line in lines] == ["Step 0", "Step 4", "Step 8", "Step 11"]
    assert lines[0].startswith("Step 0    | Total: 3.")
    parts = ["Total", "CE", "Spectrum", "Precursor", "Token acc", "Grad norm"]
    assert [part.split(":")[0].strip() for part in lines[0].split("|")[1:]] == parts


def test_a_terminal_gets_a_bar_that_makes_room_for_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    progress = Progress("tiny", 100, screen)
    progress._drawn = -math.inf
    progress.advance(50)
    progress.say("a line")
    progress.end()
    drawn = screen.getvalue()
    assert "50/100" in drawn
    assert "\r\x1b[Ka line\n" in drawn


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    settings = load_config("tiny").training
    factors = [learning_rate_factor(step, settings) for step in range(settings.max_steps)]
    assert factors[0] == 0.01
    assert max(factors) == factors[settings.warmup_steps] == 1.0
    assert factors[-1] == pytest.approx(settings.final_learning_rate, abs=1e-4)


# --- validation ---------------------------------------------------------------------------------------------------


def test_validation_sets_never_change() -> None:
    """The same spectra for every run and seed, on every machine: two runs are comparable only on the same set."""
    first, second = validation_sets(64), validation_sets(64)
    assert {name: batch.fingerprint() for name, batch in first.items()} == {
        name: batch.fingerprint() for name, batch in second.items()
    }
    assert first["easy"].tokens[0].tolist() == second["easy"].tokens[0].tolist()
    lengths = {name: (batch.tokens > 2).sum(dim=1) for name, batch in first.items()}
    assert (lengths["easy"].min(), lengths["easy"].max()) == (7, 10)
    assert (lengths["hard"].min(), lengths["hard"].max()) == (12, 18)


def test_accuracy_is_kept_per_example() -> None:
    trainer = Trainer(short())
    evaluation = evaluate(trainer.model, trainer.validation["easy"])
    assert evaluation.n_tokens.shape == evaluation.n_correct.shape == (16,)
    assert (evaluation.n_tokens == (trainer.validation["easy"].tokens != 0).sum(dim=1).numpy()).all()
    assert evaluation.token_accuracy == evaluation.n_correct.sum() / evaluation.n_tokens.sum()
    assert trainer.model.training


def test_padding_counts_as_neither_right_nor_wrong() -> None:
    tokens = torch.tensor([[5, 2, 0], [6, 7, 2]])
    logits = 10 * torch.nn.functional.one_hot(torch.tensor([[5, 9, 0], [6, 7, 2]]), 24).float()
    n_tokens, n_correct = count_correct(logits, tokens)
    assert n_tokens.tolist() == [2, 3]
    assert n_correct.tolist() == [1, 3]


# --- the model ----------------------------------------------------------------------------------------------------


def test_no_prediction_sees_what_comes_after_it() -> None:
    """Changing the fifth residue leaves the logits up to and including the fifth position as they were."""
    torch.manual_seed(0)
    model = DeNovoModel(load_config("tiny").model).eval()
    batch = draw_batch(np.random.default_rng(0), 4, Difficulty(7, 7))
    changed = type(batch)(batch.mz, batch.intensity, batch.is_peak, batch.precursor_mass, batch.tokens.clone())
    changed.tokens[:, 4] = 3 + (batch.tokens[:, 4] - 2) % 20
    with torch.no_grad():
        before, after = model(batch), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_an_empty_spectrum_is_nan_only_without_the_guard() -> None:
    batch = draw_batch(np.random.default_rng(0), 4, Difficulty(7, 7, peak_dropout=1.0))
    settings = load_config("tiny").model
    unguarded = load_config("recipes/nan_empty_spectra").model
    assert torch.isfinite(DeNovoModel(settings)(batch)).all()
    assert torch.isnan(DeNovoModel(unguarded)(batch)).all()
