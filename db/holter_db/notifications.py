"""What servers on one PostgreSQL tell one another of a commit, by NOTIFY and LISTEN.

An announcement holds small facts, not the changes themselves: which runs changed, the positions of their new segments,
the names of incidents and commands. It is part of the transaction that it speaks of, so it comes exactly when that
was committed, in the order of commits. Whoever hears it reads what it wants to know (`holter_db.changes`).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg

__all__ = ["Announcement", "ChangedRun", "Listener", "announce", "divide"]

CHANNEL = "holter_live_1"  # with the version of `Announcement`
PAYLOAD_BYTES = 7_900  # PostgreSQL takes less than 8,000
HEAD_BYTES = 100  # of an announcement without its runs

# A server that hangs and does not read keeps PostgreSQL's queue of notifications (8 GB) from being emptied, and with a
# full one no commit succeeds. Long before that, being heard is given up rather than the points.
_NOTIFY = sa.text("SELECT pg_notify(:channel, :payload) WHERE pg_notification_queue_usage() < 0.5")

# A connection that only listens would never learn that the other machine is gone. Unix sockets ignore these.
_CONNECT: Mapping[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,  # seconds
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "holter live feed",
}


class ChangedRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one run in one transaction."""

    run: str
    first: int = 0  # positions of its new segments, first to last; 0: none
    last: int = 0
    points: int = 0  # in these segments
    events: bool = False  # whether there are any among them
    incidents: tuple[tuple[str, str], ...] = ()  # (action, the engine's name)
    commands: tuple[tuple[int, str], ...] = ()  # (attempt, id)
    more: bool = False  # too much to be listed here


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one server has committed. ``number`` counts a server's announcements: where one is missing, so is news."""

    server: str
    number: int
    runs: tuple[ChangedRun, ...] = ()
    messages: bool = False  # there is something in the outbox


_decoder = msgspec.json.Decoder(Announcement)


def divide(runs: Iterable[ChangedRun]) -> list[tuple[ChangedRun, ...]]:
    """The runs in groups of which each fits into one announcement; one that fits into none is told in short."""
    groups: list[list[ChangedRun]] = []
    room = 0
    for run in runs:
        told, size = run, len(msgspec.json.encode(run)) + 1
        if size > PAYLOAD_BYTES - HEAD_BYTES:
            told = ChangedRun(run.run, more=True)
            size = len(msgspec.json.encode(told)) + 1
        if size > room:
            groups.append([])
            room = PAYLOAD_BYTES - HEAD_BYTES
        groups[-1].append(told)
        room -= size
    return [tuple(group) for group in groups]


def announce(conn: Connection, announcement: Announcement) -> bool:
    """Tell the others once the transaction commits; False if PostgreSQL's queue is too full to take it."""
    payload = msgspec.json.encode(announcement).decode()
    return conn.execute(_NOTIFY, {"channel": CHANNEL, "payload": payload}).first() is not None


class Listener:
    """A connection of its own that hears announcements. One thread waits; any thread may interrupt it.

    Raises:
        DatabaseError: the connection can't be made, or is lost while waiting.
    """

    def __init__(self, connect_args: Sequence[Any], connect_params: Mapping[str, Any]) -> None:
        import psycopg  # noqa: PLC0415 - a service on SQLite need not wait for it

        self._lost: type[Exception] = psycopg.Error
        self._interrupted, self._interrupt = socket.socketpair()
        try:
            self._conn: psycopg.Connection[Any] = psycopg.connect(*connect_args, **{**connect_params, **_CONNECT})
            self._conn.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            self._close_sockets()
            raise _lost(error) from error
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._conn.fileno(), selectors.EVENT_READ)
        self._selector.register(self._interrupted, selectors.EVENT_READ)

    def wait(self, timeout_s: float | None = None) -> list[Announcement]:
        """What was announced since the last call, oldest first; empty after ``timeout_s`` or an interruption."""
        if heard := self._heard():  # what came with the last packet has left no mark at the socket
            return heard
        if any(key.fileobj is self._interrupted for key, _ in self._selector.select(timeout_s)):
            return []
        return self._heard()

    def _heard(self) -> list[Announcement]:
        try:
            self._conn.pgconn.consume_input()
            found = iter(self._conn.pgconn.notifies, None)
            return [_decoder.decode(heard.extra) for heard in found if heard is not None]
        except self._lost as error:
            raise _lost(error) from error

    def interrupt(self) -> None:
        """End the present and every later wait."""
        with contextlib.suppress(OSError):  # closed already
            self._interrupt.send(b"\0")

    def close(self) -> None:
        self._selector.close()
        self._conn.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._interrupted.close()
        self._interrupt.close()


def _lost(error: Exception) -> DatabaseError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return DatabaseError(f"The live feed has no connection to PostgreSQL: {lines[0]}")
