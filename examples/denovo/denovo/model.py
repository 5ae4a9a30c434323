"""The sequencing model: a transformer encoder over peaks and a teacher-forced decoder over residues."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from denovo.peptides import PAD, START, TOKEN_MASS, VOCABULARY_SIZE
from denovo.spectra import Batch

SHORTEST_WAVELENGTH = 0.002  # Da
LONGEST_WAVELENGTH = 4000.0  # Da
SMALLEST_BASE_PEAK = 1e-6


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the model."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    feedforward: int  # width of the hidden layer behind each attention
    guard_empty_spectra: bool  # False divides by the base peak even where a spectrum has no peak: 0 / 0


class MassEncoding(nn.Module):
    """Sines and cosines of a mass at wavelengths from 0.002 to 4000 Da, as in Casanovo (Yilmaz et al. 2022).

    The phases are taken in float64: 1000 Da at 0.002 Da is half a million turns, which float32 can't hold.
    """

    frequencies: Tensor  # (width / 2,), radians per Da

    def __init__(self, width: int) -> None:
        super().__init__()
        wavelengths = torch.logspace(
            math.log10(SHORTEST_WAVELENGTH), math.log10(LONGEST_WAVELENGTH), width // 2, dtype=torch.float64
        )
        self.register_buffer("frequencies", 2 * math.pi / wavelengths, persistent=False)

    def forward(self, mass: Tensor) -> Tensor:
        """Masses in Da, any shape ``(…)`` float64, to features of shape ``(…, width)`` float32."""
        phase = mass.unsqueeze(-1) * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1).float()


class DeNovoModel(nn.Module):
    """Spectrum and precursor mass in, next residue out.

    The decoder's query is the previous token, the mass of the prefix so far and the mass that is left, so it
    needs no positional embedding: the position is a mass.
    """

    token_mass: Tensor  # (VOCABULARY_SIZE,), Da

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.guard_empty_spectra = settings.guard_empty_spectra
        self.mass_encoding = MassEncoding(width)
        self.intensity = nn.Linear(1, width)
        self.precursor = nn.Parameter(torch.zeros(width))
        self.token = nn.Embedding(VOCABULARY_SIZE, width)
        self.prefix = nn.Linear(width, width)
        self.remainder = nn.Linear(width, width)
        layer: dict[str, Any] = {
            "dim_feedforward": settings.feedforward,
            "dropout": 0.0,
            "batch_first": True,
            "norm_first": True,
        }
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, settings.heads, **layer),
            settings.encoder_layers,
            nn.LayerNorm(width),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, settings.heads, **layer), settings.decoder_layers, nn.LayerNorm(width)
        )
        self.output = nn.Linear(width, VOCABULARY_SIZE)
        self.register_buffer("token_mass", torch.from_numpy(TOKEN_MASS), persistent=False)

    def relative_intensity(self, batch: Batch) -> Tensor:
        """Intensities relative to the spectrum's highest peak, shape ``(n, p)``."""
        base_peak = batch.intensity.amax(dim=1, keepdim=True)
        if self.guard_empty_spectra:
            base_peak = base_peak.clamp_min(SMALLEST_BASE_PEAK)
        return batch.intensity / base_peak

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Memory of shape ``(n, 1 + p, width)`` (precursor first) and the mask of what is no peak."""
        peaks = self.mass_encoding(batch.mz) + self.intensity(self.relative_intensity(batch).unsqueeze(-1))
        precursor = self.mass_encoding(batch.precursor_mass) + self.precursor
        missing = torch.cat([torch.zeros_like(batch.is_peak[:, :1]), ~batch.is_peak], dim=1)
        everything = torch.cat([precursor.unsqueeze(1), peaks], dim=1)
        return self.encoder(everything, src_key_padding_mask=missing), missing

    def forward(self, batch: Batch) -> Tensor:
        """Logits of every next token under teacher forcing, shape ``(n, t + 1, VOCABULARY_SIZE)``."""
        memory, missing = self.encode(batch)
        before = torch.cat([torch.full_like(batch.tokens[:, :1], START), batch.tokens[:, :-1]], dim=1)
        prefix_mass = self.token_mass[before].cumsum(dim=1)
        remaining_mass = batch.precursor_mass.unsqueeze(1) - prefix_mass
        query = (
            self.token(before)
            + self.prefix(self.mass_encoding(prefix_mass))
            + self.remainder(self.mass_encoding(remaining_mass))
        )
        future = torch.ones(before.shape[1], before.shape[1], dtype=torch.bool, device=before.device).triu(1)
        decoded = self.decoder(
            query, memory, tgt_mask=future, tgt_key_padding_mask=before == PAD, memory_key_padding_mask=missing
        )
        logits: Tensor = self.output(decoded)
        return logits
