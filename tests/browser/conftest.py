"""A real Chromium, a running service, and pages that may neither log an error nor leave this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from playwright.sync_api import Browser, Page, expect, sync_playwright

from holter import wire
from holter_server.service import running
from holter_server.settings import Settings

CHROMIUM = "/usr/bin/chromium"
# A browser of its own accord calls home; none of it is wanted here, and some of it needs a graphics card.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 30_000  # machines that run tests are busy
LOCAL_SCHEMES = {"data", "blob", "about"}

expect.set_options(timeout=PATIENCE_MS)


class Service:
    """A running service, and plain JSON calls to it."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(60))

    def get(self, path: str) -> Any:
        answer = self._http.request("GET", f"{self.url}/api/v1{path}", headers=self.headers)
        assert answer.status == 200, answer.data
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        headers = {**self.headers, "Content-Type": "application/json"}
        answer = self._http.request("POST", f"{self.url}/api/v1{path}", body=wire.dump_json(body), headers=headers)
        assert answer.status in (200, 201), answer.data
        return answer.json()

    def start(self, **fields: Any) -> str:
        """The id of a new run."""
        run: str = self.post("/runs", {"project": "denovo", **fields})["run"]["id"]
        return run

    def log(self, run: str, first: int, *rows: dict[str, float], events: list[dict[str, Any]] | None = None) -> None:
        """Log each row of values as one step, from step ``first`` on."""
        points = [{"step": first + index, "values": row} for index, row in enumerate(rows)]
        self.post(f"/runs/{run}/points", {"points": points, "events": events or []})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as Debian installs it: there is no test of the page without it.

    Not for the whole session: while playwright is up, its event loop runs in this thread, and `asyncio.run` of any
    other test would be refused.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., AbstractContextManager[Service]]:
    """Starts a service on this test's SQLite file; starting it again finds what the first one kept."""

    @contextmanager
    def start(*, token: str | None = None, port: int = 0) -> Iterator[Service]:
        settings = Settings(
            db=f"sqlite:///{tmp_path / 'holter.db'}", port=port, token=token, allow_private_webhooks=True
        )
        with running(settings) as url:
            yield Service(url, token)

    return start


@pytest.fixture
def service(serve: Callable[..., AbstractContextManager[Service]]) -> Iterator[Service]:
    with serve() as started:
        yield started


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages. At the end none of them may have logged an error or asked another host for anything.

    ``allowed`` names an error that the test provokes on purpose.
    """
    with ExitStack() as stack:

        def open_page(url: str, *, allowed: str | None = None, **options: Any) -> Page:
            page = stack.enter_context(_watched(browser, allowed, options))
            page.goto(url)
            return page

        yield open_page


@contextmanager
def _watched(browser: Browser, allowed: str | None, options: dict[str, Any]) -> Iterator[Page]:
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url))
    page.on("websocket", lambda socket: hosts.add(socket.url))
    yield page
    context.close()
    assert [error for error in errors if not allowed or allowed not in error] == []
    foreign = [url for url in hosts if urlsplit(url).scheme not in LOCAL_SCHEMES]
    assert {urlsplit(url).hostname for url in foreign} == {"127.0.0.1"}
