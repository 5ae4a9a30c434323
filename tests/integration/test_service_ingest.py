"""What was acknowledged is there: once, exactly, after a restart, and from many clients at a time."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from holter import wire
from holter_server.service import running

ODD = [math.nan, math.inf, -math.inf, 1e-30, 5e-324, -0.0, 0.1 + 0.2, 1.7976931348623157e308]


def frame_of(seq: int, steps: list[int], values: list[float], metric: str = "loss/total", **fields) -> wire.Frame:
    block = wire.Block.of([metric], steps, [1.7e9 + step for step in steps], [[value] for value in values])
    return wire.Frame(version=1, attempt="", writer="rank0", seq=seq, blocks=[block], **fields)


def values_of(service, run: str, metric: str = "loss/total") -> list[float]:
    found = service.get(f"/runs/{run}/series?metric={metric}")["series"]
    return [wire.number_from_json(value) for value in found[0]["values"]] if found else []


def same(left: list[float], right: list[float]) -> bool:
    return np.array(left).tobytes() == np.array(right).tobytes()


def test_json_points_come_back_bit_for_bit(service):
    """NaN, ±Inf, subnormal numbers and −0.0 included."""
    run = service.start()
    points = [{"step": i, "time": 1.7e9 + i, "values": {"loss/total": value}} for i, value in enumerate(ODD)]
    receipt = service.post(f"/runs/{run}/points", {"points": points, "seq": 1})
    assert receipt["acknowledged"] == 1
    assert receipt["duplicate"] is False
    assert same(values_of(service, run), ODD)


def test_frames_come_back_bit_for_bit(service):
    """msgpack under gzip, as the agent ships."""
    run = service.start()
    assert service.ship(run, frame_of(1, list(range(len(ODD))), ODD))["acknowledged"] == 1
    assert same(values_of(service, run), ODD)


def test_the_same_seq_again_changes_nothing(service):
    """A retry after a lost answer is answered alike and counted once."""
    run = service.start()
    first = service.ship(run, frame_of(1, [1, 2], [1.0, 2.0]))
    again = service.ship(run, frame_of(1, [1, 2], [1.0, 2.0]))
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert again["acknowledged"] == 1
    assert service.get(f"/runs/{run}/metrics")["metrics"][0]["count"] == 2


def test_ranks_have_sequences_of_their_own(service):
    """Two writers may use the same seq."""
    run = service.start()
    for rank in (0, 1):
        body = {"points": [{"step": 1, "values": {"loss": float(rank)}}], "writer": f"rank{rank}", "seq": 1}
        assert service.post(f"/runs/{run}/points", body)["duplicate"] is False
    assert service.get(f"/runs/{run}/metrics")["metrics"][0]["writers"] == ["rank0", "rank1"]


def test_a_restart_loses_nothing(settings, client_of):
    """Points, incidents and the rules' memory are there after a stop and a new start."""
    with running(settings) as base:
        service = client_of(base)
        run = service.start(project="denovo")
        service.log(run, 1, seq=1, loss__total=3.0, loss__precursor=9.0)
        before = service.get("/incidents")["incidents"]
    assert before
    with running(settings) as base:
        service = client_of(base)
        assert service.get("/incidents")["incidents"] == before
        assert values_of(service, run) == [3.0]
        assert service.log(run, 1, seq=1, loss__total=3.0, loss__precursor=9.0)["duplicate"] is True
        assert service.log(run, 2, seq=2, loss__total=2.9, loss__precursor=9.5)["incidents"] == []
        assert [row["id"] for row in service.get("/incidents")["incidents"]] == [row["id"] for row in before]


def test_many_clients_at_once_lose_nothing(service):
    """Their frames share commits; each is acknowledged with its own seq, and a bad one among them harms nobody."""
    runs = [service.start() for _ in range(4)]
    failures: list[object] = []

    def send(run: str) -> None:
        for seq in range(1, 26):
            answer = service.call(
                "POST", f"/runs/{run}/points", {"points": [{"step": seq, "values": {"a": seq}}], "seq": seq}
            )
            if (answer.status, answer.json.get("acknowledged")) != (200, seq):
                failures.append(answer.data)
            if service.call("POST", "/runs/nowhere/points", {"points": []}).status != 404:
                failures.append("a run that does not exist")

    threads = [threading.Thread(target=send, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for run in runs:
        assert values_of(service, run, "a") == [float(seq) for seq in range(1, 26)]


def test_starting_a_run_again_changes_nothing(service):
    """The same id and attempt is the same run; another attempt opens a new one of it."""
    start = {"id": "run-a", "project": "demo", "attempt": "one", "name": "first"}
    first = service.post("/runs", start)["run"]
    assert service.post("/runs", start)["run"]["attempt"] == first["attempt"] == 1
    resumed = service.post("/runs", {**start, "attempt": "two"})["run"]
    assert (resumed["id"], resumed["attempt"], resumed["state"]) == ("run-a", 2, "running")


def test_a_run_goes_its_way(service):
    """Start, change, finish, hide: each answer has the run as it is then."""
    run = service.start(name="gaussian", tags=["a"], config={"lr": 1e-3, "limit": math.inf})
    assert service.get(f"/runs/{run[:8]}")["run"]["config"] == {"lr": 1e-3, "limit": "Infinity"}
    changed = service.call("PATCH", f"/runs/{run}", {"name": "renamed", "notes": "why"}).json["run"]
    assert (changed["name"], changed["notes"], changed["tags"]) == ("renamed", "why", ["a"])
    finished = service.post(f"/runs/{run}/finish", {"state": "failed", "reason": "ValueError: x"})["run"]
    assert (finished["state"], finished["state_reason"]) == ("failed", "ValueError: x")
    assert service.call("DELETE", f"/runs/{run}").json["deleted"] == run
    assert service.call("GET", f"/runs/{run}").error["type"] == "run_deleted"
    assert service.get("/runs")["runs"] == []


@pytest.mark.parametrize("order", ["-created_at", "created_at", "name"])
def test_pages_of_runs_fit_together(service, order):
    """Following `next` gives every run once."""
    made = {service.start() for _ in range(7)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = service.get(f"/runs?limit=3&sort={order}{cursor}")
        seen += [run["id"] for run in page["runs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == 7
    assert set(seen) == made


def test_an_empty_frame_is_a_sign_of_life(service):
    """It stores no point, and its promise says when the next sign is due."""
    run = service.start()
    seen = service.get(f"/runs/{run}")["run"]["last_seen_at"]
    service.ship(run, wire.Frame(version=1, attempt="", writer="rank0", seq=0, promise=30.0))
    after = service.get(f"/runs/{run}")["run"]
    assert after["last_seen_at"] >= seen
    assert after["due_at"] == pytest.approx(after["last_seen_at"] + 30.0)
    assert service.get(f"/runs/{run}/metrics")["metrics"] == []
