"""Every error that leaves the service, in one JSON shape.

::

    ServiceError            the service can't start: said once, in the terminal
    ApiError                an answer: status, type, message, what to do
    └── Overloaded          429: too many writes wait

An answer is ``{"error": {"type": "run_not_found", "message": "…", "hint": "…"}}`` with the right status, also for
unknown paths, for bodies that don't parse and for our own faults.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holter.health import RuleError
from holter.wire import WireError
from holter_db.errors import Conflict, DatabaseError, FilterError, Gone, NotFound, QueryError
from holter_server.answers import Json

__all__ = ["ApiError", "CatchFaults", "Overloaded", "ServiceError", "api_error", "install_error_handlers"]

log = logging.getLogger("holter.server")

NOT_FOUND_HINTS = {
    "run": "Start it with POST /api/v1/runs, or list what there is with GET /api/v1/runs",
    "incident": "List the incidents: GET /api/v1/incidents",
    "webhook": "List the webhooks: GET /api/v1/webhooks",
    "delivery": "List the deliveries: GET /api/v1/deliveries",
    "command": "List the commands of a run: GET /api/v1/runs/{id}/commands",
    "figure": "List the figures of a run: GET /api/v1/runs/{id}/figures",
}


GONE_HINTS = {
    "deleted": "POST /api/v1/runs/{id}/restore brings it back. Agents keep what they have of it until then",
    "purged": "Its points are removed for good, and its id stays used: start it under another one",
}


class ServiceError(Exception):
    """The service can't start. ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ApiError(HTTPException):
    """An error as a client gets it. ``details`` are further fields beside type, message and hint."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        hint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.details = details or {}

    def answer(self) -> Json:
        """The error as a response."""
        error = {"type": self.kind, "message": self.message, "hint": self.hint, **self.details}
        return Json({"error": error}, status_code=self.status_code, headers=self.headers)


class Overloaded(ApiError):
    """More writes wait than the service will hold; nothing of this one was kept."""

    def __init__(self) -> None:
        super().__init__(
            429,
            "overloaded",
            "Too many writes wait for the database",
            "Send the same request again after the seconds in Retry-After; the seq keeps it from counting twice.",
            headers={"Retry-After": "1"},
        )


def api_error(error: Exception) -> ApiError | None:
    """The answer to an error of the layers below, or None when it is not one that a client can be told of."""
    match error:
        case ApiError():
            return error
        case WireError():
            status = 413 if error.kind == "too_many_values" else 422
            return ApiError(status, error.kind, str(error), error.hint)
        case NotFound():
            return _missing(error)
        case Conflict():
            return ApiError(409, "conflict", str(error), error.hint)
        case QueryError():
            where = {"position": error.position} if isinstance(error, FilterError) else {}
            return ApiError(422, "invalid_filter" if where else "invalid_query", str(error), error.hint, details=where)
        case RuleError():
            details = {"line": error.line, "allowed_keys": list(error.allowed_keys or [])}
            return ApiError(422, "invalid_rules", str(error), _rule_hint(error), details=details)
        case DatabaseError():
            return ApiError(503, "database_unavailable", str(error), error.hint, headers={"Retry-After": "5"})
    return None


def _missing(error: NotFound) -> ApiError:
    if isinstance(error, Gone):
        return ApiError(410, f"run_{error.how}", str(error), GONE_HINTS[error.how])
    return ApiError(404, f"{error.kind}_not_found", str(error), NOT_FOUND_HINTS.get(error.kind, error.hint))


def _rule_hint(error: RuleError) -> str:
    if error.allowed_keys:
        return f"Allowed here: {', '.join(error.allowed_keys)}"
    return "GET /api/v1/rules shows rules that are right."


async def _answer_known(_request: Request, error: Exception) -> Json:
    known = api_error(error)
    if known is None:
        raise error
    if known.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s", known.message, known.hint)
    return known.answer()


async def _answer_http(request: Request, error: Exception) -> Json:
    if isinstance(error, ApiError):
        return error.answer()
    assert isinstance(error, HTTPException)
    path = request.url.path
    match error.status_code:
        case 404:
            found = ApiError(404, "not_found", f"There is nothing at {path}", "The calls are listed at /api/docs")
        case 405:
            headers = dict(error.headers or {})
            hint = f"Allowed here: {headers.get('allow') or headers.get('Allow') or 'see /api/docs'}"
            found = ApiError(405, "method_not_allowed", f"{path} does not take {request.method}", hint, headers=headers)
        case status:
            found = ApiError(status, "invalid_request", str(error.detail), "See /api/docs", headers=error.headers)
    return found.answer()


async def _answer_invalid(_request: Request, error: Exception) -> Json:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
    shown = "; ".join(fault[:300] for fault in faults[:5])
    return ApiError(422, "invalid_request", shown, "The shape of each call is at /api/docs").answer()


def install_error_handlers(app: FastAPI) -> None:
    """Give every kind of error its answer."""
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    for known in (WireError, NotFound, Conflict, QueryError, RuleError, DatabaseError):
        app.add_exception_handler(known, _answer_known)


class CatchFaults:
    """Answers a fault of our own with a 500 in the one shape, and logs it under the id that the answer names."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            fault = secrets.token_hex(4)
            log.exception("Fault %s in %s %s", fault, scope["method"], scope["path"])
            if started:  # the client must see a broken transfer, not a complete one that lacks its end
                raise
            known = api_error(error) or ApiError(
                500, "internal_error", f"The service failed at this request (fault {fault})", "Its log has the details."
            )
            await known.answer()(scope, receive, send)
