"""Which ranks hold the others up: how far each has got, how long its steps take, and whether it is heard of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import FloatArray, IntArray
from holter_db.codec import unpack_ints
from holter_db.run_rows import WriterRow
from holter_db.runs import get_run
from holter_db.schema import axes, segments, series
from holter_db.segments import decode_blocks
from holter_db.writers import list_ranks

__all__ = ["RankRow", "list_rank_rows", "step_time"]

_AXES = 4  # the newest ones are small while a run is live
_PAGE = 8  # segments read at a time: the agent's hold many steps, a curl loop's hold one


@dataclass(frozen=True, slots=True)
class RankRow:
    """One rank of one attempt. The field names are those of its JSON."""

    writer: str
    rank: int | None
    attempt: int
    state: str  # running | silent | finished | failed | stopped
    state_reason: str | None
    last_step: int | None
    lag: int | None  # steps behind the foremost rank; None before its first step
    step_time: float | None  # seconds, median of its last steps
    last_seen_at: float
    due_at: float | None
    non_finite: int  # points that were NaN or ±Inf
    dropped: int  # points it had to give up
    world_size: int | None
    host: str
    device: str
    pid: int | None


def list_rank_rows(
    conn: Connection, run_id: str, now: float, *, attempt: int | None = None, last: int = 50
) -> list[RankRow]:
    """The ranks of an attempt, the worst first: failed, silent, then by lag, then by step time.

    Args:
        now: seconds, UTC.
        attempt: None stands for the newest one.
        last: steps whose median is the step time.

    Raises:
        NotFound: there is no such run.
    """
    number = get_run(conn, run_id).attempt if attempt is None else attempt
    ranks = list_ranks(conn, run_id, number)
    reached = _reached(conn, run_id, [rank.writer_id for rank in ranks])
    foremost = max((step for step, _ in reached.values()), default=0)
    rows = [_row(conn, run_id, rank, reached.get(rank.writer_id), foremost, now, last) for rank in ranks]
    return sorted(rows, key=_badness)


def _row(  # noqa: PLR0917 - one rank, and what it is compared with
    conn: Connection,
    run_id: str,
    rank: WriterRow,
    reached: tuple[int, int] | None,
    foremost: int,
    now: float,
    last: int,
) -> RankRow:
    step, odd = reached or (None, 0)
    return RankRow(
        writer=rank.name,
        rank=rank.rank,
        attempt=rank.attempt,
        state="silent" if rank.silent(now) else rank.state,
        state_reason=rank.state_reason,
        last_step=step,
        lag=None if step is None else foremost - step,
        step_time=step_time(*_last_steps(conn, run_id, rank.writer_id, last)),
        last_seen_at=rank.last_seen_at,
        due_at=rank.due_at,
        non_finite=odd,
        dropped=rank.dropped,
        world_size=rank.world_size,
        host=rank.host,
        device=rank.device,
        pid=rank.pid,
    )


def _badness(row: RankRow) -> tuple[int, float, bool, float, int, str]:
    state = {"failed": 0, "silent": 1}.get(row.state, 2)
    lag = float("inf") if row.lag is None else float(row.lag)
    return state, -lag, row.non_finite == 0, -(row.step_time or 0.0), row.rank or 0, row.writer


def _reached(conn: Connection, run_id: str, writer_ids: list[int]) -> dict[int, tuple[int, int]]:
    """writer_id → (its greatest step, how many of its points were not finite)."""
    odd = series.c.nan + series.c.positive_infinity + series.c.negative_infinity
    query = (
        sa.select(series.c.writer_id, sa.func.max(series.c.last_step), sa.func.sum(odd))
        .where(series.c.run_id == run_id, series.c.writer_id.in_(writer_ids))
        .group_by(series.c.writer_id)
    )
    return {writer_id: (step, int(count)) for writer_id, step, count in conn.execute(query)}


def step_time(steps: IntArray, times: FloatArray) -> float | None:
    """Median of the seconds that a step took; where only some steps are logged, an interval is shared out.

    Args:
        steps: shape (n,), in the order in which they were logged.
        times: seconds, shape (n,).

    >>> step_time(np.array([10, 20, 30]), np.array([0.0, 5.0, 10.0]))
    0.5
    """
    forward, seconds = np.diff(steps), np.diff(times)
    good = (forward > 0) & np.isfinite(seconds) & (seconds > 0)
    return float(np.median(seconds[good] / forward[good])) if good.any() else None


def _last_steps(conn: Connection, run_id: str, writer_id: int, last: int) -> tuple[IntArray, FloatArray]:
    """The newest ``last`` + 1 steps and when each was first logged: only the newest segments are read for them.

    Where these are folded, the newest chunks are.
    """
    steps, times = _unfolded_steps(conn, run_id, writer_id, last)
    if len(steps) <= last:
        older = _folded_steps(conn, run_id, writer_id)
        steps, times = _moves(np.concatenate([older[0], steps]), np.concatenate([older[1], times]))
    return steps[-last - 1 :], times[-last - 1 :]


def _moves(steps: IntArray, times: FloatArray) -> tuple[IntArray, FloatArray]:
    moved = np.append(True, steps[1:] != steps[:-1])[: len(steps)]
    return steps[moved], times[moved]


def _folded_steps(conn: Connection, run_id: str, writer_id: int) -> tuple[IntArray, FloatArray]:
    columns = (axes.c.steps, axes.c.times, axes.c.seqs, axes.c.rows)
    query = (
        sa.select(*columns)
        .where(axes.c.run_id == run_id, axes.c.writer_id == writer_id)
        .order_by(axes.c.last_position.desc(), axes.c.axis.desc())
        .limit(_AXES)
    )
    found = [tuple(map(unpack_ints, row)) for row in conn.execute(query)]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    steps, times, seqs, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((rows, seqs))
    once = order[np.append(True, (np.diff(seqs[order]) != 0) | (np.diff(rows[order]) != 0))]
    return _moves(steps[once], times[once].view(np.float64))


def _unfolded_steps(conn: Connection, run_id: str, writer_id: int, last: int) -> tuple[IntArray, FloatArray]:
    steps, times = np.empty(0, np.int64), np.empty(0, np.float64)
    before: int | None = None
    size = _PAGE
    while len(steps) <= last:
        query = sa.select(segments.c.seq, segments.c.payload).where(
            segments.c.run_id == run_id, segments.c.writer_id == writer_id
        )
        query = query if before is None else query.where(segments.c.seq < before)
        rows = conn.execute(query.order_by(segments.c.seq.desc()).limit(size)).all()
        if not rows:
            break
        blocks = [block for row in reversed(rows) for block in decode_blocks(row.payload)]
        steps = np.concatenate([*(block.step_array() for block in blocks), steps])
        times = np.concatenate([*(block.time_array() for block in blocks), times])
        steps, times = _moves(steps, times)
        before, size = rows[-1].seq, size * 2
    return steps, times
