"""Group commit: jobs share a commit, fail alone, and are answered only after it."""

from __future__ import annotations

import threading

import pytest

from holter.wire import RunStart
from holter_db import runs
from holter_db.database import Database
from holter_db.errors import DatabaseError, NotFound
from holter_server.errors import ApiError, Overloaded
from holter_server.notices import Notice
from holter_server.writing import Transaction, WriterThread


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path}/holter.db")
    yield opened
    opened.close()


@pytest.fixture
def told() -> list[Notice]:
    return []


@pytest.fixture
def writer(database, told):
    made = WriterThread(database, lambda done: told.extend(notice for tx in done for notice in tx.notices))
    yield made
    made.stop()


def starts(name: str, then=None):
    """A job that starts the run ``name``."""

    def job(tx: Transaction) -> str:
        runs.start_run(tx.conn, RunStart(project="demo", id=name), tx.now)
        tx.tell(Notice("run", name, {}))
        if then is not None:
            then()
        return name

    return job


def fails(error: Exception):
    def then() -> None:
        raise error

    return then


def names(database) -> set[str]:
    with database.read() as conn:
        return {run.id for run in runs.list_runs(conn)[0]}


def test_jobs_that_wait_share_one_commit(writer, database, told):
    """And each gets its own result."""
    futures = [writer.submit(starts(f"run-{i}")) for i in range(20)]
    writer.start()
    assert [future.result(30) for future in futures] == [f"run-{i}" for i in range(20)]
    assert writer.commits == 1
    assert len(names(database)) == 20
    writer.stop()
    assert [notice.run for notice in told] == [f"run-{i}" for i in range(20)]


@pytest.mark.parametrize("error", [NotFound("run", "x"), ApiError(409, "conflict", "no"), ZeroDivisionError("a bug")])
def test_a_job_that_fails_harms_no_other(writer, database, told, error):
    """Neither one that is refused nor one with a bug; nothing of it is kept or told."""
    good = writer.submit(starts("before"))
    bad = writer.submit(starts("bad", fails(error)))
    after = writer.submit(starts("after"))
    writer.start()
    assert (good.result(30), after.result(30)) == ("before", "after")
    with pytest.raises(type(error)):
        bad.result(30)
    assert names(database) == {"before", "after"}
    writer.stop()
    assert {notice.run for notice in told} == {"before", "after"}


def test_what_is_kept_in_memory_is_undone_with_the_rows(writer):
    """By the job's own action."""
    undone: list[str] = []

    def job(tx: Transaction) -> None:
        tx.on_rollback(lambda: undone.append("engine"))
        raise ApiError(422, "no", "no")

    future = writer.submit(job)
    writer.start()
    with pytest.raises(ApiError):
        future.result(30)
    assert undone
    assert set(undone) == {"engine"}


def test_a_broken_commit_is_tried_job_by_job(writer, database, told, monkeypatch):
    """So that one that the database can't take sinks only itself."""
    real = database.write
    tries = 0

    def write():
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseError("The connection is gone", "Try again.")
        return real()

    monkeypatch.setattr(database, "write", write)
    futures = [writer.submit(starts(f"run-{i}")) for i in range(3)]
    writer.start()
    assert [future.result(30) for future in futures] == ["run-0", "run-1", "run-2"]
    assert tries == 4


def test_a_database_that_stays_away_is_told_and_the_thread_lives(writer, database, monkeypatch):
    """Each caller gets the error; the next job after it is back works."""

    def away():
        raise DatabaseError("away", "Try again.")

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        futures = [writer.submit(starts(f"run-{i}")) for i in range(3)]
        writer.start()
        for future in futures:
            with pytest.raises(DatabaseError):
                future.result(30)
    assert writer.call(starts("later")) == "later"
    assert writer.alive


def test_too_much_waiting_is_refused(database):
    """By count and by bytes; what was accepted is still done."""
    writer = WriterThread(database, lambda _: None, limit=2, limit_bytes=1000)
    first = writer.submit(starts("a"), weight=600)
    with pytest.raises(Overloaded) as refused:
        writer.submit(starts("b"), weight=600)
    assert refused.value.headers["Retry-After"]
    writer.submit(starts("c"))
    with pytest.raises(Overloaded):
        writer.submit(starts("d"))
    writer.start()
    assert first.result(30) == "a"
    writer.stop()
    assert names(database) == {"a", "c"}


def test_one_large_body_is_taken_when_nothing_waits(database):
    """Else it could never be sent."""
    writer = WriterThread(database, lambda _: None, limit_bytes=10)
    future = writer.submit(starts("large"), weight=1000)
    writer.start()
    assert future.result(30) == "large"
    writer.stop()


def test_stopping_finishes_what_was_accepted_and_takes_nothing_more(writer, database):
    """The promise that an acceptance is."""
    futures = [writer.submit(starts(f"run-{i}")) for i in range(50)]
    writer.start()
    writer.stop()
    assert all(future.done() for future in futures)
    assert len(names(database)) == 50
    with pytest.raises(ApiError, match="shutting down"):
        writer.submit(starts("late"))


def test_a_listener_that_fails_does_not_end_the_writer(database):
    """The jobs are committed and answered before it is called."""

    def broken(_done) -> None:
        raise RuntimeError("listener")

    writer = WriterThread(database, broken)
    writer.start()
    assert writer.call(starts("a")) == "a"
    assert writer.call(starts("b")) == "b"
    writer.stop()


def test_many_threads_may_submit(writer, database):
    """Every job runs exactly once."""
    writer.start()

    def send(number: int) -> None:
        for i in range(20):
            writer.call(starts(f"run-{number}-{i}"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as conn:
        assert len(runs.list_runs(conn, limit=1000)[0]) == 160
