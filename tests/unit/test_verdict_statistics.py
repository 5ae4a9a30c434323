"""The statistics against planted truths: what is not there is rarely found, what is there is, intervals cover."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from holter_server.verdict.criteria import Smoothness, Value
from holter_server.verdict.data import Curve, Examples, Record, Sides, states_of
from holter_server.verdict.intervals import (
    Interval,
    block_indices,
    cluster_bootstrap,
    examples_needed,
    hull,
    paired_t,
    percentiles,
    runs_needed,
    welch_t,
)
from holter_server.verdict.knobs import slope
from holter_server.verdict.smoothness import residuals, roughness, roughness_ratio
from holter_server.verdict.speed import slowdown
from holter_server.verdict.stability import spikes
from holter_server.verdict.values import value_rows

Floats = NDArray[np.float64]
PAIRS = 500
MARGIN = 0.01
STEPS = np.array([10, 20, 30])
ACCURACY = Value("accuracy", metrics=("val/*",), better="higher", margin=MARGIN)


def coverage(interval_of: Callable[[np.random.Generator], Interval], truth: float, repeats: int) -> float:
    """The share of ``repeats`` intervals that hold the truth."""
    rng = np.random.default_rng(20_240_301)
    found = [interval_of(rng) for _ in range(repeats)]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def trained(rng: np.random.Generator, run: str, seed: int, difficulty: Floats, shift: float) -> Record:
    """A run whose examples have 10 tokens each; it gets each of them right by a chance of its own."""
    chance = np.clip(difficulty + shift, 0, 1)
    weight = np.full(len(difficulty), 10.0)
    kept = {int(step): Examples(weight, rng.binomial(10, chance).astype(float)) for step in STEPS}
    values = np.array([kept[int(step)].score.sum() / weight.sum() for step in STEPS])
    curve = Curve(STEPS, 1.7e9 + STEPS, values)
    return Record(id=run, config={"seed": seed}, last_step=30, curves={"val/acc": curve}, evaluations={"val/acc": kept})


def said(gain: float, repeats: int, *, seeds: int, examples: bool = True, noise: float = 0.004) -> dict[str, float]:
    """How often each assessment is given to pairs of groups whose true difference is ``gain``."""
    rng = np.random.default_rng(7)
    counts: dict[str, int] = {}
    for _ in range(repeats):
        difficulty = rng.beta(4, 1.5, 400)
        sides: list[list[Record]] = [[], []]
        for seed in range(seeds):
            for side, shift in enumerate((0.0, gain)):
                record = trained(rng, f"{side}{seed}", seed, difficulty, shift + noise * rng.normal())
                if not examples:
                    record = Record(id=record.id, config=record.config, last_step=30, curves=record.curves)
                sides[side].append(record)
        (row,) = value_rows(ACCURACY, Sides(sides[0], sides[1], 30, seeds=3))
        counts[row.assessment] = counts.get(row.assessment, 0) + 1
    return {name: count / repeats for name, count in counts.items()}


@pytest.mark.parametrize(
    ("seeds", "examples"),
    [
        (3, True),
        (3, False),
        pytest.param(5, True, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
    ],
)
def test_no_difference_is_rarely_called_one(seeds: int, examples: bool) -> None:
    """500 pairs of groups with the same truth, by examples and seeds, by seeds alone, and from a single run."""
    found = said(0.0, PAIRS, seeds=seeds, examples=examples)
    assert found.get("better", 0) + found.get("worse", 0) <= 0.05
    if seeds == 1:
        assert set(found) == {"undetermined"}


@pytest.mark.slow
def test_noise_far_above_the_margin_is_not_called_a_difference_either() -> None:
    """The worst case: the margin is nothing beside the noise, so the interval alone has to hold its 5 %.

    2 % above are allowed for the luck of 500 draws.
    """
    found = said(0.0, PAIRS, seeds=4, examples=False, noise=0.06)
    assert found.get("better", 0) + found.get("worse", 0) <= 0.07


@pytest.mark.parametrize("sign", [1, pytest.param(-1, marks=pytest.mark.slow)])
def test_twice_the_margin_is_found(sign: int) -> None:
    """In at least 80 % of pairs, and hardly ever with the wrong sign."""
    found = said(sign * 2 * MARGIN, PAIRS, seeds=5)
    assert found["better" if sign > 0 else "worse"] >= 0.8
    assert found.get("worse" if sign > 0 else "better", 0) == 0


def test_no_difference_with_enough_seeds_is_called_equivalent() -> None:
    """Twelve quiet pairs: the interval lies within the margin."""
    assert said(0.0, 100, seeds=12, noise=0.002)["equivalent"] >= 0.8


def test_the_t_interval_covers() -> None:
    """Paired, n = 3."""
    assert 0.93 <= coverage(lambda rng: paired_t(0.3 + rng.normal(size=3)), 0.3, 2000) <= 0.97


def test_the_t_interval_is_that_of_scipy() -> None:
    """And Welch's is, too."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=5)
    expected = stats.ttest_1samp(a, 0).confidence_interval()
    assert (paired_t(a).low, paired_t(a).high) == pytest.approx((expected.low, expected.high))
    assert 0.93 <= coverage(lambda g: welch_t(g.normal(size=4), 1 + 3 * g.normal(size=6)), 1.0, 1500) <= 0.98
    assert welch_t(np.ones(3), np.full(3, 2.0)) == Interval(1.0, 1.0)


@pytest.mark.parametrize("n", [20, 128])
def test_the_bootstrap_over_examples_covers(n: int) -> None:
    """Of a ratio of sums whose examples differ in size and difficulty, also when there are only twenty of them."""

    def interval(rng: np.random.Generator) -> Interval:
        weight = rng.integers(7, 18, n).astype(float)
        return cluster_bootstrap(weight * (0.02 + 0.15 * rng.normal(size=n)), weight, int(rng.integers(1e9)), 1000)

    assert 0.93 <= coverage(interval, 0.02, 1000) <= 0.97


def test_the_bootstrap_is_seeded() -> None:
    """Equal questions get equal answers; another seed hardly another one."""
    rng = np.random.default_rng(0)
    difference, weight = rng.normal(size=100), np.full(100, 10.0)
    assert cluster_bootstrap(difference, weight, 3) == cluster_bootstrap(difference, weight, 3)
    other = cluster_bootstrap(difference, weight, 4)
    assert cluster_bootstrap(difference, weight, 3).half == pytest.approx(other.half, rel=0.1)
    assert cluster_bootstrap(difference[:1], weight[:1], 3) == Interval(-math.inf, math.inf)


def noise_of(rng: np.random.Generator, n: int, scale: float = 1.0) -> Floats:
    """Noise whose neighbours are correlated, as a loss's are: AR(1) with 0.3."""
    white = rng.normal(size=n)
    out = np.empty(n)
    out[0] = white[0]
    for index in range(1, n):
        out[index] = 0.3 * out[index - 1] + white[index]
    return scale * out


@pytest.mark.slow
def test_the_paired_block_bootstrap_of_the_roughness_covers() -> None:
    """One pair of runs of 1,500 steps that share most of their noise, true ratio 1.1."""

    def interval(rng: np.random.Generator) -> Interval:
        shared = noise_of(rng, 1500)
        old, new = (shared + 0.3 * noise_of(rng, 1500) for _ in range(2))
        return roughness_ratio([(residuals(old), residuals(1.1 * new))], int(rng.integers(1e9)), 300)[1]

    assert 0.93 <= coverage(interval, 1.1, 400) <= 0.97


@pytest.mark.slow
def test_equal_roughness_is_rarely_called_smoother_or_rougher() -> None:
    """200 pairs that are equally rough: outside of 0.95 to 1.05 in at most 5 %."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(200):
        shared = rng.normal(size=1200)
        pair = tuple(residuals(shared + 0.4 * rng.normal(size=1200)) for _ in range(2))
        interval = roughness_ratio([(pair[0], pair[1])], int(rng.integers(1e9)), 200)[1]
        wrong += interval.high < 0.95 or interval.low > 1.05
    assert wrong <= 10


def test_planted_roughness_is_found_in_its_own_unit_only() -> None:
    """20 % rougher is found; a slope and a level are no roughness."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=2000)
    trend = np.linspace(5, 1, 2000)
    ratio, interval = roughness_ratio([(residuals(trend + base), residuals(3 * trend + 1.2 * base))], 0)
    assert ratio == pytest.approx(1.2, abs=0.03)
    assert interval.low > 1.05
    assert roughness(rng.normal(size=100_000)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_the_slowdown_covers_and_finds() -> None:
    """Skewed step times with stalls; 25 % more time is 20 % fewer steps per second."""

    def interval(rng: np.random.Generator) -> Interval:
        old, new = (0.1 * rng.lognormal(0, 0.2, 600) for _ in range(2))
        old[rng.integers(0, 600, 6)] = 5.0
        return slowdown([old], [1.25 * new], int(rng.integers(1e9)))[1]

    assert 0.93 <= coverage(interval, 0.2, 400) <= 0.97


def test_blocks_keep_neighbours_together() -> None:
    """Every index is in range, and within a block they ascend by one."""
    at = block_indices(173, 50, 0, 20)
    assert at.shape == (20, 173)
    assert at.min() >= 0
    assert at.max() < 173
    assert (np.diff(at[:, :50], axis=1) == 1).all()


@given(st.integers(1, 40), st.integers(1, 80))
def test_blocks_of_any_size_fit(n: int, block: int) -> None:
    """Also blocks that are longer than the series."""
    at = block_indices(n, block, 1, 3)
    assert at.shape == (3, n)
    assert ((at >= 0) & (at < n)).all()


def test_the_runs_needed_are_those_of_the_power_formula() -> None:
    """By hand for n = 10, and by simulation: with so many pairs the margin is found in about 80 %."""
    n = runs_needed(0.01, 0.01)
    assert n == 10
    assert runs_needed(1.0, 1e-6) is None
    assert runs_needed(1.0, 0.0) is None
    rng = np.random.default_rng(2)
    found = [paired_t(0.01 + 0.01 * rng.normal(size=n)).low > 0 for _ in range(1000)]
    assert 0.75 <= np.mean(found) <= 0.87


def test_the_examples_needed_grow_with_the_square_of_the_noise() -> None:
    """Half the margin, four times the examples."""
    one, two = examples_needed(0.02, 100, 0.02), examples_needed(0.02, 100, 0.01)
    assert one is not None
    assert two is not None
    assert two == pytest.approx(4 * one, rel=0.02)


@given(
    st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.5)
)  # fmt: skip
def test_states_are_consistent(estimate: float, below: float, above: float, margin: float) -> None:
    """Never empty; the mirror image has the mirrored states; a wider interval never rules out more."""
    mirrored = {"better": "worse", "worse": "better", "equivalent": "equivalent"}
    interval = Interval(estimate - below, estimate + above)
    found = states_of(estimate, interval, margin)
    assert found
    turned = states_of(-estimate, Interval(-interval.high, -interval.low), margin)
    assert {mirrored[state] for state in turned} == set(found)
    wider = states_of(estimate, Interval(interval.low - 1, interval.high + 1), margin)
    assert set(found) <= set(wider)
    assert states_of(estimate, None, margin) == ("better", "equivalent", "worse")


def test_the_hull_holds_both() -> None:
    """And what is not known adds nothing."""
    assert hull(Interval(0, 1), None, Interval(-1, 0.5)) == Interval(-1, 1)
    assert hull(None) is None


def test_percentiles_of_a_known_distribution() -> None:
    """2.5 % on each side of very many units; further out where there are few."""
    drawn = np.linspace(0, 1, 100_001)
    found = percentiles(drawn, 10**6)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975), abs=1e-4)
    assert percentiles(drawn, 5).low < 0.005


def test_spikes_are_found_where_they_are() -> None:
    """Three planted ones in noise, and none in noise alone."""
    rng = np.random.default_rng(3)
    quiet = 2 + 0.05 * rng.normal(size=3000)
    assert len(spikes(quiet)) == 0
    loud = quiet.copy()
    loud[[500, 1500, 2500]] += 0.6
    assert list(spikes(loud)) == [500, 1500, 2500]
    assert len(spikes(np.ones(500))) == 0


def test_the_slope_is_theils_and_sens() -> None:
    """A planted slope under heavy noise lies in the interval; a flat one's contains 0."""
    rng = np.random.default_rng(4)
    steps = np.arange(2000)

    def of(values: Any) -> tuple[float, float, float]:
        found = slope(Curve(steps, steps.astype(float), values))
        assert found is not None
        return found

    held = [of(3 - 0.001 * steps + rng.standard_t(2, 2000)) for _ in range(60)]
    assert all(high < 0 for _, _, high in held)
    assert np.mean([low <= -0.001 <= high for _, low, high in held]) >= 0.85
    flat = of(rng.standard_t(2, 2000))
    assert flat[1] <= 0 <= flat[2]


def test_criteria_of_smoothness_have_the_plans_bounds() -> None:
    """0.95 and 1.05."""
    assert (Smoothness("s").smoother, Smoothness("s").rougher) == (0.95, 1.05)
