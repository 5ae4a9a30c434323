"""Attempts and writers of a run: found by the agent's names for them, opened where they are new."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import Writer
from holter_db.schema import attempts, writers
from holter_db.upsert import insert_new

__all__ = ["register_attempt", "register_writer"]

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


def register_writer(conn: Connection, run_id: str, attempt: int, writer: Writer | str, now: float) -> int:
    """The id of a writer of an attempt; opened where it is new. The run's row must be locked.

    A writer that is only known by its name gets its rank from it: "rank3" and "rank3/system" are of rank 3.
    """
    name = writer if isinstance(writer, str) else writer.name
    query = sa.select(writers.c.writer_id, writers.c.world_size).where(
        writers.c.run_id == run_id, writers.c.attempt == attempt, writers.c.name == name
    )
    known = conn.execute(query).one_or_none()
    about = {} if isinstance(writer, str) else _about(writer)
    if known is not None:
        if about and known.world_size is None:  # its points came before it introduced itself
            this = sa.and_(writers.c.run_id == run_id, writers.c.writer_id == known.writer_id)
            conn.execute(sa.update(writers).where(this).values(about))
        return int(known.writer_id)
    newest = conn.scalar(sa.select(sa.func.max(writers.c.writer_id)).where(writers.c.run_id == run_id)) or 0
    base = {"rank": rank_of(name), "world_size": None, "host": "", "device": "", "pid": None}
    values = {"run_id": run_id, "writer_id": newest + 1, "attempt": attempt, "name": name}
    values |= {"last_seq": 0, "last_seen_at": now, "dropped": 0}
    insert_new(conn, writers, base | about | values, key=("run_id", "writer_id"))
    return newest + 1


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
