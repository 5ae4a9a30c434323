"""One list of promises that every rule of every pack keeps, from the day it is added.

Each rule has one sick run, with the steps at which its incident opens, grows and resolves. A rule without one fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.health import KINDS, SEVERITIES, Batch, Engine, Facts, Rule, RuleSet, Transition, Vitals
from holter.health.ruleset import Pack
from holter.wire import dump_json

Series = dict[str, np.ndarray]
Told = list[tuple[str, int | None]]

GAUSSIAN = Facts(planned_steps=1400, config={"losses": {"spectrum": {"kind": "gaussian_kernel"}}})


@dataclass(frozen=True)
class Record:
    metrics: tuple[str, ...]
    step: int
    time: float
    values: tuple[float, ...]
    writer: str = "rank0"


Moment = Record | Vitals


def healthy(rows: int = 700) -> Series:
    """A run that learns: auxiliary losses from step 300 on, single spikes of the gradient."""
    rng = np.random.default_rng(7)
    ce = (0.8 + 2.5 * np.exp(-np.arange(rows) / 150)) * rng.lognormal(0, 0.05, rows)
    on = np.arange(rows) >= 300
    spectrum = np.where(on, rng.uniform(0.4, 0.6, rows), 0.0)
    precursor = np.where(on, rng.uniform(0.5, 0.9, rows), 0.0)
    grad_norm = rng.lognormal(0.6, 0.3, rows)
    grad_norm[50::70] *= 8
    return {
        "loss/total": ce + 0.08 * spectrum + 0.01 * precursor,
        "loss/ce": ce,
        "loss/spectrum": spectrum,
        "loss/precursor": precursor,
        "weighted/ce": ce.copy(),
        "weighted/spectrum": 0.08 * spectrum,
        "weighted/precursor": 0.01 * precursor,
        "grad_norm": grad_norm,
        "lr": np.full(rows, 0.001),
        "train/token_acc": np.minimum(0.6, np.arange(rows) / 1000),
        "system/gpu0/memory_used_gb": np.full(rows, 40.0),
        "system/gpu0/memory_total_gb": np.full(rows, 80.0),
    }


def changed(rows: int = 700, **series: Callable[[np.ndarray], None]) -> list[Moment]:
    """The healthy run with some series changed in place; a name's "/" is written "__"."""
    run = healthy(rows)
    for name, change in series.items():
        change(run[name.replace("__", "/")])
    return records(run)


def records(run: Series) -> list[Moment]:
    names = tuple(run)
    matrix = np.array([run[name] for name in names]).T.tolist()
    return [Record(names, step, 100.0 + step, tuple(row)) for step, row in enumerate(matrix)]


def level(first: int, last: int, value: float) -> Callable[[np.ndarray], None]:
    def change(series: np.ndarray) -> None:
        series[first:last] = value

    return change


def times(first: int, last: int, factor: float) -> Callable[[np.ndarray], None]:
    def change(series: np.ndarray) -> None:
        series[first:last] *= factor

    return change


def vitals(now: float, **known: Any) -> Vitals:
    values = {"state": "running", "started_at": 0.0, "last_seen_at": now, "due_at": now + 10, "last_step_at": now}
    return Vitals(now=now, **{**values, **known})


def nan_everywhere() -> list[Moment]:
    bad = level(400, 700, math.nan)
    names = [name.replace("/", "__") for name in healthy(1) if name.startswith(("loss", "weighted", "grad"))]
    return changed(**dict.fromkeys(names, bad))


def hung() -> list[Moment]:
    run = records(healthy(20))
    silent = [vitals(now, last_step_at=119.0) for now in (119.0, 150.0, 179.0, 180.0, 200.0)]
    again = replace(run[-1], step=20, time=210.0)
    return [*run, *silent, again, vitals(211.0, last_step_at=210.0)]


def lost() -> list[Moment]:
    quiet = {"last_seen_at": 119.0, "due_at": 129.0}
    late = [vitals(now, **quiet) for now in (125.0, 139.0, 140.0)]
    return [*records(healthy(20)), *late, vitals(150.0, state="lost", **quiet), vitals(160.0)]


def failed() -> list[Moment]:
    reason = {"state": "failed", "reason": "RuntimeError: CUDA error"}
    return [*records(healthy(20)), vitals(120.0), vitals(121.0, **reason), vitals(122.0, **reason), vitals(300.0)]


def dominating(rows: int = 1000) -> list[Moment]:
    run = healthy(rows)
    run["weighted/precursor"][300:700] = 4 * run["weighted/ce"][300:700]
    return records(run)


def learning(rows: int = 400, **more: np.ndarray) -> Series:
    """A plain run: a loss that falls from 3 to 1, with 2 % of noise."""
    rng = np.random.default_rng(11)
    loss = (1 + 2 * np.exp(-np.arange(rows) / 60)) * rng.lognormal(0, 0.02, rows)
    return {"loss": loss, **more}


def diverging() -> list[Moment]:
    """From step 200 to 300 the loss climbs by half, then it comes back."""
    run = learning(500)
    run["loss"][200:300] *= np.linspace(1, 1.5, 100)
    run["loss"][300:350] *= 1.5
    return records(run)


def stuck() -> list[Moment]:
    """A loss at ln 10 with noise, that learns from step 200 on."""
    rng = np.random.default_rng(3)
    loss = 2.3 * rng.lognormal(0, 0.01, 800)
    loss[200:] *= np.exp(-np.arange(600) / 200)
    return records({"loss": loss})


def overfitting() -> list[Moment]:
    """Every tenth record has a validation loss: it rises from step 150 to 300, then comes back."""
    run = learning(500)
    rng = np.random.default_rng(5)
    factor = np.interp(np.arange(500), [0, 150, 300, 301, 499], [1.05, 1.05, 1.8, 1.0, 1.0])
    val = run["loss"] * factor * rng.lognormal(0, 0.005, 500)
    run["loss"][150:] *= np.linspace(1, 0.7, 350)
    moments: list[Moment] = []
    for step, (loss, loss_val) in enumerate(zip(run["loss"].tolist(), val.tolist(), strict=True)):
        if step % 10 == 9:
            moments.append(Record(("loss", "val_loss"), step, 100.0 + step, (loss, loss_val)))
        else:
            moments.append(Record(("loss",), step, 100.0 + step, (loss,)))
    return moments


def telemetry(**series: Any) -> list[Moment]:
    """Records of a few named series and nothing else; a name's "/" is written "__"."""
    return records({name.replace("__", "/"): np.asarray(values, dtype=float) for name, values in series.items()})


def stepped(rows: int, *levels: tuple[int, float]) -> np.ndarray:
    """A series that takes a level at each of some rows, with 1 % of noise."""
    at = [row for row, _ in levels]
    which = np.searchsorted(at, np.arange(rows), side="right") - 1
    return np.array([level for _, level in levels])[which] * np.random.default_rng(2).lognormal(0, 0.01, rows)


def vanished() -> list[Moment]:
    """The gradient is gone from step 200 to 300, and the loss stands still as long."""
    run = learning(400, grad_norm=stepped(400, (0, 2.0), (200, 1e-4), (300, 2.0)))
    run["loss"][200:300] = run["loss"][199]
    return records(run)


def scales() -> np.ndarray:
    scale = np.full(500, 65536.0)
    for row in (100, 110, 120, 130):
        scale[row:] /= 2
    return scale


def faded() -> list[Moment]:
    run = learning(400)
    part = run["loss"] * np.where((np.arange(400) >= 100) & (np.arange(400) < 250), 1e-6, 0.1)
    return records({**run, "loss/kl": part})


def swelling() -> list[Moment]:
    """From step 200 to 400 one of two parts is thirty times what it was."""
    run = learning(600)
    kl = 0.2 * run["loss"] * np.where((np.arange(600) >= 200) & (np.arange(600) < 400), 60.0, 1.0)
    return records({"loss": run["loss"] + kl, "loss/reconstruction": run["loss"], "loss/kl": kl})


def leaking() -> np.ndarray:
    growth = np.minimum(np.arange(1100), 500)
    return 20 + 0.04 * growth + 0.01 * np.random.default_rng(4).normal(size=1100)


def ranks(factor: Callable[[int, int], float], name: str, rows: int) -> list[Moment]:
    """Four ranks that log the same metric step by step, times a factor of step and rank."""
    rng = np.random.default_rng(8)
    values = rng.lognormal(0, 0.1, rows).tolist()
    return [
        Record((name,), step, 100.0 + step, (values[step] * factor(step, rank),), f"rank{rank}")
        for step in range(rows)
        for rank in range(4)
    ]


@dataclass(frozen=True)
class Sick:
    """A run that has what the rule is for, and what the rule has to say of it: action and step."""

    make: Callable[[], list[Moment]]
    told: Told
    facts: Facts = field(default=GAUSSIAN)


SICK: dict[str, Sick] = {
    "non-finite": Sick(nan_everywhere, [("open", 400), ("escalate", 402)]),
    "loss-explosion": Sick(
        lambda: changed(loss__total=times(300, 320, 8)),
        [("open", 300), ("update", 302), ("escalate", 309), ("resolve", 322)],
    ),
    "component-explosion": Sick(
        lambda: changed(loss__ce=times(300, 320, 8)),
        [("open", 300), ("update", 302), ("escalate", 309), ("resolve", 322)],
    ),
    "loss-divergence": Sick(diverging, [("open", 229), ("resolve", 364)]),
    "loss-plateau": Sick(stuck, [("open", 63), ("resolve", 255)]),
    "overfitting": Sick(overfitting, [("open", 219), ("resolve", 309)]),
    "loss-explosion-at-start": Sick(
        lambda: changed(loss__total=lambda x: x.__setitem__(slice(0, 60), [1.0] * 5 + [2.0] * 35 + [0.9] * 20)),
        [("open", 16), ("resolve", 44)],
    ),
    "grad-norm-explosion": Sick(
        lambda: changed(grad_norm=times(300, 310, 50)),
        [("open", 302), ("resolve", 312)],
    ),
    "grad-norm-vanishing": Sick(vanished, [("open", 249), ("resolve", 304)]),
    "learning-rate": Sick(
        lambda: telemetry(lr=[1e-3] * 50 + [0.0] * 30 + [1e-3] * 20),
        [("open", 69), ("resolve", 99)],
    ),
    "loss-scale": Sick(lambda: telemetry(loss_scale=scales()), [("open", 120), ("resolve", 230)]),
    "loss-zero": Sick(
        lambda: changed(loss__total=level(300, 320, 0.0)),
        [("open", 309), ("resolve", 322)],
    ),
    "component-faded": Sick(faded, [("open", 163), ("resolve", 313)]),
    "component-dominates": Sick(swelling, [("open", 239), ("resolve", 439)]),
    "near-oom": Sick(
        lambda: changed(system__gpu0__memory_used_gb=level(100, 120, 77.6)),
        [("open", 102), ("resolve", 122)],
    ),
    "memory-creep": Sick(
        lambda: telemetry(system__process_rss_gb=leaking()),
        [("open", 191), ("resolve", 1023)],
    ),
    "gpu-hot": Sick(
        lambda: telemetry(system__gpu0__temperature=stepped(200, (0, 60), (50, 91), (150, 60))),
        [("open", 55), ("resolve", 155)],
    ),
    "gpu-throttled": Sick(
        lambda: telemetry(system__gpu0__throttled=[0] * 50 + [1] * 50 + [0] * 100),
        [("open", 59), ("resolve", 117)],
    ),
    "gpu-errors": Sick(
        lambda: telemetry(system__gpu0__ecc_uncorrected=[3] * 50 + [4] * 50 + [6] * 200),
        [("open", 50), ("update", 100), ("resolve", 200)],
    ),
    "slowdown": Sick(
        lambda: telemetry(perf__step_time=stepped(400, (0, 0.5), (150, 0.75), (300, 0.5))),
        [("open", 201), ("resolve", 345)],
    ),
    "data-starvation": Sick(
        lambda: telemetry(perf__step_time=np.ones(300), perf__data_time=stepped(300, (0, 0.1), (100, 0.8), (200, 0.1))),
        [("open", 147), ("resolve", 248)],
    ),
    "gpu-idle": Sick(
        lambda: telemetry(system__gpu0__utilization=stepped(400, (0, 90), (150, 20), (300, 90))),
        [("open", 201), ("resolve", 345)],
    ),
    "ranks-disagree": Sick(
        lambda: ranks(lambda step, rank: 1.1 if rank == 2 and 100 <= step < 150 else 1.0, "grad_norm", 200),
        [("open", 102), ("resolve", 169)],
    ),
    "straggler": Sick(
        lambda: ranks(lambda step, rank: 1.5 if rank == 2 and 100 <= step < 300 else 1.0, "perf/step_time", 500),
        [("open", 192), ("resolve", 384)],
    ),
    "run-hung": Sick(hung, [("open", 19), ("resolve", 20)]),
    "run-lost": Sick(lost, [("open", 19), ("resolve", 19)]),
    "run-failed": Sick(failed, [("open", 19), ("resolve", 19)]),
    "precursor-high": Sick(
        lambda: changed(weighted__precursor=level(300, 310, 6.0)),
        [("open", 300), ("resolve", 329)],
    ),
    "total-high": Sick(lambda: changed(loss__total=level(300, 310, 12.0)), [("open", 300), ("resolve", 329)]),
    "spectrum-out-of-range": Sick(
        lambda: changed(loss__spectrum=level(300, 310, 1.3)),
        [("open", 300), ("resolve", 329)],
    ),
    "grad-norm-high": Sick(
        lambda: changed(grad_norm=lambda x: x.__setitem__(slice(None), [1.0] * 300 + [8.0] * 100 + [1.0] * 300)),
        [("open", 325), ("resolve", 437)],
    ),
    "auxiliary-dominates": Sick(dominating, [("open", 599), ("resolve", 999)]),
    "component-dead": Sick(lambda: changed(loss__precursor=level(300, 550, 100.0)), [("open", 499), ("resolve", 699)]),
    "parts-mismatch": Sick(lambda: changed(loss__total=times(300, 350, 1.1)), [("open", 302), ("resolve", 369)]),
    "milestone-loss": Sick(
        lambda: changed(1200, loss__total=lambda x: x.__setitem__(slice(None), [3.0] * 1100 + [1.0] * 100)),
        [("open", 1000), ("resolve", 1104)],
    ),
    "milestone-token-accuracy": Sick(
        lambda: changed(1200, train__token_acc=lambda x: x.__setitem__(slice(None), [0.05] * 1100 + [0.3] * 100)),
        [("open", 1000), ("resolve", 1104)],
    ),
    "milestone-spectrum": Sick(
        lambda: changed(1200, loss__spectrum=lambda x: x.__setitem__(slice(None), [1.9] * 1100 + [0.5] * 100)),
        [("open", 1000), ("resolve", 1104)],
    ),
    "milestone-precursor": Sick(
        lambda: changed(1200, loss__precursor=lambda x: x.__setitem__(slice(None), [2.0] * 1100 + [0.5] * 100)),
        [("open", 1000), ("resolve", 1105)],
    ),
}

RULES = {f"{rule.pack.name}/{rule.id}": rule for rule in RuleSet.default().rules}
every_rule = pytest.mark.parametrize("rule", list(RULES.values()), ids=list(RULES))


def alone(rule: Rule) -> RuleSet:
    """The rule by itself, for every run."""
    return RuleSet((replace(rule, pack=Pack("alone")),))


def play(
    rules: RuleSet,
    facts: Facts,
    moments: Iterable[Moment],
    cuts: frozenset[int] = frozenset(),
    *,
    restore: bool = False,
    lazy: bool = False,
) -> list[Transition]:
    """Feed the moments in the largest batches that the cuts allow; with ``restore``, save and restore at each cut.

    With ``lazy``, the engine is asked whether it has to look at the clock.
    """
    engine = Engine(rules, facts)
    told: list[Transition] = []
    waiting: list[Record] = []

    def flush() -> None:
        if waiting:
            told.extend(engine.observe(batch(waiting)))
            waiting.clear()

    for index, moment in enumerate(moments):
        if index in cuts:
            flush()
            engine = Engine(rules, facts, engine.save()) if restore else engine
        if isinstance(moment, Vitals):
            flush()
            if not lazy or engine.wake(moment) <= moment.now:
                told.extend(engine.tick(moment))
        else:
            if waiting and (waiting[0].metrics, waiting[0].writer) != (moment.metrics, moment.writer):
                flush()
            waiting.append(moment)
    flush()
    return told


def batch(rows: list[Record]) -> Batch:
    return Batch(
        rows[0].writer,
        rows[0].metrics,
        np.array([row.step for row in rows], dtype=np.int64),
        np.array([row.time for row in rows]),
        np.array([row.values for row in rows]),
    )


def same(one: list[Transition], other: list[Transition]) -> bool:
    """Equal to the bit; NaN equals NaN."""
    return [repr(change) for change in one] == [repr(change) for change in other]


def told(changes: Iterable[Transition]) -> Told:
    return [(change.action, change.step) for change in changes]


def cuts_of(moments: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(0, moments), max_size=40)


few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_every_rule_has_a_sick_run() -> None:
    """A rule can't be added without saying what it is for."""
    assert set(SICK) == {rule.id for rule in RULES.values()}


@every_rule
def test_it_finds_its_sick_run_at_the_very_step(rule: Rule) -> None:
    sick = SICK[rule.id]
    assert told(play(alone(rule), sick.facts, sick.make())) == sick.told


@every_rule
def test_it_is_silent_on_a_healthy_run(rule: Rule) -> None:
    assert play(alone(rule), GAUSSIAN, records(healthy(1200))) == []


@every_rule
def test_its_words_are_plain_and_complete(rule: Rule) -> None:
    """Every transition carries a sentence, a known kind and severity, and evidence that JSON can hold."""
    sick = SICK[rule.id]
    for change in play(alone(rule), sick.facts, sick.make()):
        assert change.kind in KINDS
        assert change.severity in SEVERITIES
        assert change.rule == rule.id
        assert change.advice
        assert len(change.message) > 10
        dump_json(change.evidence)
        assert not any(isinstance(value, np.generic) for value in change.evidence.values())


@every_rule
def test_an_incident_opens_before_it_changes_and_has_one_id(rule: Rule) -> None:
    sick = SICK[rule.id]
    open_ids: set[str] = set()
    for change in play(alone(rule), sick.facts, sick.make()):
        assert (change.incident in open_ids) == (change.action != "open")
        open_ids.add(change.incident)
        if change.action == "resolve":
            open_ids.remove(change.incident)


@every_rule
@few
@given(data=st.data())
def test_how_the_records_are_cut_makes_no_difference(rule: Rule, data: st.DataObject) -> None:
    sick = SICK[rule.id]
    moments = sick.make()
    cuts = data.draw(cuts_of(len(moments)))
    assert same(play(alone(rule), sick.facts, moments, cuts), play(alone(rule), sick.facts, moments))


@every_rule
@few
@given(data=st.data())
def test_saving_and_restoring_anywhere_makes_no_difference(rule: Rule, data: st.DataObject) -> None:
    sick = SICK[rule.id]
    moments = sick.make()
    cuts = data.draw(cuts_of(len(moments)))
    assert same(play(alone(rule), sick.facts, moments, cuts, restore=True), play(alone(rule), sick.facts, moments))


@every_rule
def test_record_by_record_with_a_restore_at_each_gives_the_same(rule: Rule) -> None:
    sick = SICK[rule.id]
    moments = sick.make()[-300:]
    everywhere = frozenset(range(len(moments)))
    whole = play(alone(rule), sick.facts, moments)
    assert same(play(alone(rule), sick.facts, moments, everywhere, restore=True), whole)


@every_rule
def test_it_says_when_it_has_to_look_at_the_clock(rule: Rule) -> None:
    """A tick that comes before the moment it has named does nothing, and without such ticks all is the same."""
    sick = SICK[rule.id]
    moments = sick.make()
    assert same(play(alone(rule), sick.facts, moments, lazy=True), play(alone(rule), sick.facts, moments))
    engine = Engine(alone(rule), sick.facts)
    for moment in moments:
        if isinstance(moment, Record):
            engine.observe(batch([moment]))
            continue
        check_wake(engine, moment)
        engine.tick(moment)


def check_wake(engine: Engine, at: Vitals) -> None:
    """At any time up to the moment that the engine names, a tick changes nothing."""
    wake = engine.wake(at)
    state = engine.save()
    for later in (0.0, 1e-4, 0.5, 7.0, 59.0, 61.0, 1e4):
        now = at.now + later
        if now < wake:
            assert engine.tick(replace(at, now=now)) == []
            assert engine.save() == state


@every_rule
def test_non_finite_records_poison_no_baseline(rule: Rule) -> None:
    """Records of NaN and ±Inf among the healthy ones change nothing for any rule but the one that is about them."""
    if rule.check_name == "non_finite":
        return
    sick = SICK[rule.id]
    moments = sick.make()
    bad: list[Moment] = []
    for index, moment in enumerate(moments):
        if isinstance(moment, Record) and index % 50 == 49:
            value = (math.nan, math.inf, -math.inf)[index % 3]
            bad.append(replace(moment, values=(value,) * len(moment.values)))
        bad.append(moment)
    assert told(play(alone(rule), sick.facts, bad)) == sick.told


@every_rule
def test_its_memory_does_not_grow_with_the_run(rule: Rule) -> None:
    engine = Engine(alone(rule), GAUSSIAN)
    sizes = []
    for block in range(4):
        run = [replace(row, step=row.step + 700 * block) for row in records(healthy(700)) if isinstance(row, Record)]
        engine.observe(batch(run))
        sizes.append(len(engine.save()))
    assert sizes[3] <= sizes[0] + 64
    assert sizes[3] < 12_000


WILD = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e-300, 1e300, 1.0, 5.1, 100.0, math.nan, math.inf, -math.inf]),
    st.floats(0.5, 2.0),
)
LAYOUTS = (
    tuple(healthy(1)),
    ("loss", "grad_norm", "loss_scale"),
    ("loss/total", "loss/precursor"),
    ("val/easy/loss", "val/easy/token_acc"),
    ("loss/ce", "curriculum/stage", "weighted/ce", "weighted/precursor"),
    ("loss", "val_loss", "lr"),
    ("loss", "loss/kl", "loss/rec", "grad_norm"),
    ("perf/step_time", "perf/data_time", "tokens/s", "system/process_rss_gb"),
    ("system/gpu0/temperature", "system/gpu0/utilization", "system/gpu0/throttled", "system/gpu0/ecc_uncorrected"),
)


CLOCK = st.sampled_from([float(second) for second in range(100, 400, 7)])


@st.composite
def wild_runs(draw: st.DrawFn) -> list[Moment]:
    """Records with anything in them: calm stretches, so that baselines exist, and values of every kind."""
    moments: list[Moment] = list(records(healthy(40)))
    for _ in range(draw(st.integers(1, 5))):
        names = draw(st.sampled_from(LAYOUTS))
        for _ in range(draw(st.integers(1, 8))):
            step, time = draw(st.integers(-5, 2**62)), draw(st.floats(0, 2e9))
            row = draw(st.lists(WILD, min_size=len(names), max_size=len(names)))
            writer = draw(st.sampled_from(["rank0", "rank0", "rank0", "rank1", "rank0/system"]))
            moments.extend([Record(names, step, time, tuple(row), writer)] * draw(st.sampled_from([1, 1, 1, 12, 70])))
        for _ in range(draw(st.integers(0, 3))):
            now, step_at = draw(CLOCK), draw(st.none() | CLOCK)
            state = draw(st.sampled_from(["running", "hung", "lost", "failed", "finished"]))
            heard = {"last_seen_at": draw(CLOCK), "due_at": draw(st.none() | CLOCK), "last_step_at": step_at}
            moments.append(vitals(now, state=state, **heard))
    return moments


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_anything_at_all_is_judged_the_same_in_any_cut(data: st.DataObject) -> None:
    """The whole default rule set on any values, steps and sets of metrics: no error, and the same transitions."""
    moments = data.draw(wild_runs())
    cuts = data.draw(cuts_of(len(moments)))
    whole = play(RuleSet.default(), GAUSSIAN, moments)
    assert same(play(RuleSet.default(), GAUSSIAN, moments, cuts, restore=True), whole)
    assert same(play(RuleSet.default(), GAUSSIAN, moments), whole)
    assert same(play(RuleSet.default(), GAUSSIAN, moments, lazy=True), whole)
    engine = Engine(RuleSet.default(), GAUSSIAN)
    for moment in moments:
        if isinstance(moment, Record):
            engine.observe(batch([moment]))
        else:
            check_wake(engine, moment)
            engine.tick(moment)
    for change in whole:
        dump_json(msgspec.to_builtins(change.evidence))
