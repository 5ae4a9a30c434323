"""Several servers on one database: what one accepts the others show, and no alert goes out twice."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack

import pytest

from holter import wire
from holter_server.service import running

# SQLite has one writer at a time, and so one server.
pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@pytest.fixture
def servers(settings, client_of):
    """Three servers on one database."""
    with ExitStack() as stack:
        yield [client_of(stack.enter_context(running(settings))) for _ in range(3)]


def test_a_run_may_be_shipped_to_any_of_them(servers):
    """Frames of one run in turns and at once: each is kept once, and the rules see all of them."""
    run = servers[0].start(project="denovo")
    failures: list[object] = []

    def send(number: int) -> None:
        for seq in range(1, 16):
            body = {"points": [{"step": seq, "values": {"loss/total": 3.0}}], "writer": f"rank{number}", "seq": seq}
            for server in (servers[number], servers[(number + 1) % 3]):  # and the same again, elsewhere
                answer = server.call("POST", f"/runs/{run}/points", body)
                if answer.status != 200:
                    failures.append(answer.data)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for server in servers:
        (metric,) = server.get(f"/runs/{run}/metrics")["metrics"]
        assert (metric["count"], len(metric["writers"])) == (45, 3)


def test_an_incident_is_told_once(servers, receiver, wait):
    """Whoever sees it, whoever claims it."""
    servers[0].post("/webhooks", {"url": receiver.url})
    runs = [servers[0].start(project="denovo") for _ in range(4)]
    for number, run in enumerate(runs):
        servers[number % 3].log(run, 1, loss__total=3.0, loss__precursor=7.0)
        servers[(number + 1) % 3].log(run, 2, loss__total=3.0, loss__precursor=7.5)
    for run in runs:
        servers[2].ship(run, wire.Frame(1, "", "rank0", 0))
        servers[2].post(f"/runs/{run}/finish", {})
    wait(lambda: receiver.types().count("run.state") == 4, "every end")
    wait(lambda: not servers[1].get("/deliveries?state=pending")["deliveries"], "nothing to wait")
    ids = [request.headers["webhook-id"] for request in receiver.received]
    assert len(ids) == len(set(ids))
    assert receiver.types().count("incident.firing") == 4


def test_a_stop_given_to_one_reaches_the_training_at_another(servers):
    """Commands are rows."""
    run = servers[0].start()
    servers[0].post(f"/runs/{run}/commands", {"name": "stop"})
    receipt = servers[1].ship(run, wire.Frame(1, "", "rank0", 0))
    assert [order["name"] for order in receipt["commands"]] == ["stop"]


def test_they_never_wait_for_each_other(servers):
    """Commits that hold many runs lock them in one order: else PostgreSQL ends one of two as a deadlock."""
    runs = [servers[0].start(project="denovo") for _ in range(6)]
    failures: list[object] = []

    def send(number: int) -> None:
        dice = random.Random(number)
        for step in range(30):
            server, run = dice.choice(servers), dice.choice(runs)
            values = {"loss/total": 3.0, "loss/precursor": dice.choice([1.0, 9.0])}
            body = {"points": [{"step": step, "values": values}], "writer": f"rank{number}"}
            answer = server.call("POST", f"/runs/{run}/points", body)
            if answer.status != 200:
                failures.append(answer.data)
            server.call("POST", f"/runs/{run}/commands", {"name": f"checkpoint{step}"})

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    counts = [metric["count"] for run in runs for metric in servers[1].get(f"/runs/{run}/metrics")["metrics"]]
    assert sum(counts) == 8 * 30 * 2
