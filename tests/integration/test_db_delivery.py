"""What the outbox and the incidents promise beyond a single message: breakers, rates, groups, flapping, snoozes."""

from __future__ import annotations

import pytest

from holter.health.model import Transition
from holter.wire import RunFinish, RunStart
from holter_db import flapping, incidents, outbox, webhooks
from holter_db.database import Connection, Database
from holter_db.policies import Policy
from holter_db.runs import finish_run, get_run, start_run

NOW = 1_700_000_000.0


def data(incident: str = "i1", severity: str = "critical") -> dict:
    return {"incident": {"id": incident, "severity": severity}, "run": {"id": "r"}}


@pytest.fixture
def run(database: Database) -> str:
    with database.write() as conn:
        return start_run(conn, RunStart(project="p", id="r"), NOW).id


def put(conn: Connection, hook: str, run: str, incident: str = "i1", **more) -> str:
    return outbox.put(conn, hook, run, "incident.firing", data(incident), NOW, **more)


def ids(claimed) -> list[str]:
    return [item.delivery_id for item in claimed]


def test_the_breaker_opens_probes_and_closes(database: Database, run: str) -> None:
    """After five failures nothing goes out until its time; then one message; when that is taken, all."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        mine = [put(conn, hook.id, run, f"i{index}") for index in range(3)]
        for count in range(5):
            assert outbox.get_webhook(conn, hook.id).breaker(NOW).state == "closed"
            webhooks.failed(conn, hook.id, "refused", None, NOW + 30)
            assert outbox.get_webhook(conn, hook.id).failures == count + 1
        shown = outbox.get_webhook(conn, hook.id).breaker(NOW)
        assert (shown.state, shown.failures, shown.until, shown.last_error) == ("open", 5, NOW + 30, "refused")
        assert outbox.claim(conn, NOW + 29) == []
        assert outbox.get_webhook(conn, hook.id).breaker(NOW + 30).state == "half-open"
        (probe,) = outbox.claim(conn, NOW + 30)
        assert outbox.claim(conn, NOW + 31) == []
        for id in mine:
            if id != probe.delivery_id:
                conn.execute(
                    outbox.deliveries.update().where(outbox.deliveries.c.id == id).values(next_attempt_at=NOW + 9999)
                )
        outbox.delivered(conn, probe.delivery_id, 204, NOW + 32)
        webhooks.worked(conn, hook.id, NOW + 32)
        assert outbox.get_webhook(conn, hook.id).breaker(NOW + 32).state == "closed"
        assert sorted(ids(outbox.claim(conn, NOW + 32))) == sorted(set(mine) - {probe.delivery_id})


def test_a_hand_opens_the_breaker_for_one_message(database: Database, run: str) -> None:
    """A test and a redelivery are tried at once."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        put(conn, hook.id, run)
        for _ in range(6):
            webhooks.failed(conn, hook.id, "refused", None, NOW + 999)
        assert outbox.claim(conn, NOW) == []
        test = outbox.enqueue_test(conn, hook.id, {"text": "hello"}, NOW - 1)
        assert ids(outbox.claim(conn, NOW)) == [test.id]


def test_a_receiver_that_asks_for_time_gets_it(database: Database, run: str) -> None:
    """Retry-After holds for the whole channel, from the first failure on."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        id = put(conn, hook.id, run)
        webhooks.failed(conn, hook.id, "answered 429", NOW + 60, NOW + 1)
        assert outbox.claim(conn, NOW + 59) == []
        assert ids(outbox.claim(conn, NOW + 60)) == [id]


def test_no_more_than_the_rate_leaves_in_a_minute(database: Database, run: str) -> None:
    """What is beyond it says so and leaves with the next minute; another receiver is not held up."""
    with database.write() as conn:
        slow = outbox.add_webhook(conn, "https://a.example", NOW, policy=Policy(rate_per_minute=2))
        other = outbox.add_webhook(conn, "https://b.example", NOW)
        mine = [put(conn, slow.id, run, f"i{index}") for index in range(5)]
        theirs = put(conn, other.id, run)
        first = ids(outbox.claim(conn, NOW + 1, lease_s=999))
        assert len(set(first) & set(mine)) == 2
        assert theirs in first
        waiting = [outbox.get_delivery(conn, id) for id in mine if id not in first]
        assert {(row.state, row.held, row.next_attempt_at) for row in waiting} == {("pending", "rate limit", NOW + 61)}
        assert outbox.claim(conn, NOW + 60) == []
        assert len(outbox.claim(conn, NOW + 61, lease_s=999)) == 2
        assert len(outbox.claim(conn, NOW + 121)) == 1


def test_one_receiver_does_not_take_all_senders(database: Database, run: str) -> None:
    """At most so many of its messages are on their way at once."""
    with database.write() as conn:
        hooks = [outbox.add_webhook(conn, f"https://{name}.example", NOW) for name in "ab"]
        for index in range(4):
            put(conn, hooks[0].id, run, f"i{index}")
        put(conn, hooks[1].id, run)
        claimed = outbox.claim(conn, NOW, 8, 60, 99, (2, {hooks[0].id: 1}))
        assert sorted(item.webhook for item in claimed) == sorted([hooks[0].id, hooks[1].id])


def test_what_is_over_before_it_was_told_is_not_told(database: Database, run: str) -> None:
    """Held messages are skipped with the reason; one that has been tried is not."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        held = put(conn, hook.id, run, at=NOW + 99, held="quiet hours")
        sent = put(conn, hook.id, run)
        outbox.claim(conn, NOW)
        assert outbox.withdraw(conn, run, "i1", "it resolved before it was told") == [hook.id]
        row = outbox.get_delivery(conn, held)
        assert (row.state, row.last_error, row.held) == ("skipped", "it resolved before it was told", None)
        assert outbox.get_delivery(conn, sent).state == "sending"
        assert outbox.last_told(conn, "i1") == {hook.id: NOW}


def test_a_delivery_is_tried_for_a_day_from_its_first_attempt(database: Database, run: str) -> None:
    """Not from its creation: quiet hours and an outage of the service don't count. A redelivery starts anew."""
    with database.write() as conn:
        hook = outbox.add_webhook(conn, "https://a.example", NOW)
        id = put(conn, hook.id, run, at=NOW + 5000, held="quiet hours")
        (first,) = outbox.claim(conn, NOW + 6000, give_up_s=86_400)
        assert first.give_up_at == NOW + 6000 + 86_400
        outbox.retry(conn, id, "answered 500", 500, NOW + 7000, NOW + 6001)
        (second,) = outbox.claim(conn, NOW + 7000, give_up_s=86_400)
        assert second.give_up_at == first.give_up_at
        outbox.give_up(conn, id, "answered 500", 500, NOW + 7001)
        outbox.redeliver(conn, id, NOW + 99_000)
        (again,) = outbox.claim(conn, NOW + 99_000, give_up_s=86_400)
        assert again.give_up_at == NOW + 99_000 + 86_400


# --- incidents --------------------------------------------------------------------------------------------------


def change(action: str, name: str, time: float, step: int = 1, metric: str = "loss") -> Transition:
    return Transition(action, name, "rule", "limit", "critical", metric, "rank0", step, time, f"{action} {name}", 7.0)


def flip(conn: Connection, run: str, count: int, gap_s: float, first: int = 0) -> list[str]:
    """Open and resolve ``count`` incidents of the engine; the actions that this was."""
    actions = []
    for index in range(first, first + count):
        at = NOW + index * gap_s
        for action, moment in (("open", at), ("resolve", at + gap_s / 2)):
            changes = incidents.apply(conn, run, [change(action, f"i{index}", moment, index)], moment)
            actions += [entry.action for entry in changes]
    return actions


def test_an_incident_that_comes_and_goes_is_one_flapping_incident(database: Database, run: str) -> None:
    """The third opening within the window; what follows is counted to it and is not told again."""
    with database.write() as conn:
        assert flip(conn, run, 10, 10.0) == ["open", "resolve"] * 2 + ["open"] + ["update"] * 15
        rows, _ = incidents.list_incidents(conn)
        assert [(row.incident, row.state, row.flaps) for row in rows] == [
            ("i2", "firing", 10), ("i1", "resolved", 0), ("i0", "resolved", 0),
        ]  # fmt: skip
        assert rows[0].evidence["flapping"]["opened_at_steps"] == [0, 1, 2]
        assert get_run(conn, run).health == "healthy", "its condition is not met now"
        incidents.apply(conn, run, [change("open", "i10", NOW + 100)], NOW + 100)
        assert get_run(conn, run).health == "critical"


def test_flapping_ends_when_it_has_been_quiet(database: Database, run: str) -> None:
    """One resolve, after the window; and then the count begins anew."""
    with database.write() as conn:
        flip(conn, run, 5, 10.0)
        settled_at = NOW + 45
        assert flapping.settled(conn, settled_at + flapping.FLAP_WINDOW_S - 1) == []
        assert flapping.settled(conn, settled_at + flapping.FLAP_WINDOW_S) == [(run, "i2")]
        row = incidents.end_flapping(conn, run, "i2", settled_at + 600)
        assert row is not None
        assert (row.state, row.resolution) == (
            "resolved", "It opened 5 times and has been quiet since step 4",
        )  # fmt: skip
        assert incidents.end_flapping(conn, run, "i2", settled_at + 601) is None
        assert flip(conn, run, 1, 10.0, first=99) == ["open", "resolve"]


def test_a_run_that_is_over_flaps_no_more(database: Database, run: str) -> None:
    """Nobody waits for the window then."""
    with database.write() as conn:
        flip(conn, run, 3, 10.0)
        finish_run(conn, run, RunFinish(state="finished"), NOW + 30)
        assert flapping.settled(conn, NOW + 31) == [(run, "i2")]


@pytest.mark.parametrize(("gap_s", "metrics"), [(400.0, ("loss",) * 4), (10.0, ("a", "b", "c", "d"))])
def test_what_is_far_apart_or_about_something_else_does_not_flap(database, run, gap_s, metrics) -> None:
    """By the time of the records; another metric is another thing."""
    with database.write() as conn:
        for index, metric in enumerate(metrics):
            for action in ("open", "resolve"):
                incidents.apply(conn, run, [change(action, f"i{index}", NOW + index * gap_s, metric=metric)], NOW)
        assert {row.flaps for row in incidents.list_incidents(conn)[0]} == {0}


def test_snoozed_and_back(database: Database, run: str) -> None:
    """A state of its own, still open; when it ends, what it was before."""
    with database.write() as conn:
        incidents.apply(conn, run, [change("open", "a", NOW), change("open", "b", NOW, metric="m")], NOW)
        incidents.acknowledge(conn, "r-b", "ann", NOW)
        for name in "ab":
            assert incidents.snooze(conn, f"r-{name}", NOW + 60, NOW).state == "snoozed"
        assert len(incidents.list_incidents(conn, state="open")[0]) == 2
        assert incidents.snoozes_over(conn, NOW + 59) == []
        assert sorted(incidents.snoozes_over(conn, NOW + 60)) == [(run, "r-a"), (run, "r-b")]
        assert incidents.unsnooze(conn, "r-a", NOW + 60).state == "firing"
        assert incidents.unsnooze(conn, "r-b", NOW + 60).state == "acknowledged"


def test_resolved_by_hand(database: Database, run: str) -> None:
    """It is over; what its rule says of it later changes nothing, and the health follows."""
    with database.write() as conn:
        incidents.apply(conn, run, [change("open", "a", NOW)], NOW)
        row = incidents.resolve(conn, "r-a", "Resolved by hand by ann", NOW + 5)
        assert row is not None
        assert (row.state, row.resolution, get_run(conn, run).health) == (
            "resolved", "Resolved by hand by ann", "healthy",
        )  # fmt: skip
        assert incidents.resolve(conn, "r-a", "again", NOW + 6) is None
        assert incidents.apply(conn, run, [change("resolve", "a", NOW + 9)], NOW + 9) == []
