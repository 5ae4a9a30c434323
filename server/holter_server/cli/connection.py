"""How a command talks to a running service: REST, with the errors that a person at a terminal needs."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
import urllib3

from holter_server.cli.failure import Failure

__all__ = ["DEFAULT_URL", "AsJson", "Connection", "Run", "Token", "Url"]

DEFAULT_URL = "http://127.0.0.1:8787"
# The service's own hints name REST calls; at a terminal these help more.
_HINTS = {
    "run_not_found": "holter runs lists them",
    "run_deleted": "holter restore RUN brings it back",
    "webhook_not_found": "holter webhook list shows them",
}
_PATIENCE = urllib3.Timeout(connect=5, read=60)  # seconds

Url = Annotated[str, typer.Option("--url", envvar="HOLTER_URL", help="Address of the service.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="HOLTER_TOKEN", show_default=False, help="Token, where the service asks for one."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Id, a unique prefix of one, or project/name (the newest).")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


class Connection:
    """One service. Every call returns the decoded JSON body or raises `Failure`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise Failure(f"{url!r} is not the address of a service", f"Write it like {DEFAULT_URL}")
        self._pool = urllib3.PoolManager(timeout=_PATIENCE, retries=False)
        self._headers = {"Accept": "application/json", "User-Agent": "holter-cli"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._json(self._request("GET", path, query=query))

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return self._json(self._request("POST", path, body={} if body is None else body))

    def patch(self, path: str, body: Any) -> dict[str, Any]:
        return self._json(self._request("PATCH", path, body=body))

    def put(self, path: str, body: Any, **query: Any) -> dict[str, Any]:
        return self._json(self._request("PUT", path, query=query, body=body))

    def delete(self, path: str) -> dict[str, Any]:
        return self._json(self._request("DELETE", path))

    def stream(self, path: str, **query: Any) -> urllib3.BaseHTTPResponse:
        """The answer with its body not yet read; the caller reads it and releases the connection."""
        return self._request("GET", path, query=query, preload=False)

    def probe(self, path: str) -> urllib3.BaseHTTPResponse:
        """Any answer at all, whatever its status, from a path below the root instead of below /api/v1."""
        try:
            return self._pool.request("GET", f"{self.url}{path}", headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None

    def all(self, path: str, noun: str, **query: Any) -> list[dict[str, Any]]:
        """Every row of a list, page after page."""
        rows: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **query)
            rows += page[noun]
            cursor = page.get("next")
            if not cursor:
                return rows

    def run(self, text: str) -> dict[str, Any]:
        """The run that a person means by ``text``: an id, a unique prefix of one, or project/name."""
        if "/" not in text:
            run: dict[str, Any] = self.get(f"/runs/{quote(text, safe='')}")["run"]
            return run
        project, name = text.split("/", 1)
        named = [run for run in self.all("/runs", "runs", project=project, q=name) if run["name"] == name]
        if not named:
            raise Failure(f"Project {project!r} has no run named {name!r}", "holter runs lists those that there are")
        return max(named, key=lambda run: float(run["created_at"]))

    def deleted_runs(self) -> list[dict[str, Any]]:
        """Every deleted run of which there still is something."""
        return self.all("/runs", "runs", deleted="true", limit=500)

    def deleted_run(self, text: str) -> dict[str, Any]:
        """As `run`, among the deleted runs."""
        rows = self.deleted_runs()
        if "/" in text:
            fitting = [run for run in rows if f"{run['project']}/{run['name']}" == text]
            fitting = [max(fitting, key=lambda run: float(run["created_at"]))] if fitting else []
        else:
            fitting = [run for run in rows if run["id"] == text] or [run for run in rows if run["id"].startswith(text)]
        if not fitting:
            raise Failure(f"No deleted run is called {text!r}", "holter runs --deleted lists them")
        if len(fitting) > 1:
            shown = ", ".join(run["id"] for run in fitting[:5])
            raise Failure(f"{text!r} begins more than one deleted run's id", f"Type more of it. It could be {shown}.")
        return fitting[0]

    def _request(
        self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None, preload: bool = True
    ) -> urllib3.BaseHTTPResponse:
        address = f"{self.url}/api/v1{path}{_query_string(query or {})}"
        try:
            answer = self._pool.request(
                method, address, json=body, headers=self._headers, preload_content=preload, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status >= 300:
            raise self._refused(answer.status, answer.data)
        return answer

    def _json(self, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        try:
            decoded = json.loads(answer.data)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise self._not_holter()
        return decoded

    def _unreachable(self, error: Exception) -> Failure:
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            return Failure(f"The service at {self.url} does not answer in time", "Its log says what it is at")
        return Failure(
            f"No service at {self.url}", "Start one: holter serve. Or name the one you mean: --url or HOLTER_URL"
        )

    def _refused(self, status: int, body: bytes) -> Failure:
        if status in (401, 403):
            return Failure(
                f"The service at {self.url} does not let us in: {_message(body) or f'status {status}'}",
                "Give a token by --token or HOLTER_TOKEN; where the service runs, holter token create makes one",
            )
        message = _message(body)
        if message is None:
            return self._not_holter() if status < 500 else Failure(f"The service failed ({status})", "See its log")
        return Failure(message, _hint(body))

    def _not_holter(self) -> Failure:
        return Failure(f"What answers at {self.url} is not Holter", "Name the service: --url or HOLTER_URL")


def _query_string(query: dict[str, Any]) -> str:
    pairs = [
        f"{quote(name)}={quote(str(value), safe='')}"
        for name, values in query.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None
    ]
    return "?" + "&".join(pairs) if pairs else ""


def _error(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _message(body: bytes) -> str | None:
    message = _error(body).get("message")
    return None if message is None else str(message)


def _hint(body: bytes) -> str:
    error = _error(body)
    return _HINTS.get(str(error.get("type"))) or str(error.get("hint") or "")
