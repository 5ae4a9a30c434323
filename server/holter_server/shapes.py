"""Rows as the API and the webhooks show them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec

from holter.wire import Event
from holter_db.captures import Capture, Found, summary
from holter_db.commands import CommandRow
from holter_db.events import EventRow, event_id
from holter_db.incidents import IncidentRow
from holter_db.ingest import Appended
from holter_db.mutes import MuteRow
from holter_db.outbox import DeliveryRow, WebhookRow
from holter_db.rank_series import RankSeries
from holter_db.retention import DAY, Policy
from holter_db.rule_sets import RuleSetRow
from holter_db.runs import AttemptRow, ProjectRow, RunRow, WriterRow
from holter_db.series import MetricInfo, Series
from holter_db.stragglers import RankRow
from holter_server.notify.addresses import is_chat

__all__ = [
    "command",
    "deleted_run",
    "delivery",
    "event",
    "events_of",
    "incident",
    "incident_in_webhook",
    "made_up_incident",
    "metric",
    "mute",
    "plain",
    "project",
    "rank",
    "rank_series",
    "retention",
    "rules_version",
    "run",
    "run_in_webhook",
    "run_with_parts",
    "series",
    "webhook",
]

Shape = dict[str, Any]

IN_WEBHOOK = (
    "id", "rule", "kind", "severity", "metric", "writer", "rank", "step", "value", "threshold", "baseline",
    "message", "advice", "evidence", "state", "opened_at", "resolved_at", "resolution", "flaps",
)  # fmt: skip


def _plain(row: Any) -> Shape:
    """A dataclass's fields by name, one level deep: rows hold nothing that JSON could not take."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def run(row: RunRow) -> Shape:
    return _plain(row)


def plain(row: Any) -> Shape:
    return _plain(row)


def retention(project: str, policy: Policy, *, own: bool) -> Shape:
    """``own``: it was set for the project, in place of the default."""
    return {"project": project, **_plain(policy), "of": "project" if own else "settings"}


def deleted_run(row: RunRow, grace_days: float | None) -> Shape:
    """With the time at which its rows go, if that is certain to come; ``grace_days``: as in the settings."""
    due = None if grace_days is None or row.deleted_at is None else row.deleted_at + grace_days * DAY
    return {**_plain(row), "purge_at": row.purging_at or due}


def run_with_parts(row: RunRow, writers: list[WriterRow], attempts: list[AttemptRow]) -> Shape:
    return {
        **_plain(row),
        "writers": [_plain(item) for item in writers],
        "attempts": [_plain(item) for item in attempts],
    }


def run_in_webhook(row: RunRow, url: str) -> Shape:
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "state": row.state,
        "state_reason": row.state_reason,
        "health": row.health,
        "last_step": row.last_step,
        "url": url,
    }


def incident(row: IncidentRow, found: Found) -> Shape:
    return {**_plain(row), "flight": _capture(found.flight), "stacks": _capture(found.stacks)}


def _capture(found: Capture | None) -> Shape | None:
    """What the agent says of it, and on top of that what the service knows for certain."""
    if found is None:
        return None
    known = ("event", "text", "time", "step", "first_step", "last_step", "writer", "attempt")
    return {**found.summary, **{name: getattr(found, name) for name in known}}


def incident_in_webhook(row: IncidentRow, found: Found, url: str = "") -> Shape:
    """With the flight recorder's sentence among the evidence, where it is there already: no message waits for it."""
    shown: Shape = {name: getattr(row, name) for name in IN_WEBHOOK} | {"url": url}
    if found.flight is not None:
        shown["evidence"] = {**row.evidence, "flight": found.flight.text}
    return shown


def command(row: CommandRow) -> Shape:
    return {**_plain(row), "answers": [_plain(item) for item in row.answers]}


def event(row: EventRow) -> Shape:
    return _plain(row)


def events_of(appended: Appended, writer: str) -> list[Shape]:
    """The events of a frame as lists of events show them; writer and attempt are the frame's."""
    plain = ("time", "step", "kind", "severity", "text")
    return [
        {
            "id": event_id(appended.writer_id, appended.seq, number),
            **{name: getattr(logged, name) for name in plain},
            "data": summary(logged),
            "writer": writer,
            "attempt": appended.attempt,
        }
        for number, logged in enumerate(appended.events)
    ]


def alert_in_webhook(logged: Event) -> Shape:
    """An alert of the user's; what is not the agent's own event has its text as the title."""
    said = {"title": logged.text, "text": ""} | logged.data
    fields = ("severity", "step", "time")
    return {"title": said["title"], "text": said["text"]} | {name: getattr(logged, name) for name in fields}


def metric(info: MetricInfo) -> Shape:
    return {**_plain(info), "series": [_plain(item) for item in info.series]}


def series(item: Series) -> Shape:
    shown = _plain(item) | {"run": item.run_id, "non_finite": item.non_finite, "crowded": _plain(item.crowded)}
    del shown["run_id"]
    return shown


def rank_series(item: RankSeries) -> Shape:
    return {**_plain(item), "non_finite": [_plain(entry) for entry in item.non_finite]}


def rank(row: RankRow) -> Shape:
    return _plain(row)


def project(row: ProjectRow) -> Shape:
    return _plain(row)


def made_up_incident(address: str) -> Shape:
    """The data of a test delivery: the shape of a real one, and unmistakably none."""
    shown: Shape = dict.fromkeys(IN_WEBHOOK)
    shown |= {
        "id": "test",
        "rule": "test",
        "kind": "limit",
        "severity": "critical",
        "metric": "loss/total",
        "writer": "rank0",
        "rank": 0,
        "step": 0,
        "value": 11.0,
        "threshold": 10.0,
        "message": "This is a test of the webhook: no training is unhealthy",
        "advice": "Nothing needs to be done.",
        "evidence": {},
        "state": "firing",
        "flaps": 0,
        "url": address,
    }
    run_shown = {"id": "test", "name": "test", "project": "test", "state": "running", "url": address}
    return {"incident": shown, "run": run_shown}


def webhook(row: WebhookRow, now: float, *, secret: bool = False) -> Shape:
    """A webhook without what is secret in its address; its signing secret only where it was just made."""
    plain = ("id", "name", "project", "types", "min_severity", "enabled", "created_at")
    shown: Shape = {name: getattr(row, name) for name in plain}
    policy = {name: getattr(row.policy, name) for name in row.policy.__struct_fields__}
    shown |= {
        "url": row.shown,
        "channel": row.url.partition("://")[0].lower() if is_chat(row.url) else "webhook",
        "policy": msgspec.to_builtins(policy),
        "breaker": _plain(row.breaker(now)),
    }
    return shown | {"secret": row.secret} if secret else shown


def mute(row: MuteRow) -> Shape:
    return _plain(row)


def rules_version(row: RuleSetRow, *, text: bool) -> Shape:
    shown = _plain(row)
    return shown if text else {name: value for name, value in shown.items() if name != "text"}


def delivery(row: DeliveryRow) -> Shape:
    return _plain(row)
