"""The list of runs, in a real browser."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


def test_a_newcomer_sees_what_to_add_and_then_the_run(service: Any, opened: Any) -> None:
    """Without runs the page shows the two lines; the first run appears by itself and its step counts up."""
    page = opened(service.url, viewport=WIDE)
    expect(page.get_by_text("No runs yet")).to_be_visible()
    expect(page.locator("pre")).to_contain_text(f'holter.init(project="my-project", url="{service.url}")')
    page.evaluate("window.notReloaded = true")

    run = service.start(name="healthy_new", planned_steps=5000)
    service.log(run, 40, {"loss/total": 2.5})
    row = page.locator("tbody tr", has_text="healthy_new")
    expect(row).to_contain_text("40 / 5,000")
    expect(row.locator(".badge").first).to_have_text("running")
    service.log(run, 41, {"loss/total": 2.4})
    expect(row).to_contain_text("41 / 5,000")
    expect(page.locator("#connection")).to_have_text("live")

    service.post(f"/runs/{run}/finish", {"state": "finished"})
    expect(row.locator(".badge").first).to_have_text("finished")
    assert page.evaluate("window.notReloaded")

    row.get_by_role("link").click()
    expect(page).to_have_url(f"{service.url}/runs/{run}")
    expect(page.locator("h1")).to_have_text("healthy_new")
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(1)


def test_search_and_filters_narrow_the_list(service: Any, opened: Any) -> None:
    for name, project in (("alpha", "denovo"), ("beta", "denovo"), ("gamma", "vision")):
        service.log(service.start(name=name, project=project), 1, {"loss": 1.0})
    page = opened(service.url, viewport=WIDE)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_label("project").select_option("denovo")
    expect(rows).to_have_count(2)
    page.get_by_label("Search runs").fill("beta")
    expect(rows).to_have_count(1)
    page.get_by_label("state").select_option("failed")
    expect(page.get_by_text("No run matches")).to_be_visible()
    page.get_by_label("state").select_option("")
    expect(rows).to_have_count(1)


def test_the_tab_says_how_many_runs_are_unwell(service: Any, opened: Any) -> None:
    run = service.start(name="sick")
    service.log(run, 0, *[{"loss/total": 1.0, "loss/precursor": 0.5}] * 5)
    page = opened(service.url, viewport=WIDE)
    expect(page).to_have_title("Runs · Holter")
    service.log(run, 5, *[{"loss/total": float("nan"), "loss/precursor": float("nan")}] * 60)
    expect(page.locator("tbody tr").get_by_text("critical", exact=True)).to_be_visible()
    expect(page).to_have_title("(1) Runs · Holter")


def test_the_list_is_readable_on_a_phone(service: Any, opened: Any) -> None:
    """Nothing is wider than the screen."""
    service.log(service.start(name="a-run-with-a-rather-long-name-" * 3, planned_steps=10), 3, {"loss": 1.0})
    page = opened(service.url, viewport=PHONE, is_mobile=True, has_touch=True)
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_page_returns_by_itself_when_the_service_does(serve: Any, opened: Any) -> None:
    """It says that it is reconnecting, and shows what happened meanwhile without a reload."""
    with serve() as service:
        run = service.start(name="long-run")
        service.log(run, 1, {"loss": 1.0})
        page = opened(f"{service.url}/runs/{run}", viewport=WIDE, allowed="ERR_CONNECTION_REFUSED")
        tile = page.locator(".tile", has_text="Step")
        expect(tile).to_contain_text("1")
        page.evaluate("window.notReloaded = true")
    expect(page.locator("#connection")).to_have_text("reconnecting")
    with serve(port=urlsplit(service.url).port) as service:
        service.log(run, 77, {"loss": 0.5})
        expect(page.locator("#connection")).to_have_text("live")
        expect(tile).to_contain_text("77")
        assert page.evaluate("window.notReloaded")


def test_with_a_token_the_page_asks_for_it_and_then_works(serve: Any, opened: Any) -> None:
    with serve(token="open-sesame") as service:
        run = service.start(name="guarded")
        service.log(run, 3, {"loss": 1.0})
        page = opened(service.url, viewport=WIDE, allowed="401")
        page.get_by_label("Token").fill("open-sesame")
        page.get_by_role("button", name="Sign in").click()
        row = page.locator("tbody tr", has_text="guarded")
        expect(row).to_be_visible()
        expect(page.locator("#connection")).to_have_text("live")
        service.log(run, 4, {"loss": 1.0})
        expect(row.locator(".c-step")).to_have_text(re.compile("4"))
