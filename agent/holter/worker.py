"""What runs beside the training, in a process of its own or, where there can't be one, in threads of the training's.

The worker follows the journal with the rules, samples the machine, notices that steps have stopped or that the training
has died, and has a `Carrier` bring it all to the service.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holter import signals
from holter.carrier import Carrier
from holter.ending import Process
from holter.errors import SpoolError
from holter.frames import Batch, Batcher, Limits
from holter.guard import Guard, acts_on_non_finite, parse_rules, receipt_of
from holter.health import Facts
from holter.health.model import Severity, Transition
from holter.journal import MappedJournal
from holter.link import Control, Done, Finish, Heard, Hello, News, Said, Tell
from holter.notices import Notices
from holter.records import START, End, Happened
from holter.spool import Reader, Spool
from holter.system import SystemSampler
from holter.wire import Event, RunFinish

__all__ = ["Worker"]

TICK = 0.1  # seconds between two looks at the journal
CLOCK_TICK = 1.0  # seconds between two looks of the rules at the clock
NOTICED_WITHIN = 1.0  # seconds after its death at most, on a busy machine
STACKS_WAIT = 0.5  # seconds that the trainer's handler gets
TEXT_MAX = 60_000  # characters of stacks in an event


class Worker:
    """Works until the training has ended and all is shipped, or the time for that is over."""

    def __init__(self, hello: Hello, control: Control, tell: Tell, *, trainer: Process | None) -> None:
        """``trainer`` is None where this is the training's own process.

        Raises:
            OSError, SpoolError: the spools can't be opened.
        """
        self._settings, self._control, self._tell, self._trainer = hello.settings, control, tell, trainer
        self._hello = hello
        self._spool = Spool.open(Path(hello.spool))
        self._system_spool = Spool.open(Path(hello.system_spool))
        self._notices = _Relay(tell)
        self._system = _open_journal(self._system_spool, self._notices, hello.settings.disk_max)
        self._rules_file = hello.settings.directory / "rules" / f"{_file_name(self._spool.start.project)}.yaml"
        self._reader = Reader(self._spool.path)
        self._batcher, self._position = Batcher(), START
        start = self._spool.start
        facts = Facts(start.planned_steps, dict(start.config), tuple(start.tags))
        self._run_id = str(start.id)
        self._rules_text = self._known_rules()
        rules = parse_rules(self._rules_text)
        self._guard = Guard(rules, facts, start.writer.name, start.started_at or time.time())
        tell(News(self._rules_text, acts_on_non_finite(rules)))
        self._carrier = Carrier(
            [self._system_spool, self._spool],
            hello.settings,
            self._notices,
            on_receipt=lambda receipt: tell(Heard(receipt)),
        )
        self._next_sample = self._next_clock = 0.0
        self._ended = False  # the journal's end was read

    def run(self) -> None:
        """Follow the training to its end, then ship for as long as the settings allow."""
        self._carrier.start()
        sampler = SystemSampler(self._hello.pid, whole_host=self._hello.whole_host)
        finish = self._follow(sampler)
        self._look()
        self._system.put(End(None))
        self._system.close()
        self._reader.close()
        complete = self._carrier.drain(0.0 if finish is None else finish.timeout)
        self._tell(Done(complete))
        if self._trainer is not None and not complete:
            self._carrier.drain(self._settings.linger, alone=True)
        self._carrier.close()

    def _follow(self, sampler: SystemSampler) -> Finish | None:
        while True:
            finish = self._control.wait(TICK)
            if finish is not None:
                return finish
            if self._trainer is not None and not self._trainer.alive():
                died_at = time.time()
                self._look()
                if not self._ended:
                    self._note_death(self._trainer, died_at)
                return None
            self._look()
            self._sample(sampler)
            self._look_at_clock()

    def abandon(self) -> None:
        """In a forked child of the training: files and locks are the parent's."""
        self._system.abandon()
        self._carrier.abandon()

    # --- the rules

    def _look(self) -> None:
        """Judge what was logged since the last look."""
        while batch := self._new_records():
            if batch.ended:
                self._ended = True
                return
            self._say(self._guard.observe(batch, time.time()))

    def _new_records(self) -> Batch | None:
        if self._ended:
            return None
        with contextlib.suppress(OSError, SpoolError):
            batch = self._batcher.batch(self._reader.read(self._position), self._position, Limits())
            if batch.end > self._position:
                self._position = batch.end
                return batch
        return None

    def _say(self, changes: list[Transition]) -> None:
        receipt = receipt_of(self._run_id, (change for change in changes if change.action != "update"))
        if receipt is not None:
            self._tell(Heard(receipt))
            self._carrier.wake()

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if now < self._next_clock:
            return
        self._next_clock = now + CLOCK_TICK
        changes = self._guard.tick(time.time())
        self._say(changes)
        for change in changes:
            if change.kind == "hung" and change.action == "open":
                self._keep_stacks(change)
        self._heed_rules()

    def _heed_rules(self) -> None:
        """The project's rules, as the service has them by now; kept for a start without it."""
        known, text = self._carrier.rules
        if not known or text == self._rules_text:
            return
        self._rules_text = text
        rules = parse_rules(text)
        self._guard.follow(rules)
        self._tell(News(text, acts_on_non_finite(rules)))
        with contextlib.suppress(OSError):
            self._rules_file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._rules_file.with_suffix(f".{os.getpid()}.part")
            partial.write_text(text or "", encoding="utf-8")
            partial.replace(self._rules_file)

    def _known_rules(self) -> str | None:
        if self._settings.rules is not None:
            return self._settings.rules
        try:
            return self._rules_file.read_text(encoding="utf-8") or None
        except (OSError, UnicodeDecodeError):
            return None

    # --- the machine

    def _sample(self, sampler: SystemSampler) -> None:
        now = time.monotonic()
        if self._guard.step is None or now < self._next_sample:
            return
        self._next_sample = now + self._settings.system_interval
        values = sampler.sample()
        if values:
            self._system.points(tuple(values), self._guard.step, time.time(), list(values.values()))

    # --- how it goes wrong

    def _keep_stacks(self, change: Transition) -> None:
        stacks = _own_stacks() if self._trainer is None else self._ask_for_stacks()
        if not stacks:
            return
        data = {
            "version": 1,
            "pid": self._hello.pid,
            "step": change.step,
            "stacks": stacks[:TEXT_MAX],
            "trigger": {"kind": "hung", "incident": f"{self._run_id}-{change.incident}"},
        }
        text = f"{change.message}. The stacks of all its Python threads were kept"
        self._system.put(Happened(Event(time.time(), text, "stacks", change.step, "warning", data)))
        self._carrier.wake()

    def _ask_for_stacks(self) -> str:
        number = self._hello.stacks_signal
        if number is None:
            return ""
        folder = self._spool.path
        before = signals.size(folder, signals.STACKS)
        try:
            os.kill(self._hello.pid, number)
        except OSError:
            return ""
        deadline = time.monotonic() + STACKS_WAIT
        size = before
        while time.monotonic() < deadline:
            time.sleep(0.05)
            last, size = size, signals.size(folder, signals.STACKS)
            if size == last > before:
                break
        return signals.read(folder, signals.STACKS, before)

    def _note_death(self, trainer: Process, died_at: float) -> None:
        """The training is dead and did not say so: say it for it, at the end of its own journal."""
        ending = trainer.ending()
        # Noticed a moment after it happened. Of several ranks the first to die is the cause; others fail at once.
        died_at = max(died_at - NOTICED_WITHIN, min(died_at, self._guard.time or died_at))
        start = self._spool.start
        data: dict[str, Any] = {"signal": ending.signal, "exit_code": ending.exit_code, "oom": ending.out_of_memory}
        if ending.stacks:
            data["stacks"] = ending.stacks[:TEXT_MAX]
        severity: Severity = "critical" if ending.state == "failed" else "info"
        event = Event(died_at, ending.text, "exit", self._guard.step, severity, data)
        finish = RunFinish(ending.state, start.attempt, start.writer.name, died_at, ending.text)
        try:
            journal = MappedJournal(self._spool.journal, self._notices, resume_at=self._position)
        except OSError as error:
            self._notices.warn("death", f"the training has died ({ending.text}), which can't be written down: {error}")
            return
        journal.put(Happened(event))
        journal.put(End(finish))
        journal.close()


class _Relay(Notices):
    """Has the training say it, whose standard error is the one that people look at."""

    def __init__(self, tell: Callable[[Said], None]) -> None:
        super().__init__()
        self._relay = tell

    def say(self, message: str) -> None:
        self._relay(Said(message))

    def warn(self, kind: str, message: str, *, again_after: float = float("inf")) -> bool:
        self._relay(Said(message, kind, None if again_after == float("inf") else again_after))
        return True


def _open_journal(spool: Spool, notices: Notices, disk_max: int) -> MappedJournal:
    """The system metrics' journal: a new one, or, after the death of an earlier shipper, on from where it stopped."""
    tail = spool.tail()
    return MappedJournal(spool.journal, notices, disk_max=disk_max, resume_at=tail)


def _own_stacks() -> str:
    frames = sys._current_frames()
    return "\n".join(f"Thread {ident}\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames.items())


def _file_name(project: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in project)[:100]


def ignore_signals() -> None:
    """A terminal's Ctrl-C is for the training; the shipper ends when the training has."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
