"""What one `Run.log` call of 8 floats costs the training thread: ``python bench/agent_log.py [CALLS]``.

Three loops: back to back (the interpreter's lock is shared with the journal's thread), at the pace of 1 ms steps, and
back to back without a journal, which is the part that conversion and bookkeeping take.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time

import holter
from holter.testing import FakeService

NAMES = [f"loss/part{index}" for index in range(8)]


def microseconds(run: holter.Run, calls: int, pause: float = 0.0) -> list[float]:
    """The time of each call, in µs."""
    clock = time.perf_counter_ns
    costs = []
    for step in range(calls):
        values = dict.fromkeys(NAMES, 0.5 + step)
        begin = clock()
        run.log(values, step=step)
        costs.append((clock() - begin) / 1000)
        if pause:
            time.sleep(pause)
    return costs


def report(name: str, costs: list[float]) -> None:
    ordered = sorted(costs)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(f"{name:<44} median {statistics.median(ordered):7.2f} µs   p99 {p99:8.2f} µs   ({len(costs):,} calls)")


def main(calls: int) -> None:
    gc.collect()
    with tempfile.TemporaryDirectory() as folder, FakeService() as service:
        run = holter.init(project="bench", url=service.url, dir=folder)
        report("online, back to back", microseconds(run, calls))
        run.finish(timeout=60)
        run = holter.init(project="bench", url=service.url, dir=folder)
        report("online, a step each millisecond", microseconds(run, min(calls, 5_000), pause=0.001))
        run.finish(timeout=60)
        run = holter.init(project="bench", mode="disabled")
        report("disabled (conversion and bookkeeping only)", microseconds(run, calls))
        run.finish()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
