"""Comparing over the service: real incidents, real curves, the errors, and the client."""

from __future__ import annotations

import math

import numpy as np
import pytest

import holter
from holter import wire
from holter_server import schemas

STEPS = 120


def train(service, noise: int, *, dies_at: int | None = None, **start) -> str:
    """A run of 120 steps that the service has really seen; from ``dies_at`` on losses and gradient are NaN."""
    about = {"environment": {"host": "h1"}, "planned_steps": STEPS, "config": {"seed": noise}, **start}
    run = service.start(project="denovo", **about)
    random = np.random.default_rng(noise)
    values = np.c_[
        2 + 0.01 * random.normal(size=STEPS), 1 + 0.01 * random.normal(size=STEPS), np.full(STEPS, 0.1),
        np.linspace(0, 0.8, STEPS),
    ]  # fmt: skip
    if dies_at is not None:
        values[dies_at:, :2] = math.nan
    names = ["loss/total", "grad_norm", "perf/step_time", "val/easy/token_acc"]
    block = wire.Block.of(names, range(STEPS), 1.7e9 + 0.1 * np.arange(STEPS), values)
    service.ship(run, wire.Frame(1, "", "rank0", 1, [block]))
    return run


def ask(service, baseline: list[str], candidate: list[str], **more):
    answer = service.post("/compare", {"baseline": baseline, "candidate": candidate, **more})
    schemas.ComparisonAnswer.model_validate(answer)
    return answer["comparison"]


def test_a_candidate_that_ends_in_nan_loses(service):
    """By the incident that the service itself has raised."""
    good, bad = train(service, 1), train(service, 2, dies_at=60)
    found = ask(service, [good], [bad])
    assert (found["verdict"], found["gate"]["status"]) == ("rejected", "ok")
    assert ask(service, [bad], [good])["verdict"] == "accepted"
    rows = {(row["criterion"], row["metric"]): row for row in found["rows"]}
    assert rows["health", "terminal non-finite"]["candidate"] == 1.0
    assert rows["loss", "loss/total"]["candidate"] == "NaN"
    assert rows["quality", "val/easy/token_acc"]["difference"] == 0.0
    assert rows["speed", "perf/step_time"]["winner"] == "tie"


def test_two_healthy_runs_are_undetermined(service):
    """And so are a run that stopped early, and a treatment that was not applied."""
    run = train(service, 1, config={"weight": 0.0})
    assert ask(service, [run], [train(service, 2, config={"weight": 0.0})])["gate"]["status"] == "ok"
    early = ask(service, [run], [train(service, 3, planned_steps=1000)])
    copied = ask(service, [run], [train(service, 1, config={"weight": 0.5})], metrics=["val/*"])
    assert (early["gate"]["status"], copied["gate"]["status"]) == ("INCOMPLETE", "NOT_APPLIED")
    assert {early["verdict"], copied["verdict"]} == {"not_comparable"}
    assert copied["config_differences"] == [{"key": "weight", "baseline": 0.0, "candidate": 0.5, "declared": False}]
    assert "loss/total" not in {row["metric"] for row in copied["rows"]}


def test_a_resumed_run_counts_without_what_it_has_superseded(service):
    """The second attempt goes back to step 40: the first one's later points don't count."""
    whole, resumed = train(service, 1), train(service, 2)
    service.start(project="denovo", id=resumed, attempt="second")
    block = wire.Block.of(["loss/total", "grad_norm"], range(40, 61), 1.7e9 + np.arange(21.0), np.ones((21, 2)))
    service.ship(resumed, wire.Frame(1, "second", "rank0", 1, [block]))
    found = ask(service, [whole], [resumed])
    assert (found["common_last_step"], found["gate"]["status"]) == (60, "INCOMPLETE")
    rows = {row["metric"]: row for row in found["rows"]}
    assert rows["loss/total"]["candidate"] == 1.0


def test_a_run_without_points(service):
    """Nothing to compare is said, not guessed."""
    found = ask(service, [train(service, 1)], [service.start(project="denovo")])
    assert (found["gate"]["status"], found["common_last_step"], found["verdict"]) == (
        "INCOMPLETE", None, "not_comparable",
    )  # fmt: skip


def test_what_can_not_be_compared(service):
    """An unknown run, the same run on both sides or twice on one, an empty side, too many."""
    run, other = train(service, 1), train(service, 2)
    for baseline, candidate, status in (
        ([run], ["nothing"], 404),
        ([run], [run], 422),
        ([run, run], [other], 422),
        ([run], [], 422),
        ([], [run], 422),
        ([run], [other] * 21, 422),
        (["tag=nothing"], [run], 422),
        (["colour=red"], [run], 422),
        (["pinned"], [run], 422),
        ([run], ["pinned"], 422),
    ):
        answer = service.call("POST", "/compare", {"baseline": baseline, "candidate": candidate})
        assert answer.status == status, (baseline, candidate)
        assert answer.error["hint"]
    assert service.call("POST", "/compare", {"baseline": [run], "candidate": ["nothing"]}).error["type"] == (
        "run_not_found"
    )


def test_the_client_compares(service):
    """One id or several a side."""
    good, bad = train(service, 1), train(service, 2, dies_at=60)
    client = holter.Client(service.base)
    try:
        assert client.compare(good, bad)["verdict"] == "rejected"
        assert client.compare([good], [bad], "val/*")["gate"]["status"] == "ok"
        with pytest.raises(holter.ApiError):
            client.compare(good, good)
    finally:
        client.close()


def test_sides_by_group_by_name_and_pinned(service):
    """Every run that fits a filter is a seed; the pinned baseline is the project's runs with the tag."""
    old = [train(service, seed, group="old", tags=["baseline"]) for seed in (1, 2)]
    new = [train(service, seed + 10, group="new", config={"seed": seed}, name=f"new-{seed}") for seed in (1, 2)]
    found = ask(service, ["pinned"], ["group=new,project=denovo"])
    assert {run["id"] for run in found["runs"]["baseline"]} == set(old)
    assert {run["id"] for run in found["runs"]["candidate"]} == set(new)
    assert [run["id"] for run in ask(service, ["group=old"], ["denovo/new-2"])["runs"]["candidate"]] == [new[1]]


def test_criteria_of_ones_own(service):
    """Ten lines of YAML decide; a mistake is answered with its line and with what is allowed there."""
    good, bad = train(service, 1), train(service, 2)
    text = """
criteria:
  - {id: accuracy, metrics: ["val/*/token_acc"], better: higher, margin: 0.005}
  - {id: gradient, metrics: [grad_norm], better: lower, margin: 0.1}
  - {id: speed, kind: speed}
seeds: 1
"""
    found = ask(service, [good], [bad], criteria=text)
    assert {row["criterion"] for row in found["rows"]} == {"accuracy", "gradient", "speed"}
    for wrong, line, says in (
        ("criteria:\n  - {id: a, metrics: [x], beter: higher}\n", 2, "did you mean 'better'?"),
        ("criteria:\n  - id: a\n    metrics: [x]\n    better: up\n", 4, "higher"),
        ("criteria:\n  - {id: a}\n", 2, "needs 'metrics'"),
    ):
        answer = service.call("POST", "/compare", {"baseline": [good], "candidate": [bad], "criteria": wrong})
        assert answer.status == 422
        assert f"line {line}" in answer.error["message"]
        assert says in answer.error["message"]
    nothing = service.call("POST", "/compare", {"baseline": [good], "candidate": [bad], "criteria": "nothing"})
    assert (nothing.status, "denovo" in nothing.error["hint"]) == (422, True)


def losses(service, run: str, noise: int, *, entry: int | None = 60, steps: int = 600) -> None:
    """A run of the plan: its losses, weights that are 0 before ``entry`` (None: always), evaluations with examples."""
    random = np.random.default_rng(noise)
    at = np.arange(steps)
    on = np.zeros(steps, bool) if entry is None else at >= entry
    ce = 2 - 0.001 * at + 0.02 * random.normal(size=steps)
    names = ["loss/total", "loss/ce", "weighted/ce", "weighted/spectrum", "weight/spectrum", "grad_norm",
             "perf/step_time", "perf/step_cpu_time"]  # fmt: skip
    columns = [ce + 0.05 * on, ce, ce, 0.05 * on, 0.08 * on, 1 + 0.1 * random.random(steps),
               0.1 + 0.001 * random.random(steps), 0.09 + 0.001 * random.random(steps)]  # fmt: skip
    service.ship(run, wire.Frame(1, "", "rank0", 1, [wire.Block.of(names, at, 1.7e9 + at, np.c_[tuple(columns)])]))
    points, events = [], []
    for step in range(99, steps, 100):
        tokens, right = [10] * 50, random.binomial(10, 0.8, 50).tolist()
        accuracy = sum(right) / 500
        points.append({"step": step, "values": {"val/easy/token_acc": accuracy}})
        data = {"metric": "val/easy/token_acc", "n_tokens": tokens, "n_correct": right}
        events.append({"time": 1.7e9 + step, "text": "easy", "kind": "evaluation", "step": step, "data": data})
    service.post(f"/runs/{run}/points", {"points": points, "events": events, "writer": "evaluation", "seq": 1})


def planned(service, noise: int, kind: str, *, entry: int | None = 60, planned_steps: int = 600, **config) -> str:
    config = {"losses": {"spectrum": {"kind": kind}}, "seed": noise, "validation_sets": {"easy": "f00d"}, **config}
    run = service.start(
        project="denovo", environment={"host": "h1"}, planned_steps=planned_steps, config=config, name=kind
    )
    losses(service, run, noise, entry=entry)
    return run


def test_every_gate_of_the_plan(service):
    """INCOMPLETE, NOT_EXERCISED, NOT_APPLIED, CONFOUNDED and another evaluation set; and the plan's table if none."""
    old, new = planned(service, 1, "huber"), planned(service, 2, "gaussian")
    found = ask(service, [old], [new], criteria="denovo")
    assert found["gate"] == {"status": "ok", "blocks": False, "reasons": []}
    assert (found["entry_step"], found["common_last_step"]) == (60, 599)
    assert found["config_differences"][0]["declared"]
    by = {row["criterion"]: row for row in found["rows"]}
    assert "bootstrap over 50 examples" in by["accuracy"]["arithmetic"]
    assert by["smoothness"]["interval"]
    assert by["speed"]["assessment"] == "equivalent"
    assert found["knobs"][0]["component"] == "spectrum"
    assert found["verdict"] == "undetermined"
    assert "3 or more runs a side" in found["reason"]
    assert [step["answer"] for step in found["literal"]["path"]] == ["no"] * 4
    assert found["literal"]["verdict"] == "accepted"

    def gate(candidate: str) -> tuple[str, str]:
        found = ask(service, [old], [candidate], criteria="denovo")
        return found["gate"]["status"], found["verdict"]

    assert gate(planned(service, 3, "gaussian", planned_steps=5000)) == ("INCOMPLETE", "not_comparable")
    assert gate(planned(service, 4, "gaussian", entry=None)) == ("NOT_EXERCISED", "not_comparable")
    assert gate(planned(service, 1, "gaussian")) == ("NOT_APPLIED", "not_comparable")
    assert gate(planned(service, 5, "gaussian", batch_size=64)) == ("CONFOUNDED", "undetermined")
    other = {"validation_sets": {"easy": "beef"}}
    found = ask(service, [old], [planned(service, 6, "gaussian", **other)], criteria="denovo")
    assert (found["gate"]["status"], found["gate"]["blocks"]) == ("CONFOUNDED", True)
    assert "not evaluated on the same sets" in found["reason"]


def test_a_candidate_that_is_still_running(service):
    """At the same step, in words; and it can't be judged yet."""
    old, new = planned(service, 1, "huber"), planned(service, 2, "gaussian", planned_steps=5000)
    standing = ask(service, [old], [new], criteria="denovo")["standing"]
    assert standing["step"] == 599
    assert standing["say"].startswith("At the same step, 599, the candidate is ")


def test_figures_and_equal_questions(service):
    """Figures come when asked for; equal questions get equal answers."""
    old, new = planned(service, 1, "huber"), planned(service, 2, "gaussian")
    found = ask(service, [old], [new], criteria="denovo", figures=True)
    assert [each["name"] for each in found["figures"]][:2] == ["intervals", "val/easy/token_acc"]
    assert found == ask(service, [old], [new], criteria="denovo", figures=True)
