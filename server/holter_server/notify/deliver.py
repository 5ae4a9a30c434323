"""The delivery loop: claims what the ingest put into the outbox, sends it signed, writes down what became of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from standardwebhooks import Webhook

from holter_db import outbox
from holter_db.errors import NotFound
from holter_db.outbox import Claimed
from holter_server.errors import ApiError
from holter_server.notify.backoff import Verdict, judge
from holter_server.notify.guarded_http import Answer, PostError, post
from holter_server.settings import Settings
from holter_server.writing import Transaction, WriterThread

__all__ = ["Deliverer", "headers_of"]

log = logging.getLogger("holter.server")

SENDERS = 8  # a slow receiver holds one of them, not the others
POLL_S = 1.0
LEASE_MARGIN_S = 20.0


def headers_of(delivery_id: str, secret: str, body: bytes, now: float) -> dict[str, str]:
    """The Standard Webhooks headers of one attempt at ``now`` (seconds, UTC)."""
    moment = datetime.fromtimestamp(int(now), tz=UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": "holter",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": Webhook(secret).sign(delivery_id, moment, body.decode()),
    }


class Deliverer:
    """Sends until stopped. A delivery that was claimed and not judged is free again when its lease ends."""

    def __init__(self, writer: WriterThread, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._writer = writer
        self._settings = settings
        self._clock = clock
        self._wake = threading.Event()
        self._ended = False
        self._free = threading.Semaphore(SENDERS)
        self._failing = False
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], deque[Claimed]] = {}
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="holter-sender")
        self._thread = threading.Thread(target=self._run, name="holter-deliverer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more, wait for what is being sent, and give back what still stands in line."""
        self._ended = True
        self._wake.set()
        self._thread.join()
        self._pool.shutdown(wait=True)

    def wake(self) -> None:
        """New rows were committed."""
        self._wake.set()

    def _run(self) -> None:
        while not self._ended:
            try:
                more = self._round()
                self._failing = False
            except Exception as error:  # the loop has to outlive a database that is away for a while
                if not self._failing:  # said once per outage
                    log.exception("Deliveries could not be claimed: %s", error)
                self._failing = True
                more = False
            if not more:
                self._wake.wait(POLL_S)
            self._wake.clear()

    def _round(self) -> bool:
        """Claim and send as many as there are free senders; True if there may be more."""
        free = 0
        while free < SENDERS and self._free.acquire(blocking=False):
            free += 1
        claimed: list[Claimed] = []
        try:
            if free:
                lease_s = self._settings.webhook_timeout_s * SENDERS + LEASE_MARGIN_S  # one may wait behind seven
                claimed = self._writer.call(lambda tx: outbox.claim(tx.conn, tx.now, free, lease_s))
            for item in claimed:
                self._line_up(item)
        finally:
            for _ in range(free - len(claimed)):
                self._free.release()
        return bool(claimed) and len(claimed) == free

    def _line_up(self, item: Claimed) -> None:
        """The messages of one run to one receiver are sent in turn: firing comes before its resolved."""
        key = (item.url, item.run_id)
        with self._lock:
            line = self._lines.get(key)
            if line is not None:
                line.append(item)
                return
            self._lines[key] = deque([item])
        self._pool.submit(self._send_line, key)

    def _send_line(self, key: tuple[str, str]) -> None:
        while True:
            with self._lock:
                line = self._lines[key]
                if not line:
                    del self._lines[key]
                    return
                item = line.popleft()
            self._send(item)

    def _send(self, item: Claimed) -> None:
        try:
            verdict, status = self._attempt(item)
            self._writer.call(lambda tx: _write_down(tx, item, verdict, status))
        except NotFound:  # its run was purged meanwhile, and it with it
            log.info("Delivery %s is not there any more", item.delivery_id)
        except ApiError as error:  # shutting down, or overloaded: the lease ends, and it is sent again
            log.info("Delivery %s is left to its lease: %s", item.delivery_id, error.message)
        except Exception:  # a sender thread has nobody to raise to
            log.exception("Delivery %s failed on our side", item.delivery_id)
        finally:
            self._free.release()
            self._wake.set()

    def _attempt(self, item: Claimed) -> tuple[Verdict, int | None]:
        if self._ended:  # given back, so that the next start need not wait for the lease to end
            return Verdict(False, "the service was stopped before this was sent", self._clock()), None
        answer: Answer | None = None
        error = ""
        permanent = False
        try:
            answer = post(
                item.url,
                item.body,
                headers_of(item.delivery_id, item.secret, item.body, self._clock()),
                timeout_s=self._settings.webhook_timeout_s,
                allow_private=self._settings.allow_private_webhooks,
            )
        except PostError as failure:
            error, permanent = str(failure), failure.permanent
        status = answer.status if answer else None
        verdict = judge(
            status=status,
            error=error,
            permanent=permanent,
            headers=answer.headers if answer else {},
            attempts=item.attempts,
            attempts_max=self._settings.webhook_attempts,
            backoff_s=self._settings.webhook_backoff_s,
            now=self._clock(),
            die=random.random(),
        )
        return verdict, status


def _write_down(tx: Transaction, item: Claimed, verdict: Verdict, status: int | None) -> None:
    if verdict.delivered:
        outbox.delivered(tx.conn, item.delivery_id, status or 0, tx.now)
    elif verdict.retry_at is not None:
        outbox.retry(tx.conn, item.delivery_id, verdict.reason, status, verdict.retry_at, tx.now)
    else:
        log.warning("Delivery %s is given up: %s", item.delivery_id, verdict.reason)
        outbox.give_up(tx.conn, item.delivery_id, verdict.reason, status, tx.now)
