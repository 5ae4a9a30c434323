"""Rows as the API and the webhooks show them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from holter.wire import Event
from holter_db.commands import CommandRow
from holter_db.events import EventRow
from holter_db.incidents import IncidentRow
from holter_db.outbox import DeliveryRow, WebhookRow
from holter_db.rank_series import RankSeries
from holter_db.runs import AttemptRow, ProjectRow, RunRow, WriterRow
from holter_db.series import MetricInfo, Series
from holter_db.stragglers import RankRow

__all__ = [
    "command",
    "delivery",
    "event",
    "event_fields",
    "incident",
    "incident_in_webhook",
    "made_up_incident",
    "metric",
    "project",
    "rank",
    "rank_series",
    "run",
    "run_in_webhook",
    "run_with_parts",
    "series",
    "webhook",
]

Shape = dict[str, Any]

IN_WEBHOOK = (
    "id", "rule", "kind", "severity", "metric", "writer", "rank", "step", "value", "threshold", "baseline",
    "message", "advice", "evidence", "state", "opened_at", "resolved_at", "resolution",
)  # fmt: skip


def _plain(row: Any) -> Shape:
    """A dataclass's fields by name, one level deep: rows hold nothing that JSON could not take."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def run(row: RunRow) -> Shape:
    return _plain(row)


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


def incident(row: IncidentRow) -> Shape:
    return _plain(row)


def incident_in_webhook(row: IncidentRow) -> Shape:
    return {name: getattr(row, name) for name in IN_WEBHOOK}


def command(row: CommandRow) -> Shape:
    return {**_plain(row), "answers": [_plain(item) for item in row.answers]}


def event(row: EventRow) -> Shape:
    return _plain(row)


def event_fields(logged: Event) -> Shape:
    """An event as it arrived; writer and attempt are the frame's."""
    return {name: getattr(logged, name) for name in ("time", "step", "kind", "severity", "text", "data")}


def alert_in_webhook(logged: Event) -> Shape:
    """An alert of the user's; what is not the agent's own event has its text as the title."""
    said = {"title": logged.text, "text": ""} | logged.data
    fields = ("severity", "step", "time")
    return {"title": said["title"], "text": said["text"]} | {name: getattr(logged, name) for name in fields}


def metric(info: MetricInfo) -> Shape:
    return {**_plain(info), "series": [_plain(item) for item in info.series]}


def series(item: Series) -> Shape:
    return {**_plain(item), "non_finite": item.non_finite}


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
    }
    run_shown = {"id": "test", "name": "test", "project": "test", "state": "running", "url": address}
    return {"incident": shown, "run": run_shown}


def webhook(row: WebhookRow, *, secret: bool = False) -> Shape:
    """A webhook; its signing secret only where it was just made."""
    shown = _plain(row)
    if not secret:
        shown.pop("secret", None)
    return shown


def delivery(row: DeliveryRow) -> Shape:
    return _plain(row)
