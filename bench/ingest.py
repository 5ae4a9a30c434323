"""Where the processor time of a frame goes: ``python bench/ingest.py [--runs 1000]``.

Everything in one process, without sockets, so that the parts can be told apart; `store.py` measures the whole.
The times are this process' processor time: what else the machine does changes them less than it changes the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from holter import wire
from holter.health import Batch, Engine, Facts, RuleSet
from holter_db import runs
from holter_db.database import Database
from holter_db.segments import encode_blocks
from holter_server.app import create_app
from holter_server.engines import Engines
from holter_server.ingest import Pipeline
from holter_server.settings import Settings
from holter_server.writing import Transaction

SMALL = tuple(f"loss/part{index:02}" for index in range(20))
WIDE = tuple(f"loss/part{index:02}" for index in range(8))
STEADY = 80  # rows that a baseline has seen before it is timed
CATALOGUED = 3  # commits of every run before one is timed


def block(metrics: Sequence[str], step: int, rows: int) -> wire.Block:
    steps = np.arange(step, step + rows)
    values = 2 * np.exp(-steps / 5e3)[:, None] * np.random.default_rng(step).lognormal(0, 0.1, (rows, len(metrics)))
    return wire.Block.of(metrics, steps, 1.7e9 + steps, values.astype(np.float32))


def frame(metrics: Sequence[str], seq: int, rows: int) -> wire.Frame:
    return wire.Frame(1, "", "rank0", seq, [block(metrics, (seq - 1) * rows, rows)])


def timed(work: Callable[[], Any], times: int) -> float:
    """Microseconds of processor time of one call."""
    begin = time.process_time()
    for _ in range(times):
        work()
    return 1e6 * (time.process_time() - begin) / times


def show(what: str, microseconds: float, frames: int = 1) -> None:
    print(f"  {what:<58}{microseconds / frames:10,.0f} µs a frame")


@contextmanager
def database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        opened = Database.open(f"sqlite:///{folder}/holter.db")
        yield opened
        opened.close()


def parts(metrics: Sequence[str], rows: int, times: int) -> None:
    body = wire.encode_frame(frame(metrics, 1, rows))
    show("read and checked", timed(lambda: wire.decode_frame(body), times))
    blocks = wire.decode_frame(body).blocks
    show("made a segment", timed(lambda: encode_blocks(blocks), times))
    engine = Engine(RuleSet.default(), Facts())
    batches = iter([
        Batch("rank0", one.metrics, one.step_array(), one.time_array(), one.value_matrix())
        for one in (block(metrics, index * rows, rows) for index in range(STEADY + times))
    ])  # fmt: skip
    show("judged, first 10", timed(lambda: engine.observe(next(batches)), 10))
    show("judged, up to 64", timed(lambda: engine.observe(next(batches)), 54))
    for _ in range(STEADY - 64):
        engine.observe(next(batches))
    show("judged, afterwards", timed(lambda: engine.observe(next(batches)), times))


def commits(metrics: Sequence[str], rows: int, number: int, together: int) -> None:
    """Commits of ``together`` frames, each of another run."""
    with database() as opened:
        pipeline = Pipeline(Engines(), lambda run: run, lambda: False)
        with opened.write() as conn:
            ids = sorted(runs.start_run(conn, wire.RunStart("bench"), 1.7e9).id for _ in range(number))

        def commit(shipped: list[tuple[str, wire.Frame]]) -> None:
            with opened.write() as conn:
                pipeline.take_frames(Transaction(conn, time.time()), shipped)

        for seq in range(1, CATALOGUED + 2):
            shipped = [(run, frame(metrics, seq, rows)) for run in ids]
            groups = iter([shipped[start : start + together] for start in range(0, number, together)])
            spent = timed(lambda: commit(next(groups)), number // together)  # noqa: B023 - called before the next turn
        show(f"committed, {together} together, rules and catalogue included", spent, together)


async def through_the_application(metrics: Sequence[str], rows: int, times: int) -> None:
    """From the parsed request to the answer, with a writer that answers at once."""
    body = wire.encode_frame(frame(metrics, 1, rows))
    headers = [(b"host", b"127.0.0.1"), (b"content-type", wire.FRAME_MEDIA_TYPE.encode())]
    length = (b"content-length", str(len(body)).encode())
    scope = {"type": "http", "method": "POST", "path": "/api/v1/runs/r/frames", "query_string": b"", "scheme": "http",
             "headers": [*headers, length], "http_version": "1.1", "server": ("127.0.0.1", 80),
             "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"}}  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        pass

    async def ship(*_: Any) -> wire.Receipt:
        return wire.Receipt(1)

    with database() as opened:
        app = create_app(Settings(watchdog_interval_s=3600.0, compact_interval_s=3600.0), opened)
        async with app.router.lifespan_context(app):
            app.state.context.writer.ship = ship
            begin = time.process_time()
            for _ in range(times):
                await app(dict(scope), receive, send)
            show("through the application, reading included", 1e6 * (time.process_time() - begin) / times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    print("1 record of 20 metrics")
    parts(SMALL, 1, 500)
    asyncio.run(through_the_application(SMALL, 1, 2000))
    for together in (1, 5, 20, 100):
        commits(SMALL, 1, options.runs, together)
    print("1,000 records of 8 metrics")
    parts(WIDE, 1000, 50)
    asyncio.run(through_the_application(WIDE, 1000, 200))
    commits(WIDE, 1000, 50, 1)


if __name__ == "__main__":
    main()
