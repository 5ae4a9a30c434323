"""What health decided, written down with everything that follows: incidents, the run's state, deliveries, commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holter.health.model import Transition
from holter.wire import Event
from holter_db import commands, incidents, outbox, runs
from holter_db.captures import Found, captures_of
from holter_db.commands import CommandRow
from holter_db.incidents import IncidentChange
from holter_db.runs import LIVE_STATES, RunRow
from holter_server import shapes
from holter_server.notices import Notice
from holter_server.writing import Transaction

__all__ = ["Consequences", "tell_command"]

TOLD_STATES = frozenset({"finished", "failed", "stopped", "lost", "hung"})
SILENT = ("lost", "hung")  # the worse one first: a process that is gone takes no steps either


class Consequences:
    """Args:
    page_url: the address of a run's page, for webhooks.
    """

    def __init__(self, page_url: Callable[[str], str]) -> None:
        self._page_url = page_url

    def record(
        self, tx: Transaction, run_id: str, transitions: Sequence[Transition], attempt: int | None = None
    ) -> list[IncidentChange]:
        """Write down what was decided, and do what follows; ``attempt``: whose points it was decided on."""
        if not transitions:
            return []
        changes = incidents.apply(tx.conn, run_id, transitions, tx.now)
        self._follow_state(tx, runs.get_run(tx.conn, run_id), transitions)
        run = runs.get_run(tx.conn, run_id)
        found = captures_of(tx.conn, [change.incident for change in changes])
        for change, capture in zip(changes, found, strict=True):
            body = {"action": change.action, "incident": shapes.incident(change.incident, capture)}
            tx.tell(Notice("incident", run.id, body))
            self._notify(tx, run, change, capture)
            self._act(tx, run, change, attempt or run.attempt)
        return changes

    def announce_state(self, tx: Transaction, run: RunRow) -> None:
        """Tell the world that the run is in this state now, if it is one that people want to hear of."""
        if run.state in TOLD_STATES:
            self._enqueue(tx, run, "run.state", {"run": shapes.run_in_webhook(run, self._page_url(run.id))})

    def forward_alert(self, tx: Transaction, run: RunRow, event: Event) -> None:
        """What the user's own code calls an alert is told as one; the service doesn't judge it."""
        about = shapes.run_in_webhook(run, self._page_url(run.id))
        self._enqueue(tx, run, "run.alert", {"alert": shapes.alert_in_webhook(event), "run": about})

    def _follow_state(self, tx: Transaction, run: RunRow, transitions: Sequence[Transition]) -> None:
        """A run is lost or hung while that incident is open, so that list and incidents never disagree."""
        if run.state not in LIVE_STATES or not any(transition.kind in SILENT for transition in transitions):
            return
        open_now, _ = incidents.list_incidents(tx.conn, run=run.id, state="open", limit=1000)
        messages = {row.kind: row.message for row in open_now if row.kind in SILENT}
        state = next((kind for kind in SILENT if kind in messages), "running")
        if state != run.state:
            self.announce_state(tx, runs.set_state(tx.conn, run.id, state, messages.get(state), tx.now))

    def _notify(self, tx: Transaction, run: RunRow, change: IncidentChange, found: Found) -> None:
        incident = change.incident
        snoozed = incident.snoozed_until is not None and incident.snoozed_until > tx.now
        if change.action == "update" or snoozed or "notify" not in incident.actions:
            return
        type_ = "incident.resolved" if change.action == "resolve" else "incident.firing"
        data = {
            "incident": shapes.incident_in_webhook(incident, found),
            "run": shapes.run_in_webhook(run, self._page_url(run.id)),
        }
        self._enqueue(tx, run, type_, data)

    def _enqueue(self, tx: Transaction, run: RunRow, type_: str, data: dict[str, Any]) -> None:
        # Messages of one transaction are told apart by microseconds, so that they leave in the order of their causes.
        if outbox.enqueue(tx.conn, run, type_, data, tx.now + tx.messages * 1e-6):
            tx.messages += 1

    def _act(self, tx: Transaction, run: RunRow, change: IncidentChange, attempt: int) -> None:
        """Ask for what the rule wants. Its id follows from the incident's, as the agent's guard makes it.

        What the guard has already carried out is found by that id. An attempt that is over is asked for nothing new.
        """
        if change.action not in ("open", "escalate") or run.state not in LIVE_STATES:
            return
        incident = change.incident
        known = commands.list_commands(tx.conn, run.id, attempt)
        waiting = {row.name for row in known if row.state in commands.UNFINISHED}
        for name in ("checkpoint", "stop"):  # saved first, then stopped
            id = f"{incident.incident}-{name}"
            fresh = attempt == run.attempt and name not in waiting
            if name in incident.actions and (fresh or any(row.id == id for row in known)):
                args = {"incident": incident.id, "reason": incident.message}
                self.request_command(tx, run.id, name, args, f"rule {incident.rule}", attempt=attempt, id=id)

    def request_command(
        self,
        tx: Transaction,
        run_id: str,
        name: str,
        args: dict[str, Any],
        by: str,
        *,
        attempt: int | None = None,
        id: str | None = None,
    ) -> CommandRow:
        """Ask something of an attempt, of the newest one where none is named; see `holter_db.commands.request`."""
        row = commands.request(tx.conn, run_id, name, args, by, tx.now, attempt=attempt, id=id)
        tell_command(tx, run_id, row)
        return row


def tell_command(tx: Transaction, run_id: str, row: CommandRow) -> None:
    """Tell the live sockets of a command."""
    tx.tell(Notice("command", run_id, {"command": shapes.command(row)}))
