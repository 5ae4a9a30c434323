"""Webhooks and their deliveries."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import outbox
from holter_db.outbox import DeliveryRow, WebhookRow
from holter_db.policies import Policy, policy_of
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.errors import ApiError
from holter_server.notify import addresses
from holter_server.writing import Transaction

router = APIRouter(tags=["webhooks"])

CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
CHAT_POLICY = Policy(group_wait_s=2.0, rate_per_minute=20)  # what people read, and what chats take (Telegram: 20)
Severity = Literal["info", "warning", "critical"]
DeliveryType = Literal["incident.firing", "incident.resolved", "run.state", "run.alert"]


class QuietHours(BaseModel):
    """Every day from `start` to `end`, by the clocks of `timezone`, only what is severe enough gets through."""

    model_config = ConfigDict(extra="forbid")
    start: str = Field(pattern=CLOCK, examples=["22:00"])
    end: str = Field(pattern=CLOCK, examples=["07:00"])
    timezone: str = Field("UTC", max_length=64, examples=["Europe/Berlin"])
    passes: Literal["info", "warning", "critical", "nothing"] = Field("critical", description="this and worse is sent")


class PolicyRequest(BaseModel):
    """How to send: what is not given keeps its default, or what it was."""

    model_config = ConfigDict(extra="forbid")
    group_wait_s: float | None = Field(
        None, ge=0, le=3600, description="what a run fires within these seconds is one message; 0: none waits"
    )
    repeat_interval_s: float | None = Field(
        None, ge=60, le=2_592_000, description="seconds after which what still fires is told again; null: never"
    )
    send_resolved: bool | None = Field(None, description="tell that an incident is over")
    rate_per_minute: int | None = Field(None, ge=1, le=100_000, description="messages a minute at most; null: no limit")
    quiet_hours: QuietHours | None = None


class WebhookRequest(BaseModel):
    """Where to send, and what."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(
        max_length=2000,
        description="https:// gets signed JSON; any address of Apprise's, such as slack:// or mailto://, gets a text",
        examples=["https://example.org/holter"],
    )
    name: str = Field("", max_length=200)
    project: str | None = Field(None, description="only this project's runs; null: every project")
    types: list[DeliveryType] = ["incident.firing", "incident.resolved", "run.state", "run.alert"]
    min_severity: Severity = "warning"
    policy: PolicyRequest | None = None


class WebhookChange(BaseModel):
    """What to change; what is not given stays."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(None, max_length=200)
    project: str | None = None
    types: list[DeliveryType] | None = None
    min_severity: Severity | None = None
    enabled: bool | None = None
    policy: PolicyRequest | None = None


@router.get("/webhooks", response_model=schemas.WebhooksAnswer)
def list_(here: Here) -> Json:
    """Every webhook with the state of its circuit breaker, without its secrets."""
    rows = here.read(outbox.list_webhooks)
    return Json({"webhooks": [shapes.webhook(row, time.time()) for row in rows]})


@router.get("/webhooks/{id}", response_model=schemas.WebhookAnswer)
def show(here: Here, id: str) -> Json:
    """One of them."""
    return Json({"webhook": shapes.webhook(here.read(lambda conn: outbox.get_webhook(conn, id)), time.time())})


@router.post("/webhooks", response_model=schemas.NewWebhookAnswer, status_code=201)
def add(here: Here, body: WebhookRequest) -> Json:
    """Add a webhook. This answer alone carries the secret that its deliveries are signed with."""
    allow_private = here.settings.allow_private_webhooks
    try:
        addresses.check(body.url, allow_private=allow_private)
    except ValueError as error:
        hint = "Give an http or https address that the service can reach, or one of Apprise's."
        if not allow_private:
            hint += " Private addresses need HOLTER_ALLOW_PRIVATE_WEBHOOKS=1 in the service's environment."
        told = addresses.without_secrets(str(error), body.url)
        raise ApiError(422, "invalid_url", told, hint) from None
    usual = CHAT_POLICY if addresses.is_chat(body.url) else Policy()
    policy = usual if body.policy is None else _policy(body.policy, usual)

    def work(tx: Transaction) -> WebhookRow:
        return outbox.add_webhook(
            tx.conn,
            url=body.url,
            name=body.name,
            project=body.project,
            types=list(body.types),
            min_severity=body.min_severity,
            now=tx.now,
            shown=addresses.shown(body.url),
            policy=policy,
        )

    return Json({"webhook": shapes.webhook(here.writer.call(work), time.time(), secret=True)}, status_code=201)


@router.patch("/webhooks/{id}", response_model=schemas.WebhookAnswer)
def change(here: Here, id: str, body: WebhookChange) -> Json:
    """Change who is told of what, or how. The address and the secret stay: for another one, add a webhook."""
    changes: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"policy"}}
    for name in ("name", "types", "min_severity", "enabled"):
        if name in changes and changes[name] is None:
            raise ApiError(422, "invalid_request", f"{name} can't be null", "Leave it away to keep what it is.")

    def work(tx: Transaction) -> WebhookRow:
        if body.policy is not None:
            changes["policy"] = _policy(body.policy, outbox.get_webhook(tx.conn, id).policy)
        return outbox.update_webhook(tx.conn, id, changes)

    return Json({"webhook": shapes.webhook(here.writer.call(work), time.time())})


def _policy(asked: PolicyRequest, base: Policy) -> Policy:
    """The policy ``base`` with what was asked for laid over it."""
    values = {**msgspec.to_builtins(base), **asked.model_dump(exclude_unset=True)}
    for name in ("group_wait_s", "send_resolved"):
        if values.get(name, ...) is None:
            del values[name]
    return policy_of(values)


@router.delete("/webhooks/{id}", response_model=schemas.DeletedAnswer)
def delete(here: Here, id: str) -> Json:
    """Remove a webhook. What still waits for it is not sent."""
    here.writer.call(lambda tx: outbox.delete_webhook(tx.conn, id))
    return Json({"deleted": id})


@router.post("/webhooks/{id}/test", response_model=schemas.DeliveryAnswer, status_code=201)
def test(here: Here, id: str) -> Json:
    """Send a made-up incident, marked as a test, to this webhook."""

    def work(tx: Transaction) -> DeliveryRow:
        tx.messages += 1
        return outbox.enqueue_test(tx.conn, id, shapes.made_up_incident(here.address), tx.now)

    return Json({"delivery": shapes.delivery(here.writer.call(work))}, status_code=201)


@router.get("/deliveries", response_model=schemas.DeliveriesAnswer)
def deliveries(
    *,
    here: Here,
    run: str | None = None,
    webhook: str | None = None,
    incident: str | None = None,
    state: Annotated[
        str | None, Query(description="pending, sending, delivered, failed, skipped (over before it left) or grouped")
    ] = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Json:
    """Deliveries, newest first, each with the log of its attempts."""
    rows, following = here.read(
        lambda conn: outbox.list_deliveries(
            conn,
            run=None if run is None else here.run_id(conn, run),
            webhook=webhook,
            incident=incident,
            state=state,
            limit=limit,
            cursor=cursor,
        )
    )
    return Json({"deliveries": [shapes.delivery(row) for row in rows], "next": following})


@router.post("/deliveries/{id}/redeliver", response_model=schemas.DeliveryAnswer)
def redeliver(here: Here, id: str) -> Json:
    """Send it again now, whatever became of it."""

    def work(tx: Transaction) -> DeliveryRow:
        tx.messages += 1
        return outbox.redeliver(tx.conn, id, tx.now)

    return Json({"delivery": shapes.delivery(here.writer.call(work))})
