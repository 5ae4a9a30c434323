"""What the agent has kept for an incident: the flight recorder's ring, the stacks of a training that hangs.

They come as events of kind "flight" and "stacks". Which incident one belongs to is decided when the incident is read,
since either may arrive first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import INT64_MAX, Event
from holter_db.events import event_id, of_writer, same_event
from holter_db.incidents import IncidentRow
from holter_db.schema import attempts, captures, events, writers

__all__ = ["KINDS", "Capture", "Found", "capture_rows", "captures_of", "summary"]

KINDS = ("flight", "stacks")

# Incidents that a look at the gradients of these steps explains. The others are about clocks, machines and plans.
NUMERIC = frozenset({
    "non_finite", "spike", "explosion", "divergence", "grad_norm", "vanishing", "limit", "dominance", "dead",
    "parts_mismatch", "loss_scale",
})  # fmt: skip

# Of each kind, what may be long or is known by another name; see docs/rest.md for what is left.
_LONG = {"flight": ("layers", "steps", "grad_norm", "weight_norm", "losses"), "stacks": ("stacks",)}


@dataclass(frozen=True, slots=True)
class Capture:
    """A flight or stacks event without what is long. ``event`` is the id of the whole of it."""

    event: str
    run: str
    writer: str
    attempt: int
    kind: str
    text: str
    time: float
    step: int | None
    first_step: int | None
    last_step: int | None
    trigger_kind: str
    incident: str | None
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is for one incident."""

    flight: Capture | None = None
    stacks: Capture | None = None


def capture_rows(happened: Iterable[Event]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The row of `captures` of each flight and stacks event, with the event's number among ``happened``.

    Anybody may send events of these kinds, so nothing in ``data`` is taken for granted.
    """
    for number, event in enumerate(happened):
        if event.kind not in KINDS:
            continue
        trigger = _mapping(event.data.get("trigger"))
        steps = [step for step in _list(event.data.get("steps")) if _is_step(step)]
        said = event.data.get("step", event.step)
        yield (
            number,
            {
                "kind": event.kind,
                "time": event.time,
                "step": event.step if event.step is not None else (said if _is_step(said) else None),
                "first_step": min(steps, default=None),
                "last_step": max(steps, default=None),
                "trigger_kind": _text(trigger.get("kind")) or "",
                "incident": _text(trigger.get("incident")),
                "summary": summary(event),
            },
        )


def summary(event: Event) -> dict[str, Any]:
    """``event.data`` for lists: without the norms, losses and stacks of a capture; as it is for any other event."""
    long = _LONG.get(event.kind)
    if long is None:
        return event.data
    short = {name: value for name, value in event.data.items() if name not in long}
    if event.kind == "flight":
        short["layers"] = len(_list(event.data.get("layers")))
        short["steps"] = len(_list(event.data.get("steps")))
    return short


def captures_of(conn: Connection, rows: Sequence[IncidentRow]) -> list[Found]:
    """What there is for each of ``rows``, in two queries however many they are.

    A capture belongs to the incident that its trigger names. Otherwise a flight belongs to an incident about numbers
    of the same attempt at one of the steps that it covers, or, where an exception has caused it, to the failure of that
    attempt; and stacks belong to a hung incident of the same attempt at the same step.
    """
    of_run = _of_runs(conn, {row.run for row in rows})
    if not of_run:
        return [Found()] * len(rows)
    starts = _starts(conn, of_run)
    return [_found(row, of_run.get(row.run, ()), starts.get(row.run, {})) for row in rows]


def _of_runs(conn: Connection, runs: set[str]) -> dict[str, list[Capture]]:
    query = (
        sa.select(
            captures.c.writer_id, captures.c.seq, captures.c.number, captures.c.run_id, writers.c.name,
            writers.c.attempt, captures.c.kind, events.c.text, captures.c.time, captures.c.step,
            captures.c.first_step, captures.c.last_step, captures.c.trigger_kind, captures.c.incident,
            captures.c.summary,
        )
        .join(events, same_event(captures))
        .join(writers, of_writer(captures))
        .where(captures.c.run_id.in_(runs))
    )  # fmt: skip
    found: dict[str, list[Capture]] = defaultdict(list)
    for writer_id, seq, number, run, *rest in conn.execute(query):
        found[run].append(Capture(event_id(writer_id, seq, number), run, *rest))
    return found


def _starts(conn: Connection, runs: Iterable[str]) -> dict[str, dict[int, float]]:
    query = sa.select(attempts.c.run_id, attempts.c.attempt, attempts.c.started_at).where(
        attempts.c.run_id.in_(list(runs))
    )
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run, attempt, started_at in conn.execute(query):
        found[run][attempt] = started_at
    return found


def _found(row: IncidentRow, candidates: Iterable[Capture], starts: Mapping[int, float]) -> Found:
    attempt = _attempt(row, starts)
    best: dict[str, tuple[tuple[bool, bool, float], Capture]] = {}
    for capture in candidates:
        named = capture.incident in (row.id, row.incident)
        if not named and not (capture.attempt == attempt and _explains(capture, row)):
            continue
        distance = (not named, capture.writer != row.writer, abs(capture.time - row.time))
        if capture.kind not in best or distance < best[capture.kind][0]:
            best[capture.kind] = (distance, capture)
    return Found(**{kind: capture for kind, (_, capture) in best.items()})


def _attempt(row: IncidentRow, starts: Mapping[int, float]) -> int:
    """The attempt that was running at the incident's time: records and starts are timed by the same clock."""
    return max((number for number, started in starts.items() if started <= row.time), default=min(starts, default=1))


def _explains(capture: Capture, row: IncidentRow) -> bool:
    if capture.kind == "stacks":
        return row.kind == "hung" and row.step is not None and capture.step == row.step
    if row.kind == "failed":
        return capture.trigger_kind == "exception"
    if row.kind not in NUMERIC or row.step is None or capture.first_step is None or capture.last_step is None:
        return False
    return capture.first_step <= row.step <= capture.last_step


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= INT64_MAX
