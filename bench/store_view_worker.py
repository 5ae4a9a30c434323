"""Times questions to the store in a process of its own: ``store_view_worker.py QUESTION`` with QUESTION as JSON.

Each repetition opens the database anew, as a service that has just started has it: connected, with nothing in its
caches. The operating system's page cache is warm from the repetition before; the first one is told apart.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from holter_db.database import Connection, Database
from holter_db.series import Series, read_series, view_series

__all__ = ["main"]


def question_of(asked: dict[str, Any]) -> Callable[[Connection], list[Series]]:
    run, metrics = asked["run"], asked["metrics"]
    if asked["what"] == "view":
        return lambda conn: view_series(conn, run, metrics, width=asked["width"])
    return lambda conn: read_series(conn, run, metrics)


def timed(database: Database, question: Callable[[Connection], list[Series]]) -> tuple[float, float, list[Series]]:
    """Seconds of wall time and of processor time, and the answer."""
    began, cpu = time.perf_counter(), time.process_time()
    with database.read() as conn:
        found = question(conn)
    return time.perf_counter() - began, time.process_time() - cpu, found


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the first question to each new handle, and of the same question asked again."""
    question, first, cpu, again = question_of(asked), [], [], []
    for _ in range(asked["repetitions"] + 1):
        database = Database.open(asked["url"])
        database.ping()
        seconds, processor, found = timed(database, question)
        first.append(seconds)
        cpu.append(processor)
        again.append(timed(database, question)[0])
        database.close()
    (series,) = found
    return {
        "first_of_process": first[0],
        "first": first[1:],
        "first_cpu": cpu[1:],
        "again": again[1:],
        "points": len(series.steps),
        "max": series.max,
        "greatest_in_answer": float(series.values.max()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
