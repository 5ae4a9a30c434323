"""Incidents of a running service: their evidence, reminders, quiet hours, plug-ins, resolving by hand."""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime, timedelta

import numpy as np

from holter_server import schemas

RULES = """
rules:
  - id: too-high
    check: limit
    severity: critical
    metrics: [score]
    above: 10
    clear: 9
    clear_for: 2
    actions: [notify, checkpoint]
"""


def with_rules(service) -> str:
    service.call("PUT", "/projects/p/rules", RULES.encode(), Content_Type="application/yaml")
    return service.start(project="p", config={"lr": 0.1})


def bad_run(service) -> tuple[str, str]:
    """A run of 1000 steps that goes bad at step 500; its id, and the incident's."""
    run = with_rules(service)
    points = [
        {"step": step, "values": {"score": 11.0 if step == 500 else 1.0, "other": math.nan if step == 501 else step}}
        for step in range(1000)
    ]
    service.post(f"/runs/{run}/points", {"points": points, "events": [{"time": 1.0, "step": 450, "text": "stage 2"}]})
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    return run, incident["id"]


def test_the_evidence_holds_everything_around_it(service):
    """Every point of every series, config, events, commands, the rule with its arithmetic, the permalink."""
    run, incident = bad_run(service)
    asked = service.get(f"/incidents/{incident}/evidence?before=100&after=50")
    schemas.EvidenceAnswer.model_validate(asked)
    found = asked["evidence"]
    assert found["window"] == {"from": 400, "to": 552}
    assert [item["metric"] for item in found["series"]] == ["score", "other"], "its own metric comes first"
    for item in found["series"]:
        assert item["steps"] == list(range(400, 553))
    assert found["series"][0]["values"][100] == 11.0
    assert found["series"][1]["values"][101] == "NaN"
    assert found["run"]["config"] == {"lr": 0.1}
    assert [event["text"] for event in found["events"]] == ["stage 2"]
    assert [command["name"] for command in found["commands"]] == ["checkpoint"]
    assert found["rule"]["parameters"]["above"] == 10
    assert (found["incident"]["id"], found["incident"]["run"], found["left_out"]) == (incident, run, [])
    assert found["url"].endswith(f"/incidents/{incident}")


def test_the_evidence_as_a_figure(service):
    """Every point of the window, the incident as a band; another metric by a glob."""
    _, incident = bad_run(service)
    drawn = service.get(f"/incidents/{incident}/figure?before=10&after=10")
    schemas.FigureAnswer.model_validate(drawn)
    lines = [trace for trace in drawn["data"] if trace["meta"].get("role") == "line"]
    assert [trace["meta"]["metric"] for trace in lines] == ["score"]
    steps = np.frombuffer(base64.b64decode(lines[0]["x"]["bdata"]), dtype=np.float64)
    assert steps.tolist() == list(range(490, 513))
    assert drawn["layout"]["shapes"]
    both = service.get(f"/incidents/{incident}/figure?metric=*")
    assert {trace["meta"]["metric"] for trace in both["data"] if trace["meta"].get("metric")} >= {"score", "other"}
    assert service.call("GET", f"/incidents/{incident}/figure?metric=nothing").error["type"] == "figure_not_found"
    assert service.call("GET", "/incidents/none/evidence").error["type"] == "incident_not_found"


def test_quiet_hours_hold_a_message_and_drop_it_when_it_is_over(service, receiver, wait):
    """Held with the reason; resolved before their end, nobody hears of it."""
    now = datetime.now(UTC)
    hours = {"start": f"{now - timedelta(hours=1):%H:%M}", "end": f"{now + timedelta(hours=2):%H:%M}"}
    body = {"url": receiver.url, "policy": {"quiet_hours": {**hours, "passes": "nothing"}}}
    hook = service.post("/webhooks", body)["webhook"]
    assert hook["policy"]["quiet_hours"] == {**hours, "timezone": "UTC", "passes": "nothing"}
    run = with_rules(service)
    service.log(run, 1, score=11.0)
    (held,) = service.get("/deliveries")["deliveries"]
    assert (held["state"], held["held"], held["reason"]) == ("pending", "quiet hours", "new")
    assert now.timestamp() + 3600 < held["next_attempt_at"] < now.timestamp() + 3 * 3600
    for step in (2, 3, 4):
        service.log(run, step, score=1.0)
    (row,) = service.get("/deliveries")["deliveries"]
    assert (row["state"], row["last_error"]) == ("skipped", "it resolved before it was told")
    service.call("PATCH", f"/webhooks/{hook['id']}", {"policy": {"quiet_hours": None}})
    service.log(run, 5, score=11.0)
    wait(lambda: receiver.received, "the next one, with quiet hours off")
    assert receiver.types() == ["incident.firing"]


def test_a_snooze_ends_with_a_reminder(service, receiver, wait):
    """Still firing, told again; the reason stands with the delivery."""
    service.post("/webhooks", {"url": receiver.url})
    run = with_rules(service)
    (notice,) = service.log(run, 1, score=11.0)["incidents"]
    wait(lambda: receiver.received, "the firing")
    snoozed = service.post(f"/incidents/{notice['id']}/snooze", {"seconds": 0.5})["incident"]
    assert snoozed["state"] == "snoozed"
    wait(lambda: len(receiver.received) == 2, "the reminder")
    assert service.get(f"/incidents/{notice['id']}")["incident"]["state"] == "firing"
    rows = service.get(f"/deliveries?incident={notice['id']}")["deliveries"]
    assert [row["reason"] for row in rows] == ["snooze over", "new"]


def test_resolving_by_hand_is_told(service, receiver, wait):
    """With who and why; again it changes nothing."""
    service.post("/webhooks", {"url": receiver.url})
    run = with_rules(service)
    (notice,) = service.log(run, 1, score=11.0)["incidents"]
    wait(lambda: receiver.received, "the firing")
    for _ in range(2):
        done = service.post(f"/incidents/{notice['id']}/resolve", {"by": "ann", "comment": "a known outlier"})
        assert done["incident"]["resolution"] == "Resolved by hand by ann: a known outlier"
    wait(lambda: len(receiver.received) == 2, "the end")
    assert receiver.types() == ["incident.firing", "incident.resolved"]
    assert service.get(f"/runs/{run}")["run"]["health"] == "healthy"


def test_flapping_is_told_once(service, receiver, wait):
    """Ten times up and down: two incidents, then one that flaps."""
    service.post("/webhooks", {"url": receiver.url})
    run = with_rules(service)
    for step in range(40):
        service.log(run, step, score=11.0 if step % 4 == 0 else 1.0)
    rows = service.get(f"/incidents?run={run}")["incidents"]
    assert sorted(row["flaps"] for row in rows) == [0, 0, 10]
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: receiver.types().count("incident.resolved") == 3, "the end of all of them")
    told = [r.json["data"]["incident"] for r in receiver.received if r.json["type"] == "incident.firing"]
    assert [incident["flaps"] for incident in told] == [0, 0, 3]


def test_a_webhook_can_be_changed(service, receiver):
    """What is not named stays; a null where there can be none is refused."""
    hook = service.post("/webhooks", {"url": receiver.url, "name": "a"})["webhook"]
    path = f"/webhooks/{hook['id']}"
    changed = service.call("PATCH", path, {"enabled": False, "policy": {"repeat_interval_s": 3600}}).json["webhook"]
    schemas.WebhookAnswer.model_validate({"webhook": changed})
    assert (changed["enabled"], changed["name"], changed["policy"]["repeat_interval_s"]) == (False, "a", 3600)
    again = service.call("PATCH", path, {"policy": {"send_resolved": False}}).json["webhook"]
    assert (again["policy"]["repeat_interval_s"], again["policy"]["send_resolved"]) == (3600, False)
    assert service.call("PATCH", path, {"enabled": None}).status == 422
    bad = service.call("PATCH", path, {"policy": {"quiet_hours": {"start": "1:00", "end": "07:00"}}})
    assert bad.status == 422
    zone = {"quiet_hours": {"start": "01:00", "end": "07:00", "timezone": "Mars/Base"}}
    assert "Mars/Base" in service.call("PATCH", path, {"policy": zone}).error["message"]
    assert service.get(path)["webhook"]["breaker"]["state"] == "closed"


def test_the_permalink_leads_to_the_incident_on_its_runs_page(service):
    """One that is not known leads to the page itself."""
    run, incident = bad_run(service)
    found = service.http.request("GET", f"{service.base}/incidents/{incident}", redirect=False)
    assert (found.status, found.headers["Location"]) == (302, f"/runs/{run}#incident-{incident}")
    assert service.http.request("GET", f"{service.base}/incidents/none", redirect=False).status == 200
