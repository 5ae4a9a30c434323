"""How long from `log()` of a bad value to the people who must know: ``python bench/alert_latency.py [RUNS]``.

Real agent, real service on SQLite, a real HTTP receiver and a live socket such as the page's, all on loopback. Each run
logs healthy steps and then one step with a weighted precursor loss of 6.4, as in the plan this project grew out of.
"""

from __future__ import annotations

import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import holter
from holter_server.service import running
from holter_server.settings import Settings

PATIENCE_S = 30.0


class Receiver(BaseHTTPRequestHandler):
    """Notes when each webhook came."""

    arrived: queue.Queue[tuple[str, float]] = queue.Queue()

    def do_POST(self) -> None:
        at = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()
        if body["type"] == "incident.firing":
            self.arrived.put((body["data"]["run"]["id"], at))

    def log_message(self, *_: object) -> None:
        """Nothing: the figures are the output."""


def watch(base: str, arrived: queue.Queue[tuple[str, float]]) -> None:
    with suppress(ConnectionClosed), connect(base.replace("http", "ws") + "/api/v1/live") as socket:
        socket.send(json.dumps({"type": "subscribe", "id": "all", "topic": "runs"}))
        for message in socket:
            at = time.monotonic()
            heard = json.loads(message)
            if heard["type"] == "incident" and heard["action"] == "open":
                arrived.put((heard["incident"]["run"], at))


def wait_for(arrived: queue.Queue[tuple[str, float]], run: str) -> float:
    """When the news about ``run`` came, by the monotonic clock."""
    while True:
        about, at = arrived.get(timeout=PATIENCE_S)
        if about == run:
            return at


def measure(base: str, folder: str, pushed: queue.Queue[tuple[str, float]]) -> tuple[float, float]:
    """Seconds from the bad `log()` to the webhook and to the live socket."""
    run = holter.init(project="bench", url=base, dir=folder)
    for step in range(100):
        run.log({"loss/total": 2.0, "weighted/ce": 1.6, "weighted/precursor": 0.4, "grad_norm": 0.5}, step=step)
        time.sleep(0.01)
    logged = time.monotonic()
    run.log({"loss/total": 8.0, "weighted/ce": 1.6, "weighted/precursor": 6.4, "grad_norm": 0.5}, step=100)
    hooked, seen = wait_for(Receiver.arrived, run.id), wait_for(pushed, run.id)
    run.finish()
    return hooked - logged, seen - logged


def report(name: str, seconds: list[float]) -> None:
    ordered = sorted(1000 * value for value in seconds)
    print(f"{name:<28} median {statistics.median(ordered):6.0f} ms   max {ordered[-1]:6.0f} ms   ({len(ordered)} runs)")


def main(runs: int) -> None:
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(db=f"sqlite:///{folder}/holter.db", port=0, allow_private_webhooks=True)
        with running(settings) as base:
            hook = {"url": f"http://127.0.0.1:{receiver.server_port}/", "name": "bench"}
            answer = urllib3.request("POST", f"{base}/api/v1/webhooks", json=hook)
            assert answer.status == 201, answer.data
            pushed: queue.Queue[tuple[str, float]] = queue.Queue()
            threading.Thread(target=watch, args=(base, pushed), daemon=True).start()
            measured = [measure(base, folder, pushed) for _ in range(runs)]
    receiver.shutdown()
    report("log() to webhook received", [hooked for hooked, _ in measured])
    report("log() to the page's socket", [seen for _, seen in measured])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
