"""What `store.py` asks of a tracker, in the tracker's own environment; see `worker.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters import Agent
from curves import losses
from data import METRICS

__all__ = ["STORE_TASKS"]

SPIKE = 1e6
RUNS = 50
OWN_FILES = {"result.json", "result.part", "output.txt", "identity"}  # of the benchmark, in a tracker's folder
LONGEST_S = 20.0  # of repetitions


def ingest(agent: Agent, options: dict[str, Any]) -> dict[str, Any]:
    """Log steps of 8 float32 losses for some seconds, and end the run in order: from the first call to the end."""
    rows = [dict(zip(METRICS, row, strict=True)) for row in losses(2, len(METRICS), 0, 100_000).tolist()]
    log = agent.begin()
    before = size(agent.folder)
    began = time.perf_counter()
    step = 0
    while time.perf_counter() - began < options["seconds"]:
        for _ in range(100):
            step += 1
            log(dict(rows[step % len(rows)]), step)
    logged = time.perf_counter() - began
    agent.end()
    total = time.perf_counter() - began
    return {"steps": step, "points": step * len(METRICS), "log_s": logged, "total_s": total,
            "bytes": size(agent.folder) - before}  # fmt: skip


def size(folder: Path) -> int:
    """Bytes of all files of the tracker."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files if path.name not in OWN_FILES)


def fill(agent: Agent, options: dict[str, Any]) -> dict[str, Any]:
    """A long series with one spike, 50 runs to compare, and a short run to load the tracker's modules with."""
    points = min(options["points"], agent.history_points)
    values = losses(3, 1, 0, points)
    values[int(points * 0.618)] = SPIKE
    began = time.perf_counter()
    agent.fill("long", METRICS[:1], values)
    agent.fill("short", METRICS[:1], values[:100])
    steps = min(options["steps"], agent.compared_steps)
    for run in range(RUNS if agent.can("compare") else 0):
        agent.fill(f"run{run}", METRICS[:4], losses(run, 4, 0, steps))
    return {"points": points, "steps": steps, "seconds": time.perf_counter() - began}


def look(agent: Agent, _: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the full history, of what the page draws, and of the comparison; the first time and the median."""
    metric = METRICS[0]
    agent.history("short", metric)
    found: dict[str, Any] = {"history": _timed(lambda: agent.history("long", metric))}
    found["history"]["points"] = len(agent.history("long", metric))
    if agent.can("view"):
        agent.view("short", metric)
        found["view"] = _timed(lambda: agent.view("long", metric))
        view = agent.view("long", metric)
        found["view"] |= {"points": len(view), "spike": any(value == SPIKE for _, value in view)}
    runs = [f"run{run}" for run in range(RUNS)]
    if agent.can("compare"):
        found["compare"] = _timed(lambda: agent.compare(runs, METRICS[:4]))
    return found


def _timed(question: Callable[[], object]) -> dict[str, Any]:
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < LONGEST_S:
        began = time.perf_counter()
        question()
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "median": statistics.median(seconds)}


STORE_TASKS: dict[str, Callable[[Agent, dict[str, Any]], Any]] = {"ingest": ingest, "fill": fill, "look": look}
