"""The workload's peptides and spectra weigh what pyteomics says, and are the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from pyteomics import mass

from denovo.peptides import (
    OXIDISED_METHIONINE,
    PAD,
    START,
    STOP,
    TOKEN_MASS,
    TOKENS,
    VOCABULARY_SIZE,
    peptide_mass,
    random_tryptic_peptides,
    residue_mass,
    to_text,
    token_of,
)
from denovo.spectra import Batch, Difficulty, draw_batch, fragment_mz

HARD = Difficulty(shortest=12, longest=18, noise_peaks=8, missing_ions=0.15, peak_dropout=0.1, error_ppm=15.0)


def tokens_of(sequence: str, longest: int) -> np.ndarray:
    row = np.full((1, longest), PAD)
    row[0, : len(sequence)] = [token_of(residue) for residue in sequence]
    return row


def same(one: Batch, other: Batch) -> bool:
    return one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("sequence", ["GASPVTK", "LINDQEHFR", "YWWK"])
def test_a_peptide_weighs_what_pyteomics_says(sequence: str) -> None:
    """Neutral monoisotopic mass, whatever the padding."""
    weight = peptide_mass(tokens_of(sequence, 12))[0]
    assert weight == pytest.approx(mass.calculate_mass(sequence=sequence), abs=1e-6)


def test_modifications_add_their_own_mass() -> None:
    """Carbamidomethyl is 57.02146 Da and oxidation 15.99491 Da (Unimod 4 and 35)."""
    assert residue_mass("C") - mass.std_aa_mass["C"] == pytest.approx(57.021464, abs=1e-6)
    assert residue_mass(OXIDISED_METHIONINE) - residue_mass("M") == pytest.approx(15.994915, abs=1e-6)


def test_the_alphabet_has_24_tokens_of_which_three_weigh_nothing() -> None:
    assert VOCABULARY_SIZE == len(set(TOKENS)) == 24
    assert TOKEN_MASS[[PAD, START, STOP]].tolist() == [0, 0, 0]
    assert (TOKEN_MASS[3:] > 50).all()


@pytest.mark.parametrize("sequence", ["GASPVTK", "LINDQEHFR"])
def test_fragments_weigh_what_pyteomics_says(sequence: str) -> None:
    """b_i of the first i residues and y of the rest, singly charged."""
    longest = 12
    mz, exists = fragment_mz(tokens_of(sequence, longest), np.array([len(sequence)]))
    cuts = range(1, len(sequence))
    b_ions = [mass.fast_mass(sequence[:cut], ion_type="b", charge=1) for cut in cuts]
    y_ions = [mass.fast_mass(sequence[cut:], ion_type="y", charge=1) for cut in cuts]
    assert exists.sum() == 2 * len(cuts)
    np.testing.assert_allclose(mz[exists], b_ions + y_ions, atol=1e-5)


def test_peptides_are_tryptic() -> None:
    """They end in K or R, have neither inside, and every length of the range occurs."""
    tokens, lengths = random_tryptic_peptides(np.random.default_rng(0), 500, 7, 10)
    for row, length in zip(tokens, lengths, strict=True):
        text = to_text(row)
        assert text[-1] in "KR"
        assert not set("KR") & set(text[:-1])
        assert (row[:length] > STOP).all()
        assert (row[length:] == PAD).all()
    assert set(lengths) == {7, 8, 9, 10}


def test_a_batch_holds_what_its_difficulty_asks_for() -> None:
    """Peaks only where the mask says so, at most 2·(L−1) ions and 8 noise peaks, errors of some ppm."""
    batch = draw_batch(np.random.default_rng(1), 400, HARD)
    assert batch.mz.shape == batch.intensity.shape == batch.is_peak.shape == (400, 2 * 17 + 8)
    assert (batch.mz[~batch.is_peak] == 0).all()
    assert (batch.intensity[~batch.is_peak] == 0).all()
    assert (batch.intensity[batch.is_peak] > 0).all()
    assert ((batch.tokens == STOP).sum(dim=1) == 1).all()
    clean = draw_batch(np.random.default_rng(1), 400, Difficulty(shortest=12, longest=18))
    assert clean.is_peak.sum() == 2 * ((clean.tokens > STOP).sum() - 400)


def test_dropout_can_leave_a_spectrum_without_a_peak() -> None:
    batch = draw_batch(np.random.default_rng(2), 50, Difficulty(shortest=7, longest=7, peak_dropout=0.95))
    assert (~batch.is_peak.any(dim=1)).any()


def test_the_same_generator_gives_the_same_batch() -> None:
    assert same(draw_batch(np.random.default_rng(3), 8, HARD), draw_batch(np.random.default_rng(3), 8, HARD))
    assert not same(draw_batch(np.random.default_rng(3), 8, HARD), draw_batch(np.random.default_rng(4), 8, HARD))
