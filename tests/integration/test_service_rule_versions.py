"""Rules as data: versions with their authors, restored; checked without being kept; muted for one run or metric."""

from __future__ import annotations

import pytest
import yaml

from holter_server import schemas
from holter_server.agent_rules import rules_of_agent
from holter_server.service import running

RULES = """
rules:
  - id: too-high
    check: limit
    severity: critical
    metrics: ["score*"]
    above: 10
    actions: [notify, checkpoint, stop]
"""
YAML = {"Content_Type": "application/yaml"}


def put(service, text: str, query: str = "", project: str = "p"):
    return service.call("PUT", f"/projects/{project}/rules{query}", text.encode(), **YAML)


def test_versions_are_listed_shown_and_restored(service):
    """Who, when and why; a restored version is a new one, and what is between them is kept."""
    first = put(service, RULES, "?by=ann&comment=start").json
    assert first["version"] == 1
    assert put(service, RULES.replace("10", "20"), "?by=bob&comment=too+many+alarms").json["version"] == 2
    listed = service.get("/projects/p/rules/versions")
    schemas.RulesVersionsAnswer.model_validate(listed)
    assert [(v["version"], v["author"], v["comment"]) for v in listed["versions"]] == [
        (2, "bob", "too many alarms"), (1, "ann", "start"),
    ]  # fmt: skip
    shown = service.get("/projects/p/rules/versions/1")
    schemas.RulesVersionAnswer.model_validate(shown)
    assert shown["version"]["text"] == RULES
    back = service.post("/projects/p/rules/restore?by=ann", {"version": 1})
    assert (back["version"], back["project_rules"]) == (3, RULES)
    assert service.get("/projects/p/rules/versions/3")["version"]["comment"] == "version 1 restored"
    assert service.call("GET", "/projects/p/rules/versions/9").error["type"] == "rules_version_not_found"
    run = service.start(project="p")
    assert [notice["rule"] for notice in service.log(run, 1, score=15.0)["incidents"]] == ["too-high"]


def test_two_people_at_once_do_not_overwrite_each_other(service):
    """Whoever has not seen the newest version is told which it is."""
    put(service, RULES, "?expected=0")
    answer = put(service, RULES.replace("10", "11"), "?expected=0")
    assert (answer.status, answer.error["type"]) == (409, "conflict")
    assert "version 1" in answer.error["hint"]
    assert put(service, RULES.replace("10", "11"), "?expected=1").json["version"] == 2


def test_rules_are_checked_without_being_kept(service):
    """What they change, or the line and the allowed keys."""
    said = service.call("POST", "/rules/check", RULES.encode(), **YAML).json
    schemas.RulesCheckAnswer.model_validate(said)
    assert (said["valid"], said["changed"]) == (True, ["too-high"])
    wrong = service.call("POST", "/rules/check", RULES.replace("above", "abov").encode(), **YAML)
    assert (wrong.status, wrong.error["type"], wrong.error["line"]) == (422, "invalid_rules", 7)
    assert "above" in wrong.error["allowed_keys"]
    assert service.get("/projects/p/rules/versions")["versions"] == []


def test_a_rule_may_ask_for_tags(service):
    """Any one that fits is enough; other runs of the project are left alone."""
    put(service, RULES + '    tags: ["prod*"]\n')
    tagged, other = service.start(project="p", tags=["big", "production"]), service.start(project="p", tags=["test"])
    assert service.log(tagged, 1, score=11.0)["incidents"]
    assert service.log(other, 1, score=11.0)["incidents"] == []


def test_a_muted_rule_writes_down_and_does_nothing_else(service, receiver, wait):
    """No message, no command, healthy; another run of the project is not muted."""
    service.post("/webhooks", {"url": receiver.url, "min_severity": "info"})
    put(service, RULES)
    run, other = service.start(project="p"), service.start(project="p")
    made = service.post("/mutes?by=ann", {"rule": "too-high", "run": run, "comment": "known"})
    schemas.MuteAnswer.model_validate(made)
    service.log(run, 1, score=11.0)
    service.log(other, 1, score=11.0)
    wait(lambda: receiver.received, "the other run's message")
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert (incident["state"], incident["muted"]) == ("firing", made["mute"]["id"])
    assert service.get(f"/runs/{run}")["run"]["health"] == "healthy"
    assert service.get(f"/runs/{run}/commands")["commands"] == []
    assert {row["run"] for row in service.get("/deliveries")["deliveries"]} == {other}
    assert service.get(f"/runs/{other}/commands")["commands"]
    assert [row["id"] for row in service.get(f"/mutes?run={run}")["mutes"]] == [made["mute"]["id"]]
    assert service.get(f"/mutes?run={other}")["mutes"] == []


def test_muting_silences_what_is_open_and_unmuting_brings_it_back(service):
    """Health follows at once, both ways."""
    put(service, RULES)
    run = service.start(project="p")
    service.log(run, 1, score=11.0, score2=11.0)
    assert service.get(f"/runs/{run}")["run"]["open_incidents"]["critical"] == 2
    mute = service.post("/mutes", {"rule": "too-high", "project": "p", "metric": "score2"})["mute"]
    assert service.get(f"/runs/{run}")["run"]["open_incidents"]["critical"] == 1
    assert service.call("DELETE", f"/mutes/{mute['id']}").json == {"deleted": mute["id"]}
    assert service.get(f"/runs/{run}")["run"]["open_incidents"]["critical"] == 2
    assert service.call("DELETE", f"/mutes/{mute['id']}").error["type"] == "mute_not_found"


def test_a_mute_ends_by_itself(service, wait):
    """After its seconds the incident counts again."""
    put(service, RULES)
    run = service.start(project="p")
    service.log(run, 1, score=11.0)
    service.post("/mutes", {"rule": "too-high", "run": run, "seconds": 1})
    assert service.get(f"/runs/{run}")["run"]["health"] == "healthy"
    wait(lambda: service.get(f"/runs/{run}")["run"]["health"] == "critical", "the end of the mute")
    assert service.get("/mutes")["mutes"] == []


def test_a_mute_needs_a_place(service):
    """Neither a run nor a project is a mistake, and so is a run of another project."""
    assert service.call("POST", "/mutes", {"rule": "x"}).status == 422
    run = service.start(project="p")
    assert service.call("POST", "/mutes", {"rule": "x", "run": run, "project": "q"}).status == 404


def test_a_dry_run_is_written_down_and_not_sent(service):
    """Of a rule: the command says what would have been asked for, and no agent hears of it."""
    put(service, RULES + "    dry_run: true\n")
    run = service.start(project="p")
    receipt = service.log(run, 1, score=11.0)
    assert receipt["incidents"]
    assert receipt["commands"] == []
    rows = service.get(f"/runs/{run}/commands")["commands"]
    assert {(row["name"], row["state"], row["result"]) for row in rows} == {
        ("stop", "dry_run", "would have asked for: stop"),
        ("checkpoint", "dry_run", "would have asked for: checkpoint"),
    }
    assert service.log(run, 2, score=12.0)["commands"] == []
    assert len(service.get(f"/runs/{run}/commands")["commands"]) == 2


def test_a_dry_run_of_the_whole_service(settings, client_of):
    """HOLTER_DRY_RUN: rules ask for nothing, the agents' guards are told so, and people still can."""
    with running(settings.model_copy(update={"dry_run": True})) as base:
        service = client_of(base)
        put(service, RULES)
        run = service.start(project="p")
        assert service.log(run, 1, score=11.0)["commands"] == []
        assert {row["state"] for row in service.get(f"/runs/{run}/commands")["commands"]} == {"dry_run"}
        told = service.get(f"/rules?project=p&run={run}")["agent_rules"]
        assert yaml.safe_load(told)["rules"][-1] == {"id": "too-high", "dry_run": True}
        service.post(f"/runs/{run}/commands", {"name": "stop"})
        assert [order["name"] for order in service.log(run, 2, score=1.0)["commands"]] == ["stop"]


@pytest.mark.parametrize(
    ("mute", "entry"),
    [
        ({}, {"id": "too-high", "actions": ["notify"]}),
        ({"metric": "score2"}, {"id": "too-high", "exclude": ["score2"]}),
    ],
)
def test_the_guard_beside_the_run_is_told_of_mutes(service, mute, entry):
    """It runs the rules itself, so that they must hold there, too."""
    put(service, RULES)
    run = service.start(project="p")
    assert service.get(f"/rules?project=p&run={run}")["agent_rules"] == RULES
    service.post("/mutes", {"rule": "too-high", "run": run, **mute})
    answer = service.get(f"/rules?project=p&run={run}")
    schemas.RulesAnswer.model_validate(answer)
    assert yaml.safe_load(answer["agent_rules"])["rules"][-1] == entry
    assert answer["project_rules"] == RULES


def test_rules_that_nothing_changes_stay_as_they_were_written():
    """To the byte: agents keep them and compare."""
    assert rules_of_agent(RULES, []) == RULES
    assert rules_of_agent("", []) == ""
