"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from denovo.config import Config, TrainingSettings
from denovo.curriculum import Curriculum, Stage
from denovo.evaluate import Evaluation, count_correct, cross_entropy, evaluate, validation_sets
from denovo.losses import LossSettings, observed_peaks, soft_peptide
from denovo.model import DeNovoModel
from denovo.progress import Progress
from denovo.spectra import Batch, draw_batch

GRADIENT_SHARES_EVERY = 200  # steps; each costs a backward pass through the last layer for every loss


class Run(Protocol):
    """What the loop needs of a monitored run; `holter.init` returns one."""

    @property
    def should_stop(self) -> bool: ...

    def log(self, values: Mapping[str, Any], /, *, step: int) -> None: ...

    def event(self, text: str, /, *, kind: str, step: int, data: Mapping[str, Any]) -> None: ...

    def on_command(self, name: str, function: Callable[..., Any], /) -> None: ...


@dataclass(frozen=True)
class Components:
    """The total loss and what it consists of, unweighted; all of shape ``()``."""

    total: Tensor
    ce: Tensor
    spectrum: Tensor
    precursor: Tensor


@dataclass(frozen=True)
class Trained:
    """What a training leaves behind."""

    model: DeNovoModel
    steps: int  # that were taken
    evaluations: dict[str, Evaluation]  # the last ones, by validation set


def learning_rate_factor(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then a cosine from 1 down to `final_learning_rate`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.max_steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine


def loss_components(logits: Tensor, batch: Batch, losses: LossSettings, stage: Stage) -> Components:
    """Cross-entropy and this stage's auxiliary losses; one that weighs nothing is 0 and is not computed."""
    ce = cross_entropy(logits, batch.tokens)
    spectrum = precursor = torch.zeros_like(ce)
    peptide = soft_peptide(logits, batch.tokens)
    if stage.spectrum_loss_weight:
        spectrum = losses.spectrum(peptide.ions, observed_peaks(batch))
    if stage.precursor_loss_weight:
        precursor = losses.precursor(peptide.precursor_mass, batch.precursor_mass.to(logits.dtype))
    total = ce + stage.spectrum_loss_weight * spectrum + stage.precursor_loss_weight * precursor
    return Components(total, ce, spectrum, precursor)


class Trainer:
    """Model, optimiser and data of one training, a step at a time."""

    def __init__(self, config: Config) -> None:
        settings = config.training
        torch.set_num_threads(settings.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.curriculum = config.stages()
        self.device = torch.device(settings.device)
        self.model = DeNovoModel(config.model).to(self.device)
        self.forward = torch.compile(self.model) if settings.use_compile else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = LambdaLR(self.optimizer, lambda step: learning_rate_factor(step, settings))
        self.validation = {
            name: batch.to(self.device) for name, batch in validation_sets(settings.validation_size).items()
        }
        self.evaluations: dict[str, Evaluation] = {}
        self.next_step = 0

    def batch(self, step: int) -> Batch:
        """The batch of this step: runs with the same seed see the same spectra, whatever their losses."""
        rng = np.random.default_rng([self.config.seed, step])
        return draw_batch(rng, self.config.training.batch_size, self.curriculum.at(step).spectra).to(self.device)

    def step(self) -> dict[str, Any]:
        """Take the next step and return what there is to log about it."""
        started, cpu_started = time.perf_counter(), time.thread_time()
        stage = self.curriculum.at(self.next_step)
        batch = self.batch(self.next_step)
        logits = self.forward(batch)
        loss = loss_components(logits, batch, self.config.losses, stage)

        shares = self.gradient_shares(loss, stage) if self.next_step % GRADIENT_SHARES_EVERY == 0 else {}

        self.optimizer.zero_grad()
        loss.total.backward()
        max_norm = self.config.training.clip_norm or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)  # the norm before clipping
        self.optimizer.step()
        lr = self.schedule.get_last_lr()[0]
        self.schedule.step()

        n_tokens, n_correct = count_correct(logits, batch.tokens)
        values = {
            "loss/total": loss.total.detach(),
            "loss/ce": loss.ce.detach(),
            "loss/spectrum": loss.spectrum.detach(),
            "loss/precursor": loss.precursor.detach(),
            "weighted/ce": loss.ce.detach(),
            "weighted/spectrum": stage.spectrum_loss_weight * loss.spectrum.detach(),
            "weighted/precursor": stage.precursor_loss_weight * loss.precursor.detach(),
            "weight/spectrum": stage.spectrum_loss_weight,
            "weight/precursor": stage.precursor_loss_weight,
            "grad_norm": grad_norm,
            "lr": lr,
            "train/token_acc": n_correct.sum() / n_tokens.sum(),
            "curriculum/stage": self.curriculum.number_at(self.next_step),
            **shares,
        }
        self.next_step += 1
        step_time = time.perf_counter() - started
        return values | {
            "perf/step_time": step_time,
            "perf/step_cpu_time": time.thread_time() - cpu_started,  # comparable even on a busy machine
            "perf/it_per_s": 1 / step_time,
        }

    def gradient_shares(self, loss: Components, stage: Stage) -> dict[str, Tensor]:
        """‖w·∇L‖ / ‖∇CE‖ on the last layer, for each auxiliary loss that weighs something."""
        weights = {"spectrum": stage.spectrum_loss_weight, "precursor": stage.precursor_loss_weight}
        if self.config.training.use_compile or not any(weights.values()):
            return {}  # a compiled backward pass frees what a second one would need
        layer = self.model.output.weight
        (ce,) = torch.autograd.grad(loss.ce, layer, retain_graph=True)
        shares = {}
        for name, weight in weights.items():
            if weight:
                (part,) = torch.autograd.grad(getattr(loss, name), layer, retain_graph=True, allow_unused=True)
                shares[f"gshare/{name}"] = torch.zeros(()) if part is None else weight * part.norm() / ce.norm()
        return shares

    def validate(self) -> dict[str, float]:
        """Evaluate on every validation set and return what there is to log about it."""
        self.evaluations = {name: evaluate(self.model, batch) for name, batch in self.validation.items()}
        values = {}
        for name, evaluation in self.evaluations.items():
            values[f"val/{name}/loss"] = evaluation.loss
            values[f"val/{name}/token_acc"] = evaluation.token_accuracy
        return values

    def save(self, folder: Path) -> Path:
        """Write what is needed to go on from here, and return the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.config.name}-{self.next_step:06d}.pt"
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "next_step": self.next_step,
                "config": self.config.as_dict(),
            },
            path,
        )
        return path

    def load(self, path: Path) -> None:
        """Go on from a file that `save` wrote."""
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.next_step = state["next_step"]


def train(trainer: Trainer, run: Run, *, checkpoints: Path) -> Trained:
    """Train until the last step, or until `run` says to stop."""
    settings = trainer.config.training
    progress = Progress(trainer.config.name, settings.max_steps)
    run.on_command("checkpoint", lambda **_: str(trainer.save(checkpoints)))

    for step in range(trainer.next_step, settings.max_steps):
        if trainer.curriculum.begins_at(step):
            announce_stage(trainer.curriculum, step, run)
        values = trainer.step()
        is_last = step == settings.max_steps - 1
        if is_last or (step > 0 and step % settings.validate_every == 0):
            values |= trainer.validate()
            record_examples(trainer.evaluations, step, run)

        run.log(values, step=step)

        if is_last or step % settings.print_every == 0:
            progress.line(step, values)
        progress.advance(step + 1)
        if run.should_stop:
            progress.say(f"Stopped after step {step}, as asked")
            break
    progress.end()
    return Trained(trainer.model, trainer.next_step, trainer.evaluations)


def record_examples(evaluations: Mapping[str, Evaluation], step: int, run: Run) -> None:
    """Keep what each example came to, so that two runs can be compared example by example."""
    for name, evaluation in evaluations.items():
        run.event(
            f"{name}: {evaluation.n_correct.sum()} of {evaluation.n_tokens.sum()} tokens right",
            kind="evaluation",
            step=step,
            data={
                "metric": f"val/{name}/token_acc",
                "n_tokens": evaluation.n_tokens.tolist(),
                "n_correct": evaluation.n_correct.tolist(),
            },
        )


def announce_stage(curriculum: Curriculum, step: int, run: Run) -> None:
    """Record that a stage of the curriculum begins, with all that it changes."""
    number, stage = curriculum.number_at(step), curriculum.at(step)
    run.event(
        f"stage {number}: {stage.title}",
        kind="stage",
        step=step,
        data={"stage": number} | msgspec.to_builtins(stage),
    )
