"""The outbox: messages written in the transaction that caused them, claimed and sent by any number of loops.

A message has one id and one body for all of its attempts, so that a receiver can tell a repetition.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from holter.wire import dump_json
from holter_db.cursors import after, decode_cursor, encode_cursor, page_size
from holter_db.errors import NotFound
from holter_db.names import new_id
from holter_db.run_rows import RunRow
from holter_db.schema import deliveries, webhooks
from holter_db.webhooks import (
    TYPES,
    WebhookRow,
    add_webhook,
    delete_webhook,
    get_webhook,
    list_webhooks,
)

__all__ = [
    "TYPES",
    "Claimed",
    "DeliveryRow",
    "WebhookRow",
    "add_webhook",
    "claim",
    "delete_webhook",
    "delivered",
    "enqueue",
    "enqueue_test",
    "get_delivery",
    "get_webhook",
    "give_up",
    "list_deliveries",
    "list_webhooks",
    "redeliver",
    "retry",
]

BODY_VERSION = 1
_LOG_KEPT = 50  # attempts
_SORT = "-created_at"


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One message to one receiver. The field names are those of its JSON."""

    id: str
    webhook: str
    run: str | None  # None: a test
    incident: str | None
    type: str
    state: str  # pending | sending | delivered | failed
    attempts: int
    created_at: float
    next_attempt_at: float | None
    delivered_at: float | None
    last_status: int | None
    last_error: str | None
    log: list[dict[str, Any]]  # [{"time", "status", "error"}], the last 50 attempts


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this loop alone may send until its lease ends."""

    delivery_id: str
    run_id: str  # "" for a test
    url: str
    secret: str
    body: bytes
    attempts: int  # with this one

    def __repr__(self) -> str:
        return f"Claimed(delivery_id={self.delivery_id!r}, url={self.url!r}, attempts={self.attempts})"


def enqueue(conn: Connection, run: RunRow, type: str, data: dict[str, Any], now: float) -> list[str]:
    """Write a message for every enabled receiver that wants it; the ids of the deliveries.

    Args:
        type: one of `holter_db.webhooks.TYPES`.
        data: the body's ``data``; the severity of an incident or alert in it decides who wants it.
    """
    about = data.get("incident") or data.get("alert") or {}
    wanted = [hook for hook in list_webhooks(conn) if hook.wants(run.project, type, about.get("severity"))]
    place = {"run_id": run.id, "incident": about.get("id")}
    return [_write(conn, type, data, now, webhook=hook.id, **place) for hook in wanted]


def enqueue_test(conn: Connection, webhook_id: str, data: dict[str, Any], now: float) -> DeliveryRow:
    """Write a message of the type ``test`` for one receiver, whatever it wants.

    Raises:
        NotFound: there is no such webhook.
    """
    webhook = get_webhook(conn, webhook_id)
    return get_delivery(conn, _write(conn, "test", data, now, webhook=webhook.id, run_id=""))


def _write(conn: Connection, type: str, data: dict[str, Any], now: float, **place: str | None) -> str:
    id = f"msg_{new_id(now)}"
    body = {"version": BODY_VERSION, "id": id, "type": type, "timestamp": now, "data": data}
    values: dict[str, Any] = {
        **place,
        "id": id,
        "type": type,
        "body": dump_json(body),
        "state": "pending",
        "attempts": 0,
        "created_at": now,
        "next_attempt_at": now,
        "log": [],
    }
    conn.execute(sa.insert(deliveries), values)
    return id


def claim(conn: Connection, now: float, limit: int = 10, lease_s: float = 60.0) -> list[Claimed]:
    """Take messages that are due, oldest first; nobody else gets them for ``lease_s`` seconds.

    A loop that dies keeps nothing: when its lease has ended the message is due again.
    """
    due = sa.or_(
        sa.and_(deliveries.c.state == "pending", deliveries.c.next_attempt_at <= now),
        sa.and_(deliveries.c.state == "sending", deliveries.c.lease_until <= now),
    )
    chosen = (
        sa.select(deliveries.c.run_id, deliveries.c.id, deliveries.c.body, deliveries.c.attempts, webhooks.c.url)
        .add_columns(webhooks.c.secret)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook)
        .where(due, webhooks.c.enabled)
        .order_by(deliveries.c.next_attempt_at, deliveries.c.created_at, deliveries.c.id)
        .limit(limit)
        # Several servers on PostgreSQL claim side by side; on SQLite writers take turns and this says nothing.
        .with_for_update(skip_locked=True, of=deliveries)
    )
    claimed = []
    for row in conn.execute(chosen).all():
        taken = sa.update(deliveries).where(deliveries.c.run_id == row.run_id, deliveries.c.id == row.id, due)
        values = {"state": "sending", "lease_until": now + lease_s, "attempts": row.attempts + 1}
        if conn.execute(taken.values(values)).rowcount == 1:
            claimed.append(Claimed(row.id, row.run_id, row.url, row.secret, row.body, row.attempts + 1))
    return claimed


def delivered(conn: Connection, id: str, status: int, now: float) -> DeliveryRow:
    """The receiver took it."""
    return _outcome(conn, id, now, (status, None), {"state": "delivered", "delivered_at": now, "next_attempt_at": None})


def retry(  # noqa: PLR0917 - as `give_up`, with one moment more
    conn: Connection, id: str, error: str, status: int | None, next_at: float, now: float
) -> DeliveryRow:
    """It did not get through; try again at ``next_at`` (seconds, UTC)."""
    return _outcome(conn, id, now, (status, error), {"state": "pending", "next_attempt_at": next_at})


def give_up(conn: Connection, id: str, error: str, status: int | None, now: float) -> DeliveryRow:
    """It did not get through and won't be tried again."""
    return _outcome(conn, id, now, (status, error), {"state": "failed", "next_attempt_at": None})


def redeliver(conn: Connection, id: str, now: float) -> DeliveryRow:
    """Send the same message again, now, under its id and with its bytes.

    Raises:
        NotFound: there is no such delivery, or its webhook is gone.
    """
    row = get_delivery(conn, id)
    get_webhook(conn, row.webhook)
    again = {"state": "pending", "next_attempt_at": now, "attempts": 0, "lease_until": None, "delivered_at": None}
    conn.execute(sa.update(deliveries).where(deliveries.c.id == id).values(again))
    return get_delivery(conn, id)


def _outcome(
    conn: Connection, id: str, now: float, answer: tuple[int | None, str | None], values: dict[str, Any]
) -> DeliveryRow:
    row = get_delivery(conn, id)
    if row.state != "sending":  # e.g. its webhook was deleted while it was on its way
        return row
    status, error = answer
    log = [*row.log, {"time": now, "status": status, "error": error}][-_LOG_KEPT:]
    known = {"last_status": status, "last_error": error, "lease_until": None, "log": log}
    conn.execute(sa.update(deliveries).where(deliveries.c.id == id).values(**values, **known))
    return get_delivery(conn, id)


def get_delivery(conn: Connection, id: str) -> DeliveryRow:
    """The delivery with this id.

    Raises:
        NotFound: there is none.
    """
    row = conn.execute(_select().where(deliveries.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFound("delivery", id, "GET /api/v1/deliveries lists them.")
    return _delivery_row(row)


def list_deliveries(
    conn: Connection,
    *,
    run: str | None = None,
    webhook: str | None = None,
    state: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[DeliveryRow], str | None]:
    """One page of deliveries, newest first, and the cursor of the next one, or None."""
    wanted = ((deliveries.c.run_id, run), (deliveries.c.webhook, webhook), (deliveries.c.state, state))
    query = _select().where(*(column == value for column, value in wanted if value is not None))
    if cursor is not None:
        query = query.where(
            after(deliveries.c.created_at, deliveries.c.id, *decode_cursor(cursor, _SORT), descending=True)
        )
    query = query.order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(page_size(limit) + 1)
    rows = [_delivery_row(row) for row in conn.execute(query).mappings()]
    page = rows[:limit]
    return page, encode_cursor(_SORT, page[-1].created_at, page[-1].id) if len(rows) > limit else None


_PLAIN = tuple(field.name for field in fields(DeliveryRow) if field.name != "run")


def _select() -> sa.Select[Any]:
    return sa.select(deliveries.c.run_id, *(deliveries.c[name] for name in _PLAIN))


def _delivery_row(row: RowMapping) -> DeliveryRow:
    return DeliveryRow(run=row["run_id"] or None, **{name: row[name] for name in _PLAIN})
