"""The live feed of other servers on the same PostgreSQL: what they commit reaches the sockets of this one.

An announcement (`holter_db.notifications`) says what has changed; that is read only if a socket here asks for it. While
there is no connection nothing is heard, so when there is one again every socket is told that it is behind.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_db.notifications import Announcement, ChangedRun, Listener
from holter_server.live import Hub
from holter_server.notices import EVERY_RUN, Notice
from holter_server.peer_news import news_of, rows_of

__all__ = ["PeerFeed"]

log = logging.getLogger("holter.server")

ROUND_PAUSE_S = 0.02  # what comes meanwhile is read together
LIST_PAUSE_S = 0.5  # runs of which only the list hears are read this often, however often they change
RETRY_S, RETRY_MAX_S = 0.1, 5.0


class PeerFeed:
    """Hears the other servers in a thread of its own.

    Args:
        server: how this server calls itself in its announcements, which it passes over.
        wake: called when another server has put something into the outbox.
    """

    def __init__(self, database: Database, hub: Hub, server: str, wake: Callable[[], None]) -> None:
        self._database = database
        self._hub = hub
        self._server = server
        self._wake = wake
        self._ended = threading.Event()
        self._listener: Listener | None = None
        self._numbers: dict[str, int] = {}  # of the newest announcement of each server
        self._listed: set[str] = set()  # runs that the list has still to hear of
        self._list_due = 0.0
        self._thread = threading.Thread(target=self._run, name="holter-peer-feed", daemon=True)
        self.heard = 0  # announcements of other servers

    @property
    def connected(self) -> bool:
        return self._listener is not None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        listener = self._listener
        if listener is not None:
            listener.interrupt()
        self._thread.join()

    def _run(self) -> None:
        pause, failing = RETRY_S, False
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                self._listener = self._database.listen()
                if failing:
                    log.info("Live pages hear of other servers again")
                failing = False
                self._hear(self._listener)
            except Exception as error:  # the feed has to outlive a database that is away for a while
                if not failing:  # said once per outage
                    ours = not isinstance(error, DatabaseError)
                    log.warning("Live pages hear nothing of other servers: %s", error, exc_info=ours)
                failing = True
            finally:
                self._close()
            held = time.monotonic() - begun > RETRY_MAX_S
            pause = RETRY_S if held else min(2 * pause, RETRY_MAX_S)
            self._ended.wait(pause * random.uniform(0.5, 1.0))

    def _hear(self, listener: Listener) -> None:
        self._numbers.clear()
        # Whatever was committed until now can be read, and whatever comes later will be heard of.
        self._hub.publish([Notice("behind", EVERY_RUN, {})])
        self._wake()
        while not self._ended.is_set():
            heard = listener.wait(self._patience())
            self._take([announcement for announcement in heard if announcement.server != self._server])
            if heard:
                self._ended.wait(ROUND_PAUSE_S)

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _patience(self) -> float | None:
        return max(0.0, self._list_due - time.monotonic()) if self._listed else None

    def _take(self, announcements: Sequence[Announcement]) -> None:
        self.heard += len(announcements)
        if any(announcement.messages for announcement in announcements):
            self._wake()
        missing = [announcement for announcement in announcements if not self._follows(announcement)]
        changed: dict[str, list[ChangedRun]] = defaultdict(list)
        for announcement in announcements:
            for run in announcement.runs:
                changed[run.run].append(run)
        if missing or any(change.more for changes in changed.values() for change in changes):
            self._hub.publish([Notice("behind", EVERY_RUN, {})])
        self._tell_watched({run: changes for run, changes in changed.items() if self._hub.watches(run)})
        self._tell_list(changed)

    def _follows(self, announcement: Announcement) -> bool:
        """Whether nothing is missing between this announcement and the one of the same server before it."""
        before = self._numbers.get(announcement.server)
        self._numbers[announcement.server] = announcement.number
        return before is None or announcement.number == before + 1

    def _tell_watched(self, changed: dict[str, list[ChangedRun]]) -> None:
        if changed:
            with self._database.read() as conn:
                news = [notice for run, changes in changed.items() for notice in news_of(conn, run, changes)]
            self._hub.publish(news)

    def _tell_list(self, changed: dict[str, list[ChangedRun]]) -> None:
        if not self._hub.lists:
            self._listed.clear()
            return
        apart = {run: changes for run, changes in changed.items() if not self._hub.watches(run)}
        self._listed.update(apart)
        urgent = {run: changes for run, changes in apart.items() if any(change.incidents for change in changes)}
        due = time.monotonic() >= self._list_due
        if not urgent and not (due and self._listed):
            return
        with self._database.read() as conn:
            news = rows_of(conn, self._listed if due else urgent, urgent)
        self._hub.publish(news)
        if due:
            self._listed.clear()
            self._list_due = time.monotonic() + LIST_PAUSE_S
