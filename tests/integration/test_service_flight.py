"""What the agent has kept for an incident, from a real frame to the API, the live socket and the webhook."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
import sqlalchemy as sa
from websockets.sync.client import connect

from holter import wire

LAYERS = ["encoder.0.weight", "encoder.1.weight", "head.weight"]
SENTENCE = "gradient of encoder.1.weight was the first to be non-finite, at step 12; batch: pep_1, pep_2 and 30 more"


def flight(first: int = 8, last: int = 12, **trigger: Any) -> wire.Event:
    """A flight event as the agent ships it: `last` is the step at which the second layer went to NaN."""
    steps = list(range(first, last + 1))
    norms = [[1.0, math.nan if step == last else 2.0, 0.5] for step in steps]
    data = {
        "version": 1,
        "trigger": {"kind": "incident", "incident": None, "rule": None, "step": last, **trigger},
        "first": {"what": "gradient", "name": LAYERS[1], "step": last, "count": 1, "of": 3},
        "batch": {"step": last, "ids": ["pep_1", "pep_2"], "count": 32, "fingerprint": None},
        "layers": LAYERS,
        "steps": steps,
        "grad_norm": wire.jsonable(norms),
        "weight_norm": [[10.0, 10.0, 10.0]] * len(steps),
        "losses": {"loss/total": wire.jsonable([1.0] * (len(steps) - 1) + [math.nan])},
        "rng": None,
        "file": "/runs/x/flight/12.npz",
    }
    return wire.Event(time=time.time(), text=SENTENCE, kind="flight", step=last, severity="critical", data=data)


def nan_block(step: int = 12, first: int = 0) -> wire.Block:
    steps = list(range(first, step + 1))
    values = [[math.nan if at == step else 1.0] for at in steps]
    now = time.time()
    return wire.Block.of(["loss/total"], steps, [now] * len(steps), values)


def frame(seq: int, *events: wire.Event, blocks: tuple[wire.Block, ...] = (), attempt: str = "a1", **more: Any) -> Any:
    return wire.Frame(1, attempt, more.pop("writer", "rank0"), seq, list(blocks), list(events), **more)


def start(service: Any, attempt: str = "a1", **fields: Any) -> str:
    return service.start(project="denovo", attempt=attempt, started_at=time.time() - 1, **fields)


def test_an_incident_tells_the_flight_that_was_made_for_it(service: Any) -> None:
    """In the lists and alone; the norms are only in the event itself."""
    run = start(service)
    (notice,) = service.ship(run, frame(1, blocks=(nan_block(),)))["incidents"]
    assert service.get(f"/incidents/{notice['id']}")["incident"]["flight"] is None
    # its steps do not cover the incident's: only the trigger says that they belong together
    service.ship(run, frame(2, flight(20, 24, incident=notice["id"])))
    alone = service.get(f"/incidents/{notice['id']}")["incident"]
    (listed,) = service.get(f"/incidents?run={run}")["incidents"]
    (of_run,) = service.get(f"/runs/{run}/incidents")["incidents"]
    assert alone == listed == of_run
    found = alone["flight"]
    assert (found["text"], found["step"], found["writer"], found["attempt"]) == (SENTENCE, 24, "rank0", 1)
    assert (found["first_step"], found["last_step"], found["layers"], found["steps"]) == (20, 24, 3, 5)
    assert found["first"]["name"] == LAYERS[1]
    assert found["batch"]["ids"] == ["pep_1", "pep_2"]
    assert found["file"] == "/runs/x/flight/12.npz"
    assert not {"grad_norm", "weight_norm", "losses"} & set(found)
    whole = service.get(f"/runs/{run}/events/{found['event']}")["event"]
    assert whole["data"]["grad_norm"][-1] == [1.0, "NaN", 0.5]
    (event,) = service.get(f"/runs/{run}/events")["events"]
    assert event["id"] == found["event"]
    assert "grad_norm" not in event["data"]
    assert alone["stacks"] is None


@pytest.mark.parametrize(("first", "last", "told"), [(8, 12, True), (12, 20, True), (13, 20, False), (1, 11, False)])
def test_a_flight_belongs_to_incidents_at_the_steps_that_it_covers(
    service: Any, first: int, last: int, told: bool
) -> None:
    """Where the trigger names no incident: the agent's guard may know it before the service does."""
    run = start(service)
    service.ship(run, frame(1, flight(first, last), blocks=(nan_block(),)))
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert (incident["kind"], incident["step"]) == ("non_finite", 12)
    assert (incident["flight"] is not None) is told


def test_a_flight_stays_with_its_attempt_and_its_run(service: Any) -> None:
    """Step 12 of a resumed attempt, and of another run, are other steps."""
    run, other = start(service), start(service)
    service.ship(run, frame(1, flight(), blocks=(nan_block(),)))
    service.ship(other, frame(1, blocks=(nan_block(),)))
    service.start(id=run, project="denovo", attempt="a2", started_at=time.time())
    healthy = wire.Block.of(["loss/total"], range(400), [time.time()] * 400, [[1.0]] * 400)
    service.ship(run, frame(1, blocks=(healthy,), attempt="a2"))
    service.ship(run, frame(2, blocks=(nan_block(first=12),), attempt="a2"))
    rows = service.get("/incidents")["incidents"]
    told = {(row["run"], row["time"]): row["flight"] for row in rows if row["kind"] == "non_finite"}
    of_run = [found for (name, _), found in sorted(told.items()) if name == run]
    assert [found is not None for found in of_run] == [True, False]
    assert [found for (name, _), found in told.items() if name == other] == [None]


def test_the_writer_of_the_incident_is_preferred(service: Any) -> None:
    """Every rank has a recorder of its own."""
    run = start(service)
    for writer in ("rank1", "rank0", "rank2"):
        service.ship(run, frame(1, flight(), writer=writer))
    service.ship(run, frame(2, blocks=(nan_block(),)))
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert incident["flight"]["writer"] == "rank0"


def test_an_exception_s_flight_explains_the_failure(service: Any) -> None:
    """Nothing fired; the training raised."""
    run = start(service)
    service.ship(run, frame(1, flight(kind="exception")))
    service.post(f"/runs/{run}/finish", {"state": "failed", "reason": "ValueError: bad batch"})
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert incident["kind"] == "failed"
    assert incident["flight"]["text"] == SENTENCE


def stacks(step: int, incident: str | None = None) -> wire.Event:
    text = "no step for 61 s; all Python threads' stacks were kept"
    trigger = {"kind": "hung", "incident": incident}
    data = {"version": 1, "pid": 7, "stacks": 'Thread 0x1 (most recent call first):\n  File "x.py"', "step": step}
    return wire.Event(time=time.time(), text=text, kind="stacks", severity="warning", data=data | {"trigger": trigger})


def test_stacks_belong_to_the_hang_at_their_step(service: Any, wait: Any) -> None:
    """And not to other incidents of that step."""
    rules = "rules: [{id: run-hung, at_least: 0.3, intervals: 2}]"
    service.call("PUT", "/projects/denovo/rules", {"rules": rules})
    run = start(service)
    now = time.time()
    times = [now - 1 + at / 20 for at in range(20)]
    service.ship(run, frame(1, blocks=(wire.Block.of(["loss"], range(20), times, [[1.0]] * 20),), promise=60.0))

    def hung() -> Any:
        return [row for row in service.get(f"/runs/{run}/incidents")["incidents"] if row["kind"] == "hung"]

    (incident,) = wait(hung, "the run to hang")
    assert incident["stacks"] is None
    service.ship(run, frame(2, stacks(7), stacks(19)))
    (incident,) = hung()
    assert incident["stacks"]["step"] == 19
    assert incident["stacks"]["pid"] == 7
    assert incident["flight"] is None
    whole = service.get(f"/runs/{run}/events/{incident['stacks']['event']}")["event"]
    assert whole["data"]["stacks"].startswith("Thread 0x1")


def test_how_a_process_ended_is_among_the_events(service: Any) -> None:
    """With the signal for programs and a sentence for people."""
    run = start(service)
    text = "killed by SIGKILL: the kernel was out of memory"
    data = {"signal": 9, "exit_code": None, "oom": True}
    service.ship(run, frame(1, wire.Event(time.time(), text, "exit", severity="critical", data=data)))
    (event,) = service.get(f"/runs/{run}/events")["events"]
    assert (event["kind"], event["text"], event["data"]) == ("exit", text, data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"trigger": 3, "steps": "abc", "layers": {"a": 1}, "first": [1], "grad_norm": [[1], "x"], "losses": 4},
        {
            "steps": [None, True, 2**63, "1"],
            "trigger": {"incident": 5, "kind": None},
            "step": 2**63,
            "layers": [1, None],
        },
        {"steps": [1, 2], "layers": ["a"], "grad_norm": [["nonsense"], [2, 3, 4], [5]], "losses": {"l": [1, "NaN", 2]}},
    ],
)
def test_nonsense_in_a_flight_breaks_nothing(service: Any, data: dict[str, Any]) -> None:
    """Anybody may send an event of this kind."""
    run = start(service)
    service.ship(run, frame(1, wire.Event(time.time(), "?", "flight", 12, data=data), blocks=(nan_block(),)))
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert incident["flight"] is None
    (event,) = service.get(f"/runs/{run}/events")["events"]
    assert service.get(f"/runs/{run}/events/{event['id']}")["event"]["data"].keys() == data.keys()
    assert "data" in service.get(f"/runs/{run}/events/{event['id']}/figure")


@pytest.mark.parametrize("id", ["9-9-9", "0-0-0", "x", "1-99999999999999999999-0", "1-9999999999999999999-0", "٣-١-٠"])
def test_an_event_that_is_not_there(service: Any, id: str) -> None:
    """Has an id like any other, or not even that."""
    run = start(service)
    answer = service.call("GET", f"/runs/{run}/events/{wire_quote(id)}")
    assert (answer.status, answer.error["type"]) == (404, "event_not_found")


def wire_quote(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def test_only_a_flight_has_a_figure(service: Any) -> None:
    """Layers by steps, as `figure_flight` draws it."""
    run = start(service)
    service.ship(run, frame(1, flight(), wire.Event(time.time(), "hello")))
    events = {event["kind"]: event["id"] for event in service.get(f"/runs/{run}/events")["events"]}
    figure = service.get(f"/runs/{run}/events/{events['flight']}/figure?theme=dark")
    assert figure["layout"]["meta"] == {"norm": "gradient", "layers": 3, "steps": 5, "non_finite": 1}
    weights = service.get(f"/runs/{run}/events/{events['flight']}/figure?norm=weight")
    assert weights["layout"]["meta"]["non_finite"] == 0
    assert service.call("GET", f"/runs/{run}/events/{events['note']}/figure").status == 404


def test_the_live_socket_tells_the_incident_again_without_the_norms(service: Any) -> None:
    """A page that is open shows the sentence without asking."""
    run = start(service)
    (notice,) = service.ship(run, frame(1, blocks=(nan_block(),)))["incidents"]
    with connect(f"{service.base.replace('http', 'ws')}/api/v1/live") as socket:
        socket.send(json.dumps({"type": "subscribe", "id": "r", "topic": "run", "run": run}))
        assert json.loads(socket.recv(30))["type"] == "subscribed"
        service.ship(run, frame(2, flight()))
        heard = {}
        while {"event", "incident"} - set(heard):
            message = json.loads(socket.recv(30))
            heard[message["type"]] = message
    assert heard["incident"]["incident"]["id"] == notice["id"]
    assert heard["incident"]["incident"]["flight"]["text"] == SENTENCE
    assert heard["event"]["event"]["id"] == heard["incident"]["incident"]["flight"]["event"]
    assert "grad_norm" not in heard["event"]["event"]["data"]


@pytest.mark.parametrize("there", [True, False])
def test_a_webhook_carries_the_sentence_if_it_is_there_already(
    service: Any, receiver: Any, wait: Any, there: bool
) -> None:
    """Among the evidence; a message never waits for it."""
    service.post("/webhooks", {"url": receiver.url, "types": ["incident.firing"]})
    run = start(service)
    service.ship(run, frame(1, *([flight()] if there else []), blocks=(nan_block(),)))
    wait(lambda: receiver.received, "the message")
    evidence = receiver.received[0].json["data"]["incident"]["evidence"]
    assert evidence.get("flight") == (SENTENCE if there else None)
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    assert "flight" not in incident["evidence"]  # it stands beside it there


def test_a_list_of_incidents_costs_no_query_for_each_of_them(service: Any) -> None:
    """Two queries more than without, however many incidents and runs there are."""
    for _ in range(3):
        run = start(service)
        service.ship(run, frame(1, flight(), blocks=(nan_block(),)))
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        counts = []
        for limit in (1, 3):
            asked.clear()
            rows = service.get(f"/incidents?limit={limit}")["incidents"]
            assert [row["flight"]["text"] for row in rows] == [SENTENCE] * limit
            counts.append(sum("captures" in statement or "incidents" in statement for statement in asked))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert counts == [2, 2]
    assert not any("grad_norm" in statement or "events.data" in statement for statement in asked)
