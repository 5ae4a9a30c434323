"""Comparing without a database: each gate, each winner, and the many cases in which nothing can be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from holter_server.verdict.criteria import shipped
from holter_server.verdict.data import Curve, Record, Trouble
from holter_server.verdict.judge import judge

HOST = {"host": "h1", "cpus": 8}
TERMINAL = Trouble("non_finite", "critical", "loss/total", 50, terminal=True)
EXPLOSION = Trouble("explosion", "critical", "loss/total", 50)


def compare(baseline: list[Record], candidate: list[Record], wanted: Any = lambda _name: True) -> dict[str, Any]:
    """By the default criteria."""
    return judge(shipped("default"), baseline, candidate, wanted=wanted)


def curve(values: Any, seconds: float = 0.1) -> Curve:
    data = np.asarray(values, dtype=float)
    steps = np.arange(len(data))
    return Curve(steps, 1.7e9 + seconds * steps, data)


def run(id: str, noise: int = 0, *, n: int = 100, seconds: float = 0.1, **fields: Any) -> Record:
    """A healthy run of ``n`` steps; its losses are those of ``noise``."""
    loss = 3 + np.random.default_rng(noise).normal(size=n)
    more = {name: curve(values, seconds) for name, values in fields.pop("logs", {}).items()}
    curves = {"loss/total": curve(loss, seconds), **more}
    defaults = {"environment": HOST, "planned_steps": n, "last_step": n - 1, "logged": frozenset(curves)}
    return Record(id=id, curves=curves, **{**defaults, **fields})


def row(found: dict[str, Any], criterion: str, metric: str | None = None) -> dict[str, Any]:
    (each,) = [r for r in found["rows"] if r["criterion"] == criterion and metric in (None, r["metric"])]
    return dict(each)


def winners(baseline: Record, candidate: Record, *asked: str) -> list[str]:
    found = compare([baseline], [candidate])
    return [row(found, *name.split(":"))["winner"] for name in asked]


def test_two_healthy_runs_say_nothing():
    """One run a side: differences are shown, and nothing is claimed of them."""
    logs = [{"val/easy/token_acc": [0.5, value, value, value]} for value in (0.7, 0.9)]
    found = compare([run("a", 1, logs=logs[0])], [run("b", 2, logs=logs[1])])
    assert found["gate"] == {"status": "ok", "blocks": False, "reasons": []}
    assert (found["verdict"], found["common_last_step"]) == ("undetermined", 99)
    accuracy = row(found, "quality")
    assert (accuracy["winner"], accuracy["difference"]) == ("undetermined", pytest.approx(0.2))
    assert "run-to-run noise is unknown" in accuracy["arithmetic"]
    assert "3 or more runs a side" in found["reason"]
    assert row(found, "loss")["winner"] == "undetermined"
    assert [step["answer"] for step in found["path"]] == ["yes", "yes", "yes", "0", *["no"] * 5]
    assert {lead["state"] for lead in found["honest"]["leads"]} == {"better", "equivalent", "worse"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"planned_steps": 200}, "reached step 99 of 200"),
        ({"planned_steps": None, "running": True}, "still running"),
        ({"last_step": None}, "logged nothing"),
    ],
)
def test_incomplete(fields: dict[str, Any], says: str):
    """A side that hasn't got far enough is not judged, not even when the other one broke."""
    found = compare([run("a", 1, troubles=[TERMINAL])], [run("b", 2, **fields)])
    assert found["gate"]["status"] == "INCOMPLETE"
    assert says in found["gate"]["reasons"][0]
    assert found["verdict"] == "not_comparable"


def test_a_run_that_ended_in_nan_is_complete():
    """It has shown what it had to show: the other side wins on the steps that both reached."""
    bad = run("b", 2, n=60, planned_steps=1000, troubles=[TERMINAL])
    found = compare([run("a", 1)], [bad])
    assert (found["gate"]["status"], found["verdict"], found["common_last_step"]) == ("ok", "rejected", 59)
    assert "loss/total at step 50" in row(found, "health", "terminal non-finite")["arithmetic"]
    assert found["path"][-1]["answer"] == "yes"


def test_not_applied():
    """The same losses to the bit under another config; with the same config it is merely the same training."""
    old, new = run("a", 1, config={"loss": {"kind": "old"}}), run("b", 1, config={"loss": {"kind": "new"}})
    found = compare([old], [new])
    assert found["gate"]["status"] == "NOT_APPLIED"
    assert "100 common steps" in found["gate"]["reasons"][0]
    assert found["config_differences"] == [
        {"key": "loss.kind", "baseline": "old", "candidate": "new", "declared": False}
    ]
    assert found["verdict"] == "not_comparable"
    same = compare([run("a", 1)], [run("b", 1)])["gate"]
    assert same["status"] == "ok"
    assert "the configs are the same" in same["reasons"][0]


def test_one_bit_is_a_difference_and_common_steps_count():
    """A later end or sparser steps don't hide that the losses are identical; one changed value shows."""
    old = run("a", 1, config={"k": 1})
    whole = old.curves["loss/total"]
    sparse = Curve(whole.steps[::7], whole.times[::7], whole.values[::7])
    new = run("b", 1, config={"k": 2}, last_step=98)
    assert compare([old], [Record(**{**fields(new), "curves": {"loss/total": sparse}})])["gate"]["status"] == (
        "NOT_APPLIED"
    )
    values = whole.values.copy()
    values[50] = np.nextafter(values[50], 9)
    assert compare([old], [Record(**{**fields(new), "curves": {"loss/total": curve(values)}})])["gate"]["status"] == (
        "ok"
    )


def fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__slots__}


def test_a_loss_that_never_moves_proves_nothing():
    """Two constants are equal without being the same training."""
    old, new = (run(id, config={"k": id}) for id in "ab")
    flat = {"loss/total": curve(np.zeros(100))}
    found = compare([Record(**{**fields(old), "curves": flat})], [Record(**{**fields(new), "curves": flat})])
    assert found["gate"]["status"] == "ok"


def test_confounded_only_informs():
    """Several keys differ: they are listed, seeds and names are not, and a verdict is still possible."""
    old = run("a", 1, config={"name": "a", "seed": 1, "lr": 1e-3, "optimizer": {"name": "sgd"}})
    new = run("b", 2, config={"name": "b", "seed": 2, "lr": 1e-4, "optimizer": {"name": "adam"}}, troubles=[TERMINAL])
    found = compare([old], [new])
    assert found["gate"]["status"] == "CONFOUNDED"
    assert [each["key"] for each in found["config_differences"]] == ["lr", "optimizer.name"]
    assert found["verdict"] == "rejected"


@pytest.mark.parametrize("trouble", [TERMINAL, EXPLOSION])
def test_the_side_that_broke_loses(trouble: Trouble):
    """Whichever it is."""
    assert compare([run("a", 1)], [run("b", 2, troubles=[trouble])])["verdict"] == "rejected"
    assert compare([run("a", 1, troubles=[trouble])], [run("b", 2)])["verdict"] == "accepted"
    both = compare([run("a", 1, troubles=[trouble])], [run("b", 2, troubles=[trouble])])
    assert both["verdict"] == ("rejected" if trouble.terminal else "undetermined")


def test_another_critical_incident_wins_its_row_only():
    """A configured limit is not an explosion; and what a side does not log can't have fired there."""
    limit = Trouble("limit", "critical", "loss/total", 50)
    found = compare([run("a", 1)], [run("b", 2, troubles=[limit])])
    assert row(found, "health", "other critical incidents")["winner"] == "baseline"
    assert (found["verdict"], found["honest"]["vetoes"]) == ("rejected", ["health"])
    unknown = Trouble("limit", "critical", "loss/precursor", 50)
    assert winners(run("a", 1), run("b", 2, troubles=[unknown]), "health:other critical incidents") == ["undetermined"]


@pytest.mark.parametrize("kind", ["lost", "hung", "failed", "memory"])
def test_the_machine_is_not_the_training(kind: str):
    """A lost run is not an unstable one."""
    found = compare([run("a", 1)], [run("b", 2, troubles=[Trouble(kind, "critical", "", 50)])])
    assert {each["winner"] for each in found["rows"] if each["criterion"] == "health"} == {"tie"}


def test_only_equal_chances_count():
    """Not a failure beyond the other side's last step, nor one of twenty against a single run."""
    late = Trouble("non_finite", "critical", "loss/total", 500, terminal=True)
    long = run("a", 1, n=600, troubles=[late])
    assert compare([long], [run("b", 2)])["verdict"] == "undetermined"
    many = [run(f"a{seed}", seed, troubles=[TERMINAL] if seed == 0 else []) for seed in range(20)]
    found = compare(many, [run("b", 99)])
    assert found["verdict"] == "undetermined"
    assert "0.05 would have failed" in row(found, "health", "terminal non-finite")["arithmetic"]
    assert compare(many[:3], [run(f"b{seed}", 50 + seed) for seed in range(3)])["verdict"] == "accepted"


def test_a_dead_loss_without_an_incident_does_not_win():
    """Its rules may be off; NaN is NaN."""
    dead = Record(**{**fields(run("a", 1)), "curves": {"loss/total": curve([3.0] * 90 + [math.nan] * 10)}})
    found = compare([dead], [run("b", 2, troubles=[TERMINAL])])
    assert found["verdict"] == "rejected"
    loss = row(found, "loss")
    assert math.isnan(loss["baseline"])
    assert "10 non-finite values" in row(found, "health", "terminal non-finite")["arithmetic"]


def test_a_run_without_any_signal():
    """Nothing logged that could break: no tie is claimed."""
    blind = Record(id="a", last_step=99, planned_steps=100, environment=HOST)
    assert winners(blind, run("b", 1), "health:terminal non-finite", "speed") == ["undetermined"] * 2


def test_speed():
    """More than 20 % fewer steps per second lose; the first 50 steps don't count; the machine has to be the same."""
    slow_start = {"perf/step_time": np.r_[np.full(50, 9.0), np.full(50, 0.10)]}
    for seconds, assessment, lost in (
        (0.13, "much_worse", 0.231), (0.12, "worse", 0.167), (0.103, "equivalent", 0.029), (0.07, "better", -0.429),
    ):  # fmt: skip
        found = compare([run("a", 1, logs=slow_start)], [run("b", 2, logs={"perf/step_time": np.full(100, seconds)})])
        assert (row(found, "speed")["assessment"], row(found, "speed")["difference"]) == (
            assessment, pytest.approx(lost, abs=0.001),
        )  # fmt: skip
    assert winners(run("a", 1), run("b", 2, seconds=0.2), "speed") == ["baseline"]  # by the records' own times
    for elsewhere in ({"host": "h2", "cpus": 8}, {}):
        assert winners(run("a", 1), run("b", 2, seconds=0.2, environment=elsewhere), "speed") == ["undetermined"]
    assert winners(run("a", 1, n=55), run("b", 2, n=55), "speed") == ["undetermined"]


def test_memory():
    """More than 5 % and more than 100 MB."""
    name = "system/gpu0/memory_used_gb"
    for old, new, winner in ((6, 7, "baseline"), (7, 6, "candidate"), (7, 6.8, "tie"), (0.5, 0.58, "tie")):
        sides = (run(id, noise, logs={name: [1, each, 2]}) for id, noise, each in (("a", 1, old), ("b", 2, new)))
        assert winners(*sides, f"memory:{name}") == [winner]
    assert winners(run("a", 1, logs={name: [1]}), run("b", 2), f"memory:{name}") == ["undetermined"]


def seeds(gains: list[float], metric: str = "val/token_acc") -> tuple[list[Record], list[Record]]:
    old = [run(f"a{i}", i, config={"seed": i}, logs={metric: [0.5 + i / 10] * 3}) for i in range(len(gains))]
    new = [
        run(f"b{i}", 50 + i, config={"seed": i}, logs={metric: [0.5 + i / 10 + gain] * 3})
        for i, gain in enumerate(gains)
    ]
    return old, new


@pytest.mark.parametrize(
    ("gains", "metric", "winner"),
    [
        ([0.05, 0.06, 0.055], "val/token_acc", "candidate"),
        ([-0.05, -0.06, -0.055], "val/token_acc", "baseline"),
        ([-0.05, -0.06, -0.055], "val/perplexity", "candidate"),
        ([0.05, -0.06, 0.03], "val/token_acc", "undetermined"),
        ([0.25, 0.25, 0.25], "val/token_acc", "undetermined"),
        ([0.05, 0.06], "val/token_acc", "undetermined"),
        ([-0.05, -0.06, -0.055], "val/loss", "candidate"),
        ([0.001, 0.002, 0.0015], "val/token_acc", "tie"),
    ],
)
def test_paired_seeds(gains: list[float], metric: str, winner: str):
    """An interval names the row's winner, and the verdict follows."""
    found = compare(*seeds(gains, metric))
    (each,) = [each for each in found["rows"] if each["metric"] == metric]
    assert each["winner"] == winner
    verdicts = {"candidate": "accepted", "baseline": "rejected", "tie": "accepted"}
    assert found["verdict"] == verdicts.get(winner, "undetermined")


def test_the_interval_is_right():
    """By hand: mean 0.055, s 0.005, half width 4.303·0.005/√3."""
    text = row(compare(*seeds([0.05, 0.06, 0.055])), "quality")["arithmetic"]
    half = 4.303 * 0.005 / math.sqrt(3)
    assert f"[{0.055 - half:+.4g}, {0.055 + half:+.4g}]" in text


def test_unpaired_seeds_get_the_wider_interval():
    """Other seeds on the other side: Welch's, in which the differences among seeds count."""
    old, new = seeds([0.05, 0.06, 0.055])
    moved = [Record(**{**fields(each), "config": {"seed": index + 7}}) for index, each in enumerate(new)]
    assert row(compare(old, moved), "quality")["winner"] == "undetermined"


def test_globs_choose_the_rows_of_losses_and_accuracies():
    """And nothing else."""
    found = compare([run("a", 1)], [run("b", 2)], lambda name: name.startswith("val/"))
    assert {each["criterion"] for each in found["rows"]} == {"health", "training", "speed"}
