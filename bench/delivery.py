"""Is each firing delivered at least once, whatever happens? ``python bench/delivery.py [--schedules 200] [--seed 1]``.

Real `holter serve` processes on SQLite, real receivers on loopback. Every receiver has a random schedule of its own:
healthy, refusing connections, answering 500 or 503 with Retry-After, resetting the connection before or after it has
read the message, answering too late. In between the service is killed with -9. Back-off is scaled down a hundredfold
(50 ms), so that an outage of one second stands for one of some two minutes; the time-out is 0.4 s.

A firing counts as delivered where the receiver has answered 2xx. At the end everything is healthy, and the figures are:
firings that a receiver never took (forgotten), messages that came under more than one id or with other bytes, and how
many came twice.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
from holter_service import Service, free_port

FAULTS = ("down", "500", "503", "reset before", "reset after", "slow")
TIMEOUT_S = 0.4
BACKOFF_S = 0.05
PATIENCE_S = 90.0
RECEIVERS_PER_ROUND = 20
RULES = "rules: [{id: high, check: limit, metrics: ['score*'], above: 5, clear: 4, clear_for: 10}]"


@dataclass
class Message:
    """What a receiver has got under one (incident, type)."""

    ids: set[str] = field(default_factory=set)
    bodies: set[bytes] = field(default_factory=set)
    seen: int = 0
    taken: int = 0  # answered 2xx


class Receiver:
    """A receiver with moods; while it is down its port refuses connections."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mood = "ok"
        self.got: dict[tuple[str, str], Message] = defaultdict(Message)
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.up()

    def up(self) -> None:
        if self._server is not None:
            return
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing: the figures are the output."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """The sender has gone away, as it does when it is killed."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def feel(self, mood: str) -> None:
        self.mood = mood
        if mood == "down":
            self.down()
        else:
            self.up()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        mood = self.mood
        if mood == "reset before":
            reset(request)
            return
        body = request.rfile.read(int(request.headers["Content-Length"]))
        said = json.loads(body)
        about = said["data"].get("incident") or said["data"]["run"]
        if mood == "slow":
            time.sleep(2 * TIMEOUT_S)
        taken = mood in ("ok", "slow")
        with self._lock:
            message = self.got[about["id"], said["type"]]
            message.seen += 1
            message.taken += taken
            message.ids.add(request.headers["webhook-id"])
            message.bodies.add(body)
        if mood == "reset after":
            reset(request)
            return
        request.send_response(204 if taken else int(mood))
        if mood == "503":
            request.send_header("Retry-After", "1")
        request.send_header("Content-Length", "0")
        request.end_headers()


def reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True


class Api:
    """Plain HTTP to the service, patient with one that is just being killed."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10), maxsize=8)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._http.request(method, f"{self._base}/api/v1{path}", json=body)
                if answer.status < 300:
                    return answer.json()
                if answer.status < 500 and answer.status != 429:
                    raise SystemExit(f"{method} {path}: {answer.data!r}")
            except urllib3.exceptions.HTTPError:
                pass
            if time.monotonic() > until:
                raise SystemExit(f"The service has not answered {method} {path} for {PATIENCE_S:.0f} s.")
            time.sleep(0.05)


@dataclass
class Round:
    """What one round has shown."""

    firings: int = 0
    forgotten: list[str] = field(default_factory=list)
    several_ids: list[str] = field(default_factory=list)
    duplicates: int = 0
    messages: int = 0
    kills: int = 0
    waited_s: float = 0.0


def misbehave(receiver: Receiver, dice: random.Random, until: float) -> None:
    """One receiver's schedule."""
    while time.monotonic() < until:
        receiver.feel(dice.choice(("ok", *FAULTS)))
        time.sleep(dice.uniform(0.1, 2.5))
    receiver.feel("ok")


def kill_now_and_then(service: Service, dice: random.Random, until: float, count: list[int]) -> None:
    while True:
        time.sleep(dice.uniform(0.5, 4.0))
        if time.monotonic() >= until:
            return
        service.kill()
        count[0] += 1
        time.sleep(dice.uniform(0.0, 0.5))
        service.start()


def fire(api: Api, dice: random.Random, index: int, until: float) -> None:
    """A run that goes over its limit and comes back, again and again, until the time is over."""
    run = api.call("POST", "/runs", {"id": f"bench-{index}", "project": "bench", "name": f"run {index}"})["run"]["id"]
    seq = 0
    for number in range(6):
        if time.monotonic() > until:
            break
        for value in (9.0, *[0.5] * 30):
            seq += 1
            point = {"step": seq, "values": {f"score{number}": value}}
            if value == 9.0 or seq % 31 == 0:
                time.sleep(dice.uniform(0.0, 0.2))
            api.call("POST", f"/runs/{run}/points", {"points": [point], "seq": seq})
    api.call("POST", f"/runs/{run}/finish", {"state": "finished"})


def play(folder: Path, dice: random.Random, receivers: int, fault_s: float) -> Round:
    """One round: some receivers, each with its schedule, and one service that is killed in between."""
    result = Round()
    settings = {
        "HOLTER_ALLOW_PRIVATE_WEBHOOKS": "1",
        "HOLTER_WEBHOOK_BACKOFF_S": str(BACKOFF_S),
        "HOLTER_WEBHOOK_TIMEOUT_S": str(TIMEOUT_S),
        "HOLTER_LOG_LEVEL": "error",
    }
    listening = [Receiver() for _ in range(receivers)]
    with Service(folder, settings=settings) as service:
        api = Api(service.url)
        api.call("PUT", "/projects/bench/rules", {"rules": RULES})
        for receiver in listening:
            hook = {"url": f"http://127.0.0.1:{receiver.port}/", "min_severity": "info"}
            api.call("POST", "/webhooks", hook)
        until = time.monotonic() + fault_s
        kills = [0]

        def own() -> random.Random:
            return random.Random(dice.random())

        work = [threading.Thread(target=misbehave, args=(one, own(), until)) for one in listening]
        work.append(threading.Thread(target=kill_now_and_then, args=(service, own(), until, kills)))
        work += [threading.Thread(target=fire, args=(api, own(), index, until)) for index in range(3)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        began = time.monotonic()
        wait_until_quiet(api)
        result.waited_s, result.kills = time.monotonic() - began, kills[0]
        expected = expectations(api)
    for receiver in listening:
        receiver.down()
        judge(receiver, expected, result)
    return result


def wait_until_quiet(api: Api) -> None:
    """Until twice in a row nothing waits: a message may go from one state to the other between two questions."""
    until = time.monotonic() + PATIENCE_S
    quiet = 0
    while quiet < 2 and time.monotonic() < until:
        asked = (api.call("GET", f"/deliveries?state={state}&limit=1") for state in ("pending", "sending"))
        quiet = 0 if any(answer["deliveries"] for answer in asked) else quiet + 1
        time.sleep(0.2)


def expectations(api: Api) -> set[tuple[str, str]]:
    """(incident or run, type) of everything that every receiver must have."""
    expected: set[tuple[str, str]] = set()
    cursor = ""
    while cursor is not None:
        page = api.call("GET", f"/incidents?limit=500{cursor and f'&cursor={cursor}'}")
        for incident in page["incidents"]:
            expected.add((incident["id"], "incident.firing"))
            if incident["state"] == "resolved":
                expected.add((incident["id"], "incident.resolved"))
        cursor = page["next"]
    for run in api.call("GET", "/runs?state=finished")["runs"]:
        expected.add((run["id"], "run.state"))
    return expected


def judge(receiver: Receiver, expected: set[tuple[str, str]], result: Round) -> None:
    for about in expected:
        result.firings += about[1] == "incident.firing"
        message = receiver.got.get(about)
        if message is None or message.taken == 0:
            result.forgotten.append(f"{about[1]} of {about[0]}")
            continue
        result.messages += 1
        result.duplicates += message.seen - 1
        if about[1] != "run.state" and (len(message.ids) > 1 or len(message.bodies) > 1):
            result.several_ids.append(f"{about[1]} of {about[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=8.0, help="seconds of faults in a round")
    parser.add_argument("--quick", action="store_true", help="one round of 20 schedules")
    asked = parser.parse_args()
    schedules = RECEIVERS_PER_ROUND if asked.quick else asked.schedules
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        for index, first in enumerate(range(0, schedules, RECEIVERS_PER_ROUND)):
            dice = random.Random(f"{asked.seed}/{index}")
            count = min(RECEIVERS_PER_ROUND, schedules - first)
            rounds.append(play(Path(folder) / str(index), dice, count, asked.faults))
            said = rounds[-1]
            print(
                f"round {index + 1}: {count} schedules, {said.kills} kills, {said.firings} firings, "
                f"{len(said.forgotten)} forgotten, {said.duplicates} repeated, all told {said.waited_s:.1f} s after "
                "the last fault",
                flush=True,
            )
    forgotten = [line for one in rounds for line in one.forgotten]
    several = [line for one in rounds for line in one.several_ids]
    print(
        f"{schedules} schedules: {sum(one.firings for one in rounds):,} firings to be told, "
        f"{len(forgotten)} messages forgotten, {sum(one.messages for one in rounds):,} messages taken, "
        f"{sum(one.duplicates for one in rounds):,} repeated, {len(several)} under more than one id or body, "
        f"{sum(one.kills for one in rounds)} kills -9"
    )
    for line in [*forgotten[:10], *several[:10]]:
        print(f"  {line}")
    sys.exit(1 if forgotten or several else 0)


if __name__ == "__main__":
    main()
