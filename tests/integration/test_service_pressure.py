"""More than the service can take: 429 with Retry-After, by count and by bytes; what was accepted is not lost."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from holter import wire
from holter_server.ingest import Pipeline
from holter_server.service import running
from holter_server.settings import Settings


@pytest.fixture
def held(monkeypatch):
    """Frames wait in the writer thread until the event is set."""
    take, go_on = Pipeline.take_frames, threading.Event()

    def slow(self, tx, shipped):
        go_on.wait(60)
        return take(self, tx, shipped)

    monkeypatch.setattr(Pipeline, "take_frames", slow)
    yield go_on
    go_on.set()


@contextmanager
def service(tmp_path, client_of, **more: Any):
    with running(Settings(db=f"sqlite:///{tmp_path}/holter.db", port=0, watchdog_interval_s=60, **more)) as base:
        yield client_of(base)


def large(seq: int, rows: int = 30_000) -> bytes:
    """A frame of 24 bytes a row."""
    block = wire.Block.of(("loss",), np.arange(rows), np.arange(rows) * 1.0, np.ones((rows, 1)))
    return wire.encode_frame(wire.Frame(1, "", "rank0", seq, [block]))


def send_all(client, run: str, bodies: list[bytes], go_on: threading.Event) -> list[Any]:
    """Send them at once; the answers, once some were refused and the others let go."""
    answers: list[Any] = []

    def send(body: bytes) -> None:
        answers.append(client.call("POST", f"/runs/{run}/frames", body, Content_Type=wire.FRAME_MEDIA_TYPE))

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:  # the ones that wait for the writer stay until it goes on
        thread.join(0.5)
    go_on.set()
    for thread in threads:
        thread.join()
    return answers


def check(client, run: str, answers: list[Any], rows: int) -> None:
    refused = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in answers} == {200, 429}
    for answer in refused:
        assert answer.error["type"] == "overloaded"
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (metric,) = client.get(f"/runs/{run}/metrics")["metrics"]
    assert metric["count"] == rows * (len(answers) - len(refused))


def test_too_many_frames_are_refused(tmp_path, client_of, held):
    """By their number."""
    with service(tmp_path, client_of, queue_limit=3) as client:
        run = client.start()
        answers = send_all(client, run, [large(seq, rows=1) for seq in range(1, 13)], held)
        check(client, run, answers, 1)


def test_too_many_bytes_are_refused(tmp_path, client_of, held):
    """By what they hold: 720 kB each where 2 MB may wait."""
    with service(tmp_path, client_of, queue_mb=2) as client:
        run = client.start()
        answers = send_all(client, run, [large(seq) for seq in range(1, 9)], held)
        assert sum(answer.status == 200 for answer in answers) <= 3
        check(client, run, answers, 30_000)


def test_what_was_refused_may_be_sent_again(tmp_path, client_of, held):
    """Under the same number; it counts once."""
    with service(tmp_path, client_of, queue_limit=1) as client:
        run = client.start()
        bodies = [large(seq, rows=1) for seq in range(1, 7)]
        send_all(client, run, bodies, held)
        for body in bodies:
            assert client.call("POST", f"/runs/{run}/frames", body, Content_Type=wire.FRAME_MEDIA_TYPE).status == 200
        assert client.get(f"/runs/{run}/metrics")["metrics"][0]["count"] == 6


def test_bodies_on_their_way_in_count_too(tmp_path, client_of, wait):
    """Clients that announce much and send it slowly don't fill the memory, and the room comes back when they go."""
    with service(tmp_path, client_of, queue_mb=2) as client:
        run = client.start()
        slow = [begin(client.base, run, 900_000) for _ in range(2)]
        wait(lambda: taken_in(client) == 1_800_000, "the slow ones")

        def answer() -> Any:
            return client.call("POST", f"/runs/{run}/frames", large(1), Content_Type=wire.FRAME_MEDIA_TYPE)

        refused = answer()
        assert (refused.status, refused.error["type"]) == (429, "overloaded")
        assert refused.headers["Retry-After"]
        assert client.log(run, 1, loss=1.0)["acknowledged"]  # a small one finds room
        for connection in slow:
            connection.close()
        wait(lambda: taken_in(client) == 0, "room")
        assert answer().status == 200


def taken_in(client) -> int:
    """Bytes of bodies that the service says it is taking in."""
    lines = client.call("GET", "/metrics").data.decode().splitlines()
    return int(next(line for line in lines if line.startswith("holter_bodies_bytes ")).split()[1])


def test_a_body_without_a_length_is_counted_as_it_comes(tmp_path, client_of, wait):
    """In chunks, and refused when there is no more room."""
    with service(tmp_path, client_of, queue_mb=2) as client:
        run = client.start()
        slow = begin(client.base, run, 1_500_000)
        wait(lambda: taken_in(client) == 1_500_000, "the slow one")

        def status() -> int:
            connection = http.client.HTTPConnection(client.base.removeprefix("http://"), timeout=30)
            pieces = (large(1, rows=60_000)[start : start + 50_000] for start in range(0, 1_440_000, 50_000))
            headers = {"Content-Type": wire.FRAME_MEDIA_TYPE, "Transfer-Encoding": "chunked"}
            try:
                connection.request("POST", f"/api/v1/runs/{run}/frames", pieces, headers, encode_chunked=True)
                return connection.getresponse().status
            finally:
                connection.close()

        assert status() == 429
        slow.close()
        wait(lambda: taken_in(client) == 0, "room")
        assert status() == 200


def begin(base: str, run: str, size: int) -> http.client.HTTPConnection:
    """A request whose body does not come."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", f"/api/v1/runs/{run}/frames")
    connection.putheader("Content-Type", wire.FRAME_MEDIA_TYPE)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    connection.send(b"\x98" * 1000)
    return connection
