"""Everything that was recorded around an incident, at full resolution."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.commands import CommandRow, list_commands
from holter_db.events import EventRow, list_events
from holter_db.incidents import IncidentRow
from holter_db.schema import series
from holter_db.series import Series, read_series

__all__ = ["POINTS_MAX", "Surroundings", "surroundings"]

POINTS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run recorded from ``first_step`` to ``last_step``, both included; None: there is no such bound."""

    first_step: int | None
    last_step: int | None
    series: list[Series]  # every point of the window
    left_out: list[str]  # metrics for which there was no more room, in the order of their names
    events: list[EventRow]
    commands: list[CommandRow]  # that this incident has asked for


def surroundings(conn: Connection, row: IncidentRow, before: int, after: int) -> Surroundings:
    """All series of the incident's run in a window around it, with what happened there.

    The window goes from ``before`` steps before the incident's first step to ``after`` steps after its last one. At
    most `POINTS_MAX` points are read: the incident's own metric comes first, then the others by name.
    """
    first = None if row.step is None else row.step - before
    last = None if row.step is None else max(row.step, row.last_step or row.step) + after
    found: list[Series] = []
    left_out: list[str] = []
    points = 0
    for metric in _metrics(conn, row, first, last):
        if points >= POINTS_MAX:
            left_out.append(metric)
            continue
        read = read_series(conn, row.run, [_exact(metric)], first_step=first, last_step=last)
        points += sum(len(item.steps) for item in read)
        found += read
    return Surroundings(first, last, found, left_out, _events(conn, row, first, last), _commands(conn, row))


def _metrics(conn: Connection, row: IncidentRow, first: int | None, last: int | None) -> list[str]:
    query = sa.select(series.c.metric).distinct().where(series.c.run_id == row.run)
    if first is not None and last is not None:
        query = query.where(series.c.last_step >= first, series.c.first_step <= last)
    names: list[str] = sorted(conn.scalars(query))
    return sorted(names, key=lambda name: name != row.metric)


def _events(conn: Connection, row: IncidentRow, first: int | None, last: int | None) -> list[EventRow]:
    def near(event: EventRow) -> bool:
        if event.step is None or first is None or last is None:
            return row.opened_at - 3600 <= event.time <= (row.resolved_at or row.updated_at) + 3600
        return first <= event.step <= last

    return [event for event in list_events(conn, row.run) if near(event)]


def _commands(conn: Connection, row: IncidentRow) -> list[CommandRow]:
    return [command for command in list_commands(conn, row.run) if command.args.get("incident") == row.id]


def _exact(metric: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in metric)
