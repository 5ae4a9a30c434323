"""Deleting, restoring, purging and retention of a running service, on both databases."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holter
from holter import wire
from holter.sync import sync
from holter_db.database import Database
from holter_db.deletion import delete_run, purge_some
from holter_db.ingest import append
from holter_db.retention import DAY
from holter_db.runs import set_state, start_run
from holter_server.service import running
from holter_server.settings import Settings


def deleted(service: Any) -> dict[str, dict[str, Any]]:
    return {run["id"]: run for run in service.get("/runs?deleted=true")["runs"]}


def is_purged(service: Any, run: str) -> bool:
    answer = service.call("GET", f"/runs/{run}")
    return answer.status == 410 and answer.error["type"] == "run_purged" and run not in deleted(service)


def test_deleted_listed_restored(service) -> None:
    """The list of deleted runs says when each goes; a restored one is there with its points, by a prefix as well."""
    run = service.start(project="denovo", name="gone")
    service.log(run, 1, loss=math.nan)
    answer = service.call("DELETE", f"/runs/{run}").json
    row = deleted(service)[run]
    assert answer == {"deleted": run, "purge_at": row["deleted_at"] + 30 * DAY}
    assert (row["purge_at"], row["purging_at"], row["deleted_because"]) == (answer["purge_at"], None, None)
    assert service.get("/runs")["runs"] == []
    assert service.get("/runs?deleted=true&project=other")["runs"] == []
    assert service.get("/projects")["projects"][0]["runs"] == 0
    for path in ("", "/metrics", "/series?metric=*", "/export?format=csv", "/incidents", "/events", "/commands"):
        refused = service.call("GET", f"/runs/{run}{path}")
        assert (refused.status, refused.error["type"]) == (410, "run_deleted"), path
        assert "restore" in refused.error["hint"]
    back = service.post(f"/runs/{run[:10]}/restore")["run"]
    assert (back["id"], back["deleted_at"]) == (run, None)
    assert service.get(f"/runs/{run}/series?metric=loss")["series"][0]["values"] == ["NaN"]
    assert service.post(f"/runs/{run}/restore")["run"] == back
    assert service.call("POST", "/runs/nothing/restore").status == 404


def test_nothing_is_added_to_a_deleted_run(service) -> None:
    """Points, an end, a change, a command, a new attempt: each is told that it was deleted."""
    run = service.start(project="denovo")
    service.call("DELETE", f"/runs/{run}")
    calls = [
        ("POST", f"/runs/{run}/points", {"points": [{"step": 1, "values": {"loss": 1.0}}]}),
        ("POST", f"/runs/{run}/finish", {}),
        ("POST", f"/runs/{run}/commands", {"name": "stop"}),
        ("PATCH", f"/runs/{run}", {"name": "x"}),
        ("POST", "/runs", {"project": "denovo", "id": run, "attempt": "again"}),
        ("DELETE", f"/runs/{run}", None),
    ]
    for method, path, body in calls:
        answer = service.call(method, path, body)
        assert (answer.status, answer.error["type"]) == (410, "run_deleted"), path
    service.post(f"/runs/{run}/restore")
    assert service.get(f"/runs/{run}/metrics")["metrics"] == []


def test_a_purge_asked_for_happens_at_once_and_for_good(service, wait: Callable[..., Any]) -> None:
    """Only of a deleted run. The id stays used."""
    run = service.start(project="denovo")
    service.log(run, 1, loss=1.0)
    refused = service.call("POST", f"/runs/{run}/purge")
    assert (refused.status, refused.error["type"]) == (409, "conflict")
    service.call("DELETE", f"/runs/{run}")
    answer = service.call("POST", f"/runs/{run}/purge")
    assert answer.status == 202
    assert answer.json["run"]["purge_at"] == answer.json["run"]["purging_at"] <= time.time()
    wait(lambda: is_purged(service, run), "the purge")
    again = service.call("POST", "/runs", {"project": "denovo", "id": run})
    assert (again.status, again.error["type"]) == (410, "run_purged")
    assert service.call("POST", f"/runs/{run}/restore").error["type"] == "run_purged"


def frame(seq: int, rows: int) -> wire.Frame:
    steps = [seq * rows + row for row in range(rows)]
    values = [[step / 7, -step / 3] for step in steps]
    return wire.Frame(1, "", "rank0", seq, blocks=[wire.Block.of(("a", "b"), steps, steps, values)])


def half_purged(url: str) -> None:
    """A database as a service leaves it that is killed in the middle of a purge."""
    database = Database.open(url)
    with database.write() as conn:
        start_run(conn, wire.RunStart(project="p", id="half"), 1.0)
        for seq in range(1, 101):
            append(conn, "half", frame(seq, 10), 1.0)
        delete_run(conn, "half", 1.0)
        assert not purge_some(conn, "half", 2.0, deleted_before=1.0, more=lambda: False).done
    database.close()


def test_a_purge_goes_on_after_a_restart(database_url: str, settings: Settings, client_of, wait) -> None:
    """Also where runs are never purged by themselves: it was begun."""
    half_purged(database_url)
    with running(settings.model_copy(update={"purge_after_days": None})) as base:
        wait(lambda: is_purged(client_of(base), "half"), "the rest of the purge")


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_servers_purge_and_retire_without_harm(database_url: str, settings: Settings, client_of, wait) -> None:
    """Each thing once, whoever does it."""
    half_purged(database_url)
    database = Database.open(database_url)
    with database.write() as conn:
        for number in range(20):
            start_run(conn, wire.RunStart(project="p", id=f"r{number:02}"), 1.0 + number)
            set_state(conn, f"r{number:02}", "finished", None, 2.0)
    database.close()
    impatient = settings.model_copy(update={"retention_runs": 5, "upkeep_interval_s": 0.05, "purge_after_days": 0.0})
    with running(impatient) as first, running(impatient) as second:
        one, two = client_of(first), client_of(second)
        wait(lambda: not deleted(one) and len(one.get("/runs")["runs"]) == 5, "retention and purge")
        assert [run["id"] for run in two.get("/runs")["runs"]] == [f"r{number:02}" for number in range(19, 14, -1)]
        assert is_purged(two, "half")
        assert is_purged(two, "r00")


def test_ingest_goes_on_beside_a_purge(service, wait) -> None:
    """Every acknowledged point of another run is there exactly once, while thousands of rows go."""
    big, other = service.start(project="p"), service.start(project="p")
    for seq in range(1, 201):
        service.ship(big, frame(seq, 20))
    service.call("DELETE", f"/runs/{big}")
    purged = threading.Event()
    sent = 0
    service.call("POST", f"/runs/{big}/purge")
    while not purged.is_set():
        sent += 1
        assert not service.ship(other, frame(sent, 5))["duplicate"]
        if sent > 5 and is_purged(service, big):
            purged.set()
    series = {row["metric"]: row for row in service.get(f"/runs/{other}/series?metric=*")["series"]}
    assert series["a"]["steps"] == list(range(5, 5 * (sent + 1)))


def test_retention_of_a_project(service, wait) -> None:
    """Off until it is set; tried before; then it deletes, says why, and what is restored stays."""
    names = ["first", "second", "third"]
    runs = [service.start(project="p", name=name) for name in names]
    for run in runs:
        service.post(f"/runs/{run}/finish", {})
    assert service.get("/projects/p/retention")["retention"] == {
        "project": "p", "days": None, "runs": None, "raw_days": None, "of": "settings"
    }  # fmt: skip
    assert service.get("/retention/due")["runs"] == []
    (tried,) = service.get("/retention/due?project=p&runs=2")["runs"]
    assert (tried["run"], tried["because"]) == (runs[0], "the project keeps its newest 2")
    assert len(service.get("/runs")["runs"]) == 3
    put = service.call("PUT", "/projects/p/retention", {"runs": 2})
    assert put.json["retention"] == {"project": "p", "days": None, "runs": 2, "raw_days": None, "of": "project"}
    answer = service.get("/retention")
    assert answer["projects"] == [put.json["retention"]]
    assert (answer["default"], answer["purge_after_days"]) == ({"days": None, "runs": None, "raw_days": None}, 30.0)
    assert [run["run"] for run in service.get("/retention/due")["runs"]] == [runs[0]]
    assert service.call("DELETE", "/projects/p/retention").json["retention"]["of"] == "settings"
    assert service.get("/retention/due")["runs"] == []


@pytest.mark.parametrize("body", [{"days": 0}, {"runs": 0}, {"days": "NaN"}, {"keep": 3}, {"runs": 1.5}])
def test_limits_that_can_not_be_are_refused(service, body: dict[str, Any]) -> None:
    """In the one shape, and nothing is set."""
    answer = service.call("PUT", "/projects/p/retention", body)
    assert (answer.status, answer.error["type"]) == (422, "invalid_request")
    assert service.get("/projects/p/retention")["retention"]["of"] == "settings"


def test_retention_acts_by_itself(settings: Settings, client_of, wait) -> None:
    """By the settings' default, in the background; the tag brings a run back for good."""
    quick = settings.model_copy(update={"retention_runs": 1, "upkeep_interval_s": 0.1})
    with running(quick) as base:
        service = client_of(base)
        old = service.start(project="p")
        service.post(f"/runs/{old}/finish", {})
        new = service.start(project="p")
        wait(lambda: old in deleted(service), "retention")
        assert deleted(service)[old]["deleted_because"] == "retention: the project keeps its newest 1"
        assert service.post(f"/runs/{old}/restore")["run"]["tags"] == ["keep"]
        service.post(f"/runs/{new}/finish", {})
        time.sleep(0.5)
        assert {run["id"] for run in service.get("/runs")["runs"]} == {old, new}


def test_raw_points_are_dropped_once_a_run_is_compacted(settings: Settings, database_url: str, client_of, wait) -> None:
    """By the background loop; the catalogue and the charts still know all of it."""
    quick = {"retention_raw_days": 1e-6, "upkeep_interval_s": 0.1, "compact_interval_s": 0.1}
    database = Database.open(database_url)

    def chunks(condition: str) -> int:
        with database.read() as conn:
            return int(conn.exec_driver_sql(f"SELECT count(*) FROM chunks WHERE {condition}").scalar_one())

    with running(settings.model_copy(update=quick)) as base:
        service = client_of(base)
        run = service.start(project="p")
        for seq in range(1, 6):
            service.ship(run, frame(seq, 1000))
        service.post(f"/runs/{run}/finish", {})
        wait(lambda: chunks("NOT raw") == 2 and not chunks("raw"), "the raw points to go")
        (metric, _) = service.get(f"/runs/{run}/metrics")["metrics"]
        assert metric["count"] == 5000
        (view,) = service.get(f"/runs/{run}/series?metric=a&width=4")["series"]
        assert (view["min"], view["max"], view["count"]) == (1000 / 7, 5999 / 7, 5000)
    database.close()


def test_the_points_of_a_deleted_run_are_safe_with_its_agent(
    service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wait
) -> None:
    """The training goes on and says once why nothing is taken; after a restore every step is there, none twice."""
    monkeypatch.setenv("HOLTER_SLOW_RETRY", "0.3")
    monkeypatch.setenv("HOLTER_HEARTBEAT", "0.2")
    said = ""

    def has_said(text: str) -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return text in said

    run = holter.init(project="p", url=service.base, dir=tmp_path)
    run.log({"loss": 0.0}, step=0)
    wait(lambda: service.call("GET", f"/runs/{run.id}/metrics").json.get("metrics"), "the first step")
    service.call("DELETE", f"/runs/{run.id}")
    for step in range(1, 100):
        run.log({"loss": step / 7}, step=step)
    wait(lambda: has_said("holter restore"), "a word of the agent")
    assert "was deleted" in said
    service.post(f"/runs/{run.id}/restore")
    for step in range(100, 120):
        run.log({"loss": step / 7}, step=step)
    run.finish()
    report = sync(tmp_path, url=service.base)
    assert report.complete
    (series,) = service.get(f"/runs/{run.id}/series?metric=loss")["series"]
    assert series["steps"] == list(range(120))
    assert series["values"] == [step / 7 for step in range(120)]


def test_sync_says_that_a_run_was_deleted(service, tmp_path: Path) -> None:
    """What was recorded stays where it is, and goes once the run is restored."""
    run = holter.init(project="p", mode="offline", dir=tmp_path)
    run.log({"loss": 1.0}, step=1)
    run.finish()
    service.start(project="p", id=run.id)
    service.call("DELETE", f"/runs/{run.id}")
    report = sync(tmp_path, url=service.base, patience=1)
    assert not report.complete
    assert all("was deleted" in (spool.problem or "") for spool in report.spools)
    service.post(f"/runs/{run.id}/restore")
    assert sync(tmp_path, url=service.base).complete
    assert service.get(f"/runs/{run.id}/metrics")["metrics"]


def test_a_delivery_of_a_purged_run_harms_nobody(service, receiver, wait) -> None:
    """It goes with the run, also while it waits to be tried again; others are delivered on."""
    receiver.answers += [(503, {"Retry-After": "1"})] * 3
    service.post("/webhooks", {"url": receiver.url, "types": ["run.state"], "min_severity": "info"})
    run, other = service.start(project="p"), service.start(project="p")
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: receiver.received, "the first attempt")
    service.call("DELETE", f"/runs/{run}")
    service.call("POST", f"/runs/{run}/purge")
    wait(lambda: is_purged(service, run), "the purge")
    service.post(f"/runs/{other}/finish", {})
    wait(lambda: [row["state"] for row in service.get("/deliveries")["deliveries"]] == ["delivered"], "the other one")
