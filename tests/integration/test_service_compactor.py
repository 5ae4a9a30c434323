"""The compactor in a running service: nothing is lost, doubled or changed while segments become chunks."""

from __future__ import annotations

import math
import sqlite3
import threading
import time

import numpy as np
import pytest
import sqlalchemy as sa

from holter.wire import Block, Frame
from holter_db import fold, merge
from holter_db.database import Database
from holter_db.ingest import append
from holter_db.schema import axes, chunks, folds, metric_summaries, segments
from holter_server.compactor import Compactor
from holter_server.service import running
from holter_server.settings import Settings
from holter_server.writing import WriterThread

T0 = 1_700_000_000.0


@pytest.fixture
def settings(database_url: str) -> Settings:
    """A compactor that looks all the time."""
    return Settings(db=database_url, port=0, compact_interval_s=0.05, watchdog_interval_s=0.1)


def shipment(seq: int, rows: int, *metrics: str) -> Frame:
    first = 1 + (seq - 1) * rows
    steps = np.arange(first, first + rows)
    values = np.column_stack([np.sin(steps + column) for column, _ in enumerate(metrics)])
    if seq == 3:
        values[0] = math.nan
    return Frame(1, "", "rank0", seq, [Block.of(metrics, steps, T0 + steps * 0.1, values)], promise=60.0)


def rows(url: str, table: sa.Table) -> int:
    database = Database.open(url)
    try:
        with database.read() as conn:
            return conn.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    finally:
        database.close()


def everything(client, run: str) -> list[tuple[str, int, object]]:
    found, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/runs/{run}/series?metric=*&limit=3000{cursor and f'&cursor={cursor}'}")
        for item in page["series"]:
            found += [(item["metric"], step, value) for step, value in zip(item["steps"], item["values"], strict=True)]
        cursor = page["next"]
    return found


def test_a_run_that_ends_is_compacted_whole(service, database_url, wait):
    """Catalogue, views, pages, exports and the backtest say the same before and after; the segments are gone."""
    run = service.start(project="p")
    for seq in range(1, 13):
        service.ship(run, shipment(seq, 500, "loss", "grad_norm"))
    before = everything(service, run), service.get(f"/runs/{run}/metrics"), backtested(service, run)
    view = service.get(f"/runs/{run}/series?metric=loss&width=300")["series"]
    csv = sorted(service.call("GET", f"/runs/{run}/export?format=csv").data.splitlines())
    service.post(f"/runs/{run}/finish", {"state": "finished"})
    wait(lambda: not rows(database_url, segments) and rows(database_url, folds) == 1, "the compactor")
    assert (rows(database_url, chunks), rows(database_url, axes)) == (2, 1)
    assert rows(database_url, metric_summaries) == 2
    after = everything(service, run), service.get(f"/runs/{run}/metrics"), backtested(service, run)
    assert len(before[0]) == 12_000
    assert before[2]
    assert after == before
    assert service.get(f"/runs/{run}/series?metric=loss&width=300")["series"] == view
    assert sorted(service.call("GET", f"/runs/{run}/export?format=csv").data.splitlines()) == csv
    assert service.ship(run, shipment(3, 500, "loss", "grad_norm"))["duplicate"]


def backtested(client, run: str) -> list[tuple[str, str, int]]:
    """What the rules find in the stored records, the state of the run left out."""
    [found] = client.post("/rules/backtest", {"runs": [run]})["runs"]
    return [(one["rule"], one["message"], one["step"]) for one in found["incidents"] if one["kind"] == "non_finite"]


def test_a_live_run_is_folded_while_it_grows(service, database_url, wait):
    """A long tail of small frames does not wait for the end; later frames go on as before."""
    run = service.start(project="p")
    for seq in range(1, 301):
        service.ship(run, shipment(seq, 1, "loss"))
    wait(lambda: rows(database_url, chunks), "the first chunk")
    for seq in range(301, 321):
        service.ship(run, shipment(seq, 1, "loss"))
    found = everything(service, run)
    assert [step for _, step, _ in found] == list(range(1, 321))
    assert rows(database_url, segments) < 320


def test_a_run_that_is_not_ripe_is_looked_at_less_and_less_often(database, monkeypatch):
    """A look is two queries, and there may be a thousand such runs; one that is ripe is folded all the same."""
    from holter.wire import RunStart
    from holter_db import rule_state
    from holter_db.rule_state import Saved
    from holter_db.runs import start_run

    writer = WriterThread(database, lambda _: None)
    writer.start()
    compactor = Compactor(database, writer, 60.0)
    looks: list[int] = []
    pending = fold.pending
    monkeypatch.setattr(fold, "pending", lambda conn, run, up_to: (looks.append(seq), pending(conn, run, up_to))[1])
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r"), time.time())
    for seq in range(1, 300):
        with database.write() as conn:
            append(conn, "r", shipment(seq, 1, "loss"), time.time())
            rule_state.save(conn, "r", Saved(seq - 1, seq, 0, b""))
        compactor.look()
    writer.stop()
    assert looks[:6] == [3, 6, 12, 24, 48, 96]
    assert len(looks) < 20
    with database.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(folds)) == 1


def test_points_that_come_late_find_their_place(service, database_url, wait):
    """Steps behind what is compacted already, and a frame that fills a hole in the numbers."""
    run = service.start(project="p")
    for seq in (1, 2, 4):
        service.ship(run, shipment(seq, 50, "loss"))
    service.post(f"/runs/{run}/finish", {"state": "finished"})
    wait(lambda: not rows(database_url, segments) and rows(database_url, chunks), "the compactor")
    assert not service.ship(run, shipment(3, 50, "loss")).get("duplicate", False)
    assert [step for _, step, _ in everything(service, run)] == list(range(1, 201))
    wait(lambda: not rows(database_url, segments) and rows(database_url, chunks) == 1, "the compactor again")
    assert [step for _, step, _ in everything(service, run)] == list(range(1, 201))


@pytest.fixture
def filled(database: Database) -> str:
    from holter.wire import RunStart
    from holter_db.runs import start_run

    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r"), T0)
        for seq in range(1, 9):
            append(conn, "r", shipment(seq, 100, "loss", "lr"), T0)
    return "r"


def values(database: Database) -> list[float]:
    from holter_db.series import read_series

    with database.read() as conn:
        return [number for item in read_series(conn, "r", ["*"]) for number in item.values.tolist()]


def test_of_two_servers_the_second_drops_its_work(database, filled):
    """A fold or merge that was computed from what another server has replaced in the meantime changes nothing."""
    before = values(database)
    with database.read() as conn:
        [waiting] = fold.pending(conn, filled, 2**62)
        one, other = (fold.prepare(conn, waiting, 2**62) for _ in range(2))
    with database.write() as conn:
        append(conn, filled, shipment(9, 100, "loss", "lr"), T0)
    assert [committed(database, fold.commit, item) for item in (one, other)] == [True, False]
    with database.read() as conn:
        [waiting] = fold.pending(conn, filled, 2**62)
        more = fold.prepare(conn, waiting, 2**62)
    assert committed(database, fold.commit, more)
    with database.read() as conn:
        [planned] = merge.plan(conn, filled, final=True)
        one, other = (next(merge.prepare(conn, planned)) for _ in range(2))
    assert [committed(database, merge.commit, item) for item in (one, other)] == [True, False]
    now = values(database)
    assert len(now) == len(before) + 200
    assert np.nansum(now) == pytest.approx(
        np.nansum([*before, *np.sin(np.arange(801, 901)), *np.sin(np.arange(802, 902))])
    )


def committed(database, commit, item) -> bool:
    with database.write() as conn:
        return commit(conn, item)


def test_a_crash_in_the_middle_of_a_commit_changes_nothing(database, filled, monkeypatch):
    """The chunks and the end of the segments are one transaction."""
    before = values(database)
    with database.read() as conn:
        [waiting] = fold.pending(conn, filled, 2**62)
        prepared = fold.prepare(conn, waiting, 2**62)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fold, "insert_chunks", crash)
        with pytest.raises(KeyboardInterrupt), database.write() as conn:
            fold.commit(conn, prepared)
    assert np.array_equal(values(database), before, equal_nan=True)
    assert committed(database, fold.commit, prepared)
    assert np.array_equal(values(database), before, equal_nan=True)


def test_readers_see_every_point_while_the_compactor_works(database, filled, monkeypatch):
    """A reader in a thread of its own never sees fewer points than were committed, nor one twice."""
    monkeypatch.setattr(fold, "foldable_position", lambda _conn, _run: 2**62)  # no rules run here
    writer = WriterThread(database, lambda _: None)
    writer.start()
    compactor = Compactor(database, writer, 0.01)
    compactor.start()
    seen: list[int] = []
    wrong: list[list[int]] = []
    ended = threading.Event()

    def look() -> None:
        from holter_db.series import read_series

        while not ended.is_set():
            with database.read() as conn:
                [item] = read_series(conn, filled, ["loss"])
            steps = item.steps.tolist()
            if steps != list(range(1, len(steps) + 1)):
                wrong.append(steps)
            seen.append(len(steps))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for seq in range(9, 400):
            writer.call(
                lambda tx, seq=seq: append(tx.conn, filled, shipment(seq, 100, "loss", "lr"), tx.now), order="r"
            )
    finally:
        ended.set()
        reader.join()
        compactor.stop()
        writer.stop()
    assert not wrong
    assert seen == sorted(seen)
    with database.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(chunks))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=False)
def test_space_is_given_back(dialect, tmp_path, client_of, wait):
    """What the segments took is returned to the file system, not only kept as free pages."""
    path = tmp_path / "holter.db"
    settings = Settings(db=f"sqlite:///{path}", port=0, compact_interval_s=0.05)
    with running(settings) as base:
        client = client_of(base)
        run = client.start(project="p")
        for seq in range(1, 11):
            client.ship(run, shipment(seq, 20_000, "a", "b", "c", "d"))
        client.post(f"/runs/{run}/finish", {"state": "finished"})

        def free() -> tuple[int, int]:
            with sqlite3.connect(path) as conn:
                return conn.execute("PRAGMA freelist_count").fetchone()[0], conn.execute(
                    "SELECT count(*) FROM segments"
                ).fetchone()[0]

        wait(lambda: free()[0] <= 100 and free()[1] == 0, "the free pages to go")


def test_a_damaged_run_does_not_hold_the_others_up(service, database_url, wait, caplog):
    """Its points stay as they are and the log names it; other runs are compacted."""
    damaged, sound = service.start(project="p"), service.start(project="p")
    for run in (damaged, sound):
        service.ship(run, shipment(1, 10, "loss"))
    database = Database.open(database_url)
    with database.write() as conn:
        conn.execute(sa.update(segments).where(segments.c.run_id == damaged).values(payload=b"\x01\x01junk"))
    database.close()
    for run in (damaged, sound):
        service.post(f"/runs/{run}/finish", {"state": "finished"})
    wait(lambda: rows(database_url, chunks) == 1, "the sound run")
    wait(lambda: damaged in caplog.text, "the log")
    assert rows(database_url, segments) == 1
