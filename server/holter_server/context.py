"""What one running service consists of, made once and handed to the routes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from holter.health import RuleSet
from holter_db import tokens, webhooks
from holter_db.database import Connection, Database
from holter_db.runs import resolve_run
from holter_server.announcing import Announcer
from holter_server.auth import Access
from holter_server.body import Room
from holter_server.caretaker import Caretaker
from holter_server.compactor import Compactor
from holter_server.engines import Engines
from holter_server.ingest import Pipeline
from holter_server.live import Hub
from holter_server.notify.addresses import shown
from holter_server.notify.deliver import Deliverer
from holter_server.notify.incident_picture import IncidentPicture
from holter_server.peer_feed import PeerFeed
from holter_server.settings import Settings
from holter_server.upkeep import Upkeep
from holter_server.watchdog import Watchdog
from holter_server.writing import Transaction, WriterThread

__all__ = ["Context", "Here"]

log = logging.getLogger("holter.server")
T = TypeVar("T")


class Context:
    """The parts of the service and their order of starting and stopping."""

    def __init__(self, settings: Settings, database: Database, address: str = "") -> None:
        self.settings = settings
        self.database = database
        self.started_at = time.time()
        self.address = settings.public_url.rstrip("/") or address
        self.frames = 0  # committed by this process
        self.points = 0
        self.room = Room(settings.queue_mb * 1_000_000)
        self.hub = Hub()
        self.engines = Engines()
        self.pipeline = Pipeline(
            self.engines, self.page_url, lambda: self.hub.connections > 0, dry_run=settings.dry_run
        )
        shared = database.dialect == "postgresql"  # SQLite has one server
        announcer = Announcer()
        self.writer = WriterThread(
            database,
            self._publish,
            self.pipeline.take_frames,
            announce=announcer.announce if shared else None,
            limit=settings.queue_limit,
            limit_bytes=settings.queue_mb * 1_000_000,
        )
        self.deliverer = Deliverer(self.writer, settings, IncidentPicture(database))
        self.caretaker = Caretaker(database, self.writer, self.pipeline.follow)
        self.peers = PeerFeed(database, self.hub, announcer.server, self.deliverer.wake) if shared else None
        self.watchdog = Watchdog(database, self.writer, self.pipeline, settings.watchdog_interval_s)
        self.compactor = Compactor(database, self.writer, settings.compact_interval_s)
        self.upkeep = Upkeep(database, self.writer, settings)
        self.access = Access(settings, self._verify)

    def start(self) -> None:
        RuleSet.default()  # a broken package has to fail here, not at the first frame
        self.writer.start()
        self.writer.call(_show_addresses)
        self.deliverer.start()
        self.caretaker.start()
        self.watchdog.start()
        self.compactor.start()
        self.upkeep.start()
        if self.peers is not None:
            self.peers.start()

    def stop(self) -> None:
        """Stop what makes work first and the writer last, so that everything accepted is committed."""
        if self.peers is not None:
            self.peers.stop()
        self.upkeep.stop()
        self.compactor.stop()
        self.caretaker.stop()
        self.watchdog.stop()
        self.deliverer.stop()
        try:
            self.writer.call(self.pipeline.settle_all)
        except Exception as error:  # noqa: BLE001 - what is not saved is observed again at the next start
            log.warning("The rules' memory could not be saved: %s", error)
        self.writer.stop()

    def page_url(self, run_id: str) -> str:
        return f"{self.address}/runs/{run_id}"

    def read(self, question: Callable[[Connection], T]) -> T:
        """Ask the database in a transaction that sees one moment."""
        with self.database.read() as conn:
            return question(conn)

    def run_id(self, conn: Connection, text: str) -> str:
        """The id of the run that ``text`` means: an id, or a prefix that only one id has."""
        return resolve_run(conn, text)

    def _verify(self, secret: str) -> str | None:
        return self.read(lambda conn: tokens.verify(conn, secret))

    def _publish(self, transactions: Sequence[Transaction]) -> None:
        self.frames += sum(transaction.frames for transaction in transactions)
        self.points += sum(transaction.points for transaction in transactions)
        if any(transaction.messages for transaction in transactions):
            self.deliverer.wake()
        self.hub.publish([notice for transaction in transactions for notice in transaction.notices])


def _show_addresses(tx: Transaction) -> None:
    """Say what may be shown of addresses that came from an older version."""
    hooks = [hook for hook in webhooks.list_webhooks(tx.conn) if not hook.shown]
    webhooks.show_addresses(tx.conn, {hook.id: shown(hook.url) for hook in hooks})


def _context(connection: HTTPConnection) -> Context:
    context = connection.app.state.context
    assert isinstance(context, Context)
    return context


Here = Annotated[Context, Depends(_context)]
