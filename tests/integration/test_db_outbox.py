"""The outbox, commands and tokens: what the service promises to others."""

from __future__ import annotations

import math
import threading

import msgspec
import pytest

from holter.wire import CommandUpdate, RunStart
from holter_db import commands, outbox, tokens
from holter_db.database import Connection, Database
from holter_db.errors import Conflict, NotFound, QueryError
from holter_db.runs import RunRow, start_run

NOW = 1_700_000_000.0
DATA = {"incident": {"id": "r-i1", "severity": "critical", "value": math.nan}, "run": {"id": "r"}}


def started(conn: Connection, project: str = "denovo") -> RunRow:
    return start_run(conn, RunStart(project=project), NOW)


def test_a_message_goes_to_the_receivers_that_want_it(database: Database) -> None:
    """Project, type and severity decide; a run's state has no severity."""
    with database.write() as conn:
        run = started(conn)
        every = outbox.add_webhook(conn, "https://a.example/hook", NOW).id
        critical = outbox.add_webhook(conn, "https://b.example", NOW + 1, min_severity="critical", project="denovo").id
        outbox.add_webhook(conn, "https://c.example", NOW, project="other")
        states = outbox.add_webhook(conn, "https://d.example", NOW + 2, types=["run.state"], min_severity="info").id

        def receivers(type: str, data: dict) -> list[str]:
            return [outbox.get_delivery(conn, id).webhook for id in outbox.enqueue(conn, run, type, data, NOW)]

        assert receivers("incident.firing", DATA) == [every, critical]
        assert receivers("incident.firing", {"incident": {"id": "x", "severity": "warning"}}) == [every]
        assert receivers("incident.resolved", {"incident": {"id": "x", "severity": "info"}}) == []
        assert receivers("run.state", {"run": {"id": run.id}}) == [every, critical, states]


def test_retries_send_the_same_bytes_under_the_same_id(database: Database) -> None:
    """Claimed, failed, retried after its time, delivered; every attempt is in the log."""
    with database.write() as conn:
        run = started(conn)
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        (id,) = outbox.enqueue(conn, run, "incident.firing", DATA, NOW)
        (first,) = outbox.claim(conn, NOW, 10, 60)
        body = msgspec.json.decode(first.body)
        assert (first.url, first.secret, first.attempts, first.run_id) == (hook.url, hook.secret, 1, run.id)
        assert {key: body[key] for key in ("version", "id", "type", "timestamp")} == {
            "version": 1,
            "id": id,
            "type": "incident.firing",
            "timestamp": NOW,
        }
        assert body["data"]["incident"]["value"] == "NaN"
        assert outbox.claim(conn, NOW + 1, 10, 60) == []
        outbox.retry(conn, id, "HTTP 503", 503, NOW + 30, NOW + 1, duration_s=0.25)
        assert outbox.claim(conn, NOW + 29, 10, 60) == []
        (second,) = outbox.claim(conn, NOW + 30, 10, 60)
        assert (second.delivery_id, second.body, second.attempts) == (id, first.body, 2)
        done = outbox.delivered(conn, id, 204, NOW + 31)
    assert (done.state, done.last_status, done.last_error, done.delivered_at) == ("delivered", 204, None, NOW + 31)
    assert done.incident == "r-i1"
    assert done.log == [
        {"time": NOW + 1, "status": 503, "error": "HTTP 503", "duration_ms": 250.0},
        {"time": NOW + 31, "status": 204, "error": None, "duration_ms": None},
    ]


def test_a_lease_ends(database: Database) -> None:
    """What a loop claimed before it died is due again; the answer of a dead attempt is not lost work."""
    with database.write() as conn:
        outbox.add_webhook(conn, "https://a.example", NOW)
        outbox.enqueue(conn, started(conn), "incident.firing", DATA, NOW)
        assert len(outbox.claim(conn, NOW, 10, 60)) == 1
        assert outbox.claim(conn, NOW + 59, 10, 60) == []
        assert [claimed.attempts for claimed in outbox.claim(conn, NOW + 60, 10, 60)] == [2]


def test_given_up_and_redelivered_by_hand(database: Database) -> None:
    """A failed delivery stays visible, and can be sent again with its id and body."""
    with database.write() as conn:
        outbox.add_webhook(conn, "https://a.example", NOW)
        (id,) = outbox.enqueue(conn, started(conn), "incident.firing", DATA, NOW)
        (claimed,) = outbox.claim(conn, NOW, 10, 60)
        assert outbox.give_up(conn, id, "HTTP 410", 410, NOW).state == "failed"
        assert outbox.claim(conn, NOW + 999, 10, 60) == []
        assert outbox.redeliver(conn, id, NOW + 1000).state == "pending"
        (again,) = outbox.claim(conn, NOW + 1000, 10, 60)
        assert (again.body, again.attempts) == (claimed.body, 1)
        with pytest.raises(NotFound):
            outbox.redeliver(conn, "msg_none", NOW)


def test_a_deleted_webhook_fails_what_waits(database: Database) -> None:
    """Nothing is sent to it any more, and the list says why."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        (id,) = outbox.enqueue(conn, started(conn), "incident.firing", DATA, NOW)
        outbox.claim(conn, NOW, 10, 60)
        outbox.delete_webhook(conn, hook.id)
        row = outbox.delivered(conn, id, 200, NOW)
        assert (row.state, row.last_error) == ("failed", "the webhook was deleted")
        assert outbox.list_webhooks(conn) == []
        with pytest.raises(NotFound):
            outbox.redeliver(conn, id, NOW)


def test_a_webhook_can_be_tested(database: Database) -> None:
    """A test belongs to no run and goes out whatever the webhook wants."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW, types=["run.state"])
        row = outbox.enqueue_test(conn, hook.id, {"text": "hello"}, NOW)
        assert (row.run, row.type, row.state) == (None, "test", "pending")
        assert [claimed.run_id for claimed in outbox.claim(conn, NOW, 10, 60)] == [""]


def test_deliveries_are_listed_in_pages(database: Database) -> None:
    """Newest first, by run, webhook and state."""
    with database.write() as conn:
        run, other = started(conn), started(conn)
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        ids = [outbox.enqueue(conn, run, "incident.firing", DATA, NOW + at)[0] for at in range(5)]
        outbox.enqueue(conn, other, "incident.firing", DATA, NOW)
        page, cursor = outbox.list_deliveries(conn, run=run.id, limit=3)
        rest, end = outbox.list_deliveries(conn, run=run.id, limit=3, cursor=cursor)
        assert [row.id for row in page + rest] == ids[::-1]
        assert end is None
        assert len(outbox.list_deliveries(conn, webhook=hook.id, state="pending")[0]) == 6
        assert outbox.list_deliveries(conn, state="failed")[0] == []


def test_two_loops_never_claim_the_same_message(database: Database) -> None:
    """Several senders side by side, each message to one of them."""
    with database.write() as conn:
        outbox.add_webhook(conn, "https://a.example", NOW)
        run = started(conn)
        ids = {outbox.enqueue(conn, run, "incident.firing", DATA, NOW)[0] for _ in range(40)}
    claimed: list[str] = []

    def loop() -> None:
        while True:
            with database.write() as conn:
                got = outbox.claim(conn, NOW, 3, 60)
            claimed.extend(item.delivery_id for item in got)
            if not got:
                return

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A loop that found every due row locked has ended early, so some messages may be left for the next round.
    loop()
    assert sorted(claimed) == sorted(ids)


def test_a_webhook_that_can_not_be_is_refused(database: Database) -> None:
    """Address, type and severity are checked; secrets don't show in a log."""
    with database.write() as conn:
        for wrong in (
            {"url": "example.org/hook"},
            {"url": "https://a", "types": ["all"]},
            {"url": "https://a", "min_severity": "high"},
        ):
            with pytest.raises(QueryError):
                outbox.add_webhook(conn, now=NOW, **wrong)  # type: ignore[arg-type]
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        outbox.enqueue_test(conn, hook.id, {}, NOW)
        assert hook.secret not in repr(hook) + repr(outbox.claim(conn, NOW, 1, 60))


def test_a_command_goes_one_way(database: Database) -> None:
    """requested → delivered → acknowledged → done; late and repeated answers take nothing back."""
    with database.write() as conn:
        run = started(conn).id
        stop = commands.request(conn, run, "stop", {"why": math.nan}, "ann", NOW)
        assert commands.request(conn, run, "stop", {"why": "NaN"}, "bob", NOW).id == stop.id
        assert [row.id for row in commands.pending(conn, run, 1, "rank0")] == [stop.id]
        assert [row.state for row in commands.mark_delivered(conn, run, 1, [stop.id], NOW + 1)] == ["delivered"]
        assert commands.mark_delivered(conn, run, 1, [stop.id], NOW + 2) == []
        assert [row.id for row in commands.pending(conn, run, 1, "rank0")] == [stop.id]
        seen = commands.answer(conn, run, 1, "rank0", CommandUpdate(stop.id, "acknowledged", NOW + 3), NOW)
        done = commands.answer(conn, run, 1, "rank0", CommandUpdate(stop.id, "done", NOW + 4, "saved", 12), NOW)
        late = commands.answer(conn, run, 1, "rank0", CommandUpdate(stop.id, "acknowledged", NOW + 5), NOW)
        failed = commands.answer(conn, run, 1, "rank0", CommandUpdate(stop.id, "failed", NOW + 6, "no"), NOW)
        assert commands.answer(conn, run, 1, "rank0", CommandUpdate("none", "done", NOW), NOW) is None
        assert commands.pending(conn, run, 1, "rank0") == []
        assert [row.id for row in commands.list_commands(conn, run)] == [stop.id]
        assert commands.request(conn, run, "stop", {}, "ann", NOW).id != stop.id
    assert seen is not None
    assert (seen.state, seen.acknowledged_at, seen.delivered_at) == ("acknowledged", NOW + 3, NOW + 1)
    assert done is not None
    assert (done.state, done.done_at, done.result, done.step, done.acknowledged_at) == (
        "done",
        NOW + 4,
        "saved",
        12,
        NOW + 3,
    )
    assert late == failed == done


def test_a_command_done_at_once_was_acknowledged_too(database: Database) -> None:
    """The answers between are filled in when only the last one arrives."""
    with database.write() as conn:
        run = started(conn).id
        dump = commands.request(conn, run, "dump", {}, "rule:nan", NOW)
        row = commands.answer(conn, run, 1, "rank0", CommandUpdate(dump.id, "failed", NOW + 1, "disk full"), NOW)
        with pytest.raises(QueryError):
            commands.request(conn, run, "", {}, "ann", NOW)
    assert row is not None
    assert (row.state, row.delivered_at, row.acknowledged_at, row.done_at) == ("failed", NOW + 1, NOW + 1, NOW + 1)


def test_tokens_are_shown_once(database: Database) -> None:
    """The secret is not stored; a revoked token is worth nothing."""
    with database.write() as conn:
        secret = tokens.create(conn, "ci", NOW)
        assert tokens.verify(conn, secret) == "ci"
        assert tokens.verify(conn, secret + "x") is None
        assert [(row.name, row.created_at) for row in tokens.list_tokens(conn)] == [("ci", NOW)]
        with pytest.raises(Conflict):
            tokens.create(conn, "ci", NOW)
        tokens.revoke(conn, "ci")
        assert tokens.verify(conn, secret) is None
        with pytest.raises(NotFound):
            tokens.revoke(conn, "ci")
