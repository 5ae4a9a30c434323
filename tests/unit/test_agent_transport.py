"""One outcome for every answer, one policy for trying again."""

from __future__ import annotations

import random

import pytest

from holter.testing import FakeService, Fault
from holter.transport import Backoff, Transport, Verdict


def test_pauses_grow_with_jitter_up_to_a_limit() -> None:
    """Never none at all, never more than the longest, and back to the shortest after a success."""
    backoff = Backoff(chance=random.Random(1))
    pauses = [backoff.pause() for _ in range(200)]
    assert 0.1 <= pauses[0] <= 0.5
    assert all(0.1 <= pause <= 30 for pause in pauses)
    assert max(pauses) > 20
    assert len(set(pauses)) == 200
    backoff.reset()
    assert backoff.pause() <= 0.5


def test_the_service_may_ask_for_a_longer_pause() -> None:
    """Up to five minutes."""
    assert Backoff().pause(7.0) == 7.0
    assert Backoff().pause(86_400) == 300.0


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (302, Verdict.LATER),
        (400, Verdict.REFUSED),
        (401, Verdict.DENIED),
        (403, Verdict.DENIED),
        (404, Verdict.MISSING),
        (408, Verdict.LATER),
        (413, Verdict.TOO_LARGE),
        (422, Verdict.REFUSED),
        (429, Verdict.LATER),
        (500, Verdict.LATER),
        (503, Verdict.LATER),
    ],
)
def test_what_a_status_means(status: int, verdict: Verdict) -> None:
    """The message is the service's own."""
    with FakeService() as service:
        service.fail(Fault(status, message="because", retry_after=3.0))
        transport = Transport(service.url)
        outcome = transport.request("GET", "/runs/x")
        transport.close()
    assert (outcome.verdict, outcome.status, outcome.retry_after) == (verdict, status, 3.0)
    assert outcome.message == f"because (HTTP {status})"


def test_no_answer_is_an_outcome_too() -> None:
    """Nothing raises."""
    with FakeService() as service:
        transport = Transport(service.url, read=0.2)
        service.fail(Fault(delay=1.0))
        assert transport.request("GET", "/runs/x").message == "no answer in time"
        service.fail(Fault(status=0))
        assert transport.request("GET", "/runs/x").message == "the connection broke off"
        service.stop()
        assert transport.request("GET", "/runs/x").message == "connection refused"
        transport.close()
    for address in ("http://[", "http://name.invalid", "https://127.0.0.1:1"):
        transport = Transport(address, connect=0.5)
        outcome = transport.request("GET", "/runs/x")
        assert (outcome.verdict, outcome.status) == (Verdict.LATER, 0)
        transport.close()
