"""The application: middleware, errors, routes. Nothing happens on import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import PackageNotFoundError, version

from anyio import to_thread
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holter_db.database import Database
from holter_server.answers import Json
from holter_server.api_page import api_page
from holter_server.auth import Guard
from holter_server.body import LimitBody
from holter_server.context import Context
from holter_server.errors import CatchFaults, install_error_handlers
from holter_server.frames import FrameLane
from holter_server.openapi import install_openapi
from holter_server.routes import (
    commands,
    compare,
    deletion,
    figures,
    incidents,
    ingest,
    live,
    mutes,
    operations,
    pages,
    ranks,
    retention,
    rules,
    runs,
    series,
    webhooks,
)
from holter_server.settings import Settings

__all__ = ["create_app"]

API = "/api/v1"
API_ROUTERS = (
    runs, deletion, retention, ingest, series, ranks, figures, incidents, commands, webhooks, rules, mutes, compare,
    live,
)  # fmt: skip

SECURITY_HEADERS = {
    # plotly.js writes style elements of its own and exports pictures as data: and blob: addresses.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
PROTECTION = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def create_app(settings: Settings, database: Database | None = None, address: str = "") -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: read once and passed down.
        database: an open one; without it the application opens ``settings.db`` when it starts and closes it when it
            ends, and a `holter_db.errors.DatabaseError` comes out of its lifespan.
        address: where it will be reached, for links in webhooks, unless ``settings.public_url`` says so.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = database if database is not None else await to_thread.run_sync(Database.open, settings.db)
        context = Context(settings, store, address)
        context.hub.bind(asyncio.get_running_loop())
        app.state.context = context
        context.start()
        try:
            yield
        finally:
            await to_thread.run_sync(context.stop)
            if database is None:
                store.close()

    app = FastAPI(
        title="Holter", version=_version(), lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    install_error_handlers(app)
    install_openapi(app)
    for module in API_ROUTERS:
        app.include_router(module.router, prefix=API)
    app.include_router(operations.router)
    _add_reference(app)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=str(resources.files("holter_web") / "static"), check_dir=False))
    # The last one added is the outermost.
    app.add_middleware(FrameLane, prefix=API)
    app.add_middleware(LimitBody, limit=settings.max_body_mb * 1_000_000)
    app.add_middleware(Guard)
    app.add_middleware(CatchFaults)
    app.add_middleware(SecurityHeaders)
    return app


def _add_reference(app: FastAPI) -> None:
    @app.get("/api/openapi.json", include_in_schema=False)
    def openapi() -> Json:
        return Json(app.openapi())

    @app.get("/api/docs", include_in_schema=False)
    def docs(_request: Request) -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))


def _version() -> str:
    try:
        return version("holter")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0"


class SecurityHeaders:
    """Puts the same protective headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message.get("headers", ())}
                more = (header for header in PROTECTION if header[0] not in known)
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        await self.app(scope, receive, protected if scope["type"] == "http" else send)
