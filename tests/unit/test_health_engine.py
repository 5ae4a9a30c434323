"""The engine as the service uses it: several writers and packs, a memory that outlives it, stable names."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from holter.health import Batch, Engine, Facts, RuleSet, Vitals


def batch(names: str, rows: list[list[float]], first: int = 0, writer: str = "rank0") -> Batch:
    steps = np.arange(first, first + len(rows))
    return Batch(writer, tuple(names.split()), steps, 1.0 * steps, np.array(rows, dtype=float))


def calm(rows: int = 50, level: float = 1.0) -> list[list[float]]:
    return [[level * learning(row)] for row in range(rows)]


def learning(row: int) -> float:
    """A loss that comes down to 1, with a little noise: one that stands still would be told of."""
    return 1.0 + 0.01 * math.sin(row) + math.exp(-row / 8)


def vitals(now: float, state: str = "running", **known: float) -> Vitals:
    values = {"started_at": 0.0, "last_seen_at": now, "due_at": now + 10, "last_step_at": now} | known
    return Vitals(now=now, state=state, **values)


def test_an_empty_batch_changes_nothing() -> None:
    engine = Engine(RuleSet.default(), Facts())
    before = engine.save()
    nothing = Batch("rank0", ("loss",), np.empty(0, dtype=np.int64), np.empty(0), np.empty((0, 1)))
    assert engine.observe(nothing) == []
    assert engine.save() == before


def test_a_read_only_matrix_from_the_wire_is_enough() -> None:
    values = np.frombuffer(np.array([[1.0], [math.nan]]).tobytes(), dtype="<f8").reshape(2, 1)
    told = Engine(RuleSet.default(), Facts()).observe(Batch("rank0", ("loss",), np.arange(2), np.arange(2.0), values))
    assert [change.step for change in told] == [1]


def test_the_denovo_rules_apply_from_the_first_precursor_loss_on() -> None:
    engine = Engine(RuleSet.default(), Facts())
    assert engine.observe(batch("loss/total", [[12.0]] * 5)) == []
    told = engine.observe(batch("loss/total loss/precursor", [[12.0, 0.1]], first=5))
    assert [change.rule for change in told] == ["total-high"]
    told = engine.observe(batch("loss/total loss/precursor", [[12.0, 6.0]], first=6))
    assert [(change.rule, change.metric) for change in told] == [("precursor-high", "loss/precursor")]


def test_the_weighted_precursor_is_preferred_to_the_raw_one() -> None:
    """Only the weighted one enters the loss: log1p(ppm/100)·100 is hundreds, raw, in its healthy form too."""
    engine = Engine(RuleSet.default(), Facts())
    names = "loss/precursor weighted/precursor weighted/ce"
    assert engine.observe(batch(names, [[480.0, 4.8, 9.0]] * 3)) == []
    told = engine.observe(batch(names, [[600.0, 6.0, 9.0]], first=3))
    assert [(change.rule, change.metric, change.value) for change in told] == [
        ("precursor-high", "weighted/precursor", 6.0)
    ]


def test_an_auxiliary_loss_that_enters_from_zero_is_no_explosion() -> None:
    rows = [[learning(row), 0.0 if row < 200 else 0.5 + 0.1 * math.sin(row)] for row in range(400)]
    assert Engine(RuleSet.default(), Facts()).observe(batch("loss/total loss/precursor", rows)) == []


def test_a_stage_of_the_curriculum_may_lift_the_loss() -> None:
    rows = [[learning(row) * (1.0 if row < 200 else 2.2), 1.0 if row < 200 else 2.0] for row in range(400)]
    assert Engine(RuleSet.default(), Facts()).observe(batch("loss/total curriculum/stage", rows)) == []
    without = [[row[0]] for row in rows]
    told = Engine(RuleSet.default(), Facts()).observe(batch("loss/total", without))
    assert [(change.action, change.step) for change in told[:1]] == [("open", 201)]


def test_a_single_spike_is_called_one_and_does_not_move_the_baseline() -> None:
    engine = Engine(RuleSet.default(), Facts())
    rows = calm(200)
    rows[100] = [20.0]
    told = engine.observe(batch("loss", rows))
    assert [(change.action, change.kind, change.step, change.severity) for change in told] == [
        ("open", "spike", 100, "warning"),
        ("resolve", "spike", 103, "warning"),
    ]
    assert told[0].baseline == pytest.approx(1.0, abs=0.02)
    assert "back near its old median" in told[1].message


def test_losses_of_gans_and_agents_are_left_to_oscillate() -> None:
    rows = [[1.0 + 9.0 * (row % 40 > 35), 1.0] for row in range(200)]
    assert Engine(RuleSet.default(), Facts()).observe(batch("loss rewards/mean", rows)) == []
    assert Engine(RuleSet.default(), Facts()).observe(batch("loss_G loss_D", rows)) == []


def test_a_loss_that_has_been_negative_has_no_ratio() -> None:
    rows = calm(60)
    rows[20] = [-0.5]
    rows[50] = [40.0]
    assert Engine(RuleSet.default(), Facts()).observe(batch("loss", rows)) == []


def test_several_incidents_of_one_record_come_in_the_order_of_the_rules() -> None:
    names = "loss/total weighted/precursor grad_norm"
    rows = [[1.0 + 0.01 * math.sin(row), 0.1, 1.0] for row in range(50)]
    told = Engine(RuleSet.default(), Facts()).observe(batch(names, [*rows, [30.0, 29.0, math.nan]]))
    assert [change.rule for change in told] == ["non-finite", "loss-explosion", "precursor-high", "total-high"]


def test_ids_are_made_from_what_happened() -> None:
    """Replaying gives the same; another step, writer or occurrence gives another."""

    def opened(first: int, writer: str = "rank0") -> list[str]:
        engine = Engine(RuleSet.default(), Facts())
        rows = [*calm(10), [math.nan], *calm(30), [math.nan]]
        told = engine.observe(batch("loss", rows, first, writer))
        return [change.incident for change in told if change.action == "open"]

    assert opened(0) == opened(0)
    names = {*opened(0), *opened(1), *opened(0, "rank1")}
    assert len(names) == 6
    assert all(len(name) == 16 and name.isalnum() for name in names)


def test_the_memory_is_small() -> None:
    engine = Engine(RuleSet.default(), Facts())
    engine.observe(batch("loss/total loss/ce grad_norm lr", [[1.0, 1.0, 1.0, 0.1]] * 5000))
    assert len(engine.save()) < 6000


def test_a_memory_that_can_not_be_read_is_a_fresh_start() -> None:
    for state in (b"", b"\x00", b"not msgpack", msgspec.msgpack.encode({"version": 99})):
        engine = Engine(RuleSet.default(), Facts(), state)
        assert len(engine.observe(batch("loss", [[math.nan]]))) == 1


def test_a_removed_rule_closes_what_it_left_open() -> None:
    engine = Engine(RuleSet.default(), Facts())
    (opened,) = engine.observe(batch("loss", [[math.nan]]))
    quieter = RuleSet.parse("rules:\n  - {id: non-finite, enabled: false}\n")
    engine = Engine(quieter, Facts(), engine.save())
    told = engine.observe(batch("loss", [[math.nan]], first=1))
    assert [(change.action, change.incident) for change in told] == [("resolve", opened.incident)]
    assert engine.observe(batch("loss", [[math.nan]], first=2)) == []


def test_a_changed_threshold_takes_over_the_memory() -> None:
    engine = Engine(RuleSet.default(), Facts())
    engine.observe(batch("loss/precursor", [[4.0]] * 3))
    engine = Engine(RuleSet.parse("rules:\n  - {id: precursor-high, above: 3}\n"), Facts(), engine.save())
    assert len(engine.observe(batch("loss/precursor", [[4.0]], first=3))) == 1


def test_system_metrics_are_no_sign_of_progress() -> None:
    """The agent's own writer goes on logging with the newest step while the training hangs."""
    engine = Engine(RuleSet.default(), Facts())
    engine.observe(batch("loss", calm(50)))
    engine.tick(vitals(50.0))
    for now in range(51, 120):
        engine.observe(batch("system/cpu_percent", [[0.0]], first=now, writer="rank0/system"))
        told = engine.tick(vitals(float(now)))
        if told:
            break
    assert [(change.kind, change.severity, change.time) for change in told] == [("hung", "critical", 111.0)]


def test_a_pause_as_long_as_an_earlier_one_is_not_hung() -> None:
    """Evaluations take minutes between steps of a tenth of a second."""
    engine = Engine(RuleSet.default(), Facts())
    times = np.concatenate([np.arange(20) / 10, 200 + np.arange(20) / 10])
    engine.observe(Batch("rank0", ("loss",), np.arange(40), times, np.ones((40, 1))))
    engine.tick(vitals(202.0))
    assert engine.tick(vitals(202.0 + 290, last_step_at=202.0)) == []
    assert [change.kind for change in engine.tick(vitals(202.0 + 300, last_step_at=202.0))] == ["hung"]


def test_a_run_that_has_not_begun_or_that_is_over_is_not_hung() -> None:
    engine = Engine(RuleSet.default(), Facts())
    assert engine.tick(vitals(500.0)) == []
    engine.observe(batch("loss", calm(50)))
    engine.tick(vitals(500.0))
    assert engine.tick(vitals(9000.0, "finished")) == []
    assert engine.tick(vitals(9999.0)) == [], "resumed, but no step yet"


def test_lost_is_later_than_promised_and_failed_tells_why() -> None:
    engine = Engine(RuleSet.default(), Facts())
    engine.observe(batch("loss", calm(50)))
    assert engine.tick(vitals(70.0, due_at=60.0, last_seen_at=50.0)) == []
    (lost,) = engine.tick(vitals(71.0, due_at=60.0, last_seen_at=50.0))
    assert (lost.kind, lost.severity, lost.step) == ("lost", "critical", 49)
    (found,) = engine.tick(vitals(72.0))
    assert (found.action, found.incident) == ("resolve", lost.incident)
    failed = Vitals(80.0, "failed", 0.0, 80.0, None, 49.0, reason="ValueError: bad batch")
    (change,) = engine.tick(failed)
    assert change.message == "The training failed after step 49: ValueError: bad batch"


def test_a_resumed_run_is_not_judged_by_a_milestone_it_never_passed() -> None:
    engine = Engine(RuleSet.default(), Facts())
    told = engine.observe(batch("loss/total loss/precursor", [[4.0, 0.1]] * 5, first=3000))
    assert told == []


def test_advice_is_that_of_the_part_that_dominates() -> None:
    def advice(spectrum: float, precursor: float) -> str:
        engine = Engine(RuleSet.default(), Facts())
        rows = [[1.0, spectrum, precursor]] * 300
        told = engine.observe(batch("weighted/ce weighted/spectrum weighted/precursor", rows))
        (change,) = [change for change in told if change.kind == "dominance"]
        assert change.step == 299
        return change.advice

    assert "sigma 0.05 → 0.1" in advice(3.0, 0.1)
    assert "scale_factor 0.004 → 0.002" in advice(0.1, 3.0)


def test_a_dominating_base_loss_is_not_sick() -> None:
    rows = [[5.0, 0.1, 0.1]] * 400
    told = Engine(RuleSet.default(), Facts()).observe(batch("weighted/ce weighted/spectrum weighted/precursor", rows))
    assert told == []


def test_a_clamped_loss_is_dead_though_it_moves_now_and_then() -> None:
    """As the real one does: its limit in 93 % of the records, with never 80 of them in a row."""
    rows = [[100.0 if row % 15 else 96.0 + 0.01 * (row % 7)] for row in range(200)]
    told = Engine(RuleSet.default(), Facts()).observe(batch("loss/precursor", rows))
    assert [(change.action, change.step) for change in told if change.kind == "dead"] == [("open", 199)]
