"""The page: index.html for every address that the page routes by itself, its assets, plotly, and the sign-in form."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from holter_db.errors import NotFound
from holter_db.incidents import get_incident
from holter_server.auth import local_target, signed_in
from holter_server.body import read_body
from holter_server.context import Here
from holter_server.errors import ApiError

router = APIRouter(include_in_schema=False)

FORM_BYTES_MAX = 10_000
PAGES = (
    "/",
    "/runs",
    "/runs/{path:path}",
    "/projects/{path:path}",
    "/compare",
    "/incidents",
    "/webhooks",
)


def _static(name: str) -> Path:
    return Path(str(resources.files("holter_web") / "static" / name))


def index() -> FileResponse:
    """The one page; it reads its own address."""
    path = _static("index.html")
    if not path.is_file():
        raise ApiError(404, "not_found", "This installation has no page", "The API is described at /api/docs")
    return FileResponse(path, media_type="text/html", headers={"Cache-Control": "no-cache"})


@router.get("/incidents/{id}")
def incident(here: Here, id: str) -> Response:
    """The permalink of an incident: its run's page, with the incident unfolded."""
    try:
        row = here.read(lambda conn: get_incident(conn, id))
    except NotFound:
        return index()
    return RedirectResponse(f"/runs/{row.run}#incident-{row.id}", 302)


for _path in PAGES:
    router.add_api_route(_path, index, methods=["GET", "HEAD"])


@cache
def plotly_script() -> tuple[bytes, bytes, str]:
    """(plotly.min.js, the same gzipped, its ETag), from the installed plotly wheel."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    digest = hashlib.sha256(script).hexdigest()[:16]
    return script, gzip.compress(script, 6), f'"{digest}"'


@router.get("/static/plotly.min.js")
def plotly(request: Request) -> Response:
    """plotly.js, kept by the browser until plotly is upgraded."""
    script, packed, etag = plotly_script()
    headers = {"ETag": etag, "Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type="text/javascript")
    return Response(script, headers=headers, media_type="text/javascript")


@router.get("/login")
def sign_in_form(next: str = "/") -> HTMLResponse:
    """The form that asks for the token."""
    return _form(next, "", 200)


def _form(target: str, alert: str, status: int) -> HTMLResponse:
    action = f'action="/login?{escape(urlencode({"next": local_target(target)}), quote=True)}"'
    page = _static("login.html").read_text(encoding="utf-8").replace('action="/login"', action)
    return HTMLResponse(page.replace("</h1>", f"</h1>{alert}", 1), status, {"Cache-Control": "no-store"})


@router.post("/login")
async def sign_in(here: Here, request: Request, next: str = "/") -> Response:
    """Check the token and keep it in a cookie."""
    body = await read_body(request, ("application/x-www-form-urlencoded",), FORM_BYTES_MAX)
    secret = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
    if not secret or await to_thread.run_sync(here.access.look_up, secret) is None:
        return _form(next, '<p role="alert">That is not a token of this service.</p>', 401)
    return signed_in(RedirectResponse(local_target(next), 303), secret, secure=here.access.behind_tls)
