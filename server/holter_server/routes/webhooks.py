"""Webhooks and their deliveries."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import outbox
from holter_db.outbox import DeliveryRow, WebhookRow
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.errors import ApiError
from holter_server.notify.guarded_http import check_url
from holter_server.writing import Transaction

router = APIRouter(tags=["webhooks"])

DeliveryType = Literal["incident.firing", "incident.resolved", "run.state", "run.alert"]


class WebhookRequest(BaseModel):
    """Where to send, and what."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(max_length=2000, examples=["https://example.org/holter"])
    name: str = Field("", max_length=200)
    project: str | None = Field(None, description="only this project's runs; null: every project")
    types: list[DeliveryType] = ["incident.firing", "incident.resolved", "run.state", "run.alert"]
    min_severity: Literal["info", "warning", "critical"] = "warning"


@router.get("/webhooks", response_model=schemas.WebhooksAnswer)
def list_(here: Here) -> Json:
    """Every webhook, without its secret."""
    rows = here.read(outbox.list_webhooks)
    return Json({"webhooks": [shapes.webhook(row) for row in rows]})


@router.post("/webhooks", response_model=schemas.NewWebhookAnswer, status_code=201)
def add(here: Here, body: WebhookRequest) -> Json:
    """Add a webhook. This answer alone carries the secret that its deliveries are signed with."""
    allow_private = here.settings.allow_private_webhooks
    try:
        check_url(body.url, allow_private=allow_private)
    except ValueError as error:
        hint = "Give an http or https address that the service can reach."
        if not allow_private:
            hint += " Private addresses need HOLTER_ALLOW_PRIVATE_WEBHOOKS=1 in the service's environment."
        raise ApiError(422, "invalid_url", str(error), hint) from None

    def work(tx: Transaction) -> WebhookRow:
        return outbox.add_webhook(
            tx.conn,
            url=body.url,
            name=body.name,
            project=body.project,
            types=list(body.types),
            min_severity=body.min_severity,
            now=tx.now,
        )

    return Json({"webhook": shapes.webhook(here.writer.call(work), secret=True)}, status_code=201)


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
    state: Annotated[str | None, Query(description="pending, sending, delivered or failed")] = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Json:
    """Deliveries, newest first, each with the log of its attempts."""
    rows, following = here.read(
        lambda conn: outbox.list_deliveries(
            conn,
            run=None if run is None else here.run_id(conn, run),
            webhook=webhook,
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
