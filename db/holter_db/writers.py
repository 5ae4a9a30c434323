"""Attempts and writers of a run: found by the agent's names for them, opened where they are new."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import RunFinish, Writer
from holter_db.run_rows import LIVE_STATES, WriterRow
from holter_db.schema import attempts, runs, writers
from holter_db.upsert import insert_new

__all__ = ["end_writer", "list_ranks", "live_ranks", "rank_of", "register_attempt", "register_writer"]

ENDS = ("finished", "stopped", "failed")  # from the mildest

_RANK = re.compile(r"rank(\d{1,9})(?:/|$)")


def register_attempt(conn: Connection, run_id: str, key: str, started_at: float) -> tuple[int, bool]:
    """The number of the attempt called ``key``, and whether it was opened just now. The run's row must be locked."""
    query = sa.select(attempts.c.attempt).where(attempts.c.run_id == run_id, attempts.c.key == key)
    if (number := conn.scalar(query)) is not None:
        return number, False
    newest = conn.scalar(sa.select(sa.func.max(attempts.c.attempt)).where(attempts.c.run_id == run_id)) or 0
    values = {"run_id": run_id, "attempt": newest + 1, "key": key, "state": "running", "started_at": started_at}
    insert_new(conn, attempts, values, key=("run_id", "attempt"))
    return newest + 1, True


def register_writer(conn: Connection, run_id: str, attempt: int, writer: Writer | str, now: float) -> tuple[int, bool]:
    """The id of a writer of an attempt, opened where it is new, and whether it introduced itself just now.

    The run's row must be locked.

    A writer that is only known by its name gets its rank from it: "rank3" and "rank3/system" are of rank 3.
    """
    name = writer if isinstance(writer, str) else writer.name
    query = sa.select(writers.c.writer_id, writers.c.world_size).where(
        writers.c.run_id == run_id, writers.c.attempt == attempt, writers.c.name == name
    )
    known = conn.execute(query).one_or_none()
    about = {} if isinstance(writer, str) else _about(writer)
    if known is not None:
        introduced = bool(about) and known.world_size is None  # its points came first
        if introduced:
            this = sa.and_(writers.c.run_id == run_id, writers.c.writer_id == known.writer_id)
            conn.execute(sa.update(writers).where(this).values(about))
        return int(known.writer_id), introduced
    newest = conn.scalar(sa.select(sa.func.max(writers.c.writer_id)).where(writers.c.run_id == run_id)) or 0
    base = {"rank": rank_of(name), "world_size": None, "host": "", "device": "", "pid": None}
    values = {"run_id": run_id, "writer_id": newest + 1, "attempt": attempt, "name": name}
    values |= {"last_seq": 0, "last_seen_at": now, "dropped": 0, "state": "running"}
    insert_new(conn, writers, base | about | values, key=("run_id", "writer_id"))
    return newest + 1, bool(about)


def list_ranks(conn: Connection, run_id: str, attempt: int) -> list[WriterRow]:
    """The ranks of an attempt: the writers that have introduced themselves or said their end, by rank.

    Where there are none, those that have sent points; what is sampled beside a rank ("rank0/system") never is one.
    """
    columns = [writers.c[name] for name in WriterRow.__slots__]
    query = sa.select(*columns).where(
        writers.c.run_id == run_id, writers.c.attempt == attempt, ~writers.c.name.contains("/", autoescape=True)
    )
    return _ranks([WriterRow(*row) for row in conn.execute(query)])


def live_ranks(conn: Connection) -> dict[str, list[WriterRow]]:
    """The ranks of the newest attempt, as `list_ranks` gives them, of each run that is not over and has several."""
    newest = sa.and_(runs.c.id == writers.c.run_id, runs.c.attempt == writers.c.attempt)
    alone = ~writers.c.name.contains("/", autoescape=True)
    of_runs = sa.select(writers.c.run_id).join(runs, newest).where(runs.c.state.in_(LIVE_STATES), alone)
    several = of_runs.group_by(writers.c.run_id).having(sa.func.count() > 1)
    columns = [writers.c[name] for name in WriterRow.__slots__]
    query = sa.select(writers.c.run_id, *columns).join(runs, newest).where(alone, writers.c.run_id.in_(several))
    found: dict[str, list[WriterRow]] = {}
    for run_id, *row in conn.execute(query):
        found.setdefault(run_id, []).append(WriterRow(*row))
    return {run_id: _ranks(rows) for run_id, rows in found.items()}


def _ranks(found: list[WriterRow]) -> list[WriterRow]:
    ranks = [row for row in found if row.registered or row.state != "running"] or found
    return sorted(ranks, key=lambda row: (row.rank is None, row.rank or 0, row.name))


def end_writer(conn: Connection, run_id: str, attempt: int, finish: RunFinish, at: float) -> None:
    """Write down how a rank ended; without a writer's name the word is for all of them.

    Of two words of one rank the worse one stays: failed, then stopped, then finished.
    """
    milder = ENDS[: ENDS.index(finish.state)]
    these = [writers.c.run_id == run_id, writers.c.attempt == attempt, writers.c.state.in_(("running", *milder))]
    if finish.writer:
        these.append(writers.c.name == finish.writer)
    values = {"state": finish.state, "state_reason": finish.reason, "finished_at": at, "due_at": None}
    conn.execute(sa.update(writers).where(*these).values(values))


def rank_of(name: str) -> int | None:
    """The rank in a writer's name.

    >>> rank_of("rank3/system")
    3
    """
    match = _RANK.match(name)
    return int(match[1]) if match else None


def _about(writer: Writer) -> dict[str, object]:
    return {
        "rank": writer.rank,
        "world_size": writer.world_size,
        "host": writer.host,
        "device": writer.device,
        "pid": writer.pid,
    }
