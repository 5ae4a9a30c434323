"""A service for tests: real HTTP on loopback, idempotent and acknowledging as the real one, and failing on demand."""

from __future__ import annotations

import gzip
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from holter.wire import (
    CommandOrder,
    CommandUpdate,
    Event,
    Frame,
    IncidentNotice,
    Receipt,
    RunFinish,
    RunStart,
    WireError,
    decode_frame,
    dump_json,
)

__all__ = ["FakeRun", "FakeService", "Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request instead of an answer."""

    status: int = 500  # 0: the connection is closed without an answer
    kind: str = "fault"
    message: str = "as the test wants it"
    committed: bool = False  # the request is carried out all the same: its answer is what gets lost
    delay: float = 0.0  # seconds before
    retry_after: float | None = None  # seconds
    path: str = ""  # only requests whose path ends so


@dataclass
class FakeRun:
    """What the service has of one run."""

    starts: list[RunStart] = field(default_factory=list)
    frames: dict[tuple[str, str, int], Frame] = field(default_factory=dict)  # by attempt, writer, seq
    duplicates: int = 0
    finishes: list[RunFinish] = field(default_factory=list)
    orders: dict[str, CommandOrder] = field(default_factory=dict)
    updates: list[CommandUpdate] = field(default_factory=list)

    def points(self, metric: str, writer: str = "rank0") -> list[tuple[int, float]]:
        """(step, value) in the order of arrival, over all attempts."""
        return [
            (int(step), float(row[block.metrics.index(metric)]))
            for (_, name, _), frame in self.frames.items()
            if name == writer
            for block in frame.blocks
            if metric in block.metrics
            for step, row in zip(block.step_array(), block.value_matrix(), strict=True)
        ]

    @property
    def events(self) -> list[Event]:
        return [event for frame in self.frames.values() for event in frame.events]

    @property
    def state(self) -> str:
        return self.finishes[-1].state if self.finishes else "running"


class FakeService:
    """``with FakeService() as service: holter.init(url=service.url)``. `stop` and `start` keep address and data."""

    def __init__(self, token: str | None = None) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.token = token
        self.requests: list[str] = []  # "POST /runs", in order of arrival
        self._faults: deque[Fault] = deque()
        self._notices: deque[IncidentNotice] = deque()
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._port = 0
        self.start()
        if self._server is not None:
            self._port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def run(self) -> FakeRun:
        """The only run."""
        (run,) = self.runs.values()
        return run

    def start(self) -> None:
        if self._server is None:
            self._server = _Server(("127.0.0.1", self._port), self)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Nothing listens any more; what was received is kept."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> FakeService:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fail(self, fault: Fault, times: int = 1) -> None:
        """The next requests that the fault is for suffer it."""
        with self._lock:
            self._faults.extend([fault] * times)

    def recover(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def order(self, run: str, name: str, **args: Any) -> str:
        """Send a command with every receipt until it is acknowledged; returns its id."""
        command = f"command-{next(self._numbers)}"
        with self._lock:
            self.runs[run].orders[command] = CommandOrder(command, name, args, requested_by="test")
        return command

    def report(self, notice: IncidentNotice) -> None:
        """Send an incident with the next receipt."""
        self._notices.append(notice)

    # --- called by the request handler --------------------------------------------------------------------------

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if path.endswith(fault.path):
                    self._faults.remove(fault)
                    return fault
        return None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        with self._lock:
            return self._answer(method, path.removeprefix("/api/v1").strip("/").split("/"), body)

    def _answer(self, method: str, parts: list[str], body: bytes) -> tuple[int, Any]:
        match method, parts:
            case "POST", ["runs"]:
                return self._start(msgspec.json.decode(body, type=RunStart))
            case _, ["runs", run, *_] if run not in self.runs:
                return 404, _error("run_not_found", f"There is no run {run}")
            case "GET", ["runs", run]:
                return 200, {"run": {"id": run, "state": self.runs[run].state, "last_step": self._last_step(run)}}
            case "POST", ["runs", run, "frames"]:
                return self._frame(self.runs[run], body)
            case "POST", ["runs", run, "finish"]:
                self.runs[run].finishes.append(msgspec.json.decode(body, type=RunFinish))
                return 200, {"run": {"id": run, "state": self.runs[run].state}}
        return 404, _error("not_found", "/".join(parts))

    def _start(self, start: RunStart) -> tuple[int, Any]:
        run = self.runs.setdefault(str(start.id), FakeRun())
        if start not in run.starts:
            run.starts.append(start)
        return 201, {"run": {"id": start.id, "state": "running"}}

    def _frame(self, run: FakeRun, body: bytes) -> tuple[int, Any]:
        try:
            frame = decode_frame(body)
        except WireError as error:
            return 422, _error(error.kind, str(error), error.hint)
        key = (frame.attempt, frame.writer, frame.seq)
        duplicate = key in run.frames
        run.duplicates += duplicate
        if not duplicate:
            run.frames[key] = frame
            run.updates += frame.commands
            for update in frame.commands:
                run.orders.pop(update.id, None)
        notices = [self._notices.popleft() for _ in range(len(self._notices))]
        return 200, Receipt(frame.seq, duplicate, run.state, list(run.orders.values()), notices)

    def _last_step(self, run: str) -> int | None:
        frames = self.runs[run].frames.values()
        steps: Iterator[int] = (int(block.step_array().max()) for frame in frames for block in frame.blocks)
        return max(steps, default=None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], service: FakeService) -> None:
        self.service = service
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0  # seconds a kept connection may idle: so that a stopped service leaves no threads behind

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self._serve("POST", body)

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def _serve(self, method: str, body: bytes) -> None:
        service = self.server.service
        service.requests.append(f"{method} {self.path.removeprefix('/api/v1')}")
        fault = service.take_fault(self.path)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.committed:
                service.answer(method, self.path, body)
            if fault.status:
                self._send(fault.status, _error(fault.kind, fault.message), fault.retry_after)
            self.close_connection = True
        elif service.token is not None and self.headers.get("Authorization") != f"Bearer {service.token}":
            self._send(401, _error("unauthorized", "A token is needed"))
        else:
            self._send(*service.answer(method, self.path, body))

    def _send(self, status: int, content: Any, retry_after: float | None = None) -> None:
        body = dump_json(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests have enough to say."""


def _error(kind: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "hint": hint}}
