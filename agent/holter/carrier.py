"""The thread that brings spools to the service, and hears what it answers.

It never hurts its host: one failure is said once, its pauses grow, and at the end it keeps to a deadline.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec

from holter.courier import Courier
from holter.errors import SpoolError
from holter.notices import Notices
from holter.settings import Settings
from holter.spool import Spool
from holter.transport import Backoff, Outcome, Transport, Verdict
from holter.wire import Receipt

__all__ = ["Carrier"]

SLICE = 2.0  # seconds of shipping before anything else gets its turn
RULES_INTERVAL = 60.0  # seconds between two questions for the project's rules


class _Rules(msgspec.Struct):
    project_rules: str | None = None
    agent_rules: str | None = None  # as they hold beside this run


class Carrier:
    """Ships ``spools``, in this order; the last one speaks for the run. Offline it does nothing."""

    def __init__(
        self,
        spools: Sequence[Spool],
        settings: Settings,
        notices: Notices,
        *,
        on_receipt: Callable[[Receipt], None],
    ) -> None:
        _import_now()
        self._settings, self._notices = settings, notices
        self._transport = Transport(
            settings.url, settings.token, connect=settings.connect_timeout, read=settings.read_timeout
        )
        couriers = [Courier(spool, self._transport, notices, on_receipt) for spool in spools]
        self._couriers = couriers if settings.mode == "online" else []
        self._project, self._run_id = spools[-1].start.project, spools[-1].start.id or ""
        self._where = spools[-1].path.parent
        self.rules: tuple[bool, str | None] = (False, None)  # whether the service has said them, and what they are
        self._rules_at = float("-inf")
        self._backoff = Backoff()
        self._failures = 0
        self._not_before = 0.0
        self._last_contact = float("-inf")
        self._deadline = float("inf")
        self._draining, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._alone = self._hopeless = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holter-carrier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something is in the journal that should not wait."""
        self._wake.set()

    def drain(self, timeout: float, *, alone: bool = False) -> bool:
        """The journals are complete: ship what is left for ``timeout`` seconds. True if all of it is acknowledged.

        ``alone``: the training is gone. While the service can't be reached, a `holter sync` may take the spools then.
        """
        self._deadline = time.monotonic() + timeout
        self._alone = alone
        if self._hopeless or not self._thread.is_alive():
            return self.complete
        self._done.clear()
        self._draining.set()
        self._wake.set()
        self._done.wait(timeout)
        return self.complete

    @property
    def complete(self) -> bool:
        return bool(self._couriers) and all(courier.ended for courier in self._couriers)

    def close(self) -> None:
        """Stop at once; what is left stays in the spools."""
        self._closing.set()
        self._wake.set()
        self._thread.join(2.0)

    def abandon(self) -> None:
        """In a forked child: files and locks are the parent's."""
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
            self._done.set()

    def _work(self) -> None:
        while not (self._draining.is_set() or self._closing.is_set()):
            self._wake.wait(self._settings.ship_interval)
            self._wake.clear()
            self._ship()
            self._ask_for_rules()
        self._backoff.reset()
        self._not_before = 0.0
        while self._couriers and not self._closing.is_set() and not self._drain():
            self._wake.clear()
            self._wake.wait(min(1.0, max(0.0, self._not_before - time.monotonic())) or 0.01)

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _ship(self) -> None:
        until = time.monotonic() + SLICE
        if time.monotonic() < self._not_before:
            return
        for courier in self._couriers:
            while time.monotonic() < until and not self._draining.is_set() and not self._closing.is_set():
                outcome = self._step(courier, to_the_end=False)
                if outcome is None:
                    break
                if not self._note(outcome):
                    return
                if not courier.behind:
                    break  # what has come meanwhile fills the next frame
        if self._couriers and time.monotonic() - self._last_contact >= self._settings.heartbeat:
            self._beat(self._couriers[-1])

    def _beat(self, courier: Courier) -> None:
        def beat() -> Outcome | None:
            return courier.heartbeat(self._settings.promise) if courier.open() else None

        if self._draining.is_set() or self._closing.is_set():
            return
        outcome = self._guarded(beat)
        if outcome is not None:
            self._note(outcome)

    def _ask_for_rules(self) -> None:
        """The project's rules; an older service, or none, changes nothing."""
        heard = time.monotonic() - self._last_contact < self._settings.heartbeat
        if self._settings.rules is not None or not heard or time.monotonic() - self._rules_at < RULES_INTERVAL:
            return
        self._rules_at = time.monotonic()
        outcome = self._transport.request(
            "GET", f"/rules?project={quote(self._project, safe='')}&run={quote(self._run_id, safe='')}"
        )
        with contextlib.suppress(msgspec.DecodeError):
            if outcome.done:
                said = msgspec.json.decode(outcome.body, type=_Rules)
                self.rules = (True, said.project_rules if said.agent_rules is None else said.agent_rules or None)

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

    def _drain(self) -> bool:
        """One round to the end of all journals. True once nothing more is to be done: all acknowledged, or refused."""
        if time.monotonic() < self._not_before:
            return False
        for courier in self._couriers:
            while not courier.ended and not self._closing.is_set():
                read = min(self._settings.read_timeout, max(self._remaining(), 0.5))
                outcome = self._step(courier, to_the_end=True, read=read)
                if outcome is None:
                    break
                if not self._note(outcome):
                    self._pause(outcome)
                    return False
        return self.complete

    def _pause(self, outcome: Outcome) -> None:
        """Between two tries at the end, in which somebody else may ship what is left."""
        if outcome.verdict is not Verdict.LATER:
            self._hopeless = True  # it needs a person: nobody has to wait for it
            self._done.set()
        if self._alone:
            for courier in self._couriers:
                courier.close()

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
        self._not_before = now + (pause if outcome.verdict is Verdict.LATER else max(pause, self._settings.slow_retry))
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
            case Verdict.MISSING if outcome.kind == "run_deleted":
                text = (
                    f"takes nothing more for this run: {outcome.message}. {kept} and shipped once somebody has brought "
                    "it back: holter restore RUN"
                )
            case Verdict.MISSING if outcome.kind == "run_purged":
                text = f"takes nothing more for this run: {outcome.message}, and its id stays used. {kept}"
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
