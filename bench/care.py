"""Care of data beside an ingest: what a backup, a purge and a check take, and what the others notice of it.

    python bench/care.py [--megabytes 200] [--seconds 10]

- backup: the ways that SQLite has to copy a database, each beside a process that commits all the while; one without.
- purge: the time from a frame to its acknowledgement over HTTP, while nothing else happens and while a large run is
  purged.
- check: `holter db check` of the same database, its time and its greatest memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import urllib3
from holter_service import Service

from holter.wire import FRAME_MEDIA_TYPE, Block, Frame, RunStart, encode_frame
from holter_db import ingest, runs
from holter_db.backup import PAGES, back_up
from holter_db.database import Database

METRICS = tuple(f"loss/{name}" for name in "abcdefgh")
LONGEST_S = 15.0  # for a copy; then it is given up


def frame(seq: int, rows: int, noise: np.random.Generator) -> Frame:
    steps = np.arange(seq * rows, (seq + 1) * rows)
    values = noise.normal(size=(rows, len(METRICS))).astype(np.float32).astype(np.float64)
    return Frame(1, "", "rank0", seq, blocks=[Block.of(METRICS, steps, 1.7e9 + steps, values)])


def build(file: Path, megabytes: int) -> str:
    """A database of six runs, the first of them half of it; the id of the first."""
    database, noise = Database.open(f"sqlite:///{file}"), np.random.default_rng(0)
    names = []
    for share in (0.5, *[0.1] * 5):
        with database.write() as conn:
            names.append(runs.start_run(conn, RunStart(project="p"), 1.7e9).id)
            for seq in range(1, max(2, int(megabytes * 1e6 * share / 43_000))):
                ingest.append(conn, names[-1], frame(seq, 1000, noise), 1.7e9)
            runs.set_state(conn, names[-1], "finished", None, 1.7e9)
    database.close()
    return names[0]


# --- backup -----------------------------------------------------------------------------------------------------


def write_all_the_while(file: str, seconds: str) -> None:
    """The other process: a commit, 5 ms of rest, and so on. Prints what its commits took."""
    database, noise = Database.open(f"sqlite:///{file}"), np.random.default_rng(1)
    with database.write() as conn:
        run = runs.start_run(conn, RunStart(project="w"), 1.7e9).id
    made = [frame(number, 100, noise) for number in range(50)]
    took, end = [], time.monotonic() + float(seconds)
    while time.monotonic() < end:
        began = time.perf_counter()
        with database.write() as conn:
            ingest.append(conn, run, msgspec.structs.replace(made[len(took) % 50], seq=len(took) + 1), 1.7e9)
        took.append(time.perf_counter() - began)
        time.sleep(0.005)
    database.close()
    print(summary(took))


def summary(seconds: list[float]) -> str:
    p50, p99, most = np.percentile(np.array(seconds) * 1000, [50, 99, 100])
    return f"{len(seconds):,} acknowledged, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.0f} ms"


def copies(file: Path, folder: Path, seconds: float) -> None:
    ways = {
        "no copy": lambda: "",
        "steps, each a transaction": lambda: stepwise(file, folder / "copy.db", hold=False),
        "steps in one transaction": lambda: stepwise(file, folder / "copy.db", hold=True),
        "one step": lambda: stepwise(file, folder / "copy.db", hold=True, pages=-1),
        "VACUUM INTO": lambda: vacuumed(file, folder / "copy.db"),
        "holter db backup": lambda: f"{back_up(f'sqlite:///{file}', folder / 'copy.db').seconds:.2f} s, checked",
    }
    for name, copy in ways.items():
        command = [sys.executable, __file__, "--write", str(file), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            time.sleep(1.5)
            said = copy()
            assert writer.stdout is not None
            print(f"backup  {name:<26} {said:<40} beside it: {writer.stdout.read().strip()}")
        (folder / "copy.db").unlink(missing_ok=True)


def stepwise(file: Path, target: Path, *, hold: bool, pages: int = PAGES) -> str:
    """``hold``: read in one transaction."""
    state = {"steps": 0, "again": 0, "left": 2**62}
    began = time.perf_counter()

    def report(_status: int, left: int, _total: int) -> None:
        state["steps"] += 1
        state["again"] += left > state["left"]
        state["left"] = left
        if time.perf_counter() - began > LONGEST_S:
            raise TimeoutError

    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as here:
        if hold:
            here.execute("BEGIN")
            here.execute("SELECT count(*) FROM runs").fetchone()
        with contextlib.closing(sqlite3.connect(target)) as there:
            there.execute("PRAGMA synchronous = OFF")
            try:
                here.backup(there, pages=pages, progress=report)
            except TimeoutError:
                return f"given up after {LONGEST_S:.0f} s, begun anew {state['again']} times"
    return f"{time.perf_counter() - began:.2f} s, {state['steps']} steps, begun anew {state['again']} times"


def vacuumed(file: Path, target: Path) -> str:
    began = time.perf_counter()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as here:
        here.execute("VACUUM INTO ?", (str(target),))
    return f"{time.perf_counter() - began:.2f} s"


# --- purge ------------------------------------------------------------------------------------------------------


def purge(folder: Path, run: str, seconds: float) -> None:
    with serving(folder) as url:
        http = urllib3.PoolManager()

        def call(
            method: str, path: str, body: bytes | None = None, kind: str = "application/json"
        ) -> dict[str, object]:
            answer = http.request(method, f"{url}/api/v1{path}", body=body, headers={"Content-Type": kind})
            assert answer.status < 300 or answer.status == 410, answer.data
            return dict(json.loads(answer.data))

        other = call("POST", "/runs", b'{"project": "w", "id": "other"}')
        assert other
        noise = np.random.default_rng(2)
        bodies = iter([encode_frame(frame(seq, 100, noise)) for seq in range(1, 8000)])

        def sent() -> float:
            began = time.perf_counter()
            call("POST", "/runs/other/frames", next(bodies), FRAME_MEDIA_TYPE)
            return time.perf_counter() - began

        time.sleep(1.5 * seconds)  # so that the compactor has done what it finds at the start
        end = time.monotonic() + seconds
        alone = [sent() for _ in iter(lambda: time.monotonic() < end, False)]
        call("DELETE", f"/runs/{run}")
        began = time.perf_counter()
        call("POST", f"/runs/{run}/purge")
        beside = [sent()]
        while "run_purged" not in str(call("GET", f"/runs/{run}")) or call("GET", "/runs?deleted=true")["runs"]:
            beside += [sent() for _ in range(5)]
        print(f"purge   {'nothing else':<26} {summary(alone)}")
        print(f"purge   {'a run is purged':<26} {summary(beside)}; gone after {time.perf_counter() - began:.1f} s")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    service = Service(folder)
    service.start()
    try:
        yield service.url
    finally:
        service.stop()


# --- check ------------------------------------------------------------------------------------------------------


def check(file: Path) -> None:
    command = [sys.executable, "-m", "holter_server.cli", "db", "check", "--db", f"sqlite:///{file}"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    database = Database.open(f"sqlite:///{file}")
    with database.read() as conn:
        points = conn.exec_driver_sql('SELECT sum("count") FROM series').scalar_one()
    database.close()
    took = f"{points:,} points in {seconds:.1f} s, {points / seconds:,.0f} a second, {most:.0f} MB"
    print(f"check   {took}: {done.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="of the database")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--write", nargs=2, metavar=("FILE", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_all_the_while(*given.write)
        return
    with tempfile.TemporaryDirectory(prefix="holter-care-", dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        file = folder / "holter.db"
        run = build(file, given.megabytes)
        print(f"{file.stat().st_size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        check(file)
        copies(file, folder, given.seconds)
        purge(folder, run, given.seconds / 2)


if __name__ == "__main__":
    main()
