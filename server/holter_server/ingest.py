"""What one shipment causes, all in its own transaction: points, health, incidents, deliveries, commands.

Each function runs in the writer thread (`holter_server.writing`) and is run again from the start when its transaction
has to be repeated, so nothing here touches the world outside the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from holter.health import Engine
from holter.health.model import Batch, Transition
from holter.wire import CommandOrder, Frame, IncidentNotice, Receipt, RunFinish, RunStart
from holter_db import captures, commands, incidents, ingest, outbox, runs
from holter_db.captures import Found, captures_of
from holter_db.commands import CommandRow
from holter_db.errors import NotFound
from holter_db.incidents import IncidentChange
from holter_db.ingest import Appended
from holter_db.runs import LIVE_STATES, RunRow
from holter_server import given_up, shapes
from holter_server.engines import Engines
from holter_server.notices import Notice, PointsOf
from holter_server.vital_signs import overdue, vitals
from holter_server.writing import Transaction

__all__ = ["Pipeline"]

TOLD_STATES = frozenset({"finished", "failed", "stopped", "lost", "hung"})
SILENT = ("lost", "hung")  # the worse one first: a process that is gone takes no steps either
SYSTEM_PREFIX = "system/"


class Pipeline:
    """Args:
    engines: the health engines of the runs.
    page_url: the address of a run's page, for webhooks.
    heeded: whether anybody listens to what a transaction tells of its run.
    """

    def __init__(
        self, engines: Engines, page_url: Callable[[str], str], heeded: Callable[[], bool] = lambda: True
    ) -> None:
        self._engines = engines
        self._page_url = page_url
        self._heeded = heeded

    # --- runs ---------------------------------------------------------------------------------------------------

    def start_run(self, tx: Transaction, start: RunStart) -> RunRow:
        """Open a run, or a new attempt of it."""
        run = runs.start_run(tx.conn, start, tx.now)
        self._begin_attempt(tx, run.id, run.attempt)
        self._tell_run(tx, run.id)
        return run

    def _begin_attempt(self, tx: Transaction, run_id: str, attempt: int) -> None:
        """What earlier attempts have left behind is over."""
        for row in commands.expire(tx.conn, run_id, attempt):
            _tell_command(tx, run_id, row)
        self._record(tx, runs.get_run(tx.conn, run_id), given_up.over(tx.conn, run_id, tx.now, before=attempt))

    def change_run(self, tx: Transaction, run_id: str, fields: dict[str, Any]) -> RunRow:
        """Change what people may change; ``fields`` are arguments of `holter_db.runs.update_run`."""
        run = runs.update_run(tx.conn, run_id, **fields)
        self._tell_run(tx, run_id)
        return run

    def finish_run(self, tx: Transaction, run_id: str, finish: RunFinish) -> RunRow:
        """Close a run; an ending is a sign of life like any other, so the health rules look at it at once."""
        before = runs.get_run(tx.conn, run_id, lock=True)
        run = runs.finish_run(tx.conn, run_id, finish, tx.now)
        if run.attempt > before.attempt:
            self._begin_attempt(tx, run_id, run.attempt)
        self._tick_engine(tx, run)
        for row in commands.settle(tx.conn, run_id, run.attempt, tx.now):
            _tell_command(tx, run_id, row)
        if run.state != before.state:
            self._announce_state(tx, run)
        if run.state not in LIVE_STATES:
            self._record(tx, run, given_up.over(tx.conn, run_id, tx.now))
        self._tell_run(tx, run_id)
        return runs.get_run(tx.conn, run_id)

    def tick(self, tx: Transaction, run_id: str) -> None:
        """Look at the signs of life of one run."""
        run = runs.get_run(tx.conn, run_id, lock=True)
        if run.state in LIVE_STATES and self._tick_engine(tx, run):
            for row in commands.settle(tx.conn, run_id, run.attempt, tx.now):  # a rank that is gone will not answer
                _tell_command(tx, run_id, row)
            self._tell_run(tx, run_id)

    def _tick_engine(self, tx: Transaction, run: RunRow) -> bool:
        with self._engines.engine(tx, run) as engine:
            transitions = engine.tick(vitals(tx.conn, run, tx.now))
        return bool(self._record(tx, run, transitions))

    # --- frames -------------------------------------------------------------------------------------------------

    def take_frame(self, tx: Transaction, name: str, frame: Frame) -> Receipt:
        """Keep a frame, judge it, and answer with what the training should know. ``name``: as `resolve_run` takes it.

        A frame without points and events is a sign of life: it is not kept, else a run that waits for an hour would
        leave a thousand empty segments.
        """
        run = _find(tx, name)
        kept = bool(frame.blocks or frame.events)
        appended = (ingest.append if kept else ingest.note_sign_of_life)(tx.conn, run.id, frame, tx.now)
        if appended.duplicate:
            return self._receipt(tx, run, frame, appended, [])
        if appended.attempt > run.attempt:
            self._begin_attempt(tx, run.id, appended.attempt)
            run = runs.get_run(tx.conn, run.id)
        tx.frames += kept
        points = sum(batch.values.size for batch in appended.batches)
        tx.points += points
        tx.touch(run.id, appended.position, points)
        self._take_answers(tx, run.id, frame, appended.attempt)
        fired = self._judge(tx, run, appended, self._heard(tx, run, frame, appended))
        self._record(tx, run, given_up.noted(run, frame.writer, appended, tx.now))
        if self._heeded():
            _tell_points(tx, run.id, appended)
        _tell_events(tx, run.id, frame.writer, appended)
        _tell_captures(tx, run.id, appended)
        self._forward_alerts(tx, run, appended)
        return self._receipt(tx, run, frame, appended, fired)

    def _receipt(
        self, tx: Transaction, run: RunRow, frame: Frame, appended: Appended, fired: list[IncidentChange]
    ) -> Receipt:
        self._tell_run(tx, run.id)
        return Receipt(
            acknowledged=appended.seq,
            duplicate=appended.duplicate,
            run_state="running" if run.state in LIVE_STATES else run.state,  # who speaks is neither lost nor hung
            commands=self._hand_out(tx, run.id, appended.attempt, frame.writer),
            incidents=[_notice(change) for change in fired if change.action != "update"],
        )

    def _heard(self, tx: Transaction, run: RunRow, frame: Frame, appended: Appended) -> bool:
        """Write the sign of life down. True if a run that was lost or hung is back.

        A run of several ranks is back only once none of them is silent any more.
        """
        steps = [int(batch.steps.max()) for batch in appended.batches if not _is_system(batch)]
        runs.touch_run(
            tx.conn,
            run.id,
            seen_at=tx.now,
            due_at=None if frame.promise is None else tx.now + frame.promise,
            last_step=max(steps, default=None),
            last_step_at=tx.now if steps else None,
            attempt=appended.attempt,
        )
        awake = run.state == "lost" and not overdue(tx.conn, run, tx.now)
        back = awake or (run.state == "hung" and bool(steps))
        if back:
            runs.set_state(tx.conn, run.id, "running", None, tx.now)
        return back

    def _judge(self, tx: Transaction, run: RunRow, appended: Appended, back: bool) -> list[IncidentChange]:
        if not appended.batches and not back:
            return []
        if back:
            run = runs.get_run(tx.conn, run.id)
        with self._engines.engine(tx, run) as engine:
            transitions = _observe(engine, appended.batches)
            if back:  # said at once, not only at the watchdog's next look
                transitions += engine.tick(vitals(tx.conn, run, tx.now))
        return self._record(tx, run, transitions, appended.attempt)

    # --- what health decided ------------------------------------------------------------------------------------

    def _record(
        self, tx: Transaction, run: RunRow, transitions: Sequence[Transition], attempt: int | None = None
    ) -> list[IncidentChange]:
        """Write down what was decided, and do what follows; ``attempt``: whose points it was decided on."""
        if not transitions:
            return []
        changes = incidents.apply(tx.conn, run.id, transitions, tx.now)
        self._follow_state(tx, run, transitions)
        run = runs.get_run(tx.conn, run.id)
        found = captures_of(tx.conn, [change.incident for change in changes])
        for change, capture in zip(changes, found, strict=True):
            body = {"action": change.action, "incident": shapes.incident(change.incident, capture)}
            tx.tell(Notice("incident", run.id, body))
            self._notify(tx, run, change, capture)
            self._act(tx, run, change, attempt or run.attempt)
        return changes

    def _follow_state(self, tx: Transaction, run: RunRow, transitions: Sequence[Transition]) -> None:
        """A run is lost or hung while that incident is open, so that list and incidents never disagree."""
        if run.state not in LIVE_STATES or not any(transition.kind in SILENT for transition in transitions):
            return
        open_now, _ = incidents.list_incidents(tx.conn, run=run.id, state="open", limit=1000)
        messages = {row.kind: row.message for row in open_now if row.kind in SILENT}
        state = next((kind for kind in SILENT if kind in messages), "running")
        if state != run.state:
            self._announce_state(tx, runs.set_state(tx.conn, run.id, state, messages.get(state), tx.now))

    def _announce_state(self, tx: Transaction, run: RunRow) -> None:
        if run.state in TOLD_STATES:
            self._enqueue(tx, run, "run.state", {"run": shapes.run_in_webhook(run, self._page_url(run.id))})

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

    def _forward_alerts(self, tx: Transaction, run: RunRow, appended: Appended) -> None:
        """What the user's own code calls an alert is told as one; the service doesn't judge it."""
        for event in appended.events:
            if event.kind == "alert":
                about = shapes.run_in_webhook(run, self._page_url(run.id))
                self._enqueue(tx, run, "run.alert", {"alert": shapes.alert_in_webhook(event), "run": about})

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

    # --- commands -----------------------------------------------------------------------------------------------

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
        _tell_command(tx, run_id, row)
        return row

    def _take_answers(self, tx: Transaction, run_id: str, frame: Frame, attempt: int) -> None:
        for said in frame.commands:
            row = commands.answer(tx.conn, run_id, attempt, frame.writer.partition("/")[0], said, tx.now)
            if row is not None:
                _tell_command(tx, run_id, row)

    def _hand_out(self, tx: Transaction, run_id: str, attempt: int, writer: str) -> list[CommandOrder]:
        if "/" in writer:  # what samples the machine beside a rank can't carry anything out
            return []
        unanswered = commands.pending(tx.conn, run_id, attempt, writer)
        waiting = sorted(unanswered, key=lambda row: row.name == "stop")  # saved, then stopped
        if not waiting:
            return []
        new = [row.id for row in waiting if row.state == "requested"]
        for row in commands.mark_delivered(tx.conn, run_id, attempt, new, tx.now) if new else ():
            _tell_command(tx, run_id, row)
        return [CommandOrder(row.id, row.name, dict(row.args), row.requested_by) for row in waiting]

    def _tell_run(self, tx: Transaction, run_id: str) -> None:
        tx.touch(run_id)
        if self._heeded():  # nobody looks at most runs most of the time, and a run is a query of its own
            tx.tell(Notice("run", run_id, {"run": shapes.run(runs.get_run(tx.conn, run_id))}))


def _find(tx: Transaction, name: str) -> RunRow:
    try:
        return runs.get_run(tx.conn, name, lock=True)  # an agent knows the whole id: one query
    except NotFound:
        return runs.get_run(tx.conn, runs.resolve_run(tx.conn, name), lock=True)


def _observe(engine: Engine, batches: Iterable[Batch]) -> list[Transition]:
    return [transition for batch in batches for transition in engine.observe(batch)]


def _is_system(batch: Batch) -> bool:
    """System metrics carry the latest step, so they say nothing about whether the training still steps."""
    return all(metric.startswith(SYSTEM_PREFIX) for metric in batch.metrics)


def _notice(change: IncidentChange) -> IncidentNotice:
    row = change.incident
    return IncidentNotice(row.id, row.rule, row.kind, row.severity, row.state, row.metric, row.message, row.step)


def _tell_points(tx: Transaction, run_id: str, appended: Appended) -> None:
    points = tuple(
        PointsOf(metric, batch.writer, appended.attempt, batch.steps, batch.times, batch.values[:, column])
        for batch in appended.batches
        for column, metric in enumerate(batch.metrics)
    )
    if points:
        tx.tell(Notice("points", run_id, {}, points))


def _tell_events(tx: Transaction, run_id: str, writer: str, appended: Appended) -> None:
    for event in shapes.events_of(appended, writer):
        tx.tell(Notice("event", run_id, {"event": event}))


def _tell_captures(tx: Transaction, run_id: str, appended: Appended) -> None:
    """Incidents that a capture explains mostly opened before it came: whoever watches hears of them again."""
    if not any(event.kind in captures.KINDS for event in appended.events):
        return
    rows, _ = incidents.list_incidents(tx.conn, run=run_id, limit=1000)
    here = {event["id"] for event in shapes.events_of(appended, "")}
    for row, found in zip(rows, captures_of(tx.conn, rows), strict=True):
        if any(capture is not None and capture.event in here for capture in (found.flight, found.stacks)):
            tx.tell(Notice("incident", run_id, {"action": "update", "incident": shapes.incident(row, found)}))


def _tell_command(tx: Transaction, run_id: str, row: CommandRow) -> None:
    tx.tell(Notice("command", run_id, {"command": shapes.command(row)}))
