"""The auxiliary losses, in both families: what the model's probabilities imply about fragments and precursor.

Old: distance to the nearest observed peak (a hard minimum) under Huber's loss, and log1p of the precursor's error.
New: one minus the cosine of two spectra rendered as Gaussians, and a constant 0.004 per Da of precursor error.

Every loss is a frozen settings object that is called, so the configuration names exactly what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from denovo.peptides import PAD, PROTON, STOP, TOKEN_MASS, WATER
from denovo.spectra import Batch

Positive = Annotated[float, Meta(gt=0)]

SMALLEST_NORM = 1e-12  # keeps the cosine with an empty spectrum at 0 instead of 0 / 0


@dataclass(frozen=True)
class Peaks:
    """n spectra of at most p peaks; a peak that isn't there has weight 0."""

    mz: Tensor  # (n, p)
    weight: Tensor  # (n, p)


@dataclass(frozen=True)
class SoftPeptide:
    """The masses that a distribution over tokens implies, differentiable in its probabilities."""

    precursor_mass: Tensor  # (n,), neutral, Da
    ions: Peaks  # b_1, b_2, … and their complements, weight 1 each


def soft_peptide(logits: Tensor, tokens: Tensor) -> SoftPeptide:
    """Expected residue masses, summed to ions and to the whole peptide.

    Args:
        logits: shape ``(n, t, vocabulary)``.
        tokens: the answers, shape ``(n, t)``; they say only how long each peptide is.
    """
    is_residue = (tokens != PAD) & (tokens != STOP)
    token_mass = torch.as_tensor(TOKEN_MASS, dtype=logits.dtype, device=logits.device)
    prefix = (logits.softmax(dim=-1) @ token_mass * is_residue).cumsum(dim=1)
    whole = prefix[:, -1:]
    inner = is_residue[:, 1:].to(logits.dtype)  # a cut behind residue i needs a residue i + 1
    mz = torch.cat([prefix[:, :-1] + PROTON, whole - prefix[:, :-1] + WATER + PROTON], dim=1)
    return SoftPeptide(whole.squeeze(1) + WATER, Peaks(mz, torch.cat([inner, inner], dim=1)))


def observed_peaks(batch: Batch, dtype: torch.dtype = torch.float32) -> Peaks:
    """Square roots of the intensities, as in spectral library search, so that no single peak decides."""
    return Peaks(batch.mz.to(dtype), batch.intensity.sqrt().to(dtype))


class HardMinHuber(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hard_min_huber"):
    """Mean over predicted ions of Huber's loss of the distance to the nearest observed peak (the old loss).

    The nearest peak changes abruptly, and with it the gradient's direction.
    """

    delta: Positive = 1.0  # Da: quadratic below, linear above
    scale: Positive = 0.05  # loss per Da in the linear part

    def __call__(self, predicted: Peaks, observed: Peaks) -> Tensor:
        distance = (predicted.mz.unsqueeze(2) - observed.mz.unsqueeze(1)).abs()
        nearest = distance.masked_fill((observed.weight == 0).unsqueeze(1), torch.inf).amin(dim=2)
        nearest = nearest.masked_fill(nearest.isinf(), 0.0)  # nothing is near in an empty spectrum
        huber = torch.nn.functional.huber_loss(nearest, torch.zeros_like(nearest), reduction="none", delta=self.delta)
        return self.scale / self.delta * (huber * predicted.weight).sum() / predicted.weight.sum().clamp_min(1)


def _inner_product(left: Peaks, right: Peaks, sigma: float) -> Tensor:
    """∫ of the product of two spectra rendered with Gaussians of width sigma, over sigma·√π; shape ``(n,)``.

    Gaussians of width sigma at a and b overlap by exp(−(a−b)²/(4σ²)) times that constant.
    """
    distance = left.mz.unsqueeze(2) - right.mz.unsqueeze(1)
    overlap = torch.exp(-(distance**2) / (4 * sigma**2))
    return torch.einsum("np,npq,nq->n", left.weight, overlap, right.weight)


def _one_minus_cosine(product: Tensor, left_square: Tensor, right_square: Tensor) -> Tensor:
    """In [0, 1] for spectra that are nowhere negative; 1 where one of them is empty."""
    norms = (left_square * right_square).clamp_min(SMALLEST_NORM).sqrt()
    return (1 - product / norms).mean()


class GaussianKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gaussian_kernel"):
    """1 − cosine of the Gaussian-rendered spectra, in closed form: the limit of ever finer bins (the new loss)."""

    sigma: Positive = 0.05  # Da

    def __call__(self, predicted: Peaks, observed: Peaks) -> Tensor:
        return _one_minus_cosine(
            _inner_product(predicted, observed, self.sigma),
            _inner_product(predicted, predicted, self.sigma),
            _inner_product(observed, observed, self.sigma),
        )


class GaussianGrid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gaussian_grid"):
    """The same loss on a literal grid of bins. Slow, and bins wider than sigma alias; kept to compare with."""

    sigma: Positive = 0.05  # Da
    bin_width: Positive = 0.1  # Da
    highest_mz: Positive = 2000.0

    def render(self, peaks: Peaks) -> Tensor:
        """Spectra on the grid, shape ``(n, bins)``."""
        grid = torch.arange(0.0, self.highest_mz, self.bin_width, dtype=peaks.mz.dtype, device=peaks.mz.device)
        bells = torch.exp(-((grid - peaks.mz.unsqueeze(2)) ** 2) / (2 * self.sigma**2))
        return torch.einsum("np,npb->nb", peaks.weight, bells)

    def __call__(self, predicted: Peaks, observed: Peaks) -> Tensor:
        left, right = self.render(predicted), self.render(observed)
        return _one_minus_cosine((left * right).sum(1), (left**2).sum(1), (right**2).sum(1))


SpectrumLoss = HardMinHuber | GaussianKernel | GaussianGrid


def _parts_per_million(error: Tensor, precursor_mass: Tensor) -> Tensor:
    return error * 1e6 / precursor_mass


class Log1pPpm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log1p_ppm"):
    """multiplier · log1p(ppm / ppm_scale), the old precursor loss.

    With the defaults its gradient is 10 / (M + 10e) per Da of error e at mass M: it vanishes as the error grows.
    """

    ppm_scale: Positive = 1e5
    multiplier: Positive = 1.0
    dtype: Literal["float32", "float16"] = "float32"  # float16 overflows above 65,504 ppm·Da

    def __call__(self, predicted_mass: Tensor, precursor_mass: Tensor) -> Tensor:
        error = (predicted_mass - precursor_mass).abs()
        if self.dtype == "float16":
            error, precursor_mass = error.half(), precursor_mass.half()
        ppm = _parts_per_million(error, precursor_mass)
        return (self.multiplier * torch.log1p(ppm / self.ppm_scale)).mean().float()


class ScaledL1(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="scaled_l1"):
    """scale_factor per Da of error, whatever the error: the new precursor loss."""

    scale_factor: Positive = 0.004  # per Da

    def __call__(self, predicted_mass: Tensor, precursor_mass: Tensor) -> Tensor:
        return self.scale_factor * (predicted_mass - precursor_mass).abs().mean()


class ClampedPpm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="clamped_ppm"):
    """The error in ppm, cut off at `highest`: nothing is learned from any error above it."""

    highest: Positive = 100.0  # ppm

    def __call__(self, predicted_mass: Tensor, precursor_mass: Tensor) -> Tensor:
        error = (predicted_mass - precursor_mass).abs()
        return _parts_per_million(error, precursor_mass).clamp(max=self.highest).mean()


PrecursorLoss = Log1pPpm | ScaledL1 | ClampedPpm


class LossSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which loss stands for each auxiliary component; the curriculum weights them."""

    spectrum: SpectrumLoss
    precursor: PrecursorLoss
