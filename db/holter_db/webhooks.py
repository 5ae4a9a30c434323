"""Who wants to be told, and about what."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health.model import SEVERITIES
from holter_db.errors import NotFound, QueryError
from holter_db.names import new_id
from holter_db.schema import deliveries, webhooks

__all__ = ["TYPES", "WebhookRow", "add_webhook", "delete_webhook", "get_webhook", "list_webhooks"]

TYPES = ("incident.firing", "incident.resolved", "run.state", "run.alert")


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One receiver. ``secret`` is for signing and must not be shown again after it was made."""

    id: str
    url: str
    name: str
    project: str | None  # None: every project
    types: tuple[str, ...]  # empty: every type
    min_severity: str
    enabled: bool
    secret: str  # "whsec_" and base64, as Standard Webhooks has it
    created_at: float

    def __repr__(self) -> str:
        return f"WebhookRow(id={self.id!r}, url={self.url!r}, secret='whsec_…')"

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
) -> WebhookRow:
    """Add a receiver, with a new secret unless one is given.

    Raises:
        QueryError: the address, a type or the severity can't be.
    """
    if not url.startswith(("http://", "https://")):
        raise QueryError(f"{url[:100]!r} is not a web address", "It begins with https:// or http://.")
    if unknown := [type for type in types if type not in TYPES]:
        raise QueryError(f"There is no message type {unknown[0]!r}", f"Use {', '.join(TYPES)}.")
    if min_severity not in SEVERITIES:
        raise QueryError(f"There is no severity {min_severity!r}", f"Use {', '.join(SEVERITIES)}.")
    made = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    row = WebhookRow(new_id(now), url, name, project, tuple(types), min_severity, True, secret or made, now)
    conn.execute(sa.insert(webhooks), {field: getattr(row, field) for field in WebhookRow.__slots__})
    return row


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
    conn.execute(sa.update(deliveries).where(*waiting).values(gone))
    conn.execute(sa.delete(webhooks).where(webhooks.c.id == id))


def _rows(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[WebhookRow]:
    columns = [webhooks.c[name] for name in WebhookRow.__slots__]
    query = sa.select(*columns).where(*conditions).order_by(webhooks.c.created_at, webhooks.c.id)
    return [WebhookRow(*row) for row in conn.execute(query)]
