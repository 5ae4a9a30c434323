"""The workload's losses against their closed forms: what they are worth, and what gradient they send back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from denovo.losses import (
    ClampedPpm,
    GaussianGrid,
    GaussianKernel,
    HardMinHuber,
    Log1pPpm,
    Peaks,
    ScaledL1,
    observed_peaks,
    soft_peptide,
)
from denovo.peptides import VOCABULARY_SIZE
from denovo.spectra import Difficulty, draw_batch, fragment_mz

EASY = Difficulty(shortest=7, longest=10, noise_peaks=4, error_ppm=5.0)


def peaks(mz: list[float], weight: list[float] | None = None) -> Peaks:
    weights = [1.0] * len(mz) if weight is None else weight
    return Peaks(torch.tensor([mz], dtype=torch.float64), torch.tensor([weights], dtype=torch.float64))


def gradient_per_da(loss: Callable[[Tensor, Tensor], Tensor], error: float, precursor: float = 1200.0) -> float:
    predicted = torch.tensor([precursor + error], dtype=torch.float64, requires_grad=True)
    loss(predicted, torch.tensor([precursor], dtype=torch.float64)).backward()
    assert predicted.grad is not None
    return predicted.grad.item()


def random_pair(seed: int) -> tuple[Peaks, Peaks]:
    """Eight predictions that lie a little beside the observed spectra, as those of a trained model do."""
    batch = draw_batch(np.random.default_rng(seed), 8, EASY)
    observed = observed_peaks(batch, torch.float64)
    offset = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.05, size=observed.mz.shape))
    return Peaks(observed.mz + offset, batch.is_peak.double()), observed


# --- precursor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.5, 20.0, 200.0])
def test_l1_sends_back_0_004_per_da_whatever_the_error(error: float) -> None:
    assert gradient_per_da(ScaledL1(), error) == pytest.approx(0.004)
    assert gradient_per_da(ScaledL1(), -error) == pytest.approx(-0.004)


@pytest.mark.parametrize("error", [0.5, 20.0, 200.0])
def test_log1p_sends_back_10_over_mass_plus_ten_errors(error: float) -> None:
    """0.0031 per Da at 200 Da and 1,200 Da: the plan's "0.003"."""
    assert gradient_per_da(Log1pPpm(), error) == pytest.approx(10 / (1200 + 10 * error))


def test_log1p_is_the_steeper_one_below_130_da() -> None:
    """At 1,200 Da the two gradients meet at an error of 130 Da."""
    assert gradient_per_da(Log1pPpm(), 129.0) > gradient_per_da(ScaledL1(), 129.0)
    assert gradient_per_da(Log1pPpm(), 131.0) < gradient_per_da(ScaledL1(), 131.0)


def test_the_unfixed_log1p_is_hundreds_for_an_error_of_some_da() -> None:
    """log1p(ppm/100)·100: 443 for 10 Da of 1,200, of which a weight of 0.01 makes 4.4."""
    loss = Log1pPpm(ppm_scale=100, multiplier=100)(torch.tensor([1210.0]), torch.tensor([1200.0]))
    assert loss.item() == pytest.approx(100 * np.log1p(10 / 1200 * 1e6 / 100), rel=1e-4)
    assert 440 < loss.item() < 446


def test_in_float16_a_large_error_is_infinite_and_its_gradient_zero() -> None:
    loss = Log1pPpm(dtype="float16")
    assert loss(torch.tensor([1210.0]), torch.tensor([1200.0])).item() == torch.inf
    assert gradient_per_da(loss, 10.0) == 0.0


def test_a_clamped_error_is_dead_above_its_limit_and_steep_below() -> None:
    """1e6/1200 = 833 per Da below 100 ppm = 0.12 Da, nothing above."""
    assert gradient_per_da(ClampedPpm(), 10.0) == 0.0
    assert gradient_per_da(ClampedPpm(), 0.05) == pytest.approx(1e6 / 1200)
    assert ClampedPpm()(torch.tensor([1210.0]), torch.tensor([1200.0])).item() == 100.0


# --- spectrum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.1, 0.2])
def test_the_kernel_of_two_single_peaks_is_a_gaussian_of_their_distance(distance: float) -> None:
    """1 − exp(−d²/(4σ²))."""
    loss = GaussianKernel(sigma=0.05)(peaks([500.0]), peaks([500.0 + distance]))
    assert loss.item() == pytest.approx(1 - np.exp(-(distance**2) / (4 * 0.05**2)), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_grid_converges_to_the_kernel(seed: int) -> None:
    """To 3e-5 with bins as wide as sigma."""
    predicted, observed = random_pair(seed)
    kernel = GaussianKernel(sigma=0.05)(predicted, observed)
    grid = GaussianGrid(sigma=0.05, bin_width=0.05)(predicted, observed)
    assert grid.item() == pytest.approx(kernel.item(), abs=3e-5)


def test_a_grid_coarser_than_sigma_aliases() -> None:
    """With bins of 0.1 Da and sigma 0.05 Da the loss depends on where between two bins the peak lies."""
    coarse = GaussianGrid(sigma=0.05, bin_width=0.1, highest_mz=600)
    on_a_bin = coarse(peaks([500.0]), peaks([500.05])).item()
    between = coarse(peaks([500.025]), peaks([500.075])).item()
    assert abs(on_a_bin - between) > 0.01


@pytest.mark.parametrize("loss", [GaussianKernel(), GaussianGrid(highest_mz=2600)])
def test_rendered_losses_lie_between_0_and_1(loss: Callable[[Peaks, Peaks], Tensor]) -> None:
    """Rendered spectra are nowhere negative: 0 for the same spectrum, 1 for one that shares no peak."""
    predicted, observed = random_pair(7)
    assert 0 <= loss(predicted, observed).item() <= 1
    assert loss(observed, observed).item() == pytest.approx(0, abs=1e-9)
    assert loss(peaks([300.0, 400.0]), peaks([500.0])).item() == pytest.approx(1)


@pytest.mark.parametrize("loss", [GaussianKernel(), GaussianGrid(highest_mz=700), HardMinHuber()])
def test_the_gradient_is_the_numerical_one(loss: Callable[[Peaks, Peaks], Tensor]) -> None:
    observed = peaks([300.0, 450.0, 600.0], [1.0, 0.5, 2.0])
    mz = torch.tensor([[300.03, 449.5, 601.2]], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda at: loss(Peaks(at, weight), observed), mz)


def test_an_empty_spectrum_costs_something_finite() -> None:
    """1 where a cosine is asked for, 0 where there is no nearest peak; the gradient stays finite."""
    empty = peaks([0.0], [0.0])
    for loss, expected in ((GaussianKernel(), 1.0), (HardMinHuber(), 0.0)):
        mz = torch.tensor([[300.0]], dtype=torch.float64, requires_grad=True)
        value = loss(Peaks(mz, torch.ones_like(mz)), empty)
        value.backward()
        assert value.item() == expected
        assert mz.grad is not None
        assert torch.isfinite(mz.grad).all()


def test_hubers_loss_is_linear_with_the_given_slope_beyond_delta() -> None:
    """0.05 per Da; the nearest peak counts, not the missing one at 0."""
    observed = peaks([500.0, 700.0, 0.0], [1.0, 1.0, 0.0])
    near, far = (HardMinHuber()(peaks([500.0 + off]), observed).item() for off in (5.0, 6.0))
    assert far - near == pytest.approx(0.05)
    assert HardMinHuber()(peaks([500.0]), observed).item() == 0.0


# --- soft peptides ------------------------------------------------------------------------------------------------


def test_certain_predictions_give_the_peptides_own_ions() -> None:
    """One-hot probabilities: exact precursor mass, exact b and y ions, and none beyond the peptide's end."""
    batch = draw_batch(np.random.default_rng(5), 16, Difficulty(shortest=7, longest=12))
    logits = 1000 * torch.nn.functional.one_hot(batch.tokens, VOCABULARY_SIZE).double()
    peptide = soft_peptide(logits, batch.tokens)
    torch.testing.assert_close(peptide.precursor_mass, batch.precursor_mass)
    residues = np.where(batch.tokens.numpy() > 2, batch.tokens.numpy(), 0)
    mz, exists = fragment_mz(residues, (residues > 0).sum(axis=1))
    assert (peptide.ions.weight.numpy() == exists).all()
    np.testing.assert_allclose(peptide.ions.mz.numpy()[exists], mz[exists], atol=1e-6)
    assert GaussianKernel()(peptide.ions, Peaks(batch.mz, batch.is_peak.double())).item() == pytest.approx(0, abs=1e-6)
