"""The shipping thread: brings the journal to the service while the training runs, and hears what it answers.

It never hurts its host: nothing it does is waited for by the training thread, one failure is said once, its pauses
grow, and at the end it keeps to a deadline.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable

from holter.courier import Courier
from holter.errors import SpoolError
from holter.journal import End, SpoolJournal
from holter.notices import Notices
from holter.settings import Settings
from holter.spool import Spool
from holter.system import SystemSampler
from holter.transport import Backoff, Outcome, Transport, Verdict
from holter.wire import Receipt

__all__ = ["Shipper"]

SLOW_RETRY = 30.0  # seconds between tries that need somebody to put something right first
SLICE = 2.0  # seconds of shipping before the system is looked at again


class Shipper:
    """One thread for one run: its own spool, and one for system metrics. Offline it only samples."""

    def __init__(
        self,
        spool: Spool,
        system_spool: Spool,
        settings: Settings,
        notices: Notices,
        *,
        on_receipt: Callable[[Receipt], None],
        latest_step: Callable[[], int | None],
    ) -> None:
        """Raises OSError if the system journal can't be made."""
        _import_now()
        self._settings, self._notices = settings, notices
        self._latest_step = latest_step
        self._transport = Transport(
            settings.url, settings.token, connect=settings.connect_timeout, read=settings.read_timeout
        )
        self._system = SpoolJournal(system_spool.journal, notices, background=False)
        couriers = [Courier(each, self._transport, notices, on_receipt) for each in (system_spool, spool)]
        self._couriers = couriers if settings.mode == "online" else []
        self._where = spool.path.parent
        self._backoff = Backoff()
        self._failures = 0
        self._not_before = self._next_sample = 0.0
        self._last_contact = float("-inf")
        self._deadline = float("inf")
        self._closing, self._sealed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="holter-shipper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seal: Callable[[], None], timeout: float) -> bool:
        """Stop sampling, ``seal`` the journal, ship what is left. True if all of it is acknowledged in time."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        seal()
        self._sealed.set()
        self._thread.join(timeout + 0.5)
        return bool(self._couriers) and not self._thread.is_alive() and all(each.ended for each in self._couriers)

    def abandon(self) -> None:
        """In a forked child: thread, files and locks are the parent's."""
        self._system.abandon()
        for courier in self._couriers:
            courier.forget_lock()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not pass for silence, nor end the training
            self._notices.warn(
                "shipper", f"shipping has stopped: {error!r}. Recording goes on in {self._where}; use holter sync"
            )
        finally:
            for courier in self._couriers:
                courier.close()
            self._transport.close()

    def _work(self) -> None:
        sampler = SystemSampler()
        while not self._closing.wait(self._settings.ship_interval):
            self._sample(sampler)
            self._ship()
        self._system.put(End(None))
        self._system.close()
        self._sealed.wait(self._remaining())
        self._drain()

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _sample(self, sampler: SystemSampler) -> None:
        step = self._latest_step()
        if step is None or time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + self._settings.system_interval
        values = sampler.sample()
        if values:
            self._system.points(tuple(values), step, time.time(), list(values.values()))
            self._system.flush()

    def _ship(self) -> None:
        until = time.monotonic() + SLICE
        if time.monotonic() < self._not_before:
            return
        for courier in self._couriers:
            while time.monotonic() < until and not self._closing.is_set():
                outcome = self._step(courier, to_the_end=False)
                if outcome is None:
                    break
                if not self._note(outcome):
                    return
        if self._couriers and time.monotonic() - self._last_contact >= self._settings.heartbeat:
            self._beat(self._couriers[-1])

    def _beat(self, courier: Courier) -> None:
        if self._closing.is_set() or not courier.open():
            return
        outcome = self._guarded(lambda: courier.heartbeat(self._settings.promise))
        if outcome is not None:
            self._note(outcome)

    def _step(self, courier: Courier, *, to_the_end: bool, read: float | None = None) -> Outcome | None:
        def step() -> Outcome | None:
            if not courier.open():
                return None  # a `holter sync` is shipping this spool just now
            return courier.step(promise=self._settings.promise, read=read, to_the_end=to_the_end)

        return self._guarded(step)

    def _guarded(self, step: Callable[[], Outcome | None]) -> Outcome | None:
        """The disk's failures as an outcome like the network's: said once, tried again."""
        try:
            return step()
        except (OSError, SpoolError) as error:
            return Outcome(Verdict.LATER, message=f"the recording can't be read or written: {error}")

    def _drain(self) -> None:
        """Ship to the end of both journals, system metrics first, by the deadline."""
        self._backoff.reset()
        for courier in self._couriers:
            while not courier.ended:
                outcome = self._step(courier, to_the_end=True, read=min(self._settings.read_timeout, self._remaining()))
                if outcome is None:
                    break
                if not self._note(outcome):
                    pause = self._backoff.pause(outcome.retry_after)
                    if outcome.verdict is not Verdict.LATER or pause >= self._remaining():
                        return
                    time.sleep(pause)
                if self._remaining() <= 0:
                    return

    def _note(self, outcome: Outcome) -> bool:
        """Keep the pauses and say what is wrong. True if shipping may go on at once."""
        now = time.monotonic()
        if outcome.done:
            if self._failures >= 2:
                self._notices.say(f"the service at {self._settings.url} answers again; shipping goes on")
            self._failures = 0
            self._backoff.reset()
            self._last_contact = now
            return True
        self._failures += 1
        pause = self._backoff.pause(outcome.retry_after)
        self._not_before = now + (pause if outcome.verdict is Verdict.LATER else max(pause, SLOW_RETRY))
        if outcome.verdict is not Verdict.LATER or self._failures >= 2:
            self._complain(outcome)
        return False

    def _complain(self, outcome: Outcome) -> None:
        kept = f"Training goes on; everything is kept in {self._where}"
        match outcome.verdict:
            case Verdict.DENIED:
                text = (
                    f"wants a token that it knows: {outcome.message}. Set HOLTER_TOKEN (`holter token create` makes "
                    f"one). {kept}; ship it with: holter sync {self._where}"
                )
            case Verdict.LATER:
                text = f"can't take data now: {outcome.message}. {kept} and shipped once it can. Start it: holter serve"
            case _:
                text = (
                    f"does not take this run: {outcome.message}. {outcome.hint} Is it a Holter service, and the right "
                    f"one (HOLTER_URL)? {kept}; ship it with: holter sync {self._where}"
                )
        self._notices.warn(outcome.verdict.value, f"the service at {self._settings.url} {text}", again_after=600)


def _import_now() -> None:
    """Import what the thread will need, here: a fork while a thread imports leaves the child a lock nobody holds.

    A DataLoader's worker that imports the same module would then wait for ever.
    """
    for module in ("urllib3", "psutil", "pynvml", "encodings.idna", "gzip"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
