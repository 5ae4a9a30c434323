"""From a value to an incident to a command, and what people can do about it."""

from __future__ import annotations

import pytest

from holter import wire
from holter_server.service import running

STOP_RULES = """
rules:
  - id: too-high
    check: limit
    severity: critical
    metrics: [score]
    above: 10
    actions: [notify, checkpoint, stop]
"""


def test_an_unhealthy_value_opens_an_incident_at_once(service):
    """The receipt of the very frame names it, with value, threshold and advice in the incident."""
    run = service.start(project="denovo")
    (notice,) = service.log(run, 3, loss__total=3.0, loss__precursor=7.0)["incidents"]
    incident = service.get(f"/incidents/{notice['id']}")["incident"]
    assert (incident["metric"], incident["step"], incident["value"], incident["threshold"]) == (
        "loss/precursor", 3, 7.0, 5.0,
    )  # fmt: skip
    assert incident["advice"]
    assert incident["state"] == "firing"
    shown = service.get(f"/runs/{run}")["run"]
    assert (shown["health"], shown["open_incidents"]["critical"]) == ("critical", 1)
    assert [row["id"] for row in service.get("/runs?health=critical")["runs"]] == [run]


def test_it_resolves_and_keeps_its_evidence(service):
    """Back to healthy, the incident stays readable."""
    run = service.start(project="denovo")
    service.log(run, 0, loss__total=3.0, loss__precursor=7.0)
    for step in range(1, 200):
        service.log(run, step, loss__total=3.0, loss__precursor=0.5)
        if service.get(f"/runs/{run}")["run"]["health"] == "healthy":
            break
    (incident,) = service.get(f"/incidents?run={run}&state=resolved")["incidents"]
    assert incident["value"] == 7.0
    assert incident["resolved_at"] is not None
    assert incident["evidence"]


def test_people_acknowledge_and_snooze(service):
    """Both are written down with their time."""
    run = service.start(project="denovo")
    (notice,) = service.log(run, 3, loss__total=3.0, loss__precursor=7.0)["incidents"]
    seen = service.post(f"/incidents/{notice['id']}/acknowledge", {"by": "ana"})["incident"]
    assert (seen["state"], seen["acknowledged_by"]) == ("acknowledged", "ana")
    snoozed = service.post(f"/incidents/{notice['id']}/snooze", {"seconds": 3600})["incident"]
    assert snoozed["snoozed_until"] > seen["acknowledged_at"] + 3500


def test_a_command_goes_all_the_way(service):
    """requested → delivered → acknowledged → done, and it is handed out until the training has seen it."""
    run = service.start()
    asked = service.post(f"/runs/{run}/commands", {"name": "stop", "args": {"why": "enough"}})["command"]
    assert asked["state"] == "requested"
    for _ in range(2):  # an answer may get lost
        receipt = service.ship(run, wire.Frame(1, "", "rank0", 0))
        assert [(order["id"], order["args"]) for order in receipt["commands"]] == [(asked["id"], {"why": "enough"})]
    assert service.get(f"/runs/{run}/commands")["commands"][0]["state"] == "delivered"
    for state in ("acknowledged", "done"):
        update = wire.CommandUpdate(id=asked["id"], state=state, time=1.7e9, result="stopped", step=7)
        assert service.ship(run, wire.Frame(1, "", "rank0", 0, commands=[update]))["commands"] == []
        (command,) = service.get(f"/runs/{run}/commands")["commands"]
        assert command["state"] == state
    assert (command["result"], command["step"]) == ("stopped", 7)


def test_a_rule_can_stop_a_training(service):
    """Its actions become commands: saved first, then stopped; and not once more at every step."""
    service.call("PUT", "/projects/demo/rules", {"rules": STOP_RULES})
    run = service.start(project="demo")
    receipt = service.log(run, 1, score=11.0)
    assert [order["name"] for order in receipt["commands"]] == ["checkpoint", "stop"]
    assert receipt["commands"][1]["requested_by"] == "rule too-high"
    service.log(run, 2, score=12.0)
    assert len(service.get(f"/runs/{run}/commands")["commands"]) == 2


def test_new_rules_apply_to_a_run_that_goes_on(service):
    """Without a restart."""
    run = service.start(project="demo")
    assert service.log(run, 1, score=11.0)["incidents"] == []
    service.call("PUT", "/projects/demo/rules", STOP_RULES.encode(), Content_Type="text/yaml")
    assert [notice["rule"] for notice in service.log(run, 2, score=12.0)["incidents"]] == ["too-high"]


def test_rules_describe_themselves(service):
    """With the project's own ones among them."""
    service.call("PUT", "/projects/demo/rules", {"rules": STOP_RULES})
    answer = service.get("/rules?project=demo")
    assert "too-high" in {rule["id"] for rule in answer["rules"]}
    assert answer["project_rules"] == STOP_RULES
    assert {"default", "denovo"} <= set(answer["packs"])


def test_a_silent_run_is_lost_and_found_again(service, wait):
    """By the promise that it broke; its next sign makes it running again and resolves the incident."""
    run = service.start()
    service.ship(run, wire.Frame(1, "", "rank0", 0, promise=0.1))
    wait(lambda: service.get(f"/runs/{run}")["run"]["state"] == "lost", "the run to be lost", 90)
    (incident,) = service.get(f"/incidents?run={run}&state=firing")["incidents"]
    assert incident["kind"] == "lost"
    receipt = service.ship(run, wire.Frame(1, "", "rank0", 0, promise=60.0))
    assert receipt["run_state"] == "running"
    wait(lambda: not service.get(f"/incidents?run={run}&state=firing")["incidents"], "the incident to resolve")
    assert service.get(f"/runs/{run}")["run"]["state"] == "running"


def test_a_failed_run_says_so(service):
    """The end is looked at by the rules at once."""
    run = service.start()
    service.log(run, 1, loss=1.0)
    service.post(f"/runs/{run}/finish", {"state": "failed", "reason": "CUDA out of memory"})
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert incident["kind"] == "failed"
    assert "out of memory" in str(incident)


@pytest.mark.parametrize("split", [1, 7])
def test_a_restart_in_the_middle_changes_no_verdict(settings, client_of, split):
    """The rules' memory is saved with the points, so the incidents are those of an undisturbed run."""
    rows = [(step, 3.0 if step != 40 else 9.0) for step in range(60)]

    def incidents_of(run: str, cuts: list[list[tuple[int, float]]]) -> list[tuple]:
        for part in cuts:
            with running(settings) as base:
                service = client_of(base)
                if service.call("GET", f"/runs/{run}").status == 404:
                    service.start(project="denovo", id=run)
                points = [
                    {"step": s, "time": 1.7e9 + s, "values": {"loss/total": 3.0, "loss/precursor": v}} for s, v in part
                ]
                service.post(f"/runs/{run}/points", {"points": points})
                found = service.get(f"/incidents?run={run}")["incidents"]
        return sorted((row["incident"], row["state"], row["step"], row["value"]) for row in found)

    whole = incidents_of("whole", [rows])
    assert whole
    assert incidents_of("parts", [rows[:split], rows[split:41], rows[41:]]) == whole
