"""What time alone brings about: snoozes and mutes that end, incidents that flap no more, reminders.

Looked for once a second with one snapshot; only what is found becomes a transaction. Any number of servers may run one:
each change is made under its condition, and the second one finds nothing to do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from holter_db import flapping, incidents, mutes, outbox, runs
from holter_db.captures import captures_of
from holter_db.database import Connection, Database
from holter_db.incidents import IncidentRow
from holter_server import shapes
from holter_server.consequences import Consequences
from holter_server.errors import Overloaded
from holter_server.notices import Notice
from holter_server.notify.decide import Cause
from holter_server.writing import Transaction, WriterThread

__all__ = ["Caretaker", "tell_incident", "unmute"]

log = logging.getLogger("holter.server")
INTERVAL_S = 1.0
PATIENCE_S = 30.0

_Job = tuple[str, Callable[[Transaction], object]]  # the run, or a space and the project, that it locks


class Caretaker:
    """One thread that looks, and has the writer do what is due."""

    def __init__(self, database: Database, writer: WriterThread, follow: Consequences) -> None:
        self._database = database
        self._writer = writer
        self._follow = follow
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="holter-caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                self.look()
                self._failing = False
            except Overloaded:  # frames go first; the next round will look again
                continue
            except Exception as error:  # it has to outlive a database that is away for a while
                if not self._failing:  # said once per outage
                    log.exception("What is due could not be done: %s", error)
                self._failing = True

    def look(self) -> None:
        """One round."""
        with self._database.read() as conn:
            jobs = self._due(conn, time.time())
        for future in [self._writer.submit(job, order=order) for order, job in jobs]:
            future.result(PATIENCE_S)

    def _due(self, conn: Connection, now: float) -> list[_Job]:
        jobs: list[_Job] = []
        jobs += [(run, partial(self._end_snooze, run, id)) for run, id in incidents.snoozes_over(conn, now)]
        jobs += [(run, partial(self._end_flapping, run, name)) for run, name in flapping.settled(conn, now)]
        jobs += [("", partial(self._end_mute, id)) for id in mutes.end_mutes(conn, now)]
        hooks = [hook for hook in outbox.list_webhooks(conn) if hook.enabled]
        wait = {hook.id: hook.policy.repeat_interval_s for hook in hooks if hook.policy.repeat_interval_s is not None}
        for row in incidents.waiting_to_repeat(conn) if wait else ():
            told = outbox.last_told(conn, row.id)
            if any(id in told and now >= told[id] + interval for id, interval in wait.items()):
                jobs.append((row.run, partial(self._repeat, row.run, row.id)))
        return jobs

    def _end_snooze(self, run_id: str, id: str, tx: Transaction) -> None:
        runs.get_run(tx.conn, run_id, lock=True)  # another server may look at the same moment
        row = incidents.get_incident(tx.conn, id)
        if row.state == "snoozed" and row.snoozed_until is not None and row.snoozed_until <= tx.now:
            self._told(tx, incidents.unsnooze(tx.conn, id, tx.now), "snooze over")

    def _end_flapping(self, run_id: str, name: str, tx: Transaction) -> None:
        runs.get_run(tx.conn, run_id, lock=True)
        row = incidents.end_flapping(tx.conn, run_id, name, tx.now)
        if row is not None:
            self._told(tx, row, "resolve")

    def _end_mute(self, id: str, tx: Transaction) -> None:
        unmute(tx, id)

    def _repeat(self, run_id: str, id: str, tx: Transaction) -> None:
        runs.get_run(tx.conn, run_id, lock=True)
        row = incidents.get_incident(tx.conn, id)
        if row.state == "firing":
            self._told(tx, row, "repeat")

    def _told(self, tx: Transaction, row: IncidentRow, cause: Cause) -> None:
        found = captures_of(tx.conn, [row])[0]
        tell_incident(tx, row, cause)
        self._follow.tell(tx, runs.get_run(tx.conn, row.run), row, cause, found)


def unmute(tx: Transaction, id: str) -> None:
    """Take a mute away; what it has silenced and is still open counts again."""
    for incident in mutes.delete_mute(tx.conn, id):
        row = incidents.get_incident(tx.conn, incident)
        incidents.keep_health(tx.conn, row.run)
        tell_incident(tx, row, "unmute")


def tell_incident(tx: Transaction, row: IncidentRow, action: str) -> None:
    """Tell the live sockets of an incident."""
    shown = shapes.incident(row, captures_of(tx.conn, [row])[0])
    tx.tell(Notice("incident", row.run, {"action": action, "incident": shown}))
