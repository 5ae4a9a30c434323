"""Trainings of several ranks and attempts: commands reach every rank, ends are counted, nobody is hidden by a mean."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from holter import wire
from holter.health import Engine, Facts, RuleSet
from holter.health.model import Batch

STOPPING = "rules: [{id: boom, check: limit, metrics: [loss], above: 8, actions: [notify, checkpoint, stop]}]"


def start(service, ranks: int = 4, run: str = "r", attempt: str = "a", **fields) -> str:
    for rank in range(ranks):
        writer = {
            "name": f"rank{rank}",
            "rank": rank,
            "world_size": ranks,
            "host": f"node{rank // 2}",
            "pid": 100 + rank,
        }
        service.post("/runs", {"project": "p", "id": run, "attempt": attempt, "writer": writer, **fields})
    return run


def say(service, rank: int | str, *answers: wire.CommandUpdate, attempt: str = "a", run: str = "r", **fields):
    """A sign of life, with answers to commands; the receipt."""
    writer = rank if isinstance(rank, str) else f"rank{rank}"
    return service.ship(run, wire.Frame(1, attempt, writer, 0, commands=list(answers), **fields))


def block(values, first: int = 1, metric: str = "loss", at: float = 1.7e9, every: float = 1.0) -> wire.Block:
    steps = np.arange(first, first + len(values))
    return wire.Block.of([metric], steps, at + every * steps, np.reshape(np.asarray(values, float), (-1, 1)))


def update(command: str, state: str, **more) -> wire.CommandUpdate:
    return wire.CommandUpdate(command, state, time.time(), **more)


def names(receipt) -> list[str]:
    return [order["name"] for order in receipt["commands"]]


def command(service, run: str = "r", index: int = -1):
    return service.get(f"/runs/{run}/commands")["commands"][index]


def finish(service, run: str = "r", **body):
    return service.post(f"/runs/{run}/finish", body)["run"]


# --- commands ---------------------------------------------------------------------------------------------------


def test_every_rank_gets_a_command_until_it_has_answered(service):
    """One rank's acknowledgement doesn't withhold it from the others; what samples beside a rank never gets it."""
    start(service, 3)
    asked = service.post("/runs/r/commands", {"name": "checkpoint"})["command"]
    assert (asked["attempt"], asked["answers"]) == (1, [])
    assert [names(say(service, rank)) for rank in (0, 1, 2, "rank0/system")] == [["checkpoint"]] * 3 + [[]]
    assert names(say(service, 0, update(asked["id"], "acknowledged"))) == []
    assert names(say(service, 1)) == ["checkpoint"]
    assert command(service)["state"] == "acknowledged"
    say(service, 0, update(asked["id"], "done", result="saved", step=70))
    say(service, 1, update(asked["id"], "done", result="saved too", step=71))
    assert command(service)["state"] == "acknowledged"
    assert names(say(service, 2)) == ["checkpoint"]
    say(service, 2, update(asked["id"], "done", step=72))
    row = command(service)
    assert (row["state"], row["result"], row["step"]) == ("done", "saved", 70)
    told = [(said["writer"], said["state"], said["result"], said["step"]) for said in row["answers"]]
    assert told == [("rank0", "done", "saved", 70), ("rank1", "done", "saved too", 71), ("rank2", "done", None, 72)]


def test_a_failure_of_one_rank_is_the_commands_and_the_others_still_get_it(service):
    """Nothing that comes later takes it back."""
    start(service, 2)
    stop = service.post("/runs/r/commands", {"name": "stop"})["command"]["id"]
    say(service, 1, update(stop, "failed", result="no handler", step=5))
    assert (command(service)["state"], command(service)["result"]) == ("failed", "no handler")
    assert names(say(service, 0)) == ["stop"]
    say(service, 0, update(stop, "done"))
    assert command(service)["state"] == "failed"
    assert {said["writer"]: said["state"] for said in command(service)["answers"]} == {
        "rank0": "done",
        "rank1": "failed",
    }


def test_a_rank_that_has_ended_is_not_waited_for(service):
    """The others have done it: done, as soon as the missing one says its end."""
    start(service, 2)
    stop = service.post("/runs/r/commands", {"name": "stop"})["command"]["id"]
    say(service, 0, update(stop, "done"))
    assert command(service)["state"] == "acknowledged"
    finish(service, state="stopped", writer="rank1", attempt="a")
    assert command(service)["state"] == "done"


def test_a_new_attempt_is_not_stopped_by_what_the_old_one_was_told(service):
    """A stop that was acknowledged and then killed has expired, also for a late frame; the late answer still counts."""
    start(service, 2)
    stop = service.post("/runs/r/commands", {"name": "stop"})["command"]["id"]
    dump = service.post("/runs/r/commands", {"name": "dump"})["command"]["id"]
    say(service, 0, update(stop, "acknowledged"))
    start(service, 2, attempt="b")
    assert [row["state"] for row in service.get("/runs/r/commands")["commands"]] == ["expired", "expired"]
    assert names(say(service, 0, attempt="b")) == names(say(service, 1, attempt="a")) == []
    say(service, 1, update(dump, "acknowledged"), attempt="a")
    say(service, 0, update(stop, "done", result="the run ended"), attempt="a")
    states = {row["name"]: row["state"] for row in service.get("/runs/r/commands")["commands"]}
    assert states == {"stop": "done", "dump": "expired"}
    fresh = service.post("/runs/r/commands", {"name": "stop"})["command"]
    assert (fresh["attempt"], names(say(service, 1, attempt="b")), names(say(service, 1, attempt="a"))) == (
        2,
        ["stop"],
        [],
    )


def incident_of(value: float) -> str:
    """What the guard beside the training calls the incident."""
    rules = RuleSet.parse(STOPPING, name="project rules")
    rows = Batch("rank1", ("loss",), np.array([1]), np.array([1.7e9 + 1]), np.array([[value]]))
    return next(change.incident for change in Engine(rules, Facts()).observe(rows) if change.rule == "boom")


@pytest.mark.parametrize("order", ["before", "with", "after"])
def test_what_the_guard_has_done_is_not_asked_for_again(service, order):
    """Its answers come before, with or after the points that open the incident here: one command each way."""
    assert service.call("PUT", "/projects/p/rules", {"rules": STOPPING}).status == 200
    start(service, 2)
    saved, stop = (f"{incident_of(9.0)}-{name}" for name in ("checkpoint", "stop"))
    answers = [update(saved, "done", result="saved", step=1), update(stop, "acknowledged", step=1)]
    receipt = None
    if order == "before":
        say(service, 1, *answers)
        assert [row["requested_by"] for row in service.get("/runs/r/commands")["commands"]] == ["guard", "guard"]
    receipt = say(service, 1, *(answers if order == "with" else ()), blocks=[block([9.0])])
    if order == "after":
        assert [given["id"] for given in receipt["commands"]] == [saved, stop]
        receipt = say(service, 1, *answers)
    assert receipt["commands"] == []
    rows = {row["id"]: row for row in service.get("/runs/r/commands")["commands"]}
    assert set(rows) == {saved, stop}
    assert {row["args"]["incident"] for row in rows.values()} == {f"r-{incident_of(9.0)}"}
    # The guard of rank 1 spoke for rank 1 alone.
    assert sorted(names(say(service, 0))) == ["checkpoint", "stop"]


def test_points_of_an_older_attempt_stop_nobody(service):
    """They open the incident; the attempt that runs now is not told to stop for it."""
    assert service.call("PUT", "/projects/p/rules", {"rules": STOPPING}).status == 200
    start(service, 1)
    start(service, 1, attempt="b")
    say(service, 0, blocks=[block([9.0])], attempt="a")
    assert [row["rule"] for row in service.get("/incidents?run=r")["incidents"]] == ["boom"]
    assert service.get("/runs/r/commands")["commands"] == []


def test_an_answer_that_nobody_can_have_asked_for_is_passed_over(service):
    """An id that is not made of an incident's and a name."""
    start(service, 1)
    say(service, 0, update("nonsense", "done"), update("-stop", "done"), update("x" * 300 + "-stop", "done"))
    assert service.get("/runs/r/commands")["commands"] == []


# --- ends -------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_its_last_rank(service):
    """Rank 0's end alone decides nothing; the same end twice changes nothing."""
    start(service, 3)
    assert finish(service, writer="rank0", attempt="a")["state"] == "running"
    assert finish(service, writer="rank0", attempt="a")["state"] == "running"
    assert finish(service, writer="rank2", attempt="a", state="stopped", reason="asked to")["state"] == "running"
    ended = finish(service, writer="rank1", attempt="a", time=5e9)
    assert (ended["state"], ended["state_reason"], ended["finished_at"]) == ("stopped", "asked to", 5e9)
    assert finish(service, writer="rank1", attempt="a", time=6e9) == ended
    writers = service.get("/runs/r")["run"]["writers"]
    assert [writer["state"] for writer in writers] == ["finished", "finished", "stopped"]


def test_a_failed_rank_fails_the_run_and_is_named(service):
    """The first failure is the cause; those of ranks that waited for it don't replace it."""
    start(service, 3)
    finish(service, writer="rank0", attempt="a")
    failed = finish(service, writer="rank2", attempt="a", state="failed", reason="CUDA out of memory")
    assert (failed["state"], failed["state_reason"]) == ("failed", "rank2: CUDA out of memory")
    assert finish(service, writer="rank1", attempt="a", state="failed", reason="NCCL timeout") == {
        **failed, "last_seen_at": failed["last_seen_at"]
    }  # fmt: skip
    [incident] = service.get("/incidents?run=r&state=open")["incidents"]
    assert "rank2: CUDA out of memory" in incident["message"]


def test_an_older_attempt_ends_for_itself(service):
    """Its late frames and ends leave the state of the run alone."""
    start(service, 2)
    start(service, 2, attempt="b")
    for rank in (0, 1):
        assert finish(service, writer=f"rank{rank}", attempt="a", state="failed", reason="killed")["state"] == "running"
    say(service, 0, attempt="a", blocks=[block([1.0])])
    run = service.get("/runs/r")["run"]
    assert (run["state"], [attempt["state"] for attempt in run["attempts"]]) == ("running", ["failed", "running"])
    finish(service, writer="rank0", attempt="b")
    assert finish(service, writer="rank1", attempt="b")["state"] == "finished"


def test_a_rank_that_comes_late_is_waited_for(service):
    """A short run of rank 0 was over before rank 1 had introduced itself."""
    start(service, 1)
    assert finish(service, writer="rank0", attempt="a")["state"] == "finished"
    start(service, 2)
    assert service.get("/runs/r")["run"]["state"] == "running"
    assert finish(service, writer="rank1", attempt="a")["state"] == "finished"


def test_an_end_without_a_writer_is_for_all(service):
    """As a shell script says it."""
    start(service, 2)
    failed = finish(service, state="failed", reason="killed by the scheduler")
    assert (failed["state"], failed["state_reason"]) == ("failed", "killed by the scheduler")


def test_a_silent_rank_is_named_though_the_others_speak(service, wait):
    """The run is lost because of rank 1, stays so while rank 0 speaks, and is back when rank 1 is."""
    assert service.call("PUT", "/projects/p/rules", {"rules": "rules: [{id: run-lost, grace: 0.2}]"}).status == 200
    start(service, 3)
    say(service, 0, promise=60.0)
    say(service, 1, promise=0.1)
    finish(service, writer="rank2", attempt="a")
    lost = wait(lambda: service.get("/incidents?run=r&state=open")["incidents"], "the incident")[0]
    assert lost["kind"] == "lost"
    assert "Nothing heard from rank1" in lost["message"]
    assert "rank2 has ended" in lost["message"]
    say(service, 0, promise=60.0, blocks=[block([1.0])])
    assert service.get("/runs/r")["run"]["state"] == "lost"
    say(service, 1, promise=60.0)
    run = service.get("/runs/r")["run"]
    assert (run["state"], service.get("/incidents?run=r&state=open")["incidents"]) == ("running", [])


# --- points given up --------------------------------------------------------------------------------------------


def test_points_given_up_are_an_incident_until_the_run_ends(service, receiver, wait):
    """It grows with the count, is told by webhook like any other, and says what to do."""
    service.post("/webhooks", {"url": receiver.url})
    start(service, 2)
    say(service, 1, dropped=40, blocks=[block([1.0])])
    say(service, 1, dropped=1500)
    say(service, 1, dropped=1500, blocks=[block([1.0], 2)])
    say(service, 0)
    [incident] = service.get("/incidents?run=r&state=open")["incidents"]
    assert (incident["severity"], incident["writer"], incident["value"]) == ("warning", "rank1", 1500)
    assert "rank1 has given up 1,500 points" in incident["message"]
    assert "HOLTER_DISK_MAX" in incident["advice"]
    run = service.get("/runs/r")["run"]
    assert (run["health"], run["state"]) == ("warning", "running")
    finish(service)
    assert service.get("/runs/r")["run"]["health"] == "healthy"
    wait(lambda: receiver.types().count("incident.resolved") == 1, "the notice")
    assert receiver.types().count("incident.firing") == 1


def test_a_new_attempt_begins_without_the_losses_of_the_old_one(service):
    """What an attempt gave up is over with it, also when its last frames come after its end."""
    start(service, 1)
    say(service, 0, dropped=3)
    start(service, 1, attempt="b")
    assert service.get("/incidents?run=r&state=open")["incidents"] == []
    say(service, 0, dropped=9, attempt="a")
    assert service.get("/incidents?run=r&state=open")["incidents"] == []
    say(service, 0, dropped=2, attempt="b")
    [incident] = service.get("/incidents?run=r&state=open")["incidents"]
    assert incident["message"].startswith("rank0 has given up 2 points")


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.fixture
def four(service):
    """A run of four ranks that ship side by side: rank 2 is NaN from step 61 on, rank 3 is slower and behind."""
    start(service, 4)

    def train(rank: int) -> None:
        steps = 70 if rank == 3 else 100
        values = np.full(steps, float(rank))
        if rank == 2:
            values[60:] = np.nan
        for seq, first in enumerate(range(0, steps, 10), 1):
            part = block(values[first : first + 10], first + 1, every=1.5 if rank == 3 else 1.0)
            service.ship("r", wire.Frame(1, "a", f"rank{rank}", seq, [part], promise=30.0))

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return service


@pytest.mark.parametrize("question", ["", "&width=20", "&width=1000&x=time"])
def test_a_rank_that_is_nan_is_not_hidden_by_the_others(four, question):
    """Mean, least and greatest of each step; the mean is NaN where rank 2 is, and the answer says so."""
    answer = four.get(f"/runs/r/series?metric=loss&across=ranks{question}")
    [whole] = answer["series"]
    assert (whole["writers"], whole["attempt"], answer["next"]) == (["rank0", "rank1", "rank2", "rank3"], 1, None)
    at = {step: index for index, step in enumerate(whole["steps"])}
    assert {1, 61, 100} <= set(at) or "x=time" in question
    first = {name: whole[name][at[1]] for name in ("mean", "min", "max", "count")}
    assert first == {"mean": 1.5, "min": 0.0, "max": 3.0, "count": 4}
    last = {name: whole[name][at[100]] for name in ("mean", "min", "max", "count")}
    assert last == {"mean": "NaN", "min": 0.0, "max": 1.0, "count": 3}
    [odd] = whole["non_finite"]
    assert (odd["writer"], odd["rank"], odd["steps"], set(odd["values"])) == ("rank2", 2, list(range(61, 101)), {"NaN"})
    assert set(range(61, 101)) <= set(at)


def test_pages_and_the_query_of_many_runs_say_the_same(four):
    """Every step once, in pages; the call for several runs carries the run's id."""
    steps, cursor = [], ""
    while True:
        page = four.get(f"/runs/r/series?metric=loss&across=ranks&limit=30{cursor}")
        steps += [step for item in page["series"] for step in item["steps"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert steps == list(range(1, 101))
    [item] = four.post("/series/query", {"runs": ["r"], "metrics": ["los?"], "across": "ranks"})["series"]
    assert (item["run"], item["steps"]) == ("r", list(range(1, 101)))
    [part] = four.get("/runs/r/series?metric=loss&across=ranks&from=70&to=71")["series"]
    assert (part["steps"], part["count"]) == ([70, 71], [4, 3])
    assert four.call("GET", "/runs/r/series?metric=loss&across=planets").status == 422


def test_the_worst_rank_stands_first(four, wait):
    """Failed, silent, then by lag; step time is the median of the last steps."""
    rows = four.get("/runs/r/ranks")["ranks"]
    assert [row["writer"] for row in rows] == ["rank3", "rank2", "rank0", "rank1"]
    assert [(row["last_step"], row["lag"]) for row in rows] == [(70, 30), (100, 0), (100, 0), (100, 0)]
    assert [row["step_time"] for row in rows] == pytest.approx([1.5, 1.0, 1.0, 1.0])
    assert [row["non_finite"] for row in rows] == [0, 40, 0, 0]
    assert (rows[0]["host"], rows[0]["pid"], rows[0]["state"], rows[0]["world_size"]) == ("node1", 103, "running", 4)
    say(four, 0, promise=-20.0)
    finish(four, writer="rank1", attempt="a", state="failed", reason="KeyError")
    rows = four.get("/runs/r/ranks?last=3")["ranks"]
    assert [(row["writer"], row["state"]) for row in rows[:2]] == [("rank1", "failed"), ("rank0", "silent")]
    assert four.get("/runs/r/ranks?attempt=7")["ranks"] == []
    assert four.call("GET", "/runs/none/ranks").status == 404


def test_a_figure_draws_the_mean_and_each_rank_on_demand(four):
    """The band and the mean; with ranks=true each rank's own line too."""

    def roles(question: str) -> list[tuple[str, str]]:
        data = four.get(f"/runs/r/figures/loss{question}")["data"]
        return [
            (trace["meta"]["writer"], trace["meta"]["role"])
            for trace in data
            if trace["meta"]["role"] in ("band", "line")
        ]

    assert roles("") == [("ranks", "band"), ("ranks", "line")]
    assert roles("?ranks=true") == [*((f"rank{rank}", "line") for rank in range(4)), *roles("")]


def test_infinite_losses_of_one_rank_are_told_apart(service):
    """+Inf on one rank: the mean is +Inf, the answer names the rank and the value."""
    start(service, 2)
    say(service, 0, blocks=[block([1.0])])
    say(service, 1, blocks=[block([math.inf])])
    [whole] = service.get("/runs/r/series?metric=loss&across=ranks&width=10")["series"]
    assert (whole["mean"], whole["min"], whole["max"]) == (["Infinity"], [1.0], [1.0])
    assert whole["non_finite"] == [{"writer": "rank1", "rank": 1, "steps": [1], "values": ["Infinity"]}]
