"""Who wants to be told, and about what; and how each receiver has been doing."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import SEVERITIES
from holter_db.errors import NotFound, QueryError
from holter_db.names import new_id
from holter_db.policies import Policy, policy_of
from holter_db.schema import deliveries, webhooks

__all__ = [
    "BREAKER_FAILURES",
    "TYPES",
    "Breaker",
    "WebhookRow",
    "add_webhook",
    "delete_webhook",
    "failed",
    "get_webhook",
    "let_through",
    "list_webhooks",
    "show_addresses",
    "update_webhook",
    "worked",
]

TYPES = ("incident.firing", "incident.resolved", "run.state", "run.alert")
BREAKER_FAILURES = 5  # in a row


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker of a receiver. Half-open: one message at a time goes out, to see whether it is back."""

    state: Literal["closed", "open", "half-open"]
    failures: int  # in a row
    until: float | None  # when the next message may go out; seconds, UTC
    last_error: str | None


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One receiver. ``url`` and ``secret`` must not be shown or logged; ``shown`` is the address for people."""

    id: str
    url: str
    name: str
    project: str | None  # None: every project
    types: tuple[str, ...]  # empty: every type
    min_severity: str
    enabled: bool
    secret: str  # "whsec_" and base64, as Standard Webhooks has it
    created_at: float
    shown: str = ""
    policy: Policy = field(default_factory=Policy)
    failures: int = 0
    open_until: float | None = None
    last_error: str | None = None

    def __repr__(self) -> str:
        return f"WebhookRow(id={self.id!r}, shown={self.shown!r})"

    def breaker(self, now: float) -> Breaker:
        """The state of its circuit breaker at ``now`` (seconds, UTC)."""
        if self.open_until is not None and self.open_until > now:
            return Breaker("open", self.failures, self.open_until, self.last_error)
        state: Literal["closed", "half-open"] = "half-open" if self.failures >= BREAKER_FAILURES else "closed"
        return Breaker(state, self.failures, None, self.last_error)

    def wants(self, project: str, type: str, severity: str | None) -> bool:
        """Whether this receiver is to be told of a message; one without a severity passes that test.

        >>> hook = WebhookRow("1", "https://a.example", "", None, (), "warning", True, "", 0.0)
        >>> hook.wants("denovo", "incident.firing", "info"), hook.wants("denovo", "incident.firing", "critical")
        (False, True)
        """
        if not self.enabled or self.project not in (None, project) or (self.types and type not in self.types):
            return False
        return severity is None or SEVERITIES.index(severity) >= SEVERITIES.index(self.min_severity)


def add_webhook(
    conn: Connection,
    url: str,
    now: float,
    *,
    name: str = "",
    project: str | None = None,
    types: Sequence[str] = (),
    min_severity: str = "warning",
    secret: str | None = None,
    shown: str | None = None,
    policy: Policy | None = None,
) -> WebhookRow:
    """Add a receiver, with a new secret unless one is given.

    Args:
        url: where to; whether anything can be sent there is for the caller to check.
        shown: the address without what is secret in it.

    Raises:
        QueryError: the address, a type or the severity can't be.
    """
    if "://" not in url:
        raise QueryError(f"{url[:100]!r} is not an address", "It begins with https:// or as Apprise's do: slack://.")
    _check(types, min_severity)
    made = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    row = WebhookRow(
        new_id(now), url, name, project, tuple(types), min_severity, True, secret or made, now,
        shown=url if shown is None else shown, policy=policy or Policy(),
    )  # fmt: skip
    values = {field: getattr(row, field) for field in WebhookRow.__slots__}
    conn.execute(sa.insert(webhooks), {**values, "policy": msgspec.to_builtins(row.policy), "window_sent": 0})
    return row


def update_webhook(conn: Connection, id: str, changes: Mapping[str, Any]) -> WebhookRow:
    """Change ``name``, ``project``, ``types``, ``min_severity``, ``enabled`` or ``policy`` (a `Policy`).

    Raises:
        NotFound: there is no such webhook.
        QueryError: a type or the severity can't be.
    """
    row = get_webhook(conn, id)
    _check(changes.get("types", row.types), changes.get("min_severity", row.min_severity))
    values = {**changes}
    if "policy" in values:
        values["policy"] = msgspec.to_builtins(values["policy"])
    if values:
        conn.execute(sa.update(webhooks).where(webhooks.c.id == id).values(values))
    return get_webhook(conn, id)


def _check(types: Sequence[str], min_severity: str) -> None:
    if unknown := [type for type in types if type not in TYPES]:
        raise QueryError(f"There is no message type {unknown[0]!r}", f"Use {', '.join(TYPES)}.")
    if min_severity not in SEVERITIES:
        raise QueryError(f"There is no severity {min_severity!r}", f"Use {', '.join(SEVERITIES)}.")


def list_webhooks(conn: Connection) -> list[WebhookRow]:
    """Every receiver, oldest first."""
    return _rows(conn)


def get_webhook(conn: Connection, id: str) -> WebhookRow:
    """The receiver with this id.

    Raises:
        NotFound: there is none.
    """
    found = _rows(conn, webhooks.c.id == id)
    if not found:
        raise NotFound("webhook", id, "GET /api/v1/webhooks lists them.")
    return found[0]


def delete_webhook(conn: Connection, id: str) -> None:
    """Remove a receiver; what was still to be delivered to it fails visibly."""
    get_webhook(conn, id)
    waiting = (deliveries.c.webhook == id, deliveries.c.state.in_(("pending", "sending")))
    gone: dict[str, Any] = {"state": "failed", "last_error": "the webhook was deleted", "next_attempt_at": None}
    conn.execute(sa.update(deliveries).where(*waiting).values(**gone, held=None))
    conn.execute(sa.delete(webhooks).where(webhooks.c.id == id))


# --- how it is doing --------------------------------------------------------------------------------------------


def worked(conn: Connection, id: str, now: float) -> None:
    """It took a message: the breaker closes, and what had to wait because of it goes out at once."""
    row = conn.execute(sa.select(webhooks.c.failures, webhooks.c.open_until).where(webhooks.c.id == id)).one_or_none()
    if row is None or (row.failures == 0 and row.open_until is None):
        return
    conn.execute(sa.update(webhooks).where(webhooks.c.id == id).values(failures=0, open_until=None, last_error=None))
    if row.failures >= BREAKER_FAILURES:
        waiting = (deliveries.c.webhook == id, deliveries.c.state == "pending", deliveries.c.held.is_(None))
        later = deliveries.c.next_attempt_at > now
        conn.execute(sa.update(deliveries).where(*waiting, later).values(next_attempt_at=now))


def failed(conn: Connection, id: str, error: str, wait_until: float | None, breaker_until: float) -> None:
    """It could not be reached, or said that it is not well.

    Args:
        wait_until: the receiver itself asked for nothing before then.
        breaker_until: how long the breaker stays open if this failure opens it, or if it was half-open.
    """
    failures = conn.scalar(sa.select(webhooks.c.failures).where(webhooks.c.id == id).with_for_update())
    if failures is None:
        return
    moments = [breaker_until] if failures + 1 >= BREAKER_FAILURES else []
    moments += [] if wait_until is None else [wait_until]
    values = {"failures": failures + 1, "last_error": error, "open_until": max(moments, default=None)}
    conn.execute(sa.update(webhooks).where(webhooks.c.id == id).values(values))


def let_through(conn: Connection, id: str) -> None:
    """Somebody wants to know now: an open breaker lets one message through."""
    conn.execute(sa.update(webhooks).where(webhooks.c.id == id).values(open_until=None))


def show_addresses(conn: Connection, addresses: Mapping[str, str]) -> None:
    """Write down what may be shown of addresses: ``{id: shown}``."""
    for id, shown in addresses.items():
        conn.execute(sa.update(webhooks).where(webhooks.c.id == id).values(shown=shown))


def _rows(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[WebhookRow]:
    columns = [webhooks.c[name] for name in WebhookRow.__slots__]
    query = sa.select(*columns).where(*conditions).order_by(webhooks.c.created_at, webhooks.c.id)
    return [_row(row) for row in conn.execute(query).mappings()]


def _row(row: sa.RowMapping) -> WebhookRow:
    return WebhookRow(**{**row, "policy": policy_of(row["policy"])})
