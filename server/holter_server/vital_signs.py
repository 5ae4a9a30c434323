"""The signs of life of a run, made of those of its ranks: it is as late as its latest rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holter.health.model import Vitals
from holter_db.database import Connection
from holter_db.runs import RunRow, WriterRow, list_ranks

__all__ = ["overdue", "vitals", "vitals_of", "with_ranks"]

UNPROMISED_S = 60.0  # for a rank that never promised anything, once the first of the others has said its end


def vitals_of(run: RunRow, now: float) -> Vitals:
    """What the run's own row says of it at ``now`` (seconds, UTC)."""
    return Vitals(
        now=now,
        state=run.state,
        started_at=run.started_at,
        last_seen_at=run.last_seen_at,
        due_at=run.due_at,
        last_step_at=run.last_step_at,
        reason=run.state_reason,
    )


def vitals(conn: Connection, run: RunRow, now: float) -> Vitals:
    """The same with its ranks looked at one by one, so that the others' signs of life don't hide a silent one."""
    return with_ranks(vitals_of(run, now), list_ranks(conn, run.id, run.attempt))


def with_ranks(whole: Vitals, ranks: Sequence[WriterRow]) -> Vitals:
    """What a run's own row says of it, made exact by its ranks."""
    if len(ranks) < 2:
        return whole
    ended = tuple(rank.name for rank in ranks if rank.state != "running")
    due = _due(ranks)
    if not due:
        return replace(whole, ended=ended)
    at = min(due.values())
    silent = tuple(name for name, promised in due.items() if promised < whole.now)
    seen = min((rank.last_seen_at for rank in ranks if rank.name in silent), default=whole.last_seen_at)
    return replace(whole, due_at=at, last_seen_at=min(seen, whole.last_seen_at), silent=silent, ended=ended)


def overdue(conn: Connection, run_id: str, attempt: int, now: float) -> list[str]:
    """Of several ranks, those that have broken their promise of a sign of life."""
    ranks = list_ranks(conn, run_id, attempt)
    due = _due(ranks) if len(ranks) > 1 else {}
    return [name for name, promised in due.items() if promised < now]


def _due(ranks: Sequence[WriterRow]) -> dict[str, float]:
    """When each rank that has not ended has to be heard of at the latest, where that can be told."""
    ends = [rank.finished_at for rank in ranks if rank.finished_at is not None]
    due = {}
    for rank in ranks:
        if rank.state != "running":
            continue
        if rank.due_at is not None:
            due[rank.name] = rank.due_at
        elif ends:
            due[rank.name] = max(rank.last_seen_at, min(ends)) + UNPROMISED_S
    return due
