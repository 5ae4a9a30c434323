"""How long from `log()` of a bad value to the people who must know: ``python bench/alert_latency.py [RUNS] [ROUNDS]``.

RUNS live runs at once (100), each with the real agent, all logging ten steps a second; their shippers are threads, ten
runs a process, so that a hundred trainings fit on one machine beside the service. One after the other logs one step
with a weighted precursor loss of 6.4, as in the plan this project grew out of, ROUNDS times (1).
The service is a process of its own on SQLite; a real HTTP receiver and a live socket such as the page's listen, all on
loopback. ``--together`` has all runs go bad within the same 100 ms instead, in as many processes as before.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
from holter_service import Service
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE_S = 60.0
STEP_S = 0.1
RUNS_PER_PROCESS = 10
GAP_S = 0.05  # between two runs that go bad
GOOD = {"loss/total": 2.0, "weighted/ce": 1.6, "weighted/precursor": 0.4, "grad_norm": 0.5}
BAD = GOOD | {"loss/total": 8.0, "weighted/precursor": 6.4}


class Arrivals:
    """When the news about each run came, by the wall clock: the trainings are other processes."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, int], float] = {}
        self._changed = threading.Condition()

    def note(self, run: str, step: int, at: float) -> None:
        with self._changed:
            self._at.setdefault((run, step), at)
            self._changed.notify_all()

    def wait(self, run: str, step: int) -> float:
        with self._changed:
            if not self._changed.wait_for(lambda: (run, step) in self._at, PATIENCE_S):
                raise SystemExit(f"No news of run {run}, step {step}, within {PATIENCE_S:.0f} s.")
            return self._at[run, step]


@contextmanager
def receiving(arrivals: Arrivals) -> Iterator[int]:
    """A receiver; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            at = time.time()
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()
            if body["type"] == "incident.firing" and body["data"]["incident"]["rule"] == "precursor-high":
                arrivals.note(body["data"]["run"]["id"], body["data"]["incident"]["step"], at)

        def log_message(self, *_: object) -> None:
            """Nothing: the figures are the output."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def watch(base: str, arrivals: Arrivals) -> None:
    with suppress(ConnectionClosed), connect(base.replace("http", "ws") + "/api/v1/live") as socket:
        socket.send(json.dumps({"type": "subscribe", "id": "all", "topic": "runs"}))
        for message in socket:
            at = time.time()
            heard = json.loads(message)
            if heard["type"] == "incident" and heard["action"] == "open":
                incident = heard["incident"]
                if incident["rule"] == "precursor-high":
                    arrivals.note(incident["run"], incident["step"], at)


class Trainings:
    """A process with some trainings in it. They log by themselves; told which, one of them logs a bad step."""

    def __init__(self, base: str, folder: str, count: int) -> None:
        program = [sys.executable, __file__, "--train", str(count), base, folder]
        environ = {name: text for name, text in os.environ.items() if not name.startswith("HOLTER_")}
        environ["HOLTER_SHIPPER"] = "thread"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, env=environ, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.runs: list[str] = self._read()["runs"]
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A process of trainings has ended.")
        return json.loads(line)

    def _listen(self) -> None:
        with suppress(SystemExit):
            while True:
                self._answers.put(self._read())

    def go_bad(self, index: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n".encode())
        self._process.stdin.flush()

    def said(self) -> tuple[str, int, float]:
        """(run, step, when it was logged) of the bad step that was asked for longest ago."""
        answer = self._answers.get(timeout=PATIENCE_S)
        return answer["run"], answer["step"], answer["at"]

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def train(count: int, base: str, folder: str) -> None:
    """The process of `Trainings`: one thread logs for all of its runs."""
    from holter import init, lifecycle

    runs = []
    for index in range(count):
        lifecycle._process.current = None  # `init` would finish the run before it
        runs.append(init(project="bench", name=f"run {os.getpid()}-{index}", url=base, dir=folder))
    print(json.dumps({"runs": [run.id for run in runs]}), flush=True)
    asked: queue.Queue[int | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(int(line))
        asked.put(None)

    threading.Thread(target=listen, daemon=True).start()
    steps = [0] * count
    due = time.monotonic()
    while True:
        for index, run in enumerate(runs):
            run.log(GOOD, step=steps[index])
            steps[index] += 1
        due += STEP_S
        while (left := due - time.monotonic()) > 0:
            with suppress(queue.Empty):
                index = asked.get(timeout=left)
                if index is None:
                    for run in runs:
                        run.finish()
                    return
                at = time.time()
                runs[index].log(BAD, step=steps[index])
                print(json.dumps({"run": runs[index].id, "step": steps[index], "at": at}), flush=True)
                steps[index] += 1
        due = max(due, time.monotonic() - STEP_S)


def report(name: str, seconds: list[float]) -> None:
    ordered = sorted(1000 * value for value in seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(
        f"{name:<28} median {statistics.median(ordered):6.0f} ms   p99 {p99:6.0f} ms   max {ordered[-1]:6.0f} ms"
        f"   ({len(ordered)} alerts)"
    )


def main(count: int, rounds: int, *, together: bool) -> None:
    hooked, pushed = Arrivals(), Arrivals()
    with (
        tempfile.TemporaryDirectory() as folder,
        receiving(hooked) as port,
        Service(Path(folder), settings={"HOLTER_ALLOW_PRIVATE_WEBHOOKS": "1"}) as service,
    ):
        hook = {"url": f"http://127.0.0.1:{port}/", "name": "bench"}
        answer = urllib3.request("POST", f"{service.url}/api/v1/webhooks", json=hook)
        assert answer.status == 201, answer.data
        threading.Thread(target=watch, args=(service.url, pushed), daemon=True).start()
        sizes = [min(RUNS_PER_PROCESS, count - first) for first in range(0, count, RUNS_PER_PROCESS)]
        processes = [Trainings(service.url, folder, size) for size in sizes]
        time.sleep(5.0)  # every training has shipped and been heard
        said: list[tuple[str, int, float]] = []
        for _ in range(rounds):
            said += alarm(processes, together=together)
            time.sleep(1.0)
        delays = [(hooked.wait(run, step) - at, pushed.wait(run, step) - at) for run, step, at in said]
        for process in processes:
            process.end()
    print(
        f"{count} live runs, each {1 / STEP_S:.0f} steps a second, going bad {'together' if together else 'in turn'}:"
    )
    report("log() to webhook received", [hook for hook, _ in delays])
    report("log() to the page's socket", [seen for _, seen in delays])


def alarm(processes: list[Trainings], *, together: bool) -> list[tuple[str, int, float]]:
    """Have every run log a bad step once; (run, step, when) of each."""
    asked: list[Trainings] = []
    for index in range(RUNS_PER_PROCESS):
        for process in processes:
            if index < len(process.runs):
                process.go_bad(index)
                asked.append(process)
                if not together:
                    time.sleep(GAP_S)
    return [process.said() for process in asked]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="?", type=int, default=100)
    parser.add_argument("rounds", nargs="?", type=int, default=1)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--train", nargs=3, metavar=("COUNT", "URL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(int(given.train[0]), given.train[1], given.train[2])
    else:
        main(given.runs, given.rounds, together=given.together)
