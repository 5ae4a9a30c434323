"""Validation on fixed sets of spectra, kept per example so that two runs can be compared pairwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denovo.model import DeNovoModel
from denovo.peptides import PAD, VOCABULARY_SIZE
from denovo.spectra import Batch, Difficulty, draw_batch

VALIDATION_SEED = 20_240_229  # never the training seed: every run is validated on the same spectra

VALIDATION_SETS = {
    "easy": Difficulty(shortest=7, longest=10),
    "hard": Difficulty(shortest=12, longest=18, noise_peaks=8, missing_ions=0.15, error_ppm=15.0),
}


@dataclass(frozen=True)
class Evaluation:
    """One model on one validation set of n spectra."""

    loss: float  # mean cross-entropy per token, nats
    n_tokens: NDArray[np.int64]  # (n,) tokens to predict, [stop] included
    n_correct: NDArray[np.int64]  # (n,) of them predicted under teacher forcing

    @property
    def token_accuracy(self) -> float:
        return float(self.n_correct.sum() / self.n_tokens.sum())


def validation_sets(size: int) -> dict[str, Batch]:
    """The easy and the hard set, `size` spectra each; the same on every machine."""
    return {
        name: draw_batch(np.random.default_rng([VALIDATION_SEED, index]), size, difficulty)
        for index, (name, difficulty) in enumerate(VALIDATION_SETS.items())
    }


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean over all tokens but [pad]; logits ``(n, t, vocabulary)``, tokens ``(n, t)``."""
    return torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY_SIZE), tokens.reshape(-1), ignore_index=PAD)


def count_correct(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Per example, the number of tokens and of those whose most probable prediction is right; shapes ``(n,)``."""
    counted = tokens != PAD
    correct = (logits.argmax(dim=-1) == tokens) & counted
    return counted.sum(dim=1), correct.sum(dim=1)


@torch.no_grad()
def evaluate(model: DeNovoModel, batch: Batch) -> Evaluation:
    """Cross-entropy and per-example accuracy; the model is back in training mode afterwards."""
    model.eval()
    logits = model(batch)
    model.train()
    n_tokens, n_correct = count_correct(logits, batch.tokens)
    return Evaluation(cross_entropy(logits, batch.tokens).item(), n_tokens.cpu().numpy(), n_correct.cpu().numpy())
