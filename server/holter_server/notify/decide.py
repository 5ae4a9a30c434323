"""Should a receiver be told? Pure: plain values in, a named reason out. The clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from holter.health.model import SEVERITIES
from holter_db.outbox import GROUP_WAIT
from holter_db.webhooks import WebhookRow

__all__ = ["Cause", "Decision", "News", "Reason", "decide"]

Cause = Literal["open", "escalate", "resolve", "repeat", "snooze over", "state", "alert"]
FIRING = ("open", "escalate", "repeat", "snooze over")


class Reason(StrEnum):
    """Why a receiver is told, or is not."""

    NEW = "new"
    ESCALATED = "escalated"
    RESOLVED = "resolved"
    REPEAT = "repeat"
    SNOOZE_OVER = "snooze over"
    STATE = "state of the run"
    ALERT = "alert of the training"
    DISABLED = "the webhook is disabled"
    OTHER_PROJECT = "another project"
    OTHER_TYPE = "type not asked for"
    TOO_MILD = "not severe enough"
    MUTED = "muted"
    NO_NOTIFY = "the rule does not notify"
    SNOOZED = "snoozed"
    ACKNOWLEDGED = "acknowledged"
    NO_RESOLVED = "resolved notices are off"
    NEVER_TOLD = "it was never told of"
    TOO_SOON = "told a short while ago"


_SAID = {
    "open": Reason.NEW,
    "escalate": Reason.ESCALATED,
    "resolve": Reason.RESOLVED,
    "repeat": Reason.REPEAT,
    "snooze over": Reason.SNOOZE_OVER,
    "state": Reason.STATE,
    "alert": Reason.ALERT,
}


@dataclass(frozen=True, slots=True)
class News:
    """What there is to tell: of an incident, unless ``cause`` is state or alert."""

    cause: Cause
    type: str  # of the message
    project: str
    severity: str | None = None
    notifies: bool = True  # the rule's actions say so
    state: str = "firing"  # of the incident
    muted: bool = False
    snoozed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to tell, why, and when: ``at`` (seconds, UTC) and what holds it until then, None for at once."""

    tell: bool
    reason: Reason
    at: float | None = None
    held: str | None = None


def decide(
    news: News, hook: WebhookRow, *, now: float, told_at: float | None = None, group_due: float | None = None
) -> Decision:
    """Whether ``hook`` is told of ``news`` at ``now`` (seconds, UTC).

    Args:
        told_at: when it was told last that this incident fires, None for never.
        group_due: when the group leaves that already waits for it.
    """
    against = _against_hook(news, hook) or _against_incident(news, hook, now, told_at)
    if against is not None:
        return Decision(False, against)
    reason = _SAID[news.cause]
    quiet = _quiet_until(news, hook, now)
    if quiet is not None:
        return Decision(True, reason, quiet, "quiet hours")
    if news.cause == "open" and hook.policy.group_wait_s > 0:
        return Decision(True, reason, now + hook.policy.group_wait_s if group_due is None else group_due, GROUP_WAIT)
    return Decision(True, reason)


def _against_hook(news: News, hook: WebhookRow) -> Reason | None:
    if not hook.enabled:
        return Reason.DISABLED
    if hook.project not in (None, news.project):
        return Reason.OTHER_PROJECT
    if hook.types and news.type not in hook.types:
        return Reason.OTHER_TYPE
    if news.severity is not None and _rank(news.severity) < _rank(hook.min_severity):
        return Reason.TOO_MILD
    return None


def _against_incident(news: News, hook: WebhookRow, now: float, told_at: float | None) -> Reason | None:
    if news.muted:
        return Reason.MUTED
    if not news.notifies:
        return Reason.NO_NOTIFY
    if news.snoozed:
        return Reason.SNOOZED
    if news.cause == "resolve":
        if not hook.policy.send_resolved:
            return Reason.NO_RESOLVED
        return Reason.NEVER_TOLD if told_at is None else None
    if news.cause in ("repeat", "snooze over") and news.state == "acknowledged":
        return Reason.ACKNOWLEDGED
    if news.cause == "repeat":
        return _against_repeating(hook.policy.repeat_interval_s, now, told_at)
    return None


def _against_repeating(interval_s: float | None, now: float, told_at: float | None) -> Reason | None:
    if told_at is None:
        return Reason.NEVER_TOLD
    return Reason.TOO_SOON if interval_s is None or now < told_at + interval_s else None


def _quiet_until(news: News, hook: WebhookRow, now: float) -> float | None:
    hours = hook.policy.quiet_hours
    if hours is None:
        return None
    if hours.passes != "nothing" and news.severity is not None and _rank(news.severity) >= _rank(hours.passes):
        return None
    return hours.until(now)


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)
