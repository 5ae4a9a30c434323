"""The outbox: messages written in the transaction that caused them, claimed and sent by any number of loops.

A message has one id and one body for all of its attempts, so that a receiver can tell a repetition. One that is held
(for its group, for the end of quiet hours) is pending until its time has come; what is over by then is skipped, and
what belongs together leaves as one message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from holter.health.model import SEVERITIES
from holter.wire import dump_json
from holter_db.cursors import after, decode_cursor, encode_cursor, page_size
from holter_db.errors import NotFound
from holter_db.names import new_id
from holter_db.policies import policy_of
from holter_db.run_rows import RunRow
from holter_db.schema import deliveries, webhooks
from holter_db.webhooks import (
    BREAKER_FAILURES,
    TYPES,
    WebhookRow,
    add_webhook,
    delete_webhook,
    get_webhook,
    let_through,
    list_webhooks,
    update_webhook,
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
    "group_due",
    "last_told",
    "list_deliveries",
    "list_webhooks",
    "put",
    "redeliver",
    "retry",
    "update_webhook",
    "withdraw",
]

BODY_VERSION = 1
GROUP_WAIT = "group wait"  # `held` of what leaves with its group
RATE_LIMIT = "rate limit"
DAY_S = 86_400.0
_WINDOW_S = 60.0
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
    state: str  # pending | sending | delivered | failed | skipped (over before it left) | grouped (in another one)
    attempts: int
    created_at: float
    next_attempt_at: float | None
    delivered_at: float | None
    last_status: int | None
    last_error: str | None
    log: list[dict[str, Any]]  # [{"time", "status", "error", "duration_ms"}], the last 50 attempts
    reason: str  # why it was decided to tell
    held: str | None  # why it does not leave yet
    give_up_at: float | None  # known once it was tried
    grouped_into: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this loop alone may send until its lease ends."""

    delivery_id: str
    run_id: str  # "" for a test
    url: str
    secret: str
    body: bytes
    attempts: int  # with this one
    webhook: str = ""
    give_up_at: float = float("inf")
    failures: int = 0  # of its receiver, in a row, before this attempt

    def __repr__(self) -> str:
        return f"Claimed(delivery_id={self.delivery_id!r}, webhook={self.webhook!r}, attempts={self.attempts})"


def enqueue(conn: Connection, run: RunRow, type: str, data: dict[str, Any], now: float) -> list[str]:
    """Write a message for every enabled receiver that wants it, to leave at once; the ids of the deliveries.

    Args:
        type: one of `holter_db.webhooks.TYPES`.
        data: the body's ``data``; the severity of an incident or alert in it decides who wants it.
    """
    about = data.get("incident") or data.get("alert") or {}
    wanted = [hook for hook in list_webhooks(conn) if hook.wants(run.project, type, about.get("severity"))]
    return [put(conn, hook.id, run.id, type, data, now) for hook in wanted]


def put(  # noqa: PLR0917 - who is told, of which run, what
    conn: Connection,
    webhook: str,
    run_id: str,
    type: str,
    data: dict[str, Any],
    now: float,
    *,
    reason: str = "new",
    at: float | None = None,
    held: str | None = None,
) -> str:
    """Write a message for one receiver; the delivery's id.

    Args:
        reason: why it was decided to tell.
        at: when it is to leave, seconds UTC; None: at once. ``held``: why not before.
    """
    incident = (data.get("incident") or {}).get("id")
    when = {"next_attempt_at": now if at is None else at, "held": held, "reason": reason}
    return _write(conn, type, data, now, webhook=webhook, run_id=run_id, incident=incident, **when)


def enqueue_test(conn: Connection, webhook_id: str, data: dict[str, Any], now: float) -> DeliveryRow:
    """Write a message of the type ``test`` for one receiver, whatever it wants; an open breaker lets it through.

    Raises:
        NotFound: there is no such webhook.
    """
    webhook = get_webhook(conn, webhook_id)
    let_through(conn, webhook.id)
    return get_delivery(conn, _write(conn, "test", data, now, webhook=webhook.id, run_id="", reason="test"))


def _write(conn: Connection, type: str, data: dict[str, Any], now: float, **more: Any) -> str:
    id = f"msg_{new_id(now)}"
    values: dict[str, Any] = {
        "incident": None,
        "held": None,
        "next_attempt_at": now,
        **more,
        "id": id,
        "type": type,
        "body": _body(id, type, data, now),
        "state": "pending",
        "attempts": 0,
        "created_at": now,
        "log": [],
    }
    conn.execute(sa.insert(deliveries), values)
    return id


def _body(id: str, type: str, data: dict[str, Any], now: float) -> bytes:
    return dump_json({"version": BODY_VERSION, "id": id, "type": type, "timestamp": now, "data": data})


# --- what was told, and what still waits ------------------------------------------------------------------------


def last_told(conn: Connection, incident: str) -> dict[str, float]:
    """For each receiver that was told that the incident fires, or is to be: when it was told last (seconds, UTC)."""
    told = (deliveries.c.type == "incident.firing", deliveries.c.state != "skipped")
    query = (
        sa.select(deliveries.c.webhook, sa.func.max(deliveries.c.created_at))
        .where(deliveries.c.incident == incident, *told)
        .group_by(deliveries.c.webhook)
    )
    return {row[0]: row[1] for row in conn.execute(query)}


def withdraw(conn: Connection, run_id: str, incident: str, reason: str) -> list[str]:
    """Skip what still waits to be told of an incident for the first time; the receivers that never hear of it."""
    held = (deliveries.c.state == "pending", deliveries.c.attempts == 0, deliveries.c.held.is_not(None))
    mine = (deliveries.c.run_id == run_id, deliveries.c.incident == incident, deliveries.c.held != RATE_LIMIT)
    skip = {"state": "skipped", "held": None, "next_attempt_at": None, "last_error": reason}
    gone = conn.execute(
        sa.update(deliveries).where(*held, *mine).values(skip).returning(deliveries.c.webhook)
    ).scalars()
    return list(dict.fromkeys(gone))


def group_due(conn: Connection, webhook: str, run_id: str) -> float | None:
    """When the group of a run leaves that already waits for this receiver; None where none does."""
    first = sa.select(sa.func.min(deliveries.c.next_attempt_at)).where(*_group(webhook, run_id))
    due: float | None = conn.scalar(first)
    return due


def _group(webhook: str, run_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        deliveries.c.run_id == run_id,
        deliveries.c.webhook == webhook,
        deliveries.c.state == "pending",
        deliveries.c.held == GROUP_WAIT,
    )


# --- sending ----------------------------------------------------------------------------------------------------


def claim(  # noqa: PLR0917 - the defaults are what tests take
    conn: Connection,
    now: float,
    limit: int = 10,
    lease_s: float = 60.0,
    give_up_s: float = DAY_S,
    at_once: tuple[int, Mapping[str, int]] | None = None,
) -> list[Claimed]:
    """Take messages that are due, oldest first; nobody else gets them for ``lease_s`` seconds.

    A loop that dies keeps nothing: when its lease has ended the message is due again. Nothing is taken for a receiver
    whose breaker is open, one message for one whose breaker is half-open, and none beyond a receiver's rate.

    Args:
        give_up_s: a message that is tried for the first time is tried for so long.
        at_once: how many messages one receiver may have on their way, and how many each has already.
    """
    most, busy = at_once or (limit, {})
    full = [webhook for webhook, count in busy.items() if count >= most]
    due = sa.or_(
        sa.and_(deliveries.c.state == "pending", deliveries.c.next_attempt_at <= now),
        sa.and_(deliveries.c.state == "sending", deliveries.c.lease_until <= now),
    )
    receiver = ("url", "secret", "policy", "failures", "window_at", "window_sent")
    message = ("run_id", "id", "body", "attempts", "held", "webhook", "give_up_at", "created_at", "type")
    chosen = (
        sa.select(*(deliveries.c[name] for name in message), *(webhooks.c[name] for name in receiver))
        .join(webhooks, webhooks.c.id == deliveries.c.webhook)
        .where(due, webhooks.c.enabled, sa.func.coalesce(webhooks.c.open_until, 0.0) <= now)
        .where(webhooks.c.id.not_in(full))
        .order_by(deliveries.c.next_attempt_at, deliveries.c.created_at, deliveries.c.id)
        .limit(limit)
        # Several servers on PostgreSQL claim side by side; on SQLite writers take turns and this says nothing.
        .with_for_update(skip_locked=True, of=deliveries)
    )
    gate = _Gate(conn, now, lease_s)
    sending = Counter(busy)
    claimed: list[Claimed] = []
    gone: set[str] = set()
    for row in conn.execute(chosen).all():
        if row.id in gone or sending[row.webhook] >= most or not gate.opens(row):
            continue
        sending[row.webhook] += 1
        body = row.body
        if row.held == GROUP_WAIT:
            body = _gather(conn, row, gone)
        until = now + give_up_s if row.give_up_at is None else row.give_up_at
        taken = sa.update(deliveries).where(deliveries.c.run_id == row.run_id, deliveries.c.id == row.id, due)
        values = {"state": "sending", "lease_until": now + lease_s, "attempts": row.attempts + 1}
        if conn.execute(taken.values(**values, give_up_at=until, held=None)).rowcount == 1:
            what = (row.id, row.run_id, row.url, row.secret, body, row.attempts + 1)
            claimed.append(Claimed(*what, row.webhook, until, row.failures))
    return claimed


class _Gate:
    """What the breakers and rates of the receivers let through in one claim."""

    def __init__(self, conn: Connection, now: float, lease_s: float) -> None:
        self._conn, self._now, self._lease_s = conn, now, lease_s
        self._probed: set[str] = set()
        self._sent: Counter[str] = Counter()

    def opens(self, row: Any) -> bool:
        if row.webhook in self._probed:
            return False
        rate = policy_of(row.policy).rate_per_minute
        if rate is not None and not self._within(row, rate):
            return False
        if row.failures >= BREAKER_FAILURES:
            self._probed.add(row.webhook)
            self._set(row.webhook, open_until=self._now + self._lease_s)  # until it is judged
        return True

    def _within(self, row: Any, rate: int) -> bool:
        began = row.window_at if row.window_at is not None and row.window_at > self._now - _WINDOW_S else None
        before = row.window_sent if began is not None else 0
        start = self._now if began is None else began
        if before + self._sent[row.webhook] >= rate:
            this = sa.and_(deliveries.c.run_id == row.run_id, deliveries.c.id == row.id)
            held = row.held if row.held == GROUP_WAIT else RATE_LIMIT
            later = {"state": "pending", "next_attempt_at": start + _WINDOW_S, "held": held}
            self._conn.execute(sa.update(deliveries).where(this).values(later))
            return False
        self._sent[row.webhook] += 1
        self._set(row.webhook, window_at=start, window_sent=before + self._sent[row.webhook])
        return True

    def _set(self, webhook: str, **values: Any) -> None:
        self._conn.execute(sa.update(webhooks).where(webhooks.c.id == webhook).values(values))


def _gather(conn: Connection, leader: Any, gone: set[str]) -> bytes:
    """Put what waits in the leader's group into its message; the others are ``gone`` with it."""
    query = sa.select(deliveries.c.id, deliveries.c.body).where(*_group(leader.webhook, leader.run_id))
    rows = conn.execute(query.order_by(deliveries.c.created_at, deliveries.c.id).with_for_update()).all()
    others = [row.id for row in rows if row.id != leader.id]
    if not others:
        return bytes(leader.body)
    gone.update(others)
    carried = {"state": "grouped", "grouped_into": leader.id, "held": None, "next_attempt_at": None}
    these = sa.and_(deliveries.c.run_id == leader.run_id, deliveries.c.id.in_(others))
    conn.execute(sa.update(deliveries).where(these).values(carried))
    datas = [msgspec.json.decode(row.body)["data"] for row in rows]
    body = _body(leader.id, leader.type, merged(datas), leader.created_at)
    this = sa.and_(deliveries.c.run_id == leader.run_id, deliveries.c.id == leader.id)
    conn.execute(sa.update(deliveries).where(this).values(body=body))
    return body


def merged(datas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data of one message about several incidents of a run: the worst as ``incident``, all as ``incidents``."""
    found = [data["incident"] for data in datas]
    worst = max(found, key=lambda incident: SEVERITIES.index(incident["severity"]))  # the first of equal ones
    return {**datas[-1], "incident": worst, "incidents": found}


def delivered(conn: Connection, id: str, status: int, now: float, *, duration_s: float | None = None) -> DeliveryRow:
    """The receiver took it; ``duration_s``: how long the attempt took."""
    done = {"state": "delivered", "delivered_at": now, "next_attempt_at": None}
    return _outcome(conn, id, now, (status, None, duration_s), done)


def retry(  # noqa: PLR0917 - as `give_up`, with one moment more
    conn: Connection,
    id: str,
    error: str,
    status: int | None,
    next_at: float,
    now: float,
    *,
    duration_s: float | None = None,
) -> DeliveryRow:
    """It did not get through; try again at ``next_at`` (seconds, UTC)."""
    return _outcome(conn, id, now, (status, error, duration_s), {"state": "pending", "next_attempt_at": next_at})


def give_up(
    conn: Connection, id: str, error: str, status: int | None, now: float, *, duration_s: float | None = None
) -> DeliveryRow:
    """It did not get through and won't be tried again."""
    return _outcome(conn, id, now, (status, error, duration_s), {"state": "failed", "next_attempt_at": None})


def redeliver(conn: Connection, id: str, now: float) -> DeliveryRow:
    """Send the same message again, now, under its id and with its bytes; an open breaker lets it through.

    Raises:
        NotFound: there is no such delivery, or its webhook is gone.
    """
    row = get_delivery(conn, id)
    get_webhook(conn, row.webhook)
    let_through(conn, row.webhook)
    again = {"state": "pending", "next_attempt_at": now, "attempts": 0, "lease_until": None, "delivered_at": None}
    fresh = {"held": None, "give_up_at": None, "grouped_into": None}
    conn.execute(sa.update(deliveries).where(deliveries.c.id == id).values(**again, **fresh))
    return get_delivery(conn, id)


def _outcome(
    conn: Connection,
    id: str,
    now: float,
    answer: tuple[int | None, str | None, float | None],
    values: dict[str, Any],
) -> DeliveryRow:
    row = get_delivery(conn, id)
    if row.state != "sending":  # e.g. its webhook was deleted while it was on its way
        return row
    status, error, took = answer
    attempt = {"time": now, "status": status, "error": error}
    attempt["duration_ms"] = None if took is None else round(1000 * took, 1)
    log = [*row.log, attempt][-_LOG_KEPT:]
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
    incident: str | None = None,
    state: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[DeliveryRow], str | None]:
    """One page of deliveries, newest first, and the cursor of the next one, or None."""
    wanted = {"run_id": run, "webhook": webhook, "incident": incident, "state": state}
    query = _select().where(*(deliveries.c[name] == value for name, value in wanted.items() if value is not None))
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
