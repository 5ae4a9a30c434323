"""Should a receiver be told? Every reason, each from plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_db.errors import QueryError
from holter_db.policies import Policy, QuietHours, policy_of
from holter_db.webhooks import WebhookRow
from holter_server.notify.decide import Decision, News, Reason, decide

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC).timestamp()


def hook(**change) -> WebhookRow:
    given = {
        "id": "h", "url": "https://a.example", "name": "", "project": None, "types": (), "min_severity": "warning",
        "enabled": True, "secret": "", "created_at": 0.0,
    }  # fmt: skip
    return WebhookRow(**{**given, **change})


def news(cause="open", **change) -> News:
    type_ = "incident.resolved" if cause == "resolve" else "incident.firing"
    return News(**{"cause": cause, "type": type_, "project": "p", "severity": "critical", **change})


@pytest.mark.parametrize(
    ("what", "receiver", "told_at", "reason"),
    [
        (news(), hook(enabled=False), None, Reason.DISABLED),
        (news(), hook(project="q"), None, Reason.OTHER_PROJECT),
        (news(), hook(types=("run.state",)), None, Reason.OTHER_TYPE),
        (news(severity="info"), hook(), None, Reason.TOO_MILD),
        (news(muted=True), hook(), None, Reason.MUTED),
        (news(notifies=False), hook(), None, Reason.NO_NOTIFY),
        (news("escalate", snoozed=True), hook(), NOW - 9, Reason.SNOOZED),
        (news("resolve", snoozed=True), hook(), NOW - 9, Reason.SNOOZED),
        (news("resolve"), hook(policy=Policy(send_resolved=False)), NOW - 9, Reason.NO_RESOLVED),
        (news("resolve"), hook(), None, Reason.NEVER_TOLD),
        (news("repeat"), hook(policy=Policy(repeat_interval_s=60)), None, Reason.NEVER_TOLD),
        (news("repeat"), hook(policy=Policy(repeat_interval_s=60)), NOW - 59, Reason.TOO_SOON),
        (news("repeat"), hook(), NOW - 9999, Reason.TOO_SOON),
        (news("repeat", state="acknowledged"), hook(policy=Policy(repeat_interval_s=60)), 0.0, Reason.ACKNOWLEDGED),
        (news("snooze over", state="acknowledged"), hook(), 0.0, Reason.ACKNOWLEDGED),
    ],
)
def test_who_is_not_told_and_why(what, receiver, told_at, reason):
    """The first thing that speaks against it is the reason."""
    assert decide(what, receiver, now=NOW, told_at=told_at) == Decision(False, reason)


@pytest.mark.parametrize(
    ("what", "receiver", "told_at", "reason"),
    [
        (news(), hook(), None, Reason.NEW),
        (news("escalate"), hook(), NOW - 1, Reason.ESCALATED),
        (news("resolve"), hook(), NOW - 1, Reason.RESOLVED),
        (news("repeat"), hook(policy=Policy(repeat_interval_s=60)), NOW - 60, Reason.REPEAT),
        (news("snooze over"), hook(), NOW - 1, Reason.SNOOZE_OVER),
        (News("state", "run.state", "p"), hook(min_severity="critical"), None, Reason.STATE),
        (News("alert", "run.alert", "p", "warning"), hook(), None, Reason.ALERT),
    ],
)
def test_who_is_told_at_once_and_why(what, receiver, told_at, reason):
    """Nothing holds it."""
    assert decide(what, receiver, now=NOW, told_at=told_at) == Decision(True, reason)


def test_a_group_leaves_together():
    """The first one starts the wait, the others join it; an escalation does not wait."""
    receiver = hook(policy=Policy(group_wait_s=30))
    assert decide(news(), receiver, now=NOW) == Decision(True, Reason.NEW, NOW + 30, "group wait")
    assert decide(news(), receiver, now=NOW, group_due=NOW + 7).at == NOW + 7
    assert decide(news("escalate"), receiver, now=NOW, told_at=1.0).at is None


def test_quiet_hours_hold_what_is_not_severe_enough():
    """Until their end; what passes leaves at once."""
    night = QuietHours("11:00", "13:30", "UTC", "critical")
    receiver = hook(policy=Policy(quiet_hours=night))
    assert decide(news(severity="warning"), receiver, now=NOW) == Decision(True, Reason.NEW, NOW + 5400, "quiet hours")
    assert decide(news(severity="critical"), receiver, now=NOW).at is None
    nothing = hook(policy=Policy(quiet_hours=QuietHours("11:00", "13:30", "UTC", "nothing")))
    assert decide(news(severity="critical"), nothing, now=NOW).at == NOW + 5400


@given(st.floats(1.6e9, 2.0e9), st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]))
def test_quiet_hours_follow_the_clocks_of_their_zone(now, zone):
    """Quiet by the wall's clock, and never for longer than a night; also when the clocks change."""
    until = QuietHours("22:00", "07:00", zone).until(now)
    here = datetime.fromtimestamp(now, ZoneInfo(zone))
    assert (until is not None) == (here.hour >= 22 or here.hour < 7)
    if until is not None:
        assert now < until <= now + 10 * 3600
        end = datetime.fromtimestamp(until, ZoneInfo(zone))
        assert (end.hour, end.minute) == (7, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"group_wait": 3},
        {"group_wait_s": -1},
        {"repeat_interval_s": 1},
        {"rate_per_minute": 0},
        {"quiet_hours": {"start": "25:00", "end": "07:00"}},
        {"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Mars/Base"}},
        {"quiet_hours": {"start": "22:00", "end": "22:00"}},
    ],
)
def test_a_policy_that_can_not_be_is_refused(values):
    """With what is wrong about it."""
    with pytest.raises(QueryError):
        policy_of(values)
