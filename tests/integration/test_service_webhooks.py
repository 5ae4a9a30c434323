"""What goes out: signed, soon, again when it fails, and never to a private address unless that is allowed."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from holter_server import schemas
from holter_server.service import running


@pytest.fixture
def hook(service, receiver):
    """A webhook that is told everything."""
    asked = {"url": receiver.url, "name": "test", "min_severity": "info"}
    return service.post("/webhooks", asked)["webhook"]


def sick_run(service) -> str:
    run = service.start(project="denovo", name="gaussian")
    service.log(run, 3, loss__total=3.0, loss__precursor=7.0)
    return run


def test_an_incident_reaches_the_receiver(service, receiver, hook, wait):
    """Within moments of the value, with the body of version 1 and headers that the library verifies."""
    logged_at = time.time()
    run = sick_run(service)
    wait(lambda: receiver.received, "the delivery")
    request = receiver.received[0]
    assert request.time - logged_at < 15, "an alert that waits for a timer would be later still"
    body = Webhook(hook["secret"]).verify(request.body, request.headers)
    assert (body["version"], body["type"]) == (1, "incident.firing")
    assert body["id"] == request.headers["webhook-id"]
    assert body["data"]["run"] == {
        "id": run, "name": "gaussian", "project": "denovo", "state": "running", "state_reason": None,
        "health": "critical", "last_step": 3, "url": f"{service.base}/runs/{run}",
    }  # fmt: skip
    incident = body["data"]["incident"]
    assert (incident["metric"], incident["step"], incident["value"], incident["rank"]) == ("loss/precursor", 3, 7.0, 0)
    assert {"id", "rule", "severity", "threshold", "message", "advice", "evidence", "state"} <= set(incident)


def test_another_secret_does_not_verify(service, receiver, hook, wait):
    """The signature is over the body."""
    sick_run(service)
    wait(lambda: receiver.received, "the delivery")
    request = receiver.received[0]
    with pytest.raises(WebhookVerificationError):
        Webhook(hook["secret"]).verify(request.body + b" ", request.headers)


def test_a_failure_is_sent_again_under_the_same_id(service, receiver, hook, wait):
    """The log tells each attempt."""
    receiver.answers += [(500, {}), (302, {"Location": "http://127.0.0.1/"}), (204, {})]
    sick_run(service)
    wait(lambda: len(receiver.received) >= 3, "the third attempt")
    assert len({request.headers["webhook-id"] for request in receiver.received[:3]}) == 1
    assert len({request.body for request in receiver.received[:3]}) == 1
    (delivery,) = wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "delivered")
    assert [attempt["status"] for attempt in delivery["log"]] == [500, 302, 204]
    assert "redirects are not followed" in delivery["log"][1]["error"]
    schemas.DeliveryAnswer.model_validate({"delivery": delivery})


def test_retry_after_is_heeded(service, receiver, hook, wait):
    """The next attempt waits as long as the receiver asks."""
    receiver.answers.append((429, {"Retry-After": "2"}))
    sick_run(service)
    wait(lambda: len(receiver.received) >= 2, "the second attempt")
    first, second = receiver.received[:2]
    assert second.time - first.time >= 1.9


def test_it_is_given_up_visibly_and_sent_again_by_hand(settings, client_of, receiver, wait):
    """Failed after the last attempt, which is when its time is over; redelivery starts over."""
    few = settings.model_copy(update={"webhook_give_up_s": 0.05})
    with running(few) as base:
        service = client_of(base)
        service.post("/webhooks", {"url": receiver.url})
        receiver.answers += [(500, {}), (500, {})]
        sick_run(service)
        (delivery,) = wait(lambda: service.get("/deliveries?state=failed")["deliveries"], "given up")
        assert "given up after 2 attempts" in delivery["last_error"]
        assert [attempt["status"] for attempt in delivery["log"]] == [500, 500]
        assert all(attempt["duration_ms"] > 0 for attempt in delivery["log"])
        service.post(f"/deliveries/{delivery['id']}/redeliver")
        wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "delivered by hand")
    assert len(receiver.received) == 3


def test_gone_is_final(service, receiver, hook, wait):
    """410: the receiver does not want it."""
    receiver.answers.append((410, {}))
    sick_run(service)
    (delivery,) = wait(lambda: service.get("/deliveries?state=failed")["deliveries"], "given up")
    assert delivery["attempts"] == 1


def test_what_waits_survives_a_restart(settings, client_of, receiver, wait):
    """Deliveries are rows: those that could not go out before do so after."""
    slow = settings.model_copy(update={"webhook_backoff_s": 4.0})
    receiver.answers.append((500, {}))
    with running(slow) as base:
        service = client_of(base)
        service.post("/webhooks", {"url": receiver.url})
        sick_run(service)
        wait(lambda: receiver.received, "the first attempt")
    assert len(receiver.received) == 1  # else the second attempt below would prove nothing
    with running(slow):
        wait(lambda: len(receiver.received) >= 2, "the attempt after the restart")


def test_states_of_runs_are_told(service, receiver, hook, wait):
    """Ends are told; the resolving of incidents, too."""
    run = service.start()
    service.log(run, 1, loss=1.0)
    service.post(f"/runs/{run}/finish", {"state": "finished"})
    wait(lambda: "run.state" in receiver.types(), "the state")
    body = next(request.json for request in receiver.received if request.json["type"] == "run.state")
    assert body["data"]["run"]["state"] == "finished"


def test_an_alert_of_the_training_is_told(service, receiver, wait):
    """`run.alert` reaches a person, unless it is milder than what the webhook asks for; other events don't."""
    service.post("/webhooks", {"url": receiver.url, "min_severity": "warning"})
    run = service.start()
    said = {"title": "disk", "text": "90 % full"}
    events = [
        {"time": 1.0, "text": "stage 2", "kind": "stage"},
        {"time": 2.0, "text": "fyi", "kind": "alert", "severity": "info"},
        {"time": 3.0, "text": "disk: 90 % full", "kind": "alert", "severity": "critical", "step": 7, "data": said},
    ]
    body = {"points": [], "events": events, "seq": 1}
    for _ in range(2):  # a retry must not tell it twice
        service.post(f"/runs/{run}/points", body)
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: "run.state" in receiver.types(), "what comes after it")
    assert receiver.types() == ["run.alert", "run.state"]
    data = receiver.received[0].json["data"]
    assert data["alert"] == {"title": "disk", "text": "90 % full", "severity": "critical", "step": 7, "time": 3.0}
    assert data["run"]["id"] == run


def test_each_hears_only_what_it_asked_for(service, receiver, wait):
    """By project, type and severity."""
    service.post("/webhooks", {"url": f"{receiver.url}/other", "project": "other"})
    service.post("/webhooks", {"url": f"{receiver.url}/states", "types": ["run.state"]})
    service.post("/webhooks", {"url": f"{receiver.url}/all"})
    run = sick_run(service)
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: len({r.path for r in receiver.received if r.json["type"] == "run.state"}) == 2, "the states")
    assert {(r.path, r.json["type"]) for r in receiver.received} >= {
        ("/hook/all", "incident.firing"), ("/hook/all", "run.state"), ("/hook/states", "run.state"),
    }  # fmt: skip
    assert "/hook/other" not in {request.path for request in receiver.received}
    assert ("/hook/states", "incident.firing") not in {(r.path, r.json["type"]) for r in receiver.received}


def test_firing_comes_before_resolved(service, receiver, hook, wait):
    """Also where one frame holds both."""
    run = service.start(project="denovo")
    values = [9.0] + [0.5] * 300
    points = [{"step": i, "values": {"loss/total": 3.0, "loss/precursor": v}} for i, v in enumerate(values)]
    service.post(f"/runs/{run}/points", {"points": points})
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: "run.state" in receiver.types(), "the end")
    told = [
        (r.json["data"]["incident"]["id"], r.json["type"]) for r in receiver.received if r.json["type"] != "run.state"
    ]
    resolved = [incident for incident, type_ in told if type_ == "incident.resolved"]
    assert resolved
    for incident in resolved:
        assert told.index((incident, "incident.firing")) < told.index((incident, "incident.resolved"))
    assert receiver.types()[-1] == "run.state"


def test_a_snoozed_incident_is_not_told(service, receiver, hook, wait):
    """Until the time has passed; its resolving is silent, too."""
    run = service.start(project="denovo")
    (notice,) = service.log(run, 0, loss__total=3.0, loss__precursor=7.0)["incidents"]
    wait(lambda: receiver.received, "the firing")
    service.post(f"/incidents/{notice['id']}/snooze", {"seconds": 3600})
    for step in range(1, 200):
        service.log(run, step, loss__total=3.0, loss__precursor=0.5)
        if service.get(f"/incidents/{notice['id']}")["incident"]["state"] == "resolved":
            break
    service.post(f"/runs/{run}/finish", {})
    wait(lambda: "run.state" in receiver.types(), "what comes after it")
    assert "incident.resolved" not in [r.json["type"] for r in receiver.received if _of(r, notice["id"])]


def _of(request, incident: str) -> bool:
    return (request.json["data"].get("incident") or {}).get("id") == incident


def test_a_test_delivery_says_that_it_is_one(service, receiver, hook, wait):
    """Signed like a real one."""
    asked = service.call("POST", f"/webhooks/{hook['id']}/test")
    assert asked.status == 201
    schemas.DeliveryAnswer.model_validate(asked.json)
    wait(lambda: receiver.received, "the test")
    body = Webhook(hook["secret"]).verify(receiver.received[0].body, receiver.received[0].headers)
    assert body["type"] == "test"
    assert "test" in body["data"]["incident"]["message"]


def test_the_secret_is_shown_once(service, receiver, hook):
    """In the answer that made it, and nowhere else."""
    assert hook["secret"].startswith("whsec_")
    assert hook["secret"] not in service.call("GET", "/webhooks").data.decode()


def test_a_removed_webhook_is_told_nothing_more(service, receiver, hook):
    """And what waited for it has failed visibly."""
    assert service.call("DELETE", f"/webhooks/{hook['id']}").json == {"deleted": hook["id"]}
    sick_run(service)
    assert service.get("/deliveries")["deliveries"] == []
    assert service.call("DELETE", f"/webhooks/{hook['id']}").status == 404


def test_private_addresses_are_refused(settings, client_of, receiver, wait):
    """At once where the address says so; at the connection where a name hides it."""
    strict = settings.model_copy(update={"allow_private_webhooks": False})
    with running(strict) as base:
        service = client_of(base)
        for url in (
            receiver.url,
            "http://localhost/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://10.0.0.1/",
        ):
            answer = service.call("POST", "/webhooks", {"url": url})
            assert (answer.status, answer.error["type"]) == (422, "invalid_url"), url
            assert "HOLTER_ALLOW_PRIVATE_WEBHOOKS" in answer.error["hint"]
    with running(settings) as base:  # added while it was allowed
        client_of(base).post("/webhooks", {"url": receiver.url})
    with running(strict) as base:
        service = client_of(base)
        sick_run(service)
        (delivery,) = wait(lambda: service.get("/deliveries?state=failed")["deliveries"], "given up")
        assert "private" in delivery["last_error"]
        assert delivery["attempts"] == 1
    assert receiver.received == []
