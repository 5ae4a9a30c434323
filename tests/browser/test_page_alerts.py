"""Incidents of all runs, and webhooks with their deliveries, in a real browser."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

WIDE = {"width": 1440, "height": 900}


@pytest.fixture
def receiver() -> Iterator[str]:
    """The address of a real HTTP server that accepts every POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()
        thread.join()


def test_incidents_of_all_runs_appear_by_themselves(service: Any, opened: Any) -> None:
    """Each names its run and leads to it; acknowledging one here changes its state."""
    page = opened(f"{service.url}/incidents", viewport=WIDE)
    expect(page.get_by_text("No incidents")).to_be_visible()
    run = service.start(name="ends-in-nan")
    service.log(run, 0, *[{"loss/total": 1.0, "grad_norm": 1.0}] * 5)
    service.log(run, 5, *[{"loss/total": math.nan, "grad_norm": math.nan}] * 40)
    card = page.locator(".incident").first
    expect(card).to_contain_text("loss/total")
    card.get_by_role("button", name="Acknowledge").click()
    expect(page.locator('.incident[data-state="acknowledged"]').first).to_be_visible()
    page.locator(".incident").first.get_by_role("link", name="ends-in-nan").click()
    expect(page.locator("h1")).to_have_text("ends-in-nan")


def test_a_webhook_is_added_tested_and_removed(service: Any, opened: Any, receiver: str) -> None:
    """The signing secret is shown once, the test's delivery stands in the log, and removing asks first."""
    page = opened(f"{service.url}/webhooks", viewport=WIDE, allowed="422")
    page.get_by_label("Address").fill("ftp://example.org")
    page.get_by_role("button", name="Add webhook").click()
    expect(page.get_by_role("alert")).to_be_visible()

    page.get_by_label("Address").fill(receiver)
    page.get_by_label("Name").fill("ops")
    page.get_by_role("button", name="Add webhook").click()
    expect(page.get_by_text("whsec_")).to_be_visible()
    page.get_by_role("button", name="Send a test").click()
    row = page.locator("tbody tr", has_text="ops")
    expect(row).to_contain_text("delivered")

    page.get_by_role("button", name="Remove").click()
    page.locator("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("No webhook yet.")).to_be_visible()
