"""Senders that deliver every frame once whatever happens to the service, and a receiver of its webhooks."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from store_courses import Course

from holter.wire import FRAME_MEDIA_TYPE, encode_frame

__all__ = ["Receiver", "Sender"]

ANSWER_S = 20.0


class Sender(threading.Thread):
    """Logs a course as the agent does: frames in their order, each sent again until it is acknowledged.

    Args:
        frames: where to stop; None goes on until `enough` is set.
        pause_s: the longest pause between two frames.
    """

    def __init__(self, port: int, course: Course, frames: int | None = None, pause_s: float = 0.0) -> None:
        super().__init__(name=f"sender-{course.run}", daemon=True)
        self.course, self.frames, self.pause_s = course, frames, pause_s
        self.enough = threading.Event()
        self.acknowledged = 0  # frames, all of them from 1 on
        self.repeated = 0  # retries that turned out to be stored already
        self.retries = 0
        self.fault = ""
        self._port = port
        self._random = random.Random(course.seed)
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        try:
            while not self._finished():
                self._deliver(self.acknowledged + 1)
                self.acknowledged += 1
                time.sleep(self._random.uniform(0, self.pause_s))
        except Exception as error:  # noqa: BLE001 - whoever joins this thread reads it
            self.fault = f"{type(error).__name__}: {error}"

    def _finished(self) -> bool:
        return self.enough.is_set() if self.frames is None else self.acknowledged >= self.frames

    def _deliver(self, seq: int) -> None:
        body = encode_frame(self.course.frame(seq))
        tries = 0
        while (answer := self.post(f"/runs/{self.course.run}/frames", body, FRAME_MEDIA_TYPE)) is None:
            tries += 1
            time.sleep(self._random.uniform(0.02, 0.2))
        self.retries += tries
        if answer["acknowledged"] != seq:
            raise ValueError(f"frame {seq} was answered with {answer}")
        if answer.get("duplicate"):
            if not tries:
                raise ValueError(f"frame {seq} was sent once and called a duplicate")
            self.repeated += 1

    def post(self, path: str, body: bytes, kind: str) -> dict | None:
        """The answer; None where there is none, or one that says to try again.

        Raises:
            ValueError: the request was refused for good.
        """
        try:
            connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
            self._connection = connection
            connection.request("POST", f"/api/v1{path}", body, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None
        if answer.status in (429, 503):
            return None
        if answer.status not in (200, 201):
            raise ValueError(f"HTTP {answer.status} {content[:300]!r}")
        found: dict = json.loads(content)
        return found


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        content = self.rfile.read(length)
        if len(content) < length:  # its sender was killed while it sent: not a message
            self.close_connection = True
            return
        body = json.loads(content)
        with self.server.lock:
            self.server.messages[self.headers["webhook-id"]] = body
            self.server.times[self.headers["webhook-id"]] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the figures are the output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.messages: dict[str, dict] = {}  # by webhook-id
        self.times: Counter[str] = Counter()


class Receiver:
    """A real HTTP receiver that keeps every message, and how often each one came."""

    def __init__(self) -> None:
        self._server = _Server()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def told(self) -> Counter[tuple[str, str]]:
        """How many messages with an id of their own came of each (type, what it is about)."""
        with self._server.lock:
            return Counter((body["type"], _about(body)) for body in self._server.messages.values())

    def repeats(self) -> int:
        """Messages that came more than once under the same id."""
        with self._server.lock:
            return sum(count - 1 for count in self._server.times.values())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _about(body: dict) -> str:
    data = body["data"]
    if "incident" in data:
        return f"{data['incident']['id']} {data['incident']['severity']}"
    if "alert" in data:
        return f"{data['run']['id']} {data['alert'].get('text') or data['alert'].get('title')}"
    return f"{data['run']['id']} {data['run']['state']}"
