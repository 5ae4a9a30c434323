"""The live socket: what is committed arrives, exactly, and a slow client is told that it is behind."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from holter import wire
from holter_server.service import running


@contextmanager
def live(service, **headers):
    address = service.base.replace("http", "ws", 1) + "/api/v1/live"
    with connect(address, additional_headers=headers, max_size=2**24, compression=None) as socket:
        yield socket


def say(socket, **message) -> dict:
    socket.send(json.dumps(message))
    return json.loads(socket.recv(30))


def next_of(socket, kind: str, deadline_s: float = 30.0) -> dict:
    """The next message of a kind, others passed over."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        message = json.loads(socket.recv(deadline_s), parse_constant=pytest.fail)
        if message["type"] == kind:
            return message
    raise AssertionError(f"no {kind} message")


def test_points_arrive_exactly(service):
    """NaN and ±Inf as their strings, with step, time, writer and attempt."""
    run = service.start()
    with live(service) as socket:
        assert say(socket, type="subscribe", id="b", topic="run", run=run) == {"type": "subscribed", "id": "b"}
        values = ["NaN", "Infinity", "-Infinity", 1e-30]
        points = [{"step": i, "time": 1.7e9 + i, "values": {"loss": value}} for i, value in enumerate(values)]
        service.post(f"/runs/{run}/points", {"points": points})
        message = next_of(socket, "points")
    assert (message["id"], message["run"]) == ("b", run)
    assert message["series"] == [
        {
            "metric": "loss", "writer": "rank0", "attempt": 1,
            "steps": [0, 1, 2, 3], "times": [1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3], "values": values,
        }
    ]  # fmt: skip


def test_a_run_is_told_whole(service):
    """Incidents, events, commands and the run itself, each in its message."""
    run = service.start(project="denovo")
    with live(service) as socket:
        say(socket, type="subscribe", id="b", topic="run", run=run)
        service.log(run, 1, loss__total=3.0, loss__precursor=9.0)
        incident = next_of(socket, "incident")
        assert (incident["action"], incident["incident"]["metric"]) == ("open", "loss/precursor")
        service.post(f"/incidents/{incident['incident']['id']}/acknowledge")
        assert next_of(socket, "incident")["incident"]["state"] == "acknowledged"
        event = wire.Event(time=1.7e9, text="stage 2", kind="stage", step=2)
        service.ship(run, wire.Frame(1, "", "rank0", 0, events=[event]))
        assert next_of(socket, "event")["event"]["text"] == "stage 2"
        service.post(f"/runs/{run}/commands", {"name": "stop"})
        assert next_of(socket, "command")["command"]["state"] == "requested"
        service.ship(run, wire.Frame(1, "", "rank0", 0))
        assert next_of(socket, "command")["command"]["state"] == "delivered"
        service.post(f"/runs/{run}/finish", {})
        while next_of(socket, "run")["run"]["state"] != "finished":
            pass


def test_the_list_hears_of_every_run_but_of_no_points(service):
    """Only `run` and `incident` messages."""
    with live(service) as socket:
        say(socket, type="subscribe", id="a", topic="runs")
        run = service.start(project="denovo")
        service.log(run, 1, loss__total=3.0, loss__precursor=9.0)
        service.post(f"/runs/{run}/commands", {"name": "stop"})
        seen = set()
        while True:
            message = json.loads(socket.recv(30))
            seen.add(message["type"])
            if message["type"] == "run" and message["run"]["health"] == "critical":
                break
    assert seen == {"run", "incident"}


def test_one_socket_has_many_subscriptions(service):
    """Each message names its own; after unsubscribing nothing follows."""
    runs = [service.start() for _ in range(3)]
    with live(service) as socket:
        for number, run in enumerate(runs):
            say(socket, type="subscribe", id=str(number), topic="run", run=run)
        assert say(socket, type="unsubscribe", id="1") == {"type": "unsubscribed", "id": "1"}
        for run in runs:
            service.log(run, 1, loss=1.0)
        heard = {next_of(socket, "points")["id"] for _ in range(2)}
        assert heard == {"0", "2"}


def test_what_is_wrong_is_said_and_the_socket_stays(service):
    """The one error shape, as a message."""
    with live(service) as socket:
        for message, kind in [
            ({"type": "dance"}, "invalid_message"),
            ({"type": "subscribe", "topic": "runs"}, "invalid_message"),
            ({"type": "subscribe", "id": "a", "topic": "run"}, "invalid_message"),
            ({"type": "subscribe", "id": "a", "topic": "run", "run": "nope"}, "run_not_found"),
        ]:
            answer = say(socket, **message)
            assert (answer["type"], answer["error"]["type"]) == ("error", kind)
            assert answer["error"]["hint"]
        assert say(socket, type="ping") == {"type": "pong"}


def test_a_slow_client_is_told_that_it_is_behind(service):
    """It is given one message in place of what it could not take, and the service holds no more than its bound."""
    run = service.start()
    with live(service) as socket:
        say(socket, type="subscribe", id="b", topic="run", run=run)
        steps = np.arange(60_000)
        block = wire.Block.of(["loss"], steps, 1.7e9 + steps, steps[:, None].astype(float))
        service.ship(run, wire.Frame(1, "", "rank0", 1, [block]))
        assert next_of(socket, "behind") == {"type": "behind", "id": "b"}
        service.log(run, 60_000, loss=1.0)
        assert next_of(socket, "points")["series"][0]["steps"] == [60_000]


def test_a_page_of_another_site_gets_no_socket(service):
    """Browsers send the Origin; there is no same-origin rule for sockets."""
    with pytest.raises(InvalidStatus) as refused, live(service, Origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with live(service, Origin=service.base) as socket:
        assert say(socket, type="ping") == {"type": "pong"}


def test_a_stop_of_the_service_closes_sockets(settings, client_of):
    """Without waiting for the tabs to be closed."""
    with ExitStack() as after_the_stop:
        with running(settings) as base:
            socket = after_the_stop.enter_context(live(client_of(base)))
            say(socket, type="subscribe", id="a", topic="runs")
        with pytest.raises(ConnectionClosed):
            socket.recv(30)
