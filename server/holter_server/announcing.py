"""Telling the other servers on the same PostgreSQL what a commit holds, inside its transaction."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holter_db.database import Connection
from holter_db.notifications import Announcement, ChangedRun, announce, divide
from holter_server.notices import Notice
from holter_server.writing import Transaction

__all__ = ["Announcer", "changed_runs"]

log = logging.getLogger("holter.server")


class Announcer:
    """What it tells is numbered. A number is used up even if its transaction fails or the queue takes no more: then
    the next one that is heard comes with a gap, and whoever hears it knows that there was more.
    """

    def __init__(self) -> None:
        self.server = secrets.token_hex(4)
        self._number = 0
        self._full = False

    def announce(self, conn: Connection, transactions: Sequence[Transaction]) -> None:
        """Part of the transaction that the jobs of ``transactions`` have written in."""
        messages = any(transaction.messages for transaction in transactions)
        groups = divide(changed_runs(transactions)) or ([()] if messages else [])
        for runs in groups:
            self._number += 1
            self._tell(conn, Announcement(self.server, self._number, runs, messages))

    def _tell(self, conn: Connection, announcement: Announcement) -> None:
        told = announce(conn, announcement)
        if not told and not self._full:  # said once
            log.error(
                "PostgreSQL's queue of notifications is half full: a server that listens does not read. Until it ends, "
                "live pages of other servers miss what this one takes in; see pg_notification_queue_usage()"
            )
        self._full = not told


@dataclass(slots=True)
class _Changes:
    positions: list[int] = field(default_factory=list)
    points: int = 0
    events: bool = False
    incidents: dict[tuple[str, str], None] = field(default_factory=dict)  # in the order in which they came
    commands: dict[tuple[int, str], None] = field(default_factory=dict)


def changed_runs(transactions: Iterable[Transaction]) -> list[ChangedRun]:
    """What the transactions of one commit did to each run, in the order in which the runs were touched.

    A run's row is locked from its first segment to the commit, so the positions of its new segments have no gap.
    """
    found: dict[str, _Changes] = {}
    for transaction in transactions:
        for touch in transaction.touched:
            changes = found.setdefault(touch.run, _Changes())
            changes.points += touch.points
            if touch.position:
                changes.positions.append(touch.position)
        for notice in transaction.notices:
            _note(found.setdefault(notice.run, _Changes()), notice)
    return [_changed(run, changes) for run, changes in found.items()]


def _note(changes: _Changes, notice: Notice) -> None:
    match notice.kind:
        case "incident":
            changes.incidents[notice.body["action"], notice.body["incident"]["incident"]] = None
        case "command":
            changes.commands[notice.body["command"]["attempt"], notice.body["command"]["id"]] = None
        case "event":
            changes.events = True


def _changed(run: str, changes: _Changes) -> ChangedRun:
    return ChangedRun(
        run=run,
        first=min(changes.positions, default=0),
        last=max(changes.positions, default=0),
        points=changes.points,
        events=changes.events,
        incidents=tuple(changes.incidents),
        commands=tuple(changes.commands),
    )
