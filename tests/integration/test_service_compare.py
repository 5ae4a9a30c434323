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
    assert (found["verdict"], found["gate"]["status"]) == ("baseline", "ok")
    assert ask(service, [bad], [good])["verdict"] == "candidate"
    rows = {(row["criterion"], row["metric"]): row for row in found["rows"]}
    assert rows["stability", "terminal non-finite"]["candidate"] == 1.0
    assert rows["loss", "loss/total"]["candidate"] == "NaN"
    assert rows["accuracy", "val/easy/token_acc"]["difference"] == 0.0
    assert rows["speed", "perf/step_time"]["winner"] == "tie"


def test_two_healthy_runs_are_undetermined(service):
    """And so are a run that stopped early, and a treatment that was not applied."""
    run = train(service, 1, config={"weight": 0.0})
    assert ask(service, [run], [train(service, 2, config={"weight": 0.0})])["gate"]["status"] == "ok"
    early = ask(service, [run], [train(service, 3, planned_steps=1000)])
    copied = ask(service, [run], [train(service, 1, config={"weight": 0.5})], metrics=["val/*"])
    assert (early["gate"]["status"], copied["gate"]["status"]) == ("INCOMPLETE", "NOT_APPLIED")
    assert {early["verdict"], copied["verdict"]} == {"undetermined"}
    assert copied["config_differences"] == [{"key": "weight", "baseline": 0.0, "candidate": 0.5}]
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
        "INCOMPLETE", None, "undetermined",
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
        assert client.compare(good, bad)["verdict"] == "baseline"
        assert client.compare([good], [bad], "val/*")["gate"]["status"] == "ok"
        with pytest.raises(holter.ApiError):
            client.compare(good, good)
    finally:
        client.close()
