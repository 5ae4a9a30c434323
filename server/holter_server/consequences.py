"""What health decided, written down with everything that follows: incidents, the run's state, deliveries, commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holter.health.model import Transition
from holter.wire import Event
from holter_db import commands, incidents, outbox, runs
from holter_db.captures import Found, captures_of
from holter_db.commands import CommandRow
from holter_db.incidents import IncidentChange, IncidentRow
from holter_db.runs import LIVE_STATES, RunRow
from holter_server import shapes
from holter_server.notices import Notice
from holter_server.notify.decide import Cause, News, decide
from holter_server.writing import Transaction

__all__ = ["Consequences", "tell_command"]

TOLD_STATES = frozenset({"finished", "failed", "stopped", "lost", "hung"})
SILENT = ("lost", "hung")  # the worse one first: a process that is gone takes no steps either
ASKED = ("checkpoint", "dump", "stop")  # of a training by rules: saved first, then stopped
WOULD = "would-"  # before the name of an action that is only to be written down


class Consequences:
    """Args:
    page_url: the address of a run's page, for webhooks.
    dry_run: what rules ask of trainings is written down and not sent.
    """

    def __init__(self, page_url: Callable[[str], str], *, dry_run: bool = False) -> None:
        self._page_url = page_url
        self._dry_run = dry_run

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
            if change.action != "update":
                self.tell(tx, run, change.incident, change.action, capture)
            self._act(tx, run, change, attempt or run.attempt)
        return changes

    def announce_state(self, tx: Transaction, run: RunRow) -> None:
        """Tell the world that the run is in this state now, if it is one that people want to hear of."""
        if run.state in TOLD_STATES:
            news = News("state", "run.state", run.project)
            self._put(tx, run, news, {"run": self._shown(run)})

    def forward_alert(self, tx: Transaction, run: RunRow, event: Event) -> None:
        """What the user's own code calls an alert is told as one; the service doesn't judge it."""
        news = News("alert", "run.alert", run.project, event.severity)
        self._put(tx, run, news, {"alert": shapes.alert_in_webhook(event), "run": self._shown(run)})

    def tell(self, tx: Transaction, run: RunRow, incident: IncidentRow, cause: Cause, found: Found) -> None:
        """Tell each receiver of an incident that is to hear of it; `decide` says which, and why."""
        news = News(
            cause,
            "incident.resolved" if cause == "resolve" else "incident.firing",
            run.project,
            incident.severity,
            notifies="notify" in incident.actions,
            state=incident.state,
            muted=incident.muted is not None,
            snoozed=incident.snoozed_until is not None and incident.snoozed_until > tx.now,
        )
        if cause == "resolve":  # who was not told yet needs not hear that it is over
            outbox.withdraw(tx.conn, run.id, incident.id, "it resolved before it was told")
        url = self._page_url(run.id).removesuffix(f"/runs/{run.id}") + f"/incidents/{incident.id}"
        data = {"incident": shapes.incident_in_webhook(incident, found, url), "run": self._shown(run)}
        self._put(tx, run, news, data, incident.id)

    def _put(self, tx: Transaction, run: RunRow, news: News, data: dict[str, Any], incident: str = "") -> None:
        told = outbox.last_told(tx.conn, incident) if incident else {}
        for hook in outbox.list_webhooks(tx.conn):
            due = outbox.group_due(tx.conn, hook.id, run.id) if hook.policy.group_wait_s else None
            said = decide(news, hook, now=tx.now, told_at=told.get(hook.id), group_due=due)
            if not said.tell:
                continue
            # Messages of one transaction are told apart by microseconds, so that they leave in the order of causes.
            now = tx.now + tx.messages * 1e-6
            why = said.reason.value
            outbox.put(tx.conn, hook.id, run.id, news.type, data, now, reason=why, at=said.at, held=said.held)
            tx.messages += 1

    def _shown(self, run: RunRow) -> dict[str, Any]:
        return shapes.run_in_webhook(run, self._page_url(run.id))

    def _follow_state(self, tx: Transaction, run: RunRow, transitions: Sequence[Transition]) -> None:
        """A run is lost or hung while that incident is open, so that list and incidents never disagree."""
        if run.state not in LIVE_STATES or not any(transition.kind in SILENT for transition in transitions):
            return
        open_now, _ = incidents.list_incidents(tx.conn, run=run.id, state="open", limit=1000)
        messages = {row.kind: row.message for row in open_now if row.kind in SILENT}
        state = next((kind for kind in SILENT if kind in messages), "running")
        if state != run.state:
            self.announce_state(tx, runs.set_state(tx.conn, run.id, state, messages.get(state), tx.now))

    # --- commands -----------------------------------------------------------------------------------------------

    def _act(self, tx: Transaction, run: RunRow, change: IncidentChange, attempt: int) -> None:
        """Ask for what the rule wants. Its id follows from the incident's, as the agent's guard makes it.

        What the guard has already carried out is found by that id. An attempt that is over is asked for nothing new.
        """
        incident = change.incident
        if change.action not in ("open", "escalate") or run.state not in LIVE_STATES or incident.muted is not None:
            return
        known = commands.list_commands(tx.conn, run.id, attempt)
        waiting = {row.name for row in known if row.state in commands.UNFINISHED}
        for name in ASKED:
            dry = f"{WOULD}{name}" in incident.actions or (self._dry_run and name in incident.actions)
            id = f"{incident.incident}-{name}"
            done = any(row.id == id for row in known)
            args = {"incident": incident.id, "reason": incident.message}
            by = f"rule {incident.rule}"
            if dry and attempt == run.attempt and not done:
                row = commands.note_dry_run(tx.conn, run.id, attempt, id, name, args, by, tx.now)
                tell_command(tx, run.id, row)
            elif not dry and name in incident.actions and (done or (attempt == run.attempt and name not in waiting)):
                self.request_command(tx, run.id, name, args, by, attempt=attempt, id=id)

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
