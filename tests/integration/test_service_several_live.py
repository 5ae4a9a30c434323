"""Several servers on one PostgreSQL: what one of them takes in reaches the pages of the others."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import numpy as np
import psycopg
import pytest
from websockets.sync.client import connect

from holter import wire
from holter_db import outbox
from holter_db.notifications import Announcement, ChangedRun, announce
from holter_db.runs import get_run
from holter_server.announcing import Announcer
from holter_server.notify import deliver
from holter_server.service import running
from holter_server.writing import Transaction

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@pytest.fixture
def servers(settings, client_of, database_url, wait):
    """Two servers on one database, each of which listens to the other."""
    with ExitStack() as stack:
        clients = [client_of(stack.enter_context(running(settings))) for _ in range(2)]
        wait(lambda: len(listening(database_url)) == 2, "both to listen")
        yield clients


def listening(url: str) -> list[int]:
    """The processes of PostgreSQL that serve the connections which listen."""
    query = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE application_name = 'holter live feed' AND datname = current_database() AND query LIKE 'LISTEN%'"
    )
    with psycopg.connect(url) as conn:
        return [pid for (pid,) in conn.execute(query)]


@contextmanager
def subscribed(server, **topic):
    address = server.base.replace("http", "ws", 1) + "/api/v1/live"
    with connect(address, max_size=2**24, compression=None) as socket:
        socket.send(json.dumps({"type": "subscribe", "id": "s", **topic}))
        assert json.loads(socket.recv(30)) == {"type": "subscribed", "id": "s"}
        yield socket


def next_of(socket, kind: str, deadline_s: float = 30.0) -> dict:
    """The next message of a kind, others passed over."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        message = json.loads(socket.recv(deadline_s), parse_constant=pytest.fail)
        if message["type"] == kind:
            return message
    raise AssertionError(f"no {kind} message")


def test_points_arrive_exactly(servers):
    """Logged to one server, pushed by the other, with step, time, writer and attempt."""
    here, there = servers
    run = there.start()
    with subscribed(here, topic="run", run=run) as socket:
        values = ["NaN", "Infinity", "-Infinity", 1e-30]
        points = [{"step": i, "time": 1.7e9 + i, "values": {"loss": value}} for i, value in enumerate(values)]
        there.post(f"/runs/{run}/points", {"points": points, "writer": "rank3"})
        message = next_of(socket, "points")
    assert message["series"] == [
        {
            "metric": "loss", "writer": "rank3", "attempt": 1,
            "steps": [0, 1, 2, 3], "times": [1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3], "values": values,
        }
    ]  # fmt: skip


def test_a_run_is_told_whole(servers):
    """Incidents, events, commands and the state of the run, each as the server that took it in tells them."""
    here, there = servers
    run = there.start(project="denovo")
    with subscribed(here, topic="run", run=run) as far, subscribed(there, topic="run", run=run) as near:

        def same(kind: str) -> dict:
            heard = next_of(far, kind)
            assert heard == next_of(near, kind)
            return heard

        there.log(run, 1, loss__total=3.0, loss__precursor=9.0)
        incident = same("incident")
        assert (incident["action"], incident["incident"]["metric"]) == ("open", "loss/precursor")
        there.post(f"/incidents/{incident['incident']['id']}/acknowledge")
        assert same("incident")["incident"]["state"] == "acknowledged"
        happened = [wire.Event(1.7e9, "stage 2", "stage", step=2), wire.Event(1.7e9, "stage 3", "stage", step=3)]
        there.ship(run, wire.Frame(1, "", "rank0", 0, events=happened))
        assert [same("event")["event"]["text"] for _ in range(2)] == ["stage 2", "stage 3"]
        there.post(f"/runs/{run}/commands", {"name": "stop"})
        assert same("command")["command"]["state"] == "requested"
        there.ship(run, wire.Frame(1, "", "rank0", 0))
        assert same("command")["command"]["state"] == "delivered"
        there.post(f"/runs/{run}/finish", {})
        while next_of(far, "run")["run"]["state"] != "finished":
            pass


def test_the_list_hears_of_runs_and_incidents_and_of_nothing_else(servers):
    """A run that another server began appears, with its health."""
    here, there = servers
    with subscribed(here, topic="runs") as socket:
        run = there.start(project="denovo")
        there.log(run, 1, loss__total=3.0, loss__precursor=9.0)
        there.post(f"/runs/{run}/commands", {"name": "stop"})
        seen = set()
        while True:
            message = json.loads(socket.recv(30))
            seen.add(message["type"])
            if message["type"] == "run" and message["run"]["health"] == "critical":
                break
        while "incident" not in seen:
            seen.add(json.loads(socket.recv(30))["type"])
    assert seen == {"run", "incident"}


def test_every_point_is_pushed_once_however_the_ranks_are_spread(servers):
    """Ranks ship to both servers at once; a page at either gets each point, and none twice."""
    run = servers[0].start()
    with ExitStack() as stack:
        sockets = [stack.enter_context(subscribed(server, topic="run", run=run)) for server in servers]

        def send(rank: int) -> None:
            for step in range(25):
                body = {"points": [{"step": step, "values": {"loss": 1.0}}], "writer": f"rank{rank}", "seq": step + 1}
                servers[(rank + step) % 2].post(f"/runs/{run}/points", body)

        threads = [threading.Thread(target=send, args=(rank,)) for rank in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for socket in sockets:
            told: Counter[tuple[str, int]] = Counter()
            while len(told) < 4 * 25:
                message = json.loads(socket.recv(30))
                assert message["type"] != "behind"
                for series in message.get("series", ()):
                    told.update((series["writer"], step) for step in series["steps"])
            assert set(told.values()) == {1}


def test_operators_see_whether_a_server_hears_the_others(servers, wait):
    """A gauge and a counter."""
    here, there = servers
    there.start()
    wait(lambda: b"\nholter_peer_announcements_total 1\n" in here.call("GET", "/metrics").data, "the announcement")
    assert b"\nholter_peer_feed_connected 1\n" in here.call("GET", "/metrics").data


def test_what_no_socket_would_hold_is_told_as_behind(servers):
    """As for the sockets of the server that took it in."""
    here, there = servers
    run = there.start()
    with subscribed(here, topic="run", run=run) as socket:
        steps = np.arange(60_000)
        block = wire.Block.of(["loss"], steps, 1.7e9 + steps, steps[:, None].astype(float))
        there.ship(run, wire.Frame(1, "", "rank0", 1, [block]))
        assert next_of(socket, "behind") == {"type": "behind", "id": "s"}
        there.log(run, 60_000, loss=1.0)
        assert next_of(socket, "points")["series"][0]["steps"] == [60_000]


def test_after_a_lost_connection_no_gap_stays(servers, database_url, wait):
    """The listening connection is ended; who watches is told to read again, and hears of what comes later."""
    here, there = servers
    run = there.start()
    with subscribed(here, topic="run", run=run) as socket, subscribed(here, topic="runs") as listed:
        before = listening(database_url)
        with psycopg.connect(database_url) as conn:
            for pid in before:
                conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        there.log(run, 1, loss=1.0)
        assert next_of(socket, "behind") == {"type": "behind", "id": "s"}
        assert next_of(listed, "behind") == {"type": "behind", "id": "s"}
        assert here.get(f"/runs/{run}/metrics")["metrics"][0]["last_step"] == 1
        wait(lambda: len(set(listening(database_url)) - set(before)) == 2, "both to listen again")
        there.log(run, 2, loss=1.0)
        while next_of(socket, "points")["series"][0]["steps"][-1] != 2:
            pass


def test_an_announcement_that_is_missing_is_noticed(service, settings, database, wait):
    """A server numbers what it tells; a gap in the numbers means that there was more."""
    wait(lambda: listening(settings.db), "it to listen")
    run = service.start()
    with subscribed(service, topic="run", run=run) as socket:
        for number in (1, 2, 4):
            with database.write() as conn:
                assert announce(conn, Announcement("other", number, (ChangedRun(run),)))
            kind = json.loads(socket.recv(30))["type"]
            assert kind == ("behind" if number == 4 else "run")


@pytest.fixture
def patient_deliverer(monkeypatch):
    """Its loop looks into the outbox when it is woken, and otherwise once an hour."""
    monkeypatch.setattr(deliver, "POLL_S", 3600.0)


@pytest.mark.usefixtures("patient_deliverer")
def test_messages_of_another_server_are_sent_at_once(service, settings, database, receiver, wait):
    """Whoever is free sends them: the outbox's loop is woken, and does not wait for its next look."""
    wait(lambda: listening(settings.db), "it to listen")
    service.post("/webhooks", {"url": receiver.url})
    run = service.start()
    with database.write() as conn:  # as another server does, whose own senders are all busy
        transaction = Transaction(conn, time.time(), messages=1)
        outbox.enqueue(conn, get_run(conn, run), "run.state", {}, transaction.now)
        Announcer().announce(conn, [transaction])
    wait(lambda: receiver.types() == ["run.state"], "the message")
