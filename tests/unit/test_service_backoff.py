"""When a delivery is tried again: a pure function of the answer, the count, the clock and the die."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from holter_server.notify.backoff import LONGEST_WAIT_S, Verdict, judge, retry_after

NOW = 1.7e9


def judged(status: int | None = 500, **change) -> Verdict:
    given = {
        "status": status, "error": "", "permanent": False, "headers": {}, "attempts": 1, "attempts_max": 10,
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


@pytest.mark.parametrize("change", [{"status": 410}, {"permanent": True}, {"attempts": 10}, {"attempts": 11}])
def test_some_things_are_final(change):
    """Gone, refused, tried often enough."""
    assert judged(**change).retry_at is None


def test_waits_grow_threefold_up_to_a_limit_and_are_spread():
    """Five seconds, fifteen, forty-five …, each ± 20 %."""
    waits = [judged(attempts=count).retry_at - NOW for count in (1, 2, 3)]
    assert waits == [5.0, 15.0, 45.0]
    assert judged(attempts=20, attempts_max=99).retry_at - NOW == LONGEST_WAIT_S
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
