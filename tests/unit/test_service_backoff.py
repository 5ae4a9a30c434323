"""When a delivery is tried again: a pure function of the answer, the count, the clock and the die."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from holter_server.notify.backoff import LONGEST_WAIT_S, Verdict, breaker_pause, judge, retry_after

NOW = 1.7e9


def judged(status: int | None = 500, **change) -> Verdict:
    given = {
        "status": status, "error": "", "permanent": False, "headers": {}, "attempts": 1, "give_up_at": NOW + 86_400,
        "backoff_s": 5.0, "now": NOW, "die": 0.5,
    }  # fmt: skip
    return judge(**{**given, **change})


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_delivered(status):
    """As Standard Webhooks has it."""
    assert judged(status).delivered


@pytest.mark.parametrize("status", [100, 301, 400, 401, 404, 408, 429, 500, 503])
def test_everything_else_is_tried_again(status):
    """A wrong address may be put right tomorrow."""
    verdict = judged(status)
    assert not verdict.delivered
    assert verdict.retry_at == NOW + 5.0
    assert str(status) in verdict.reason


@pytest.mark.parametrize("change", [{"status": 410}, {"permanent": True}, {"give_up_at": NOW}, {"give_up_at": NOW - 1}])
def test_some_things_are_final(change):
    """Gone, refused, tried for long enough."""
    assert judged(**change).retry_at is None


def test_waits_grow_threefold_up_to_a_limit_and_are_spread():
    """Five seconds, fifteen, forty-five …, each ± 20 %."""
    waits = [judged(attempts=count).retry_at - NOW for count in (1, 2, 3)]
    assert waits == [5.0, 15.0, 45.0]
    assert judged(attempts=20).retry_at - NOW == LONGEST_WAIT_S
    assert judged(die=0.0).retry_at - NOW == pytest.approx(4.0)
    assert judged(die=1.0).retry_at - NOW == pytest.approx(6.0)


def test_the_receiver_may_ask_for_more_time():
    """Retry-After as seconds or as a date, never less than our own wait, never more than a day."""
    assert judged(headers={"Retry-After": "60"}).retry_at == NOW + 60
    assert judged(headers={"Retry-After": "1"}).retry_at == NOW + 5
    date = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)
    assert judged(headers={"Retry-After": date}).retry_at == NOW + 90
    assert retry_after({"Retry-After": "99999999"}, NOW) == 86_400


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "Thu, 99 Foo 2026"])
def test_nonsense_asks_for_nothing(value):
    """A receiver can't stop its own deliveries by a typo."""
    assert retry_after({"Retry-After": value}, NOW) == 0.0


def test_the_last_attempt_is_at_the_end_of_the_day():
    """No wait goes beyond it, not even one that was asked for."""
    end = NOW + 100
    assert judged(attempts=9, give_up_at=end).retry_at == end
    assert judged(headers={"Retry-After": "9999"}, give_up_at=end).retry_at == end
    assert "given up after 7 attempts" in judged(attempts=7, give_up_at=NOW).reason


@pytest.mark.parametrize(("status", "unwell"), [(None, True), (500, True), (429, True), (404, False), (410, False)])
def test_only_some_failures_speak_of_the_receiver(status, unwell):
    """A message that is not wanted says nothing about the next one."""
    assert judged(status, error="" if status else "refused").unwell is unwell


def test_a_receiver_that_asks_for_time_gets_it_for_everything():
    """Retry-After of a 503 holds for the channel, that of a 404 for nobody."""
    assert judged(503, headers={"Retry-After": "60"}).asked_until == NOW + 60
    assert judged(404, headers={"Retry-After": "60"}).asked_until is None


def test_the_breaker_opens_for_longer_each_time_up_to_five_minutes():
    """Thirty seconds, a minute …, each ± 20 %."""
    pauses = [breaker_pause(failures, 5, 5.0, 0.5) for failures in (5, 6, 7, 8, 9, 99)]
    assert pauses == pytest.approx([30, 60, 120, 240, 300, 300])
