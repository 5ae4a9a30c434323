"""Peptides as token numbers: the alphabet, monoisotopic masses, and a source of random tryptic peptides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyteomics import mass

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

PAD, START, STOP = 0, 1, 2
OXIDISED_METHIONINE = "M[Oxidation]"
RESIDUES: tuple[str, ...] = (*"GASPVTCLINDQKEMHFRYW", OXIDISED_METHIONINE)
TOKENS: tuple[str, ...] = ("[pad]", "[start]", "[stop]", *RESIDUES)
VOCABULARY_SIZE = len(TOKENS)

WATER: float = mass.calculate_mass(formula="H2O")  # Da
PROTON: float = mass.nist_mass["H+"][0][0]  # Da
CARBAMIDOMETHYL: float = mass.calculate_mass(formula="C2H3NO")  # Da, on every cysteine (iodoacetamide)
OXIDATION: float = mass.calculate_mass(formula="O")  # Da

OXIDISED_SHARE = 0.2  # of all methionines

# Average composition of UniProtKB/Swiss-Prot in percent (release statistics, "amino acid composition").
COMPOSITION = {
    "A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.72, "G": 7.07, "H": 2.27, "I": 5.91,
    "L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86, "P": 4.74, "S": 6.65, "T": 5.36, "W": 1.10, "Y": 2.92, "V": 6.86,
}  # fmt: skip


def residue_mass(residue: str) -> float:
    """Monoisotopic mass of one residue in Da, with its modification."""
    if residue == OXIDISED_METHIONINE:
        return float(mass.std_aa_mass["M"] + OXIDATION)
    return float(mass.std_aa_mass[residue] + (CARBAMIDOMETHYL if residue == "C" else 0.0))


TOKEN_MASS: FloatArray = np.array([0.0] * 3 + [residue_mass(residue) for residue in RESIDUES])
"""Mass of every token in Da, shape ``(VOCABULARY_SIZE,)``; [pad], [start] and [stop] weigh nothing."""


def token_of(residue: str) -> int:
    return TOKENS.index(residue)


def _shares(weights: dict[str, float]) -> FloatArray:
    shares: FloatArray = np.array([weights.get(token, 0.0) for token in TOKENS])
    shares /= shares.sum()
    return shares


def _inner_composition() -> dict[str, float]:
    """Trypsin cuts behind K and R, so neither stands inside a peptide without a missed cleavage."""
    inner = {residue: share for residue, share in COMPOSITION.items() if residue not in "KR"}
    methionine = inner["M"]
    return inner | {"M": methionine * (1 - OXIDISED_SHARE), OXIDISED_METHIONINE: methionine * OXIDISED_SHARE}


_INNER = np.cumsum(_shares(_inner_composition()))
_LAST = np.cumsum(_shares({residue: COMPOSITION[residue] for residue in "KR"}))


def random_tryptic_peptides(
    rng: np.random.Generator, count: int, shortest: int, longest: int
) -> tuple[IntArray, IntArray]:
    """`count` peptides of `shortest` to `longest` residues that end in K or R.

    Returns:
        Tokens, shape ``(count, longest)``, padded with `PAD` on the right, and lengths, shape ``(count,)``.
    """
    lengths = rng.integers(shortest, longest, size=count, endpoint=True)
    tokens = np.searchsorted(_INNER, rng.random((count, longest)), side="right")
    rows = np.arange(count)
    tokens[rows, lengths - 1] = np.searchsorted(_LAST, rng.random(count), side="right")
    tokens[np.arange(longest) >= lengths[:, None]] = PAD
    return tokens.astype(np.int64), lengths


def peptide_mass(tokens: IntArray) -> FloatArray:
    """Neutral monoisotopic mass in Da, shape ``(n,)``, of token rows of shape ``(n, longest)``."""
    masses: FloatArray = TOKEN_MASS[tokens].sum(axis=1) + WATER
    return masses


def to_text(tokens: IntArray) -> str:
    """The peptide as people write it, without [pad], [start] and [stop]."""
    return "".join(TOKENS[token] for token in tokens if token > STOP)
