"""A running service with a client, and a real HTTP receiver for its webhooks."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import urllib3

from holter import wire
from holter.wire import Block, Frame, Receipt
from holter_db.database import Database
from holter_server.engines import Engines
from holter_server.ingest import Pipeline
from holter_server.service import running
from holter_server.settings import Settings
from holter_server.writing import Transaction, WriterThread

DEADLINE_S = 30.0


def until(question: Callable[[], Any], what: str = "it", deadline_s: float = DEADLINE_S) -> Any:
    """The first truthy answer to ``question``, asked again and again."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s} s for {what}")


@dataclass
class Answered:
    """An answer and what it says."""

    status: int
    headers: Any
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Client:
    """Plain HTTP to one service."""

    def __init__(self, base: str, token: str | None = None) -> None:
        self.base = base
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(60), maxsize=16)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answered:
        """``body``: bytes as they are, anything else as JSON. Header names are written with underscores."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None and not isinstance(body, bytes):
            body = wire.dump_json(body)
            sent.setdefault("Content-Type", "application/json")
        address = self.base + path if path.startswith(("/api/", "/healthz", "/readyz", "/metrics")) else None
        answer = self.http.request(method, address or f"{self.base}/api/v1{path}", body=body, headers=sent)
        return Answered(answer.status, answer.headers, answer.data)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status == 200, answer.data
        return answer.json

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.call("POST", path, body)
        assert answer.status in (200, 201), answer.data
        return answer.json

    def start(self, project: str = "demo", **fields: Any) -> str:
        """The id of a new run."""
        return self.post("/runs", {"project": project, **fields})["run"]["id"]

    def log(self, run: str, step: int, seq: int = 0, **values: Any) -> Any:
        """Log one step; a double underscore in a name stands for "/"."""
        named = {name.replace("__", "/"): value for name, value in values.items()}
        return self.post(f"/runs/{run}/points", {"points": [{"step": step, "values": named}], "seq": seq})

    def ship(self, run: str, frame: wire.Frame) -> Any:
        """Send a frame as the agent does."""
        body = gzip.compress(wire.encode_frame(frame), 1)
        answer = self.call(
            "POST", f"/runs/{run}/frames", body, Content_Type=wire.FRAME_MEDIA_TYPE, Content_Encoding="gzip"
        )
        assert answer.status == 200, answer.data
        return answer.json


class WriteSide:
    """A service without its HTTP side: what one commit holds, and what time it is, is up to the test."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = 1_700_000_000.0
        self.told: list[Transaction] = []
        self.restart()

    def restart(self) -> None:
        """As after a kill -9: nothing that was in memory is left, and nothing was saved on the way out."""
        self.engines = Engines()
        self.pipeline = Pipeline(self.engines, lambda run: f"http://here/runs/{run}", lambda: False)

    def ship(self, *frames: tuple[str, Frame]) -> list[Receipt | Exception]:
        """What became of each of the frames, all in one commit."""
        return self.commit(*frames)[0]

    def commit(self, *frames: tuple[str, Frame], jobs: Sequence[tuple[Callable[[Transaction], Any], str]] = ()) -> Any:
        """The outcomes of the frames and of the jobs that wait behind them, and how many commits there were."""
        writer = WriterThread(self.database, self.told.extend, self.pipeline.take_frames, clock=lambda: self.now)

        async def submit() -> tuple[list[Any], list[Any]]:
            shipped = [writer.ship(run, frame, 100) for run, frame in frames]
            others = [asyncio.wrap_future(writer.submit(job, order=order)) for job, order in jobs]
            writer.start()
            answers = await asyncio.gather(*shipped, *others, return_exceptions=True)
            return answers[: len(shipped)], answers[len(shipped) :]

        try:
            shipped, others = asyncio.run(submit())
        finally:
            writer.stop()
        return shipped, others, writer.commits

    def do(self, job: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """One job of the pipeline in a commit of its own."""
        with self.database.write() as conn:
            return job(Transaction(conn, self.now), *args, **named)

    def ask(self, question: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What the database says."""
        with self.database.read() as conn:
            return question(conn, *args, **named)

    @staticmethod
    def frame(
        seq: int,
        *,
        step: int = 1,
        attempt: str = "",
        writer: str = "rank0",
        rows: int = 1,
        more: Any = None,
        **values: float,
    ) -> Frame:
        """Consecutive steps of the same values; a double underscore in a name stands for "/"."""
        steps = np.arange(step, step + rows)
        names = [name.replace("__", "/") for name in values]
        block = Block.of(names, steps, 1_700_000_000.0 + steps, np.tile(list(values.values()), (rows, 1)))
        return Frame(1, attempt, writer, seq, [block] if values else [], **(more or {}))


@dataclass
class Received:
    """One request that the receiver got."""

    time: float
    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A real HTTP server that keeps what it is sent. ``answers``: statuses and headers, one request each; then 204."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def types(self) -> list[str]:
        return [request.json["type"] for request in self.received]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received(time.time(), dict(self.headers), body, self.path))
            status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Loopback, a free port, webhooks to this machine allowed, impatient retries."""
    return Settings(
        db=database_url, port=0, allow_private_webhooks=True, webhook_backoff_s=0.05, watchdog_interval_s=0.1
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Client]:
    """A client of a running service."""
    with running(settings) as base:
        yield Client(base)


@pytest.fixture
def wait() -> Callable[..., Any]:
    """`until`, for tests that poll."""
    return until


@pytest.fixture(scope="session")
def client_of() -> type[Client]:
    """The client class, for tests that start services of their own."""
    return Client


@pytest.fixture(scope="session")
def write_side() -> type[WriteSide]:
    """The class, for tests of what commits hold."""
    return WriteSide
