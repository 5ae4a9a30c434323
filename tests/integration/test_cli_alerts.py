"""The command line for alerts: policies, deliveries, the history of rules, mutes, and asking for a dump."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from holter_server.cli.app import app

RULES = "rules: [{id: too-high, check: limit, severity: critical, metrics: [score], above: 10}]\n"


def holter(service, *words: str):
    return CliRunner().invoke(app, [*words, "--url", service.base], env={"COLUMNS": "200"})


def test_rules_are_put_listed_and_restored(service, tmp_path: Path) -> None:
    """Every version stays in the history."""
    file = tmp_path / "rules.yaml"
    for limit in ("10", "20"):
        file.write_text(RULES.replace("10", limit))
        assert holter(service, "rules", "put", "p", str(file), "--comment", f"limit {limit}").exit_code == 0
    listed = holter(service, "rules", "history", "p")
    assert "limit 10" in listed.stdout
    assert "limit 20" in listed.stdout
    back = json.loads(holter(service, "rules", "restore", "p", "1", "--json").stdout)
    assert back["version"] == 3
    assert service.get("/rules?project=p")["project_rules"] == RULES
    assert holter(service, "rules", "restore", "p", "9").exit_code == 1


def test_a_rule_is_muted_and_unmuted(service) -> None:
    """For a run that is named by its project and name."""
    service.call("PUT", "/projects/p/rules", RULES.encode(), Content_Type="application/yaml")
    run = service.start(project="p", name="here")
    made = json.loads(holter(service, "mute", "too-high", "--run", "p/here", "--hours", "2", "--json").stdout)["mute"]
    assert made["run"] == run
    service.log(run, 1, score=11.0)
    assert service.get(f"/runs/{run}")["run"]["health"] == "healthy"
    assert holter(service, "unmute", made["id"]).exit_code == 0
    assert service.get(f"/runs/{run}")["run"]["health"] == "critical"
    assert "--run" in holter(service, "mute", "too-high").stderr


def test_a_webhook_with_a_policy_and_its_deliveries(service, receiver, wait) -> None:
    """What was sent, why, and again by hand."""
    words = ["webhook", "add", receiver.url, "--repeat", "4", "--no-resolved", "--rate", "60", "--json"]
    added = holter(service, *words, "--quiet", "22:00-07:00 Europe/Berlin")
    assert json.loads(added.stdout)["webhook"]["policy"] == {
        "group_wait_s": 0, "repeat_interval_s": 14_400, "send_resolved": False, "rate_per_minute": 60,
        "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin", "passes": "critical"},
    }  # fmt: skip
    assert "closed" in holter(service, "webhook", "list").stdout
    assert holter(service, "webhook", "add", receiver.url, "--quiet", "at night").exit_code == 1
    service.call("PUT", "/projects/p/rules", RULES.encode(), Content_Type="application/yaml")
    service.log(service.start(project="p"), 1, score=11.0)
    wait(lambda: receiver.received, "the message")
    (row,) = wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "delivered")
    assert row["id"] in holter(service, "webhook", "deliveries", "--state", "delivered").stdout
    assert holter(service, "webhook", "redeliver", row["id"]).exit_code == 0
    wait(lambda: len(receiver.received) == 2, "the same again")
    assert receiver.received[0].body == receiver.received[1].body


def test_a_dump_is_asked_for(service) -> None:
    """It waits for the training, which has to answer."""
    run = service.start(project="p", name="here")
    assert holter(service, "dump", "p/here", "--wait", "0").exit_code == 0
    assert [order["name"] for order in service.log(run, 1, score=1.0)["commands"]] == ["dump"]
