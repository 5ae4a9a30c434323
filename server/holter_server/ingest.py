"""What one shipment causes, all in its own transaction: points, health, incidents, deliveries, commands.

Each function runs in the writer thread (`holter_server.writing`) and is run again from the start when its transaction
has to be repeated, so nothing here touches the world outside the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from holter.health import Engine
from holter.health.model import Batch, Transition
from holter.wire import CommandOrder, Frame, IncidentNotice, Receipt, RunFinish, RunStart
from holter_db import captures, commands, incidents, ingest, runs
from holter_db.captures import captures_of
from holter_db.commands import CommandRow
from holter_db.errors import NotFound
from holter_db.incidents import IncidentChange
from holter_db.ingest import Appended
from holter_db.runs import LIVE_STATES, RunRow
from holter_server import given_up, shapes
from holter_server.consequences import Consequences, tell_command
from holter_server.engines import Engines
from holter_server.notices import Notice, PointsOf
from holter_server.vital_signs import overdue, vitals
from holter_server.writing import Transaction

__all__ = ["Pipeline"]

SYSTEM_PREFIX = "system/"


class Pipeline:
    """Args:
    engines: the health engines of the runs.
    page_url: the address of a run's page, for webhooks.
    heeded: whether anybody listens to what a transaction tells of its run.
    dry_run: what rules ask of trainings is written down and not sent.
    """

    def __init__(
        self,
        engines: Engines,
        page_url: Callable[[str], str],
        heeded: Callable[[], bool] = lambda: True,
        *,
        dry_run: bool = False,
    ) -> None:
        self._engines = engines
        self.follow = Consequences(page_url, dry_run=dry_run)
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
            tell_command(tx, run_id, row)
        self.follow.record(tx, run_id, given_up.over(tx.conn, run_id, tx.now, before=attempt))

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
            tell_command(tx, run_id, row)
        if run.state != before.state:
            self.follow.announce_state(tx, run)
        if run.state not in LIVE_STATES:
            self.follow.record(tx, run.id, given_up.over(tx.conn, run_id, tx.now))
        self._tell_run(tx, run_id)
        return runs.get_run(tx.conn, run_id)

    def tick(self, tx: Transaction, run_id: str) -> None:
        """Look at the signs of life of one run."""
        run = runs.get_run(tx.conn, run_id, lock=True)
        if run.state in LIVE_STATES and self._tick_engine(tx, run):
            for row in commands.settle(tx.conn, run_id, run.attempt, tx.now):  # a rank that is gone will not answer
                tell_command(tx, run_id, row)
            self._tell_run(tx, run_id)

    def _tick_engine(self, tx: Transaction, run: RunRow) -> bool:
        with self._engines.engine(tx, run) as engine:
            transitions = engine.tick(vitals(tx.conn, run, tx.now))
        return bool(self.follow.record(tx, run.id, transitions))

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
        tx.points += sum(batch.values.size for batch in appended.batches)
        self._take_answers(tx, run.id, frame, appended.attempt)
        fired = self._judge(tx, run, appended, self._heard(tx, run, frame, appended))
        self.follow.record(tx, run.id, given_up.noted(run, frame.writer, appended, tx.now))
        if self._heeded():
            _tell_points(tx, run.id, appended)
        _tell_events(tx, run.id, frame.writer, appended)
        _tell_captures(tx, run.id, appended)
        for event in appended.events:
            if event.kind == "alert":
                self.follow.forward_alert(tx, run, event)
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
        return self.follow.record(tx, run.id, transitions, appended.attempt)

    # --- commands -----------------------------------------------------------------------------------------------

    def request_command(self, tx: Transaction, run_id: str, name: str, args: dict[str, Any], by: str) -> CommandRow:
        """Ask something of the run's newest attempt; see `holter_db.commands.request`."""
        return self.follow.request_command(tx, run_id, name, args, by)

    def _take_answers(self, tx: Transaction, run_id: str, frame: Frame, attempt: int) -> None:
        for said in frame.commands:
            row = commands.answer(tx.conn, run_id, attempt, frame.writer.partition("/")[0], said, tx.now)
            if row is not None:
                tell_command(tx, run_id, row)

    def _hand_out(self, tx: Transaction, run_id: str, attempt: int, writer: str) -> list[CommandOrder]:
        if "/" in writer:  # what samples the machine beside a rank can't carry anything out
            return []
        unanswered = commands.pending(tx.conn, run_id, attempt, writer)
        waiting = sorted(unanswered, key=lambda row: row.name == "stop")  # saved, then stopped
        if not waiting:
            return []
        new = [row.id for row in waiting if row.state == "requested"]
        for row in commands.mark_delivered(tx.conn, run_id, attempt, new, tx.now) if new else ():
            tell_command(tx, run_id, row)
        return [CommandOrder(row.id, row.name, dict(row.args), row.requested_by) for row in waiting]

    def _tell_run(self, tx: Transaction, run_id: str) -> None:
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
