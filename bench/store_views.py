"""Reading: the first view of a long series, its full history, and many runs at once over HTTP."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from figures import median_interval
from peers.data import METRICS
from store_compaction import compact
from store_databases import Home
from store_frames import SPIKE, store_run
from store_parts import Bench, Part, at_most

from holter_db.database import Database

WIDTH = 1000
FIRST_VIEW_MS = (5.0, 50.0)  # of the smaller and the greater series
HISTORY_MS = 50.0
COMPARED_MS = 300.0
COMPARED_RUNS, COMPARED_METRICS = 50, METRICS[:4]
PIECE = 10_000_000  # points stored between two compactions, so that the disk holds few of them twice


def measure(bench: Bench) -> Part:
    part = Part("views")
    small, great = bench.effort.view_points
    for points, limit in zip((small, great), FIRST_VIEW_MS, strict=True):
        _long_series(bench, part, points, limit)
    _comparison(bench, part)
    return part


# --- one series, in the process -----------------------------------------------------------------------------------


def _long_series(bench: Bench, part: Part, points: int, limit: float) -> None:
    name = f"long{points}"
    home = bench.home(name)
    print(f"  storing {points:,} points of one series …", flush=True)
    began = time.monotonic()
    _store(home, points)
    stored_s = time.monotonic() - began
    asked = {"url": home.url, "run": "long", "metrics": [METRICS[0]], "width": WIDTH, "what": "view",
             "repetitions": bench.effort.first_views}  # fmt: skip
    view = ask_in_process(asked)
    part.raw[f"view of {points}"] = view | {"stored_s": stored_s, "bytes": home.size().whole}
    part.add(
        at_most(f"first view of {points:,} points at {WIDTH:,} px, in the process", _ms(view["first"]), limit,
                " ms", digits=1, note=f"; processor time {_ms(view['first_cpu']).value:.1f}; again "
                f"{_ms(view['again']).value:.1f}; in a new process {1000 * view['first_of_process']:.1f}; "
                f"{view['points']:,} points"),
    )  # fmt: skip
    if view["greatest_in_answer"] != SPIKE:
        raise SystemExit(f"The view of {points:,} points has lost the spike of one step: {view}")
    if points == bench.effort.history_points:
        history = ask_in_process(asked | {"what": "history"})
        part.raw[f"history of {points}"] = history
        part.add(at_most(f"full history of {points:,} points, in the process", _ms(history["first"]),
                         HISTORY_MS, " ms", digits=1, note=f"; processor time {_ms(history['first_cpu']).value:.1f}; "
                         f"again {_ms(history['again']).value:.1f}"))  # fmt: skip
    bench.forget(name)


def _store(home: Home, points: int) -> None:
    """One run with one series, stored and compacted past the service in pieces."""
    database = Database.open(home.url)
    try:
        store_run(database, "long", 3, METRICS[:1], points, spike=int(points * 0.618),
                  between=lambda: compact(database), every=PIECE)  # fmt: skip
        compact(database)
    finally:
        database.close()


def ask_in_process(asked: dict[str, Any]) -> dict[str, Any]:
    worker = Path(__file__).with_name("store_view_worker.py")
    done = subprocess.run([sys.executable, worker, json.dumps(asked)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The reading process failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _ms(seconds: list[float]) -> Any:
    return median_interval([1000 * each for each in seconds])


# --- many runs over HTTP ------------------------------------------------------------------------------------------


def _comparison(bench: Bench, part: Part) -> None:
    home = bench.home("compared")
    steps = bench.effort.compared_steps
    names = [f"run{index:02}" for index in range(COMPARED_RUNS)]
    print(f"  storing {COMPARED_RUNS} runs × {len(COMPARED_METRICS)} metrics × {steps:,} points …", flush=True)
    database = Database.open(home.url)
    for seed, name in enumerate(names):
        store_run(database, name, seed, COMPARED_METRICS, steps)
    compact(database)
    database.close()
    first, again, parse = [], [], []
    for _ in range(bench.effort.first_views):
        with bench.service(home, "compared") as service:
            seconds, answer = compare_over_http(service.port, names, COMPARED_METRICS)
            first.append(seconds)
            again.append(compare_over_http(service.port, names, COMPARED_METRICS)[0])
        began = time.perf_counter()
        series = msgspec.json.decode(answer)["series"]
        parse.append(time.perf_counter() - began)
    assert len(series) == COMPARED_RUNS * len(COMPARED_METRICS), len(series)
    bench.forget("compared")
    points = sum(len(each["values"]) for each in series)
    seconds_of = {"first": first, "again": again, "parse": parse}
    part.raw["comparison"] = seconds_of | {"bytes": len(answer), "points": points}
    figure = f"{COMPARED_RUNS} runs × {len(COMPARED_METRICS)} metrics × {steps:,} points at {WIDTH:,} px, over HTTP"
    note = f"; {points:,} points, {len(answer) / 1e6:.1f} MB; parsing it takes {_ms(parse).value:.0f} ms more"
    part.add(
        at_most(f"{figure}, first after a start", _ms(first), COMPARED_MS, " ms", note=note),
        at_most(f"{figure}, again", _ms(again), COMPARED_MS, " ms"),
    )


def compare_over_http(port: int, runs: Sequence[str], metrics: Sequence[str]) -> tuple[float, bytes]:
    """Seconds from the request to the last byte of the answer, and the answer."""
    body = json.dumps({"runs": list(runs), "metrics": list(metrics), "width": WIDTH}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    began = time.perf_counter()
    connection.request("POST", "/api/v1/series/query", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - began
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"The comparison failed: HTTP {answer.status} {content[:300]!r}")
    return seconds, content
