"""What a loss may do in a healthy training, and what it may not: the rules' own promises beside the common list."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holter.health import Batch, Engine, Facts, RuleSet, Transition, Vitals


def told(*, after: int = 0, **series: np.ndarray) -> list[Transition]:
    """What the default rules say of these series, logged together; a name's "/" is written "__"."""
    names = tuple(name.replace("__", "/") for name in series)
    values = np.array(list(series.values()), dtype=float).T
    steps = np.arange(len(values))
    changes = Engine(RuleSet.default(), Facts()).observe(Batch("rank0", names, steps, steps * 1.0, values))
    return [change for change in changes if change.step is not None and change.step >= after]


def opened(changes: list[Transition]) -> list[tuple[str, int | None]]:
    return [(change.kind, change.step) for change in changes if change.action == "open"]


def falling(rows: int = 400, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    return (1 + 2 * np.exp(-np.arange(rows) / 60)) * np.random.default_rng(seed).lognormal(0, noise, rows)


def test_single_batches_of_twice_the_loss_are_normal() -> None:
    """Nearly every healthy language model has them."""
    loss = falling()
    loss[[120, 200, 203, 310]] *= 2.2
    assert told(loss=loss) == []


def test_three_records_a_fifth_higher_are_a_spike() -> None:
    loss = falling()
    loss[200:203] *= 1.25
    changes = told(loss=loss)
    assert opened(changes) == [("spike", 202)]
    assert changes[-1].action == "resolve"


def test_while_the_loss_falls_steeply_its_own_past_is_no_measure() -> None:
    """The median of the last 64 points is still 2.6 times as high as the loss."""
    loss = 5 * np.exp(-np.arange(100) / 25) + 0.5
    loss[60:70] *= 2
    assert opened(told(loss=loss))[0] == ("explosion", 62)


def test_a_value_that_is_only_repeated_tells_of_no_noise() -> None:
    """Lightning writes an epoch's loss on each row: ten equal values and a step are ten values of one."""
    rng = np.random.default_rng(1)
    epochs = (1 + np.exp(-np.arange(60) / 10)) * rng.lognormal(0, 0.06, 60)
    assert told(loss=np.repeat(epochs, 10)) == []


def test_a_loss_that_is_learned_to_nothing_may_double() -> None:
    """A memorised fine-tune at a thousandth of where it began."""
    rng = np.random.default_rng(2)
    loss = 2 * np.exp(-np.arange(300) / 30) + 0.001
    loss[200:] = 0.001 * rng.lognormal(0, 0.3, 100)
    loss[250:256] *= 2
    assert told(loss=loss) == []


def test_many_spikes_are_an_incident_of_their_own() -> None:
    loss = falling(600)
    loss[300:400:15] *= 2
    (found,) = [change for change in told(loss=loss) if change.action == "open"]
    assert (found.kind, found.rule, found.step) == ("spike", "loss-explosion", 375)
    assert "6 times in" in found.message
    assert [change.action for change in told(loss=loss)] == ["open", "resolve"]


def test_a_restarted_learning_rate_may_lift_the_loss() -> None:
    loss, rate = falling(600), np.full(600, 1e-3)
    rate[:300] *= np.cos(np.arange(300) / 300 * math.pi / 2) + 0.01
    rate[300:] *= np.cos(np.arange(300) / 300 * math.pi / 2) + 0.01
    loss[300:340] *= np.linspace(1.6, 1, 40)
    assert told(loss=loss, lr=rate) == []
    assert opened(told(loss=loss))[0] == ("spike", 301)


def test_a_slow_rise_is_divergence_and_a_noisy_one_takes_longer_to_see() -> None:
    rise = np.concatenate([np.ones(300), np.linspace(1, 2, 300)])
    quiet = opened(told(loss=falling(600, 0.02) * rise))
    noisy = opened(told(loss=falling(600, 0.4) * rise**2))
    assert quiet[0][0] == noisy[0][0] == "divergence"
    assert 320 < (quiet[0][1] or 0) < 360 < (noisy[0][1] or 0)
    assert told(loss=falling(600, 0.4)) == []


def test_a_rise_of_a_few_percent_counts_when_the_validation_loss_rises_too() -> None:
    rise = np.concatenate([np.ones(300), np.linspace(1, 1.06, 300)])
    loss = falling(600, 0.004) * rise
    val = np.where(np.arange(600) % 20 == 0, falling(600, 0.002) * rise, math.nan)
    assert opened(told(loss=loss, after=300)) == []
    changes = [change for change in told(loss=loss, val_loss=val, after=300) if change.kind == "divergence"]
    assert opened(changes)[0][0] == "divergence"
    assert "the validation loss rises, too" in changes[0].message


def test_harder_data_lift_the_loss_while_the_validation_loss_still_improves() -> None:
    """A curriculum that is not logged as a stage: the newest evaluation is the best so far."""
    rise = np.concatenate([np.ones(300), np.linspace(1, 1.3, 100), np.full(200, 1.3)])
    loss, val = falling(600) * rise, 3 * np.exp(-np.arange(600) / 400)
    assert [change for change in told(loss=loss, val_loss=val) if change.kind == "divergence"] == []
    assert ("divergence" in dict(opened(told(loss=loss)))) is True


def test_a_loss_that_doubles_and_stays_is_critical() -> None:
    loss = falling(800) * np.concatenate([np.ones(300), np.linspace(1, 3, 200), np.full(300, 3.0)])
    severities = [change.severity for change in told(loss=loss) if change.rule == "loss-divergence"]
    assert severities == ["warning", "critical"]


def test_never_learning_is_a_remark_and_converged_is_not_called_so() -> None:
    rng = np.random.default_rng(3)
    stuck = 2.303 * rng.lognormal(0, 0.005, 200)
    assert [(change.kind, change.severity) for change in told(loss=stuck)] == [("plateau", "info")]
    converged = stuck.copy()
    converged[:5] *= 1.2
    assert told(loss=converged) == []


def test_a_noisy_loss_is_not_called_stuck_before_that_can_be_known() -> None:
    loss = np.random.default_rng(4).lognormal(0, 0.3, 4000)
    (found,) = told(loss=loss)
    assert found.kind == "plateau"
    assert (found.step or 0) > 500


def test_nobody_learns_while_the_learning_rate_is_warmed_up() -> None:
    loss = 2.3 * np.random.default_rng(5).lognormal(0, 0.005, 1000)
    assert told(loss=loss, lr=np.arange(1, 1001) / 1000) == []


def test_of_several_validation_losses_most_must_rise() -> None:
    """The boxes of a detector may still improve while its classes overfit."""
    rows = 200
    loss, up = falling(rows), np.concatenate([np.ones(80), np.linspace(1, 2, 120)])
    one = {"val__box_loss": falling(rows, 0.005), "val__cls_loss": falling(rows, 0.005, 1) * up}
    assert [change for change in told(loss=loss, **one) if change.kind == "overfitting"] == []
    both = {**one, "val__box_loss": falling(rows, 0.005) * up}
    (found,) = [
        change for change in told(loss=loss * np.linspace(1, 0.7, rows), **both) if change.kind == "overfitting"
    ]
    assert found.severity == "info"
    assert "while loss fell" in found.message


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    rise = np.concatenate([np.ones(100), np.linspace(1, 2, 100)])
    changes = told(loss=falling(200) * rise, val_loss=falling(200, 0.005) * rise)
    assert {change.kind for change in changes if change.action == "open"} == {"divergence"}


@pytest.mark.parametrize("level", [1e-6, 1.0, 1e6])
def test_the_unit_of_a_loss_makes_no_difference(level: float) -> None:
    loss = falling() * level
    loss[200:230] *= 3
    assert opened(told(loss=loss)) == [("spike", 201), ("divergence", 209)]


def test_a_part_that_is_learned_away_does_not_make_the_other_dominate() -> None:
    rows = 600
    task, kl = falling(rows), falling(rows, seed=1) * np.exp(-np.arange(rows) / 100)
    assert told(loss=task + kl, loss__task=task, loss__kl=kl) == []
    grown = kl.copy()
    grown[300:] *= 1000
    kinds = {change.kind for change in told(loss=task + grown, loss__task=task, loss__kl=grown)}
    assert "dominance" in kinds


def test_parts_that_never_add_up_are_not_asked_to() -> None:
    """Unweighted parts of a weighted total."""
    rows = 300
    task, kl = falling(rows), falling(rows, seed=1)
    assert told(loss=task + 0.1 * kl, loss__task=task, loss__kl=kl) == []


def test_a_gradient_that_goes_with_a_learned_loss_is_no_vanishing_one() -> None:
    loss = np.concatenate([falling(200), np.full(200, 1e-4)])
    norm = np.concatenate([np.full(200, 2.0), np.full(200, 1e-5)]) * np.random.default_rng(6).lognormal(0, 0.1, 400)
    assert "vanishing" not in {change.kind for change in told(loss=loss, grad_norm=norm)}


def test_seconds_between_records_are_watched_where_nothing_measures_the_pace() -> None:
    """Every thirtieth record comes after an evaluation, which says nothing of the training's own pace."""
    gaps = np.where(np.arange(400) < 200, 1.0, 1.6)
    gaps[::30] += 20
    values = falling(400)[:, None]
    batch = Batch("rank0", ("loss",), np.arange(400), np.cumsum(gaps), values)
    changes = Engine(RuleSet.default(), Facts()).observe(batch)
    (found,) = [change for change in changes if change.action == "open"]
    assert (found.kind, found.severity, found.metric) == ("throughput", "info", "seconds per step")
    assert "38 % slower" in found.message


@pytest.mark.parametrize(("times", "severity"), [(3.0, "info"), (12.0, "warning")])
def test_a_machine_that_others_use_too_is_a_remark_and_a_tenth_of_the_pace_a_warning(
    times: float, severity: str
) -> None:
    time = np.where(np.arange(400) < 200, 1.0, times) * np.random.default_rng(7).lognormal(0, 0.05, 400)
    (found,) = [change for change in told(loss=falling(400), step_time=time) if change.action == "open"]
    assert (found.kind, found.severity) == ("throughput", severity)


def test_a_scaler_that_finds_its_level_is_fine_and_one_at_its_end_is_critical() -> None:
    scale = np.full(300, 2.0**16)
    scale[:8] = 2.0 ** np.arange(24, 16, -1)
    scale[150:] /= 2
    assert told(loss=falling(300), loss_scale=scale) == []
    scale[200:] = 2.0 ** np.maximum(0, 15 - np.arange(100))
    found = [change for change in told(loss=falling(300), loss_scale=scale) if change.action == "open"]
    assert [(change.kind, change.severity) for change in found] == [
        ("loss_scale", "warning"),
        ("loss_scale", "critical"),
    ]


def test_ranks_of_a_stopped_run_are_not_compared_by_the_clock() -> None:
    """The checks over ranks look at records only."""
    engine = Engine(RuleSet.default(), Facts())
    for rank in range(2):
        engine.observe(Batch(f"rank{rank}", ("grad_norm",), np.arange(50), np.arange(50.0), np.ones((50, 1))))
    ended = Vitals(now=99.0, state="finished", started_at=0.0, last_seen_at=99.0, due_at=None, last_step_at=50.0)
    assert engine.tick(ended) == []


def test_an_agents_episodes_have_any_length() -> None:
    time = np.where(np.arange(400) < 200, 1.0, 3.0) * np.random.default_rng(9).lognormal(0, 0.05, 400)
    assert told(loss=falling(400), reward=np.ones(400), step_time=time) == []
    assert opened(told(loss=falling(400), step_time=time)) != []


def test_numbers_that_were_rounded_when_they_were_written_are_not_taken_at_their_word() -> None:
    """A rate printed as 0.0000, a part printed as 0.0002 for ever, a memorised loss that is written as 0.0."""
    rows = np.arange(600)
    rate = np.round(3e-4 * np.exp(-rows / 150), 4)
    part = np.round(0.0002 + 0 * rows, 4)
    loss = np.round(0.02 * np.exp(-rows / 60), 4)
    assert (rate[-50:] == 0).all()
    assert (loss[-50:] == 0).all()
    assert [change for change in told(loss=loss, loss__kl=part, lr=rate) if change.kind in ("lr", "dead")] == []
    suddenly = np.where(rows < 400, 0.0213, 0.0)
    kinds = {change.kind for change in told(loss=np.where(rows < 400, 1.5 - rows / 1000, 0.0), lr=suddenly)}
    assert {"lr", "dead"} <= kinds


def test_a_part_that_is_small_by_its_weight_has_not_faded() -> None:
    loss, small = falling(), 1e-5 * falling(seed=1)
    assert told(loss=loss, loss__regularisation=small) == []


def test_a_jump_among_the_first_records_is_known_at_once() -> None:
    (first, *_) = told(loss=np.array([0.22, 0.21, 0.24, 3.8, 5.3, 5.4]))
    assert (first.kind, first.step, first.severity) == ("explosion", 3, "warning")
    pair = told(loss=np.array([0.22, 0.21, 0.24, 0.9, 0.95, 0.9]))
    assert [change.step for change in pair] == [4]
    assert told(loss=np.array([11.0, 9.0, 21.0, 8.0, 7.0, 6.0])) == []
