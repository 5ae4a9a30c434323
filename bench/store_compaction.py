"""Having everything that is stored folded into chunks, by the service's own compactor or past a service."""

from __future__ import annotations

import time

from holter_service import Service

from holter_db import compaction
from holter_db.database import Database
from holter_server.compactor import Compactor
from holter_server.writing import WriterThread

__all__ = ["compact", "segments_waiting", "wait_until_compacted"]

LONGEST_S = 900.0
QUIET_S = 2.0  # without a page given back: the compactor has done what it will do


def compact(database: Database) -> None:
    """One round of the service's compactor over a database that no service has open.

    Raises:
        SystemExit: it has left something: what is measured then would not be what is meant.
    """
    writer = WriterThread(database, lambda _: None)
    writer.start()
    try:
        Compactor(database, writer, 1.0).look()
    finally:
        writer.stop()
    with database.read() as conn:
        left, ripe = compaction.unfolded(conn), compaction.ripe(conn, time.time())
    if ripe and left:
        raise SystemExit(f"The compactor has left {left[:3]}.")


def segments_waiting(service: Service) -> float:
    """What the service's compactor found at its last look."""
    return service.gauge("holter_segments_waiting") or 0.0


def wait_until_compacted(service: Service) -> float:
    """Seconds until every run that has ended is in full chunks, and free pages are given back.

    Raises:
        SystemExit: that is still not so after a quarter of an hour.
    """
    began = since = time.monotonic()
    database = Database.open(service.database)
    try:
        last = None
        while time.monotonic() - since < QUIET_S:
            with database.read() as conn:
                left = (len(compaction.unfolded(conn)), len(compaction.ripe(conn, time.time())))
                state = (*left, *compaction.free_pages(conn))
            if state != last or any(left):
                last, since = state, time.monotonic()
            if since - began > LONGEST_S:
                raise SystemExit(f"After {LONGEST_S:.0f} s {left[0]} writers and {left[1]} runs still wait.")
            time.sleep(0.1)
    finally:
        database.close()
    return since - began
