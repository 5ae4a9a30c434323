"""What another server has announced, read from the database and put as this server's own sockets are told things."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from holter_db import commands, incidents, runs
from holter_db.captures import captures_of
from holter_db.changes import NewSegment, segments_between
from holter_db.database import Connection
from holter_db.events import events_between
from holter_db.notifications import ChangedRun
from holter_server import shapes
from holter_server.live import POINTS_HELD
from holter_server.notices import Notice, PointsOf

__all__ = ["news_of", "rows_of"]


def news_of(conn: Connection, run_id: str, changes: Sequence[ChangedRun]) -> list[Notice]:
    """Everything of one run, for those who watch it. What can't be read any more is told as `behind`."""
    news = [Notice("run", run_id, {"run": shapes.run(row)}) for row in runs.get_runs(conn, [run_id])]
    news += _incidents(conn, run_id, changes)
    news += _commands(conn, run_id, changes)
    if sum(change.points for change in changes) > POINTS_HELD:  # no socket would hold them
        return [*news, Notice("behind", run_id, {})]
    for change in changes:
        if change.last:
            news += _segments(conn, change)
    return news


def rows_of(conn: Connection, run_ids: Collection[str], changed: Mapping[str, Sequence[ChangedRun]]) -> list[Notice]:
    """What the list of runs hears: the rows of ``run_ids``, and the incidents of ``changed``."""
    news = [Notice("run", row.id, {"run": shapes.run(row)}) for row in runs.get_runs(conn, run_ids)]
    for run_id, changes in changed.items():
        news += _incidents(conn, run_id, changes)
    return news


def _segments(conn: Connection, change: ChangedRun) -> list[Notice]:
    found = segments_between(conn, change.run, change.first, change.last)
    if found is None:
        return [Notice("behind", change.run, {})]
    points = tuple(piece for segment in found for piece in _points(segment))
    told = [Notice("points", change.run, {}, points)] if points else []
    if change.events:
        happened = events_between(conn, change.run, change.first, change.last)
        told += [Notice("event", change.run, {"event": shapes.event(row)}) for row in happened]
    return told


def _points(segment: NewSegment) -> Iterator[PointsOf]:
    for block in segment.blocks:
        steps, times, values = block.step_array(), block.time_array(), block.value_matrix()
        for column, metric in enumerate(block.metrics):
            yield PointsOf(metric, segment.writer, segment.attempt, steps, times, values[:, column])


def _incidents(conn: Connection, run_id: str, changes: Iterable[ChangedRun]) -> list[Notice]:
    told = list(dict.fromkeys(item for change in changes for item in change.incidents))
    if not told:
        return []
    rows = incidents.find_incidents(conn, run_id, {name for _, name in told})
    shown = {
        row.incident: shapes.incident(row, found)
        for row, found in zip(rows.values(), captures_of(conn, list(rows.values())), strict=True)
    }
    return [
        Notice("incident", run_id, {"action": action, "incident": shown[name]})
        for action, name in told
        if name in shown
    ]


def _commands(conn: Connection, run_id: str, changes: Iterable[ChangedRun]) -> list[Notice]:
    told = list(dict.fromkeys(key for change in changes for key in change.commands))
    if not told:
        return []
    rows = commands.find_commands(conn, run_id, told)
    return [Notice("command", run_id, {"command": shapes.command(rows[key])}) for key in told if key in rows]
