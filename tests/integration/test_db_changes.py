"""What one server tells of its commits by NOTIFY, and what another can read of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

from holter.wire import Block, Event, Frame, RunStart
from holter_db import fold
from holter_db.changes import segments_between
from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_db.events import events_between
from holter_db.ingest import append
from holter_db.notifications import Announcement, ChangedRun, Listener, announce
from holter_db.runs import start_run

on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@pytest.fixture
def listener(database: Database) -> Iterator[Listener]:
    listening = database.listen()
    yield listening
    listening.close()


def numbers(listener: Listener) -> list[int]:
    return [announcement.number for announcement in listener.wait(30.0)]


@on_postgresql
def test_what_is_committed_is_heard_and_nothing_else(database: Database, listener: Listener) -> None:
    """Exactly as it was told; a transaction that is rolled back is silent."""
    told = Announcement("a", 1, (ChangedRun("r", 1, 2, 16, commands=((1, "c"),)),), messages=True)
    with database.write() as conn:
        assert announce(conn, told)
    assert listener.wait(30.0) == [told]
    with pytest.raises(ZeroDivisionError), database.write() as conn:
        _announce_and_fail(conn)
    with database.write() as conn:
        announce(conn, Announcement("a", 3))
        announce(conn, Announcement("a", 4))
    assert numbers(listener) == [3, 4]
    assert listener.wait(0.0) == []


def _announce_and_fail(conn: sa.Connection) -> None:
    announce(conn, Announcement("a", 2))
    raise ZeroDivisionError


@on_postgresql
def test_a_wait_can_be_ended_from_another_thread(listener: Listener) -> None:
    """However long it would have been."""
    threading.Timer(0.05, listener.interrupt).start()
    assert listener.wait(None) == []
    assert listener.wait(None) == []


@on_postgresql
def test_a_connection_that_is_lost_is_an_error(database_url: str, listener: Listener) -> None:
    """While waiting as well as when it is made."""
    with psycopg.connect(database_url) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'holter live feed' AND datname = current_database()"
        )
    with pytest.raises(DatabaseError, match="live feed has no connection"):
        listener.wait(30.0)


def test_segments_are_found_by_their_positions(database: Database) -> None:
    """With their writers and their events; once one of them is gone there is no answer."""
    with database.write() as conn:
        run = start_run(conn, RunStart(project="p"), 1.0).id
        for number in range(4):
            block = Block.of(["loss"], [number], [1.7e9], [[np.nan if number == 2 else float(number)]])
            said = [Event(1.7e9, f"event {number}"), Event(1.7e9, "again")] if number else []
            append(conn, run, Frame(1, "", f"rank{number % 2}", 0, [block], said), 2.0)
    with database.read() as conn:
        found = segments_between(conn, run, 2, 3)
        assert found is not None
        assert [(segment.position, segment.writer, segment.attempt) for segment in found] == [
            (2, "rank1", 1),
            (3, "rank0", 1),
        ]
        assert np.isnan(found[1].blocks[0].value_matrix()[0, 0])
        happened = events_between(conn, run, 2, 3)
        assert [event.text for event in happened] == ["event 1", "again", "event 2", "again"]
        assert [event.writer for event in happened] == ["rank1", "rank1", "rank0", "rank0"]
    with database.write() as conn:  # the compactor folds those of rank0
        for waiting in fold.pending(conn, run, 3)[:1]:
            folded = fold.prepare(conn, waiting, 3)
            assert folded is not None
            assert fold.commit(conn, folded)
    with database.read() as conn:
        assert segments_between(conn, run, 2, 3) is None
        assert segments_between(conn, run, 4, 5) is None
        assert len(segments_between(conn, run, 4, 4) or []) == 1
