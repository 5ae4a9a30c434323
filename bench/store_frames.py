"""Frames of realistic losses, and ways to store many of them quickly."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from peers.curves import START, losses, times
from peers.data import METRICS

from holter.wire import FRAME_MEDIA_TYPE, VERSION, Block, Frame, RunFinish, RunStart, encode_frame
from holter_db import ingest, rule_state, runs
from holter_db.database import Database
from holter_db.rule_state import NOTHING

__all__ = ["METRICS", "Template", "frame_bodies", "request_head", "store_run"]

SEQ, STEP, TIME = 0x7E57AB1E, 0x5EED_F00D_57E9, 1.2345678901e9  # found again in an encoded frame
SPIKE = 1e6
STORED_FRAME_ROWS = 50_000
COMMIT_POINTS = 4_000_000


def curve_block(seed: int, metrics: Sequence[str], first: int, count: int, spike: int | None = None) -> Block:
    """The steps ``first`` … ``first + count - 1`` of a run; at the step ``spike`` the first metric is 1e6."""
    values = losses(seed, len(metrics), first, count)
    if spike is not None and first <= spike < first + count:
        values[spike - first, 0] = SPIKE
    return Block.of(metrics, np.arange(first, first + count), times(seed, first, count), values)


def frame_bodies(seed: int, rows: int, first_seq: int, frames: int, *, zipped: bool) -> list[bytes]:
    """Bodies of ``frames`` frames of ``rows`` steps and 8 metrics; zipped as the agent does it."""
    bodies = []
    for seq in range(first_seq, first_seq + frames):
        block = curve_block(seed, METRICS, (seq - 1) * rows, rows)
        body = encode_frame(Frame(VERSION, "", "rank0", seq, [block]))
        bodies.append(gzip.compress(body, compresslevel=4, mtime=0) if zipped else body)
    return bodies


def request_head(run: str, length: int, *, zipped: bool = False) -> bytes:
    """The head of ``POST /runs/{run}/frames``, as HTTP/1.1 wants it."""
    lines = [
        f"POST /api/v1/runs/{run}/frames HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {FRAME_MEDIA_TYPE}",
        *(["Content-Encoding: gzip"] if zipped else []),
        f"Content-Length: {length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Template:
    """The requests of one writer that logs a step at a time: only seq, step, time and values change.

    A load generator that shares two processors with the service has no time to encode.
    """

    def __init__(self, run: str, metrics: Sequence[str], seed: int, rows: int) -> None:
        block = Block.of(metrics, [STEP], [TIME], np.zeros((1, len(metrics))))
        body = encode_frame(Frame(VERSION, "", "rank0", SEQ, [block]))
        self._buffer = bytearray(request_head(run, len(body)) + body)
        self._seq = self._find(struct.pack(">I", SEQ))
        self._step = self._find(struct.pack("<q", STEP))
        self._time = self._find(struct.pack("<d", TIME))
        self._values = self._time + 8 + (2 if len(metrics) * 8 < 256 else 3)  # behind the head of a msgpack bin
        self._width = len(metrics) * 8
        self._rows = [row.tobytes() for row in losses(seed, len(metrics), 0, rows)]
        self.seq = 0

    def _find(self, pattern: bytes) -> int:
        place = self._buffer.index(pattern)
        assert pattern not in self._buffer[place + 1 :]
        return place

    def advance(self, now: float) -> bytearray:
        """The request of the next step, taken at ``now`` (seconds, UTC); it is valid until the next call."""
        self.seq += 1
        buffer = self._buffer
        struct.pack_into(">I", buffer, self._seq, self.seq)
        struct.pack_into("<q", buffer, self._step, self.seq - 1)
        struct.pack_into("<d", buffer, self._time, now)
        buffer[self._values : self._values + self._width] = self._rows[(self.seq - 1) % len(self._rows)]
        return buffer

    def again(self) -> bytearray:
        """The same request once more."""
        return self._buffer


def store_run(
    database: Database,
    run: str,
    seed: int,
    metrics: Sequence[str],
    steps: int,
    *,
    spike: int | None = None,
    between: Callable[[], object] = lambda: None,
    every: int = 2**62,
) -> None:
    """Store a finished run past the service: frames of 50,000 steps through `holter_db.ingest`, several to a commit.
    ``between`` is called each ``every`` points.

    What is stored is what the service would store for the same frames, in a fraction of the time, but for the memory
    of the rules: it is empty and says that it has seen everything, since nothing is folded before.
    """
    with database.write() as conn:
        runs.start_run(conn, RunStart("bench", id=run), START)
    frames = range(0, steps, STORED_FRAME_ROWS)
    together = max(1, COMMIT_POINTS // (STORED_FRAME_ROWS * len(metrics)))
    since, judged = 0, NOTHING
    for index in range(0, len(frames), together):
        with database.write() as conn:
            for first in frames[index : index + together]:
                block = curve_block(seed, metrics, first, min(STORED_FRAME_ROWS, steps - first), spike)
                frame = Frame(VERSION, "", "rank0", first // STORED_FRAME_ROWS + 1, [block])
                ingest.append(conn, run, frame, START)
                since += block.rows * len(metrics)
            judged = rule_state.save(conn, run, replace(judged, position=min(index + together, len(frames))))
        if since >= every:
            between()
            since = 0
    with database.write() as conn:
        runs.finish_run(conn, run, RunFinish(), START)
