"""The three kinds of non-finite values are told apart, at the step at which each can be known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from holter.health import Batch, Engine, Facts, RuleSet, Transition, Vitals

NAN, INF = math.nan, math.inf
CALM = 30  # healthy records before and after


def run(rules: RuleSet | None = None, rows: int = 100, **series: dict[int, float]) -> tuple[Engine, list[Transition]]:
    """Records with some values replaced, `name={row: value}`; what the rule about non-finite values says of them."""
    steps = np.arange(rows)
    names = [name.replace("__", "/") for name in series]
    values = np.array([1.0 + 0.01 * np.sin(steps + index) for index in range(len(names))])
    for row, replaced in zip(values, series.values(), strict=True):
        for index, value in replaced.items():
            row[index] = value
    engine = Engine(rules or RuleSet.default(), Facts())
    told = engine.observe(Batch("rank0", tuple(names), steps, steps * 1.0, np.ascontiguousarray(values.T)))
    return engine, [change for change in told if change.kind == "non_finite"]


def forever(first: int, value: float = NAN, rows: int = 100) -> dict[int, float]:
    return dict.fromkeys(range(first, rows), value)


def words(told: list[Transition]) -> list[tuple[Any, ...]]:
    return [(change.action, change.step, change.severity, change.evidence["class"]) for change in told]


def ended(state: str) -> Vitals:
    return Vitals(now=200.0, state=state, started_at=0.0, last_seen_at=200.0, due_at=None, last_step_at=99.0)


def test_class_c_lists_everything_that_is_gone() -> None:
    bad = forever(50)
    _, told = run(loss__total=bad, loss__ce=bad, loss__spectrum=bad, loss__precursor=bad, grad_norm=bad)
    assert words(told) == [("open", 50, "warning", "B"), ("escalate", 52, "critical", "C")]
    assert told[-1].message == (
        "loss/total, loss/ce and 2 more are NaN since step 50 and grad_norm too: "
        "the weights are gone (class C, terminal)"
    )
    assert told[-1].metric == "loss/total"
    assert told[-1].evidence["metrics"][:2] == ["loss/total", "loss/ce"]
    assert told[-1].evidence["metrics"][-1] == "grad_norm"
    assert math.isnan(told[0].value or 0)


def test_class_a_is_a_metric_only_however_long_it_lasts() -> None:
    """float16 overflow in an auxiliary loss: total and precursor are infinite, the gradient and CE are fine."""
    bad = forever(50, INF)
    _, told = run(loss__total=bad, loss__ce={}, loss__precursor=bad, grad_norm={})
    assert words(told) == [("open", 50, "warning", "A")]
    assert "loss/total and loss/precursor are +Inf since step 50" in told[0].message


def test_class_a_without_a_gradient_is_known_from_the_losses_that_still_move() -> None:
    _, told = run(loss__total=forever(50), loss__ce={})
    assert words(told) == [("open", 50, "warning", "A")]


def test_a_loss_that_stands_still_is_no_sign_of_health() -> None:
    frozen = dict.fromkeys(range(100), 0.0)
    _, told = run(loss__total=forever(50), loss__ce=forever(50), loss__spectrum=frozen, grad_norm=forever(50))
    assert words(told)[-1] == ("escalate", 52, "critical", "C")


def test_class_b_is_one_steps_gradient_and_resolves() -> None:
    _, told = run(loss={}, grad_norm={50: INF})
    assert words(told) == [("open", 50, "info", "B"), ("resolve", 70, "info", "B")]


def test_class_b_with_the_loss_of_the_same_step_is_a_warning() -> None:
    _, told = run(loss={50: NAN}, loss__ce={50: NAN}, grad_norm={50: NAN})
    assert words(told) == [("open", 50, "warning", "B"), ("resolve", 70, "warning", "B")]


def test_three_bad_gradients_of_the_last_ten_are_a_warning() -> None:
    _, told = run(loss={}, grad_norm={50: NAN, 54: NAN, 58: NAN})
    assert words(told) == [("open", 50, "info", "B"), ("escalate", 58, "warning", "B"), ("resolve", 78, "warning", "B")]


def test_the_denovo_pack_warns_of_a_single_gradient_unless_a_loss_scale_is_logged() -> None:
    _, told = run(loss__total={}, loss__precursor={}, grad_norm={50: NAN})
    assert words(told)[0] == ("open", 50, "warning", "B")
    assert "spectrum without peaks" in told[0].advice
    _, told = run(loss__total={}, loss__precursor={}, grad_norm={50: NAN}, loss_scale={})
    assert words(told)[0] == ("open", 50, "info", "B")


def test_a_trainer_that_logs_a_nan_loss_as_zero_is_understood() -> None:
    _, told = run(loss=dict.fromkeys(range(50, 100), 0.0), grad_norm=forever(50))
    assert words(told) == [("open", 50, "warning", "B"), ("escalate", 52, "critical", "C")]


def test_a_single_loss_that_stays_bad_is_terminal() -> None:
    _, told = run(loss=forever(50))
    assert words(told) == [("open", 50, "warning", "A"), ("escalate", 52, "critical", "C")]


def test_each_class_has_its_own_advice_and_it_follows_the_class() -> None:
    """Telling a person to stop while the weights are fine would be as wrong as silence when they are gone."""
    _, told = run(loss__total=forever(50), loss__precursor=forever(50))
    assert words(told) == [("open", 50, "warning", "A"), ("escalate", 52, "critical", "C")]
    assert "as long as the gradient stays finite" in told[0].advice
    assert "halve the curriculum weights" in told[1].advice


def test_the_first_record_may_be_bad() -> None:
    _, told = run(loss=forever(0))
    assert words(told) == [("open", 0, "warning", "A"), ("escalate", 2, "critical", "C")]


@pytest.mark.parametrize("state", ["finished", "failed", "stopped", "lost"])
def test_the_runs_end_makes_it_certain(state: str) -> None:
    """Two bad records and no more: only the end says that it did not recover."""
    engine, told = run(loss=forever(98), grad_norm=forever(98))
    assert words(told) == [("open", 98, "warning", "B")]
    changes = [change for change in engine.tick(ended(state)) if change.kind == "non_finite"]
    assert words(changes) == [("escalate", 99, "critical", "C")]
    assert changes[0].time == 200.0
    assert not [change for change in engine.tick(ended(state)) if change.kind == "non_finite"]


def test_the_runs_end_after_recovery_says_nothing() -> None:
    engine, _ = run(loss={90: NAN}, grad_norm={90: NAN})
    assert not [change for change in engine.tick(ended("finished")) if change.kind == "non_finite"]


def test_new_metrics_join_the_incident() -> None:
    _, told = run(loss__total=forever(50), loss__ce=forever(55), grad_norm={})
    assert words(told) == [("open", 50, "warning", "A"), ("update", 55, "warning", "A")]
    assert told[1].evidence["first_bad_step"] == {"loss/total": 50, "loss/ce": 55}


def test_a_validation_loss_alone_has_an_incident_of_its_own() -> None:
    _, told = run(loss={}, val_loss=forever(50), grad_norm={})
    assert [(change.action, change.metric, change.severity) for change in told] == [("open", "val_loss", "warning")]


def test_a_validation_loss_is_no_news_once_the_training_is_sick() -> None:
    _, told = run(loss=forever(50), val_loss=forever(60), grad_norm=forever(50))
    assert {change.incident for change in told} == {told[0].incident}
    assert told[-1].evidence["first_bad_step"]["val_loss"] == 60


def test_telemetry_never_alarms() -> None:
    """A column that is NaN throughout, in a run that is fine (a real log has one)."""
    _, told = run(
        loss={}, max_logit=forever(0), ema_alpha=forever(0), system__gpu0__temperature=forever(0), lr={9: NAN}
    )
    assert told == []


def test_records_of_their_own_for_loss_and_gradient_are_judged_together() -> None:
    engine = Engine(RuleSet.default(), Facts())
    told: list[Transition] = []
    for step in range(60):
        value = NAN if step >= 50 else 1.0 + 0.01 * math.sin(step)
        for name in ("loss", "grad_norm"):
            told += engine.observe(
                Batch("rank0", (name,), np.array([step]), np.array([1.0 * step]), np.array([[value]]))
            )
    assert words(told) == [
        ("open", 50, "warning", "A"),
        ("update", 50, "warning", "B"),
        ("escalate", 52, "critical", "C"),
    ]


def test_each_writer_has_its_own_incident() -> None:
    engine = Engine(RuleSet.default(), Facts())
    told = []
    for writer in ("rank0", "rank1"):
        told += engine.observe(Batch(writer, ("loss",), np.array([1]), np.array([1.0]), np.array([[NAN]])))
    assert [change.writer for change in told] == ["rank0", "rank1"]
    assert told[0].incident != told[1].incident
