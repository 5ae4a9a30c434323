"""The delivery loop: claims what the ingest put into the outbox, sends it signed, writes down what became of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from standardwebhooks import Webhook

from holter_db import outbox, webhooks
from holter_db.errors import NotFound
from holter_db.outbox import Claimed
from holter_server.errors import ApiError, Overloaded
from holter_server.notify import chat
from holter_server.notify.addresses import is_chat, without_secrets
from holter_server.notify.backoff import Verdict, breaker_pause, judge
from holter_server.notify.guarded_http import PostError, post
from holter_server.notify.message import message_of
from holter_server.settings import Settings
from holter_server.writing import Transaction, WriterThread

__all__ = ["Deliverer", "headers_of"]

log = logging.getLogger("holter.server")

SENDERS = 32
PER_RECEIVER = 16  # at once: a slow receiver holds these, and never all senders
POLL_S = 1.0
LEASE_MARGIN_S = 10.0


Picture = Callable[[Mapping[str, Any]], bytes | None]  # of a delivery's body, as PNG


@dataclass(frozen=True, slots=True)
class Said:
    """What a receiver said to an attempt, or why it said nothing."""

    status: int | None
    error: str = ""
    permanent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt."""

    verdict: Verdict
    status: int | None = None
    duration_s: float | None = None


def no_picture(_body: Mapping[str, Any]) -> None:
    """For a service that draws none."""


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

    def __init__(
        self,
        writer: WriterThread,
        settings: Settings,
        picture: Picture = no_picture,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._picture = picture
        self._in_flight: Counter[str] = Counter()  # of each receiver
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
                lease_s = (
                    self._settings.webhook_timeout_s * PER_RECEIVER + LEASE_MARGIN_S
                )  # one may wait behind the rest
                give_up_s = self._settings.webhook_give_up_s
                with self._lock:
                    busy = {id: count for id, count in self._in_flight.items() if count > 0}
                claimed = self._writer.call(
                    lambda tx: outbox.claim(tx.conn, tx.now, free, lease_s, give_up_s, (PER_RECEIVER, busy))
                )
            for item in claimed:
                with self._lock:
                    self._in_flight[item.webhook] += 1
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
            outcome = self._attempt(item)
            self._write_down(item, outcome)
        except ApiError as error:  # shutting down, or overloaded: the lease ends, and it is sent again
            log.info("Delivery %s is left to its lease: %s", item.delivery_id, error.message)
        except Exception:  # a sender thread has nobody to raise to
            log.exception("Delivery %s failed on our side", item.delivery_id)
        finally:
            with self._lock:
                self._in_flight[item.webhook] -= 1
            self._free.release()
            self._wake.set()

    def _write_down(self, item: Claimed, outcome: Outcome) -> None:
        """Have what became of it kept. The sender does not wait for the commit: many of them share one.

        A receiver that has it should not get it again because our queue is full for a moment.
        """
        backoff_s = self._settings.webhook_backoff_s
        for pause in (0.1, 0.5, 2.0, None):
            try:
                kept = self._writer.submit(lambda tx: write_down(tx, item, outcome, backoff_s))
            except Overloaded:
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                kept.add_done_callback(lambda done: self._written(item, done))
                return

    def _written(self, item: Claimed, kept: Future[None]) -> None:
        error = kept.exception()
        if isinstance(error, NotFound):  # its run was purged meanwhile, and it with it
            log.info("Delivery %s is not there any more", item.delivery_id)
        elif error is not None:
            log.warning("What became of delivery %s could not be kept: %s", item.delivery_id, error)
        self._wake.set()  # a breaker may have closed, and a retry may be due soon

    def _attempt(self, item: Claimed) -> Outcome:
        if self._ended:  # given back, so that the next start need not wait for the lease to end
            return Outcome(Verdict(False, "the service was stopped before this was sent", self._clock()))
        began = time.monotonic()
        said = chat_attempt(item, self._settings, self._picture) if is_chat(item.url) else self._post(item)
        verdict = judge(
            status=said.status,
            error=without_secrets(said.error, item.url),
            permanent=said.permanent,
            headers=said.headers,
            attempts=item.attempts,
            give_up_at=item.give_up_at,
            backoff_s=self._settings.webhook_backoff_s,
            now=self._clock(),
            die=random.random(),
        )
        return Outcome(verdict, said.status, time.monotonic() - began)

    def _post(self, item: Claimed) -> Said:
        try:
            answer = post(
                item.url,
                item.body,
                headers_of(item.delivery_id, item.secret, item.body, self._clock()),
                timeout_s=self._settings.webhook_timeout_s,
                allow_private=self._settings.allow_private_webhooks,
            )
        except PostError as failure:
            return Said(None, str(failure), failure.permanent)
        return Said(answer.status, headers=answer.headers)


def chat_attempt(item: Claimed, settings: Settings, picture: Picture) -> Said:
    """Send a delivery as a text for people."""
    body = msgspec.json.decode(item.body)
    try:
        drawn = picture(body) if chat.takes_pictures(item.url) else None
    except Exception as error:  # noqa: BLE001 - the words matter more than the picture
        log.warning("The picture of delivery %s could not be drawn: %s", item.delivery_id, error)
        drawn = None
    sent = chat.send(
        item.url,
        message_of(body),
        drawn,
        timeout_s=settings.webhook_timeout_s,
        allow_private=settings.allow_private_webhooks,
    )
    return Said(200 if sent.delivered else sent.status, sent.error, sent.permanent)


def write_down(tx: Transaction, item: Claimed, outcome: Outcome, backoff_s: float) -> None:
    """What became of an attempt: the delivery's next state, and what it says of the receiver."""
    verdict, status, took = outcome.verdict, outcome.status, outcome.duration_s
    if verdict.delivered:
        outbox.delivered(tx.conn, item.delivery_id, status or 0, tx.now, duration_s=took)
        webhooks.worked(tx.conn, item.webhook, tx.now)
        return
    if verdict.retry_at is not None:
        outbox.retry(tx.conn, item.delivery_id, verdict.reason, status, verdict.retry_at, tx.now, duration_s=took)
    else:
        log.warning("Delivery %s is given up: %s", item.delivery_id, verdict.reason)
        outbox.give_up(tx.conn, item.delivery_id, verdict.reason, status, tx.now, duration_s=took)
    if verdict.unwell:
        pause = breaker_pause(item.failures + 1, webhooks.BREAKER_FAILURES, backoff_s, random.random())
        webhooks.failed(tx.conn, item.webhook, verdict.reason, verdict.asked_until, tx.now + pause)
    elif took is not None:  # it is well, and does not want this message
        webhooks.worked(tx.conn, item.webhook, tx.now)
