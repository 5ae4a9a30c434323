"""Synthetic fragment spectra: singly charged b and y ions with log-normal intensities, errors, gaps and noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denovo.peptides import PROTON, STOP, TOKEN_MASS, WATER, peptide_mass, random_tryptic_peptides

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NOISE_MZ = (100.0, 1800.0)  # m/z range of noise peaks
INTENSITY_SIGMA = 1.0  # of the logarithm, for fragment ions
NOISE_INTENSITY = 0.3  # median of noise peaks, where that of fragment ions is 1


class Difficulty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How hard the spectra are that are drawn: one for every stage and every validation set."""

    shortest: int  # residues
    longest: int  # residues
    noise_peaks: int = 0  # at most, per spectrum; the number is uniform from 0 on
    missing_ions: float = 0.0  # share of fragment ions that were never seen
    peak_dropout: float = 0.0  # share of peaks, noise or not, that augmentation removes
    error_ppm: float = 0.0  # standard deviation of the relative m/z error


@dataclass(frozen=True)
class Batch:
    """Spectra with their peptides; n spectra of at most p peaks, peptides of at most t residues and a [stop]."""

    mz: Tensor  # (n, p) float64, 0 where there is no peak
    intensity: Tensor  # (n, p) float32, raw, 0 where there is no peak
    is_peak: Tensor  # (n, p) bool
    precursor_mass: Tensor  # (n,) float64, neutral, Da
    tokens: Tensor  # (n, t + 1) int64, [stop] behind the last residue, then [pad]

    def to(self, device: torch.device) -> Batch:
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def fingerprint(self) -> str:
        """Equal for equal data: tells whether two runs were validated on the same spectra."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(getattr(self, field.name).numpy().tobytes())
        return digest.hexdigest()[:16]


def fragment_mz(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[FloatArray, BoolArray]:
    """m/z of the singly charged b and y ions of token rows of shape ``(n, longest)``.

    b_i is the first i residues plus a proton, y_i the last i residues plus water and a proton
    (Roepstorff & Fohlman 1984).

    Returns:
        m/z and a mask of the ions that exist, both of shape ``(n, 2 * (longest - 1))``: b_1, b_2, … then their
        complements y_{L-1}, y_{L-2}, …
    """
    prefix = np.cumsum(TOKEN_MASS[tokens], axis=1)
    b_ions = prefix[:, :-1] + PROTON
    y_ions = prefix[:, -1:] - prefix[:, :-1] + WATER + PROTON
    exists = np.arange(1, tokens.shape[1]) < lengths[:, None]
    return np.concatenate([b_ions, y_ions], axis=1), np.concatenate([exists, exists], axis=1)


def _noise(rng: np.random.Generator, count: int, peaks: int) -> tuple[FloatArray, FloatArray, BoolArray]:
    mz = rng.uniform(*NOISE_MZ, size=(count, peaks))
    intensity = NOISE_INTENSITY * rng.lognormal(0.0, INTENSITY_SIGMA, size=(count, peaks))
    present = np.arange(peaks) < rng.integers(0, peaks, size=(count, 1), endpoint=True)
    return mz, intensity, present


def draw_batch(rng: np.random.Generator, count: int, difficulty: Difficulty) -> Batch:
    """`count` new peptides and their spectra. The same generator state gives the same batch."""
    tokens, lengths = random_tryptic_peptides(rng, count, difficulty.shortest, difficulty.longest)
    ions, exists = fragment_mz(tokens, lengths)
    seen = exists & (rng.random(ions.shape) >= difficulty.missing_ions)
    noise_mz, noise_intensity, noise_present = _noise(rng, count, difficulty.noise_peaks)

    mz = np.concatenate([ions, noise_mz], axis=1)
    mz *= 1 + 1e-6 * difficulty.error_ppm * rng.standard_normal(mz.shape)
    intensity = np.concatenate([rng.lognormal(0.0, INTENSITY_SIGMA, size=ions.shape), noise_intensity], axis=1)
    is_peak = np.concatenate([seen, noise_present], axis=1) & (rng.random(mz.shape) >= difficulty.peak_dropout)

    answer = np.concatenate([tokens, np.zeros((count, 1), dtype=np.int64)], axis=1)
    answer[np.arange(count), lengths] = STOP
    return Batch(
        mz=torch.from_numpy(np.where(is_peak, mz, 0.0)),
        intensity=torch.from_numpy(np.where(is_peak, intensity, 0.0)).float(),
        is_peak=torch.from_numpy(is_peak),
        precursor_mass=torch.from_numpy(peptide_mass(tokens)),
        tokens=torch.from_numpy(answer),
    )
