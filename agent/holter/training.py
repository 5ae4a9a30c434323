"""`Run`: what a training loop holds in its hand."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from struct import error as StructError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from holter.commands import Inbox
from holter.device import Captured
from holter.environment import plain
from holter.journal import Journal
from holter.notices import Notices
from holter.records import Answer, End, Happened
from holter.shipper import Shipper
from holter.values import Deferred, NotANumber, clean_text, flatten, scalar, snapshot, whole
from holter.wire import CommandUpdate, Event, IncidentNotice, Receipt, RunFinish

if TYPE_CHECKING:
    from holter.flight import Trigger
    from holter.guard import Sentry
    from holter.watcher import Watcher

__all__ = ["EndState", "Run", "Severity"]

EndState = Literal["finished", "failed", "stopped"]
Severity = Literal["info", "warning", "critical"]
# Incidents about numbers, which norms of gradients and weights may explain.
FLIGHT_KINDS = frozenset({
    "non_finite", "spike", "explosion", "divergence", "grad_norm", "vanishing", "limit", "dominance", "dead",
})  # fmt: skip
SAME_SICKNESS = 1_000  # steps
_now = time.time
KEPT_TEXTS_MAX = 1_000  # values that are no numbers, kept as events


class Run:
    """One recording. Made by `holter.init`; its methods never raise into the loop and never wait for the network."""

    def __init__(
        self,
        *,
        id: str,
        project: str,
        journal: Journal,
        notices: Notices,
        name: str | None = None,
        attempt: str = "",
        writer: str = "rank0",
        shipper: Shipper | None = None,
        directory: Path | None = None,
        url: str | None = None,
        first_step: int = 0,
        finish_timeout: float = 10.0,
        facts: tuple[int | None, dict[str, Any], Iterable[str]] = (None, {}, ()),
        on_end: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self.id, self.project, self.name, self.attempt, self.writer = id, project, name, attempt, writer
        self.directory = directory  # where the recording is on disk; None when it is not
        self.url = url  # the run's page; None offline
        self.step: int | None = None  # the latest step that was logged
        self.incidents: dict[str, IncidentNotice] = {}  # by id, as the service reported them
        self._journal, self._notices, self._shipper = journal, notices, shipper
        self._inbox = Inbox(self._answer, notices)
        self._first_step = first_step
        self._usual: tuple[str, ...] | None = None  # the names of the call before, where its values were plain numbers
        self._alert = False  # a row needs a closer look even when it is finite
        self._texts: dict[str, str] = {}
        self._texts_kept = 0
        self._watchers: list[Watcher] = []
        self._finish_timeout, self._on_end = finish_timeout, on_end
        self._facts = facts  # planned steps, configuration, tags: what rules may depend on
        self._rules: str | None = None
        self._sentry: Sentry | None = None
        self._owed: deque[tuple[tuple[str, ...], Deferred, int, float]] = deque(maxlen=1_000)  # not judged yet
        self._suspicions: deque[Trigger] = deque()  # for which the flight recorder is to be read, on this thread
        self._suspected: int | None = None  # the latest sick step
        self._acts = False  # a non-finite value may make the rules stop the training, or have it save
        self._before: tuple[tuple[str, ...], int, float, list[float]] | None = None  # the row before the latest
        self.skip_step = False  # the latest row has a non-finite loss or gradient norm: leave out this update
        self._closed = False
        self._closing = threading.RLock()  # a signal's handler may call finish while finish runs
        self._pid = os.getpid()
        self.logged_at = 0.0  # time.time() of the latest `log`

    # --- recording --------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record one row of metrics at ``step`` (without it: one more than the latest).

        Values are numbers: Python's, numpy's, or tensors of one element on any device. Nested mappings become
        ``a/b``. What is no number is kept as an event, and said once; nothing is ever raised.
        """
        try:
            # The short way, for the names of the call before, whose values were plain numbers, as these will be.
            if type(values) is dict and type(step) is int and tuple(values) == self._usual:
                row = [*values.values()]
                total = sum(row)
                if type(total) is float:
                    now = _now()
                    self._journal.points(self._usual, step, now, row)
                    self.step, self.logged_at = step, now
                    if total - total != 0.0 or self._alert or self._inbox.waiting:
                        self._look_closer(self._usual, row, step, now)
                    return
        except (TypeError, ValueError, OverflowError, StructError):
            pass  # no plain numbers after all, or a step beyond 64 bits
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything while it is looked at
            self._leave_out(error)
            return
        self._log_slowly(values, step)

    def event(
        self,
        text: str,
        kind: str = "note",
        *,
        severity: Severity = "info",
        step: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that something happened, at ``step`` or at the latest one. ``kind="stage"`` is drawn on the charts."""
        if self._closed:
            self._refuse("event")
            return
        try:
            self._happened(
                text, kind, severity, self.step if step is None else self._whole(step), {} if data is None else data
            )
        except Exception as error:  # noqa: BLE001 - as in log
            self._notices.warn("event", f"an event was left out: {clean_text(error)} ({type(error).__name__})")

    def alert(self, title: str, text: str = "", severity: Severity = "warning") -> None:
        """Raise an alert of your own: an event of kind "alert", which the service sends to webhooks as `run.alert`."""
        title, text = clean_text(title), clean_text(text)
        body = f"{title}: {text}" if text else title
        self.event(body, kind="alert", severity=severity, data={"title": title, "text": text})

    def watch(self, model: Any, optimizer: Any, every: int = 1, *, flight_recorder: int = 64) -> None:
        """Record what every ``every``-th ``optimizer.step()`` tells, at the step of the next `log`.

        ``watch/grad_norm`` (2-norm over all gradients, unscaled, before clipping) and ``watch/lr``, both also for each
        of several parameter groups; ``watch/step_time`` (seconds), ``watch/throughput`` (optimizer steps a second),
        ``watch/samples_per_second`` where `batch` is called; with a gradient scaler ``watch/amp_scale`` and
        ``watch/amp_skipped`` (steps so far); at every tenth ``watch/update_ratio`` (‖Δw‖ / ‖w‖) and the allocator's
        memory. Where parameters are sharded over ranks, names end in ``_local`` for what this rank's shard alone says.

        ``flight_recorder``: norms of every gradient and weight are kept for so many optimizer steps; 0 keeps none.
        """
        prefix = "watch/" if not self._watchers else f"watch/{len(self._watchers)}/"
        try:
            from holter.watcher import Watcher  # noqa: PLC0415 - `import holter` stays light

            self._watchers.append(
                Watcher(model, optimizer, every, prefix, self._notices, flight_recorder=flight_recorder)
            )
            self._usual = None
            self._inbox.offer("dump", self._dump_by_command)
        except Exception as error:  # noqa: BLE001 - anything may have been given
            self._notices.warn("watch", f"watch takes a torch module and an optimizer; it is off ({clean_text(error)})")

    def batch(self, ids: Any) -> None:
        """Say what the coming optimizer step learns from: ids, or an array, a tensor or a mapping of them or of data.

        The flight recorder keeps at most 64 ids, how many there are, and a fingerprint. Several calls before one step
        add up. Nothing is read from a device.
        """
        try:
            if self._watchers:
                from holter.batches import batch_of  # noqa: PLC0415 - as in watch

                noted = batch_of(ids)
                for watcher in self._watchers:
                    watcher.note_batch(noted, noted.count)
        except Exception as error:  # noqa: BLE001 - anything may have been given
            self._notices.warn("batch", f"a batch was left out: {clean_text(error)} ({type(error).__name__})")

    def dump_flight(self, trigger: Trigger) -> str | None:
        """Read the flight recorder, keep all of it in a file, and record an event that says what was non-finite first.

        At most once for each incident, and otherwise once a minute. To be called on the training thread: it waits for
        the device. Returns the event's text; None if there was nothing to do.
        """
        recorders = [watcher.flight for watcher in self._watchers if watcher.flight is not None]
        folder = None if self.directory is None else self.directory / "flight" / self.writer
        events = []
        for number, recorder in enumerate(recorders):
            try:
                if recorder.due(trigger):
                    place = folder if folder is None or not number else folder / str(number)
                    events.append(recorder.dump(trigger, self._next_step, place))
            except Exception as error:  # noqa: BLE001 - a device that has failed may do anything
                self._notices.warn("flight", f"the flight recorder could not be read: {clean_text(error)}")
        told = [event for event in events if event.data["first"]] or events[:1]
        for event in told:
            self._journal.put(Happened(event))
        return "; ".join(event.text for event in told) or None

    # --- being told -------------------------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        """True once somebody, or a rule, has asked the training to stop. Costs nothing: read it every step."""
        if self._inbox.waiting and not self._closed:
            self._inbox.carry_out(self.step)
        return self._inbox.stopped

    def on_command(self, name: str, function: Callable[..., Any]) -> None:
        """Call ``function(**args)`` when the command is asked for: on this thread, within `log` or `should_stop`.

        So a checkpoint is written between two steps. What it returns is shown as the command's result.
        """
        if not callable(function):
            self._notices.warn("on_command", f"on_command({clean_text(name)!r}, …) needs a function")
            return
        self._inbox.register(clean_text(name), function)

    def follow(self, rules: str | None, acts: bool) -> None:
        """The project's rules have changed. Called by the shipper's thread."""
        if rules != self._rules:
            self._sentry = None
        self._rules, self._acts = rules, acts
        self._alert = self._alert or acts

    def receive(self, receipt: Receipt) -> None:
        """What the service or the guard wants this training to know. Called by the shipper's thread."""
        for order in receipt.commands:
            self._inbox.receive(order)
        for notice in receipt.incidents:
            known = self.incidents.get(notice.id)
            news = notice.state == "firing" and notice.severity != "info"
            self.incidents[notice.id] = notice
            if news and (known is None or known.severity != notice.severity):
                self._notices.warn(f"incident {notice.id} {notice.severity}", f"{notice.severity}: {notice.message}")
                if self._watchers and notice.kind in FLIGHT_KINDS:
                    self._read_flight_for(notice)

    def _read_flight_for(self, notice: IncidentNotice) -> None:
        """Unless it was read for these very steps: the ring may have gone on since."""
        from holter.flight import Trigger  # noqa: PLC0415 - as in watch

        known = self._suspected is not None and notice.step is not None and notice.step <= self._suspected
        if not known:
            self._suspicions.append(Trigger("incident", notice.id, notice.rule, notice.step))

    # --- the end ----------------------------------------------------------------------------------------------

    def finish(self, state: EndState | None = None, reason: str | None = None, timeout: float | None = None) -> None:
        """End the recording: ship what is left for at most ``timeout`` seconds, and say where the rest is, if any.

        ``state`` is "finished" when absent, or "stopped" after a stop was asked for. Calling it again does nothing.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._record_watched()
            self._usual = None
        for watcher in self._watchers:
            watcher.close()
        self._on_end(self)
        complete = self._end(self._end_state(state), reason, self._finish_timeout if timeout is None else timeout)
        self._say_where(complete)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """`finish` by how ``error`` ends a program: Ctrl-C stops it, ``sys.exit(0)`` finishes it, the rest fails."""
        if isinstance(error, SystemExit) and error.code in {None, 0}:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("stopped", "KeyboardInterrupt")
        else:
            reason = clean_text("".join(traceback.format_exception_only(error)).strip())
            if self._watchers and not self._closed:
                self._dump_by_exception()
            self.event(reason, "exception", severity="critical", data={"traceback": _traceback(error)})
            self.finish("failed", reason)

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[str, str]]:
        """In a spawned child there is a stand-in, whose `log` does nothing: the recording is this process's."""
        return _stand_in, (self.id, self.project)

    def abandon(self) -> None:
        """In a forked child (a DataLoader worker): the recording is the parent's, and `log` does nothing here."""
        self._closed, self._usual = True, None
        self._journal.abandon()
        if self._shipper is not None:
            self._shipper.abandon()

    # --- inside -----------------------------------------------------------------------------------------------

    def _dump_by_exception(self) -> None:
        from holter.flight import Trigger  # noqa: PLC0415 - as in watch

        self.dump_flight(Trigger("exception", step=self.step))

    def _dump_by_command(self) -> str:
        from holter.flight import Trigger  # noqa: PLC0415 - as in watch

        return self.dump_flight(Trigger("command", step=self.step)) or "It was read less than a minute ago."

    def _log_slowly(self, values: Any, step: Any) -> None:
        self._usual = None
        if self._closed:
            self._refuse("log")
            return
        try:
            self._log_anything(values, step)
        except Exception as error:  # noqa: BLE001 - as in log
            self._leave_out(error)

    def _leave_out(self, error: Exception) -> None:
        self._notices.warn("log", f"a call of log was left out: {clean_text(error)} ({type(error).__name__})")

    def _record(self, metrics: tuple[str, ...], row: Any, step: int) -> None:
        now = _now()
        self._journal.points(metrics, step, now, row)
        self.step, self.logged_at = step, now
        if type(row) is list and not self._watchers:
            self._usual = metrics
        self._look_closer(metrics, row, step, now)

    def _look_closer(self, metrics: tuple[str, ...], row: Any, step: int, now: float) -> None:
        """What is to be done on this thread: about a non-finite row, a rule, a command."""
        self.skip_step = False
        if type(row) is list:
            self.skip_step = self._judge(metrics, row, step, now)
        elif self._acts or self._watchers:
            self._owed.append((metrics, row, step, now))
        while self._owed and self._owed[0][1].ready():
            metrics, late, step_then, then = self._owed.popleft()
            with contextlib.suppress(RuntimeError):  # the device has failed: the journal says so
                self._judge(metrics, late.resolve(), step_then, then)
        while self._suspicions:
            self.dump_flight(self._suspicions.popleft())
        self._alert = self._acts or self.skip_step
        if self._inbox.waiting:
            self._inbox.carry_out(step)

    @property
    def _next_step(self) -> int:
        return self._first_step if self.step is None else self.step + 1

    def _judge(self, metrics: tuple[str, ...], row: list[float], step: int, now: float) -> bool:
        """Whether a value that the training depends on is NaN or infinite; the guard and the flight recorder know."""
        sick = not isfinite(sum(row)) and self._is_sick(metrics, row)
        if sick and self._watchers:
            self._suspect(step)
        if self._acts:
            self._stand_guard(metrics, row, step, now)
        return sick

    def _is_sick(self, metrics: tuple[str, ...], row: list[float]) -> bool:
        from holter.health.roles import TRAINING, role_of  # noqa: PLC0415 - for sick rows only

        bad = [name for name, value in zip(metrics, row, strict=True) if not isfinite(value)]
        if bad and self._acts and self._sentry is None:
            self._post_sentry()
        return any(role_of(name) in TRAINING for name in bad)

    def _suspect(self, step: int) -> None:
        """Have the flight recorder read at once: an incident's number comes too late for a loop of short steps."""
        from holter.flight import Trigger  # noqa: PLC0415 - as in watch

        if self._suspected is None or step - self._suspected > SAME_SICKNESS:
            self._suspicions.append(Trigger("incident", step=step))
        self._suspected = step

    def _post_sentry(self) -> None:
        from holter.guard import Sentry  # noqa: PLC0415 - some 50 ms, once, in a run that is sick
        from holter.health import Facts  # noqa: PLC0415

        planned_steps, config, tags = self._facts
        self._sentry = Sentry(self._rules, Facts(planned_steps, config, tuple(tags)), self.id, self.writer)
        if self._before is not None:
            self._sentry.observe(*self._before)

    def _stand_guard(self, metrics: tuple[str, ...], row: list[float], step: int, now: float) -> None:
        """The rules on non-finite values, on this thread: what they want of the training holds within this step."""
        if self._sentry is not None:
            receipt = self._sentry.observe(metrics, step, now, row)
            if receipt is not None:
                self.receive(receipt)
            if self._sentry.idle:
                self._sentry = None
        else:
            self._before = (metrics, step, now, row)

    def _log_anything(self, values: Any, step: Any) -> None:
        number = self._next_step if step is None else self._whole(step)
        if not isinstance(values, Mapping):
            self._notices.warn("values", f"log takes a dict such as {{'loss': 0.5}}, not {type(values).__name__}")
            self._keep_text("log", values, number)
            return
        row = self._numbers(flatten(values), number)
        if any(map(len, self._watchers)):
            row = self._watched(number) | row
        if row:
            self._write_row(row, number)
        else:
            self.step = number

    def _write_row(self, numbers: dict[str, Any], step: int) -> None:
        metrics, row = tuple(numbers), list(numbers.values())
        on_device = [position for position, value in enumerate(row) if not isinstance(value, float)]
        if on_device:
            try:
                row = snapshot(row, on_device)  # type: ignore[assignment]
            except Captured as error:
                self._notices.warn("capture", f"values on a device are left out: {clean_text(error)}")
                if len(on_device) < len(row):
                    self._write_row({name: value for name, value in numbers.items() if isinstance(value, float)}, step)
                return
        for watcher in self._watchers:
            if watcher.flight is not None:
                watcher.flight.note(step, metrics, row)
        self._record(metrics, row, step)

    def _numbers(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for name, value in values.items():
            try:
                numbers[name] = scalar(value)
            except NotANumber as error:
                self._notices.warn(
                    f"value {error}", f"{name!r} at step {step} {error}. It is kept as an event, and so are others."
                )
                self._keep_text(name, value, step)
        return numbers

    def _keep_text(self, name: str, value: Any, step: int) -> None:
        """A value that is no number, as an event; the same text for the same name only once in a row."""
        text = clean_text(value)
        if self._texts.get(name) == text:
            return
        if self._texts_kept >= KEPT_TEXTS_MAX:
            self._notices.warn("texts", f"{KEPT_TEXTS_MAX} values that are no numbers are kept; further ones are not")
            return
        self._texts[name] = text
        self._texts_kept += 1
        self._happened(f"{name} = {text}", "value", "info", step, {"metric": name})

    def _watched(self, step: int) -> dict[str, Any]:
        """Write the rows of optimizer steps before the latest at the steps before ``step``; return the latest."""
        latest: dict[str, Any] = {}
        for watcher in self._watchers:
            rows = watcher.take()
            first = max(step - len(rows) + 1, min(step, 0))
            if self.step is not None and first <= self.step < step:
                first = step  # several optimizer steps in one step of the loop: they all stand there
            steps = [min(first + index, step) for index in range(len(rows))]
            watcher.place(steps)
            for values, earlier in zip(rows[:-1], steps[:-1], strict=True):
                if values:
                    self._write_row(self._numbers(values, step), earlier)
            if rows:
                latest |= self._numbers(rows[-1], step)
        return latest

    def _record_watched(self) -> None:
        """At the end: what the hooks have seen since the last `log`."""
        try:
            waiting = max((len(watcher) for watcher in self._watchers), default=0)
            if waiting:
                step = self._next_step + waiting - 1
                if row := self._watched(step):
                    self._write_row(row, step)
        except Exception as error:  # noqa: BLE001 - reading a device may fail in many ways
            self._notices.warn("watch", f"the last watched values were left out: {clean_text(error)}")

    def _whole(self, step: Any) -> int:
        try:
            number = whole(step)
        except NotANumber as error:
            self._notices.warn("step", f"step={clean_text(step)[:80]!r} {error}; steps are counted on instead")
            return self._next_step
        if isinstance(step, float) and number != step:
            self._notices.warn("fraction", f"step={step!r} is no integer; its fraction is cut")
        return number

    def _happened(self, text: Any, kind: Any, severity: Any, step: int | None, data: Any) -> None:
        if not isinstance(severity, str) or severity not in get_args(Severity):
            self._notices.warn("severity", f"severity={clean_text(severity)!r}: it is info, warning or critical")
            severity = "warning"
        details = plain(data if isinstance(data, Mapping) else {"data": data})
        event = Event(time.time(), clean_text(text), clean_text(kind)[:64] or "note", step, severity, details)
        self._journal.put(Happened(event))

    def _answer(self, update: CommandUpdate) -> None:
        self._journal.put(Answer(update))

    def _refuse(self, what: str) -> None:
        if os.getpid() == self._pid:
            self._notices.warn("late", f"{what} was called after run {self.id} had ended; that is not recorded")

    def _end_state(self, state: Any) -> EndState:
        if state is None:
            return "stopped" if self._inbox.stopped else "finished"
        if isinstance(state, str) and state in get_args(EndState):
            return cast(EndState, state)
        self._notices.warn("state", f"finish(state={clean_text(state)!r}): it is finished, failed or stopped")
        return "finished"

    def _end(self, state: EndState, reason: str | None, timeout: float) -> bool:
        text = None if reason is None else clean_text(reason)
        finish = RunFinish(state, self.attempt, self.writer, time.time(), text)

        def seal() -> None:
            self._inbox.close(self.step)
            self._journal.put(End(finish))
            self._journal.close()

        if self._shipper is None:
            seal()
            return True
        return self._shipper.close(seal, timeout)

    def _say_where(self, complete: bool) -> None:
        if self.directory is None:
            return
        if self.url is None:
            self._notices.say(f"recorded in {self.directory}; ship it with: holter sync {self.directory}")
        elif complete:
            self._notices.say(f"run {self.id} is complete at {self.url}")
        elif self._shipper is not None and self._shipper.goes_on:
            self._notices.warn(
                "leftover",
                f"not everything is shipped yet; that goes on in the background, and what is left then is in "
                f"{self.directory}: holter sync {self.directory}",
            )
        else:
            self._notices.warn(
                "leftover", f"not everything is shipped; the rest is in {self.directory}: holter sync {self.directory}"
            )


def _stand_in(id: str, project: str) -> Run:
    from holter.memory import MemoryJournal  # noqa: PLC0415 - for children only

    run = Run(id=id, project=project, journal=MemoryJournal(), notices=Notices())
    run.abandon()
    run._pid = 0  # so that nobody is told that the run has ended
    return run


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text if len(text) < 8_000 else f"{text[:3_000]}\n…\n{text[-5_000:]}"
