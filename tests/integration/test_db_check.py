"""`holter_db.check`: silent about what is sound, and it finds, and mends where it can, every kind of damage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sqlalchemy as sa

from holter.health import Engine, Facts, RuleSet, Transition
from holter.wire import Block, CommandUpdate, Event, Frame, RunStart
from holter_db import chunk_rows, commands, fold, incidents, merge, outbox, rule_sets, rule_state
from holter_db.check import DATABASE_CHECKS, FILE_CHECKS, RUN_CHECKS, Finding, check_database, check_run, repair
from holter_db.database import Database
from holter_db.deletion import delete_run, purge_some
from holter_db.ingest import append
from holter_db.rule_state import Saved
from holter_db.runs import get_run, start_run
from holter_db.schema import deliveries, metadata
from holter_db.series import catalogue
from holter_db.thin import thin_run
from holter_server.service import running
from holter_server.settings import Settings

NOW = 1_700_000_000.0
TRICKY = [1.0, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e300, 2.0]
FLIGHT = Event(NOW, "the flight", "flight", 3, data={"trigger": {"kind": "incident"}, "steps": [1, 2, 3], "layers": []})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 points, from 8 on with a pyramid."""
    for module, name, value in (
        (fold, "CHUNK_POINTS", 64),
        (merge, "CHUNK_POINTS", 64),
        (merge, "FULL", 48),
        (chunk_rows, "PYRAMID_FROM", 8),
    ):
        monkeypatch.setattr(module, name, value)


def frame(seq: int, writer: str = "rank0", attempt: str = "", rows: int = 30, **more: object) -> Frame:
    steps = np.arange(rows) + 100 * (seq % 3)  # out of order, and some of them twice
    values = np.resize(TRICKY, (rows, 2)) * seq
    blocks = [Block.of(("loss", "lr"), steps, NOW + steps, values), Block.of(("acc",), steps[:1], [NOW], [[seq]])]
    return Frame(version=1, attempt=attempt, writer=writer, seq=seq, blocks=blocks, **more)  # type: ignore[arg-type]


def compact(database: Database, run: str) -> None:
    with database.write() as conn:
        for waiting in fold.pending(conn, run, 2**62):
            prepared = fold.prepare(conn, waiting, 2**62)
            assert prepared is not None
            assert fold.commit(conn, prepared)


def filled(database: Database) -> None:
    """Runs in segments (``live``), in chunks and segments (``mixed``), in pyramids (``thin``), and what is theirs."""
    with database.write() as conn:
        outbox.add_webhook(conn, "https://a.example/hook", NOW, min_severity="info")
        for run in ("live", "mixed", "thin"):
            start_run(conn, RunStart(project="p", id=run, config={"lr": 0.5, "limit": math.nan}, tags=["a"]), NOW)
            for seq in range(1, 6):
                append(conn, run, frame(seq), NOW)
            append(conn, run, frame(1, "rank0/system"), NOW)
            append(conn, run, frame(2, "rank1", events=[FLIGHT, Event(NOW, "x")]), NOW)
    for run in ("mixed", "thin"):
        compact(database, run)
    with database.write() as conn:
        for planned in merge.plan(conn, "thin", final=True):
            assert all(merge.commit(conn, merged) for merged in list(merge.prepare(conn, planned)))
        assert thin_run(conn, "thin") > 0
        for run in ("live", "mixed"):
            append(conn, run, frame(6, attempt="again"), NOW)
            append(conn, run, frame(9, attempt="again", rows=1), NOW)
            append(conn, run, Frame(1, "again", "rank0", 10, events=[Event(NOW, "only an event")]), NOW)
            opened = Transition("open", f"i-{run}", "r", "spike", "critical", "loss", "rank0", 1, NOW, "m")
            (change,) = incidents.apply(conn, run, [opened], NOW)
            row = get_run(conn, run)
            told = {"incident": {"id": change.incident.id, "severity": "critical"}}
            outbox.enqueue(conn, row, "incident.firing", told, NOW)
            asked = commands.request(conn, run, "stop", {}, "ann", NOW)
            commands.answer(conn, run, row.attempt, "rank0", CommandUpdate(asked.id, "done", NOW), NOW)
        rule_sets.put(conn, "p", "rules: []", NOW)
        rule_state.save(conn, "live", Saved(0, 4, 1, Engine(RuleSet.default(), Facts()).save()))
        outbox.enqueue_test(conn, outbox.list_webhooks(conn)[0].id, {}, NOW)


@pytest.fixture
def sound(database: Database) -> Database:
    filled(database)
    return database


def found(database: Database) -> list[Finding]:
    return list(check_database(database))


def test_a_sound_database_gives_no_finding(sound: Database) -> None:
    """Segments, chunks, pyramids, late frames, several attempts, everything that may belong to a run."""
    assert [finding.message for finding in found(sound)] == []
    looked: list[tuple[int, int]] = []
    assert list(check_database(sound, lambda *counts: looked.append(counts))) == []
    assert looked == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_a_service_writes_is_sound(database_url: str, settings: Settings, client_of) -> None:
    """Checked while it runs: rules, an incident, a webhook, a stop, two attempts, a deleted run, one half purged."""
    with running(settings) as base:
        service = client_of(base)
        service.post("/webhooks", {"url": f"{base}/healthz", "min_severity": "info"})
        run = service.start(project="p", id="a")
        for seq in range(1, 40):
            service.log(run, seq, seq=seq, loss=math.nan if seq > 30 else 1.0 / seq, lr=1e-3)
        service.post(f"/runs/{run}/commands", {"name": "stop"})
        service.ship(run, Frame(1, "", "rank0", 40, events=[FLIGHT]))
        service.post(f"/runs/{run}/finish", {"state": "failed", "reason": "x"})
        service.start(project="p", id="a", attempt="2")
        service.log(run, 7, seq=1, loss=-1.0)
        for other in ("deleted", "half"):
            service.start(project="q", id=other)
            service.log(other, 1, loss=1.0)
        service.call("DELETE", "/runs/deleted")
        database = Database.open(database_url)
        assert service.get("/incidents")["incidents"]
        assert [finding.message for finding in check_database(database)] == []
    with database.write() as conn:
        delete_run(conn, "half", NOW)
        purge_some(conn, "half", NOW, deleted_before=NOW, more=lambda: False)
    assert [finding.message for finding in check_database(database)] == []
    database.close()


# What is done to the database, the check that must find it, and whether it can be mended without losing anything.
LIVE, MIXED, THIN = ("run_id = 'live'", "run_id = 'mixed'", "run_id = 'thin'")
DAMAGE = {
    "a payload": (f"UPDATE segments SET payload = :junk WHERE {LIVE} AND seq = 3", "segments", False),
    "half of it": (f"UPDATE segments SET payload = substr(payload, 1, 9) WHERE {LIVE} AND seq = 3", "segments", False),
    "a header": (f"UPDATE segments SET points = points + 1 WHERE {LIVE} AND seq = 3", "segments", True),
    "a range of steps": (f"UPDATE segments SET last_step = NULL WHERE {MIXED} AND seq = 6", "segments", True),
    "a position": (f"UPDATE segments SET position = 999 WHERE {LIVE} AND seq = 3", "segments", False),
    "a lost segment": (f"DELETE FROM segments WHERE {LIVE} AND seq = 3", "frames", False),
    "a lost event's frame": (f"DELETE FROM segments WHERE {MIXED} AND seq = 10", "frames", False),
    "a lost fold": (f"DELETE FROM folds WHERE {MIXED} AND writer_id = 1", "frames", False),
    "a fold": (f"UPDATE folds SET last_seq = 4 WHERE {MIXED} AND writer_id = 1", "frames", False),
    "a fold of what is there": (
        f"UPDATE segments SET seq = 2, writer_id = 1 WHERE {MIXED} AND seq = 9", "folds", False,
    ),
    "values": (f"UPDATE chunks SET \"values\" = :junk WHERE {MIXED} AND metric = 'lr'", "chunks", False),
    "an axis": (f"UPDATE axes SET times = :junk WHERE {MIXED}", "chunks", False),
    "a lost axis": (f"DELETE FROM axes WHERE {MIXED} AND axis = 1 AND writer_id = 1", "chunks", False),
    "a lost chunk": (f"DELETE FROM chunks WHERE {MIXED} AND metric = 'lr' AND axis = 1", "catalogue", None),
    "a pyramid": (f"UPDATE chunks SET coarse = :junk WHERE {MIXED} AND metric = 'loss'", "chunks", False),
    "another pyramid": (
        "UPDATE chunks SET cells = (SELECT cells FROM chunks c WHERE c.run_id = 'mixed' AND c.metric = 'loss' "
        f"AND c.writer_id = 1 AND c.axis = 2) WHERE {MIXED} AND metric = 'loss' AND writer_id = 1 AND axis = 1",
        "chunks", True,
    ),
    "a chunk's range": (f"UPDATE chunks SET last_step = 5 WHERE {MIXED} AND metric = 'loss'", "chunks", True),
    "points out of sight": (f"UPDATE chunks SET raw = FALSE WHERE {MIXED} AND metric = 'loss'", "chunks", True),
    "points that are not": (f"UPDATE chunks SET raw = TRUE WHERE {THIN} AND metric = 'loss'", "chunks", False),
    "a thinned chunk": (f"UPDATE chunks SET cells = :junk WHERE {THIN} AND metric = 'loss'", "chunks", False),
    "a thinned count": (
        f"UPDATE chunks SET count = count + 1 WHERE {THIN} AND metric = 'loss' AND writer_id = 1", "chunks", False,
    ),
    "a count": (f"UPDATE series SET count = count + 1 WHERE {LIVE} AND metric = 'loss'", "catalogue", True),
    "a count of chunks": (f"UPDATE series SET nan = 0 WHERE {MIXED} AND metric = 'lr'", "catalogue", True),
    "a count of pyramids": (f"UPDATE series SET max = 7 WHERE {THIN} AND metric = 'loss'", "catalogue", True),
    "a last value": (f"UPDATE series SET last = 3.25 WHERE {MIXED} AND metric = 'loss'", "catalogue", True),
    "a time": (f"UPDATE series SET first_time = 1.0 WHERE {LIVE} AND metric = 'lr'", "catalogue", True),
    "a lost series": (f"DELETE FROM series WHERE {LIVE} AND metric = 'acc'", "catalogue", True),
    "a series too many": (
        "INSERT INTO series SELECT run_id, writer_id, 'ghost', count, first_step, last_step, first_time, last_time, "
        f"last, last_seq, min, max, nan, positive_infinity, negative_infinity FROM series WHERE {LIVE} "
        "AND metric = 'acc' AND writer_id = 1", "catalogue", True,
    ),
    "a config": (f"UPDATE config_values SET number = 7 WHERE {LIVE} AND key = 'limit'", "search", True),
    "a lost tag": (f"DELETE FROM run_tags WHERE {MIXED}", "search", True),
    "a summary": (f"UPDATE metric_summaries SET last = 3.25 WHERE {THIN} AND metric = 'loss'", "search", True),
    "a first step": (f"UPDATE attempts SET first_step = 50 WHERE {MIXED} AND attempt = 1", "first_steps", True),
    "no first step": (f"UPDATE attempts SET first_step = NULL WHERE {LIVE}", "first_steps", True),
    "a newest segment": (f"UPDATE writers SET last_seq = 1 WHERE {MIXED}", "writers", True),
    "a lost writer": (f"DELETE FROM writers WHERE {THIN} AND writer_id = 3", "writers", False),
    "a lost attempt": (f"DELETE FROM attempts WHERE {LIVE} AND attempt = 2", "writers", False),
    "a health": ("UPDATE runs SET health = 'healthy' WHERE id = 'live'", "incidents", True),
    "open incidents": ("UPDATE runs SET open_warning = 3 WHERE id = 'thin'", "incidents", True),
    "an incident's id": (f"UPDATE incidents SET id = 'x' WHERE {LIVE}", "incidents", True),
    "a lost command": (f"DELETE FROM commands WHERE {LIVE}", "commands", True),
    "a command's attempt": (f"UPDATE commands SET attempt = 9 WHERE {MIXED}", "commands", None),
    "a lost event": (f"DELETE FROM events WHERE {LIVE} AND kind = 'flight'", "captures", True),
    "a lost capture": (f"DELETE FROM captures WHERE {MIXED}", "captures", True),
    "rules": ("UPDATE rule_sets SET text = 'rules: ['", "rule_sets", False),
    "a memory": ("UPDATE rule_state SET position = 999", "rule_state", False),
    "a project": ("DELETE FROM projects", "projects", True),
    "a delivery": (f"UPDATE deliveries SET run_id = 'nobody' WHERE {LIVE}", "deliveries", True),
    "a delivery's incident": (f"UPDATE deliveries SET incident = 'none' WHERE {LIVE}", "deliveries", True),
    "a purged run": ("INSERT INTO purged_runs VALUES ('live', 1.0)", "purged", True),
    "an index": ("DROP INDEX ix_runs_deleted_at", "schema", False),
    "a column": ("ALTER TABLE tokens ADD COLUMN owner TEXT", "schema", False),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_mended_where_that_is_safe(sound: Database, damage: str) -> None:
    """By the check whose promise is broken; after a repair nothing of it is left, and no other run was touched."""
    statement, check, mendable = DAMAGE[damage]
    with sound.write() as conn:
        known = {"junk": b"\x01\x01junk"} if ":junk" in statement else {}
        assert conn.execute(sa.text(statement), known).rowcount
    findings = found(sound)
    assert check in {finding.check for finding in findings}, findings
    assert {finding.run for finding in findings} <= {None, "live", "mixed", "thin"}
    assert all(finding.advice for finding in findings)
    of_check = [finding for finding in findings if finding.check == check]
    if mendable is None:
        return
    assert any(finding.repair for finding in of_check) is mendable
    repaired = [repair(sound, finding) for finding in findings]
    assert repaired == [finding.repair is not None for finding in findings]
    left = found(sound)
    assert [finding.message for finding in left] == ([] if mendable else [finding.message for finding in left])
    assert bool(left) is not mendable


def test_every_check_is_proved_to_find_something() -> None:
    """None is in a list without a test that breaks its promise; two need a test of their own."""
    proved = {check for _, check, _ in DAMAGE.values()} | {"file", "foreign_keys"}
    named = [check.name for check in (*FILE_CHECKS, *DATABASE_CHECKS, *RUN_CHECKS)]
    assert set(named) <= proved
    assert len(named) == len(set(named))


def test_a_memory_of_the_rules_that_can_not_be_read_is_said(sound: Database) -> None:
    """The engine would begin anew without a word."""
    with sound.write() as conn:
        conn.execute(sa.text("UPDATE rule_state SET state = :junk"), {"junk": b"junk"})
    (finding,) = found(sound)
    assert (finding.check, finding.run, finding.repair) == ("rule_state", "live", None)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_damaged_file_is_found(sound: Database, database_url: str) -> None:
    """Whatever page it is: nothing else is asked of such a file."""
    sound.close()
    path = database_url.removeprefix("sqlite:///")
    with open(path, "r+b") as file:
        content = file.read()
        file.seek(content.index(b"incident.firing") // 4096 * 4096)
        file.write(b"\x00" * 2048)
    database = Database.open(database_url, as_it_is=True)
    findings = found(database)
    assert {finding.check for finding in findings} == {"file"}
    assert "backup" in findings[0].advice
    database.close()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_rows_of_no_run_are_found(sound: Database, database_url: str) -> None:
    """SQLite takes them from any program that does not ask it to look."""
    engine = sa.create_engine(database_url)
    with engine.begin() as conn:
        conn.execute(sa.text("DELETE FROM runs WHERE id = 'thin'"))
    engine.dispose()
    assert {finding.check for finding in found(sound)} == {"foreign_keys"}


def test_a_repair_waits_for_a_run_that_goes_on(sound: Database) -> None:
    """What was computed from all points is not written once more have come: it is computed anew."""
    with sound.write() as conn:
        conn.execute(sa.text("UPDATE series SET count = 1 WHERE run_id = 'live' AND metric = 'loss' AND writer_id = 1"))
    (finding,) = found(sound)
    with sound.write() as conn:
        append(conn, "live", frame(20), NOW)
    assert repair(sound, finding)
    assert found(sound) == []
    with sound.read() as conn:
        counts = {info.name: sum(series.count for series in info.series) for info in catalogue(conn, "live")}
    assert counts["loss"] == counts["lr"] > 200


def test_a_finding_that_is_gone_meanwhile_is_no_failure(sound: Database) -> None:
    """Somebody else has mended it, or the run was purged."""
    with sound.write() as conn:
        conn.execute(sa.text("UPDATE series SET count = 1 WHERE run_id = 'live' AND metric = 'acc'"))
    findings = found(sound)
    assert all(repair(sound, finding) for finding in findings)
    assert all(repair(sound, finding) for finding in findings)
    with sound.write() as conn:
        delete_run(conn, "live", NOW)
        assert purge_some(conn, "live", NOW, deleted_before=NOW, more=lambda: True).done
    assert all(repair(sound, finding) for finding in findings)
    assert found(sound) == []


def test_many_findings_of_a_kind_are_counted(database: Database) -> None:
    """Twenty are told, of the rest the number: a run may have ten thousand series."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="wide"), NOW)
        names = tuple(f"m{number:03}" for number in range(50))
        append(conn, "wide", Frame(1, "", "rank0", 1, blocks=[Block.of(names, [1], [NOW], [[1.0] * 50])]), NOW)
        conn.execute(sa.text("UPDATE series SET count = 7"))
    findings = check_run(database, "wide")
    assert len(findings) == 21
    assert findings[-1].message == "… and 30 more of this kind"


def test_deliveries_of_tests_belong_to_no_run(sound: Database) -> None:
    """And are no orphans."""
    with sound.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(deliveries).where(deliveries.c.run_id == "")) == 1
    assert metadata.tables["deliveries"] is deliveries
