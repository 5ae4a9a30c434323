"""What shipments cause, all in their own transaction: points, health, incidents, deliveries, commands.

Each function runs in the writer thread (`holter_server.writing`) and is run again from the start when its transaction
has to be repeated, so nothing here touches the world outside the transaction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holter.health.model import Batch, Vitals
from holter.wire import CommandOrder, Frame, IncidentNotice, Receipt, RunFinish, RunStart
from holter_db import captures, commands, incidents, ingest, runs
from holter_db.captures import captures_of
from holter_db.commands import CommandRow
from holter_db.deletion import absent
from holter_db.errors import Conflict, NotFound, StoreError
from holter_db.incidents import IncidentChange
from holter_db.ingest import Appended, Shipment
from holter_db.locked import LockedRun, lock_runs, write_runs
from holter_db.runs import LIVE_STATES, LiveRun, RunRow
from holter_server import given_up, shapes
from holter_server.consequences import Consequences, tell_command
from holter_server.engines import Desk, Engines
from holter_server.notices import Notice, PointsOf
from holter_server.vital_signs import overdue, vitals
from holter_server.writing import Transaction

__all__ = ["Pipeline"]

SYSTEM_PREFIX = "system/"


@dataclass(slots=True)
class _Taken:
    """One frame of a transaction, and what becomes of it."""

    run: LockedRun
    frame: Frame
    appended: Appended
    fired: list[IncidentChange] = field(default_factory=list)


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
        if start.id is not None:
            self.settle(tx, start.id)
        run = runs.start_run(tx.conn, start, tx.now)
        self._begin_attempt(tx, run.id, run.attempt)
        self._tell_runs(tx, [run.id])
        return run

    def _begin_attempt(self, tx: Transaction, run_id: str, attempt: int) -> None:
        """What earlier attempts have left behind is over."""
        for row in commands.expire(tx.conn, run_id, attempt):
            tell_command(tx, run_id, row)
        self.follow.record(tx, run_id, given_up.over(tx.conn, run_id, tx.now, before=attempt))

    def change_run(self, tx: Transaction, run_id: str, fields: dict[str, Any]) -> RunRow:
        """Change what people may change; ``fields`` are arguments of `holter_db.runs.update_run`."""
        self.settle(tx, run_id)
        run = runs.update_run(tx.conn, run_id, **fields)
        self._tell_runs(tx, [run_id])
        return run

    def finish_run(self, tx: Transaction, run_id: str, finish: RunFinish) -> RunRow:
        """Close a run; an ending is a sign of life like any other, so the health rules look at it at once."""
        before = runs.get_run(tx.conn, run_id, lock=True)
        run = runs.finish_run(tx.conn, run_id, finish, tx.now)
        if run.attempt > before.attempt:
            self._begin_attempt(tx, run_id, run.attempt)
        self._tick_engine(tx, run, settle=True)
        for row in commands.settle(tx.conn, run_id, run.attempt, tx.now):
            tell_command(tx, run_id, row)
        if run.state != before.state:
            self.follow.announce_state(tx, run)
        if run.state not in LIVE_STATES:
            self.follow.record(tx, run_id, given_up.over(tx.conn, run_id, tx.now))
        self._tell_runs(tx, [run_id])
        return runs.get_run(tx.conn, run_id)

    def request_command(self, tx: Transaction, run_id: str, name: str, args: dict[str, Any], by: str) -> CommandRow:
        """Ask something of the run's newest attempt; see `holter_db.commands.request`."""
        return self.follow.request_command(tx, run_id, name, args, by)

    # --- the clock ----------------------------------------------------------------------------------------------

    def wake(self, asked: Iterable[tuple[LiveRun, int, Vitals]]) -> dict[str, float | None]:
        """When each run, with the version of its rules, has to be looked at again; see `Engines.wake`."""
        return {run.id: self._engines.wake(run, rules, signs) for run, rules, signs in asked}

    def unsaved(self, before: float) -> list[str]:
        """Runs whose engines were last used before ``before`` (seconds, UTC) and have not been saved since."""
        return self._engines.unsaved(before)

    def tick(self, tx: Transaction, run_id: str) -> None:
        """Look at the signs of life of one run."""
        run = runs.get_run(tx.conn, run_id, lock=True)
        if run.state in LIVE_STATES and self._tick_engine(tx, run):
            for row in commands.settle(tx.conn, run_id, run.attempt, tx.now):  # a rank that is gone will not answer
                tell_command(tx, run_id, row)
            self._tell_runs(tx, [run_id])

    def _tick_engine(self, tx: Transaction, run: RunRow, *, settle: bool = False) -> bool:
        with self._engines.desk(tx, lock_runs(tx.conn, [run.id])[run.id]) as desk:
            transitions = desk.tick(vitals(tx.conn, run, tx.now))
            if settle:
                desk.settle()
        return bool(self.follow.record(tx, run.id, transitions))

    def settle(self, tx: Transaction, run_id: str, points: float = math.inf) -> bool:
        """Save the memory of a run's engine; False if ``points`` were not enough to reach the run's newest segment."""
        run = lock_runs(tx.conn, [run_id]).get(run_id)
        if run is None or run.position == 0:
            return True
        with self._engines.desk(tx, run) as desk:
            return desk.settle(points)

    def settle_all(self, tx: Transaction) -> None:
        """Save the memory of every engine: what the service does last."""
        locked = lock_runs(tx.conn, self._engines.unsaved())
        with self._engines.desks(tx, list(locked.values())) as desks:
            for desk in desks.values():
                desk.settle()

    # --- frames -------------------------------------------------------------------------------------------------

    def take_frames(self, tx: Transaction, shipped: Sequence[tuple[str, Frame]]) -> list[Receipt | StoreError]:
        """Keep frames, judge them, and answer each with what its training should know.

        Frames of one run come in their order; those of different runs have nothing to do with each other. Nothing is
        read or written frame by frame that can be done for all of them at once.

        A frame without points and events is a sign of life: it is not kept, else a run that waits for an hour would
        leave a thousand empty segments.

        Args:
            shipped: names, as `holter_db.runs.resolve_run` takes them, and frames.

        Returns:
            For each frame its receipt, or why nothing of it was kept.
        """
        found = _lock(tx, {name for name, _ in shipped})
        attempts = {run.id: run.attempt for run in found.values() if isinstance(run, LockedRun)}
        outcomes = self._append(tx, found, shipped)
        taken = [one for one in outcomes if isinstance(one, _Taken)]
        locked = list({one.run.id: one.run for one in taken}.values())
        for one in taken:
            _hear(tx, one)
        write_runs(tx.conn, locked)
        with self._engines.desks(tx, locked) as desks:
            for one in taken:
                if not one.appended.duplicate:
                    self._judge(tx, one, desks[one.run.id], attempts)
        waiting = commands.waiting(tx.conn, [run.id for run in locked])
        receipts = [self._receipt(tx, one, waiting) if isinstance(one, _Taken) else one for one in outcomes]
        self._tell_runs(tx, [run.id for run in locked])
        return receipts

    def _append(
        self, tx: Transaction, found: dict[str, LockedRun | StoreError], shipped: Sequence[tuple[str, Frame]]
    ) -> list[_Taken | StoreError]:
        outcomes: list[Any] = [found[name] for name, _ in shipped]
        places = [index for index, run in enumerate(outcomes) if isinstance(run, LockedRun)]
        shipments = [Shipment(outcomes[index], shipped[index][1], _kept(shipped[index][1])) for index in places]
        appended = ingest.append_all(tx.conn, shipments, tx.now)
        for index, shipment, what in zip(places, shipments, appended, strict=True):
            outcomes[index] = what if isinstance(what, Conflict) else _Taken(shipment.run, shipment.frame, what)
        return outcomes

    def _judge(self, tx: Transaction, one: _Taken, desk: Desk, attempts: dict[str, int]) -> None:
        """One frame that is new, with everything that it says."""
        run, frame, appended = one.run, one.frame, one.appended
        if appended.attempt > attempts[run.id]:
            attempts[run.id] = appended.attempt
            self._begin_attempt(tx, run.id, appended.attempt)
        tx.frames += _kept(frame)
        points = sum(batch.values.size for batch in appended.batches)
        tx.points += points
        tx.touch(run.id, appended.position, points)
        self._take_answers(tx, run.id, frame, appended.attempt)
        back = self._back(tx, one)
        transitions = desk.observe(appended.batches) if appended.batches else []
        if back:  # said at once, not only at the watchdog's next look
            transitions += desk.tick(vitals(tx.conn, runs.get_run(tx.conn, run.id), tx.now))
        if transitions:
            one.fired = self.follow.record(tx, run.id, transitions, appended.attempt)
            run.state = runs.get_run(tx.conn, run.id).state
        if appended.dropped is not None:
            told = given_up.noted(runs.get_run(tx.conn, run.id), frame.writer, appended, tx.now)
            self.follow.record(tx, run.id, told)
        if self._heeded():
            _tell_points(tx, run.id, appended)
        if appended.events:
            self._tell_events(tx, run.id, frame.writer, appended)

    def _back(self, tx: Transaction, one: _Taken) -> bool:
        """True if a run that was lost or hung is running again.

        A run of several ranks is back only once none of them is silent any more.
        """
        run, attempt = one.run, one.run.attempt
        awake = run.state == "lost" and not overdue(tx.conn, run.id, attempt, tx.now)
        back = awake or (run.state == "hung" and _newest_step(one.appended.batches) is not None)
        if back:
            run.state = runs.set_state(tx.conn, run.id, "running", None, tx.now).state
        return back

    def _tell_events(self, tx: Transaction, run_id: str, writer: str, appended: Appended) -> None:
        for shown in shapes.events_of(appended, writer):
            tx.tell(Notice("event", run_id, {"event": shown}))
        _tell_captures(tx, run_id, appended)
        for event in appended.events:
            if event.kind == "alert":
                self.follow.forward_alert(tx, runs.get_run(tx.conn, run_id), event)

    # --- receipts -----------------------------------------------------------------------------------------------

    def _receipt(self, tx: Transaction, one: _Taken, waiting: Collection[str]) -> Receipt:
        run, appended = one.run, one.appended
        orders: list[CommandOrder] = []
        if run.id in waiting and "/" not in one.frame.writer:  # what samples the machine can't carry anything out
            orders = self._hand_out(tx, run.id, appended.attempt, one.frame.writer)
        return Receipt(
            acknowledged=appended.seq,
            duplicate=appended.duplicate,
            run_state="running" if run.state in LIVE_STATES else run.state,  # who speaks is neither lost nor hung
            commands=orders,
            incidents=[_notice(change) for change in one.fired if change.action != "update"],
        )

    def _take_answers(self, tx: Transaction, run_id: str, frame: Frame, attempt: int) -> None:
        for said in frame.commands:
            row = commands.answer(tx.conn, run_id, attempt, frame.writer.partition("/")[0], said, tx.now)
            if row is not None:
                tell_command(tx, run_id, row)

    def _hand_out(self, tx: Transaction, run_id: str, attempt: int, writer: str) -> list[CommandOrder]:
        unanswered = commands.pending(tx.conn, run_id, attempt, writer)
        waiting = sorted(unanswered, key=lambda row: row.name == "stop")  # saved, then stopped
        if not waiting:
            return []
        new = [row.id for row in waiting if row.state == "requested"]
        for row in commands.mark_delivered(tx.conn, run_id, attempt, new, tx.now) if new else ():
            tell_command(tx, run_id, row)
        return [CommandOrder(row.id, row.name, dict(row.args), row.requested_by) for row in waiting]

    def _tell_runs(self, tx: Transaction, run_ids: Collection[str]) -> None:
        for run_id in run_ids:
            tx.touch(run_id)
        if self._heeded():  # nobody looks at most runs most of the time, and a run is a row that may be long
            for row in runs.get_runs(tx.conn, run_ids):
                tx.tell(Notice("run", row.id, {"run": shapes.run(row)}))


def _lock(tx: Transaction, names: Collection[str]) -> dict[str, LockedRun | StoreError]:
    """The runs of these names, their rows locked. An agent knows the whole id: one query."""
    by_id = lock_runs(tx.conn, names)
    found: dict[str, LockedRun | StoreError] = {**by_id}
    for name in sorted(set(names) - by_id.keys()):
        try:
            run_id = runs.resolve_run(tx.conn, name)
        except (NotFound, Conflict) as error:
            found[name] = error
        else:
            by_id |= {} if run_id in by_id else lock_runs(tx.conn, [run_id])
            found[name] = by_id.get(run_id) or absent(tx.conn, run_id)
    return found


def _kept(frame: Frame) -> bool:
    return bool(frame.blocks or frame.events)


def _hear(tx: Transaction, one: _Taken) -> None:
    """A sign of life; a frame that comes again is none."""
    frame, appended = one.frame, one.appended
    if appended.duplicate:
        return
    one.run.hear(tx.now, None if frame.promise is None else tx.now + frame.promise)
    step = None if appended.late else _newest_step(appended.batches)
    if step is not None:
        one.run.reach(step, tx.now)


def _newest_step(batches: Iterable[Batch]) -> int | None:
    return max((int(batch.steps.max()) for batch in batches if not _is_system(batch)), default=None)


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


def _tell_captures(tx: Transaction, run_id: str, appended: Appended) -> None:
    """Incidents that a capture explains mostly opened before it came: whoever watches hears of them again."""
    if not any(event.kind in captures.KINDS for event in appended.events):
        return
    rows, _ = incidents.list_incidents(tx.conn, run=run_id, limit=1000)
    here = {event["id"] for event in shapes.events_of(appended, "")}
    for row, found in zip(rows, captures_of(tx.conn, rows), strict=True):
        if any(capture is not None and capture.event in here for capture in (found.flight, found.stacks)):
            tx.tell(Notice("incident", run_id, {"action": "update", "incident": shapes.incident(row, found)}))
