"""What the agent has kept for an incident, on the page."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

WIDE = {"width": 1440, "height": 1200}
PHONE = {"width": 390, "height": 844}
NASTY = '<img src=x onerror="document.title=1">'
LAYERS = ["encoder.0.weight", NASTY, "head.weight"]
SENTENCE = f"gradient of {NASTY} was the first to be non-finite, at step 40; batch: {NASTY}, pep_2 and 30 more"
STACKS = f"Thread 0x7f (most recent call first):\n  File {NASTY}, line 3 in wait"


def flight(last: int = 40) -> dict[str, Any]:
    steps = list(range(last - 9, last + 1))
    data = {
        "version": 1,
        "trigger": {"kind": "incident", "incident": None, "rule": None, "step": last},
        "first": {"what": "gradient", "name": NASTY, "step": last, "count": 1, "of": 3},
        "batch": {"step": last, "ids": [NASTY, "pep_2"], "count": 32, "fingerprint": None},
        "layers": LAYERS,
        "steps": steps,
        "grad_norm": [[1.0, math.nan if step == last else 2.0, 0.5] for step in steps],
        "weight_norm": [[10.0, 11.0, 12.0]] * 10,
        "losses": {NASTY: [1.0] * 9 + [math.nan]},
        "file": "/runs/x/40.npz",
    }
    return {"time": time.time(), "kind": "flight", "step": last, "severity": "critical", "text": SENTENCE, "data": data}


def sick_run(service: Any) -> str:
    run = service.start(name="kept")
    service.log(run, 0, *[{"loss/total": 1.0}] * 40, {"loss/total": math.nan})
    return run


def z_of(page: Page, role: str) -> Any:
    return page.evaluate("role => document.querySelector('.heat').data.find(({meta}) => meta.role === role).z", role)


def unfolded(card: Locator, kind: str) -> Locator:
    fold = card.locator(f'.capture[data-kind="{kind}"]')
    fold.locator("summary").click()
    return fold


def test_the_sentence_arrives_under_the_message_and_the_heat_map_unfolds(service: Any, opened: Any) -> None:
    """Live; a name with markup in it is text everywhere, and the batch's ids can be copied."""
    run = sick_run(service)
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])
    card = page.locator(".incident").first
    expect(card.locator(".incident-message")).to_contain_text("loss/total")
    expect(card.locator(".incident-sentence")).to_have_count(0)

    service.log(run, 41, {"loss/total": 1.0}, events=[flight()])
    expect(card.locator(".incident-sentence")).to_have_text(SENTENCE)
    fold = unfolded(card, "flight")
    expect(fold.locator(".heatmaplayer image, .heatmaplayer .hm")).not_to_have_count(0)
    page.wait_for_function("() => document.querySelector('.heat')?.data?.length === 4")
    assert z_of(page, "non_finite")[1] == [None] * 9 + [1]
    assert z_of(page, "norms")[1][-1] is None
    assert z_of(page, "norms")[0][0] == 0
    expect(fold.locator(".heat")).to_contain_text("first non-finite: step 40")
    expect(fold.locator(".heat .yaxislayer-above").first).to_contain_text("<img")
    expect(fold.locator(".ids code")).to_have_text([NASTY, "pep_2"])
    expect(fold).to_contain_text("32 examples, 2 of them here")
    expect(fold).to_contain_text('holter.flight.load("/runs/x/40.npz")')
    fold.get_by_role("button", name="Copy ids").click()
    expect(fold.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{NASTY}\npep_2"
    fold.get_by_role("button", name="Weights").click()
    page.wait_for_function("() => document.querySelector('.heat').layout.meta.norm === 'weight'")

    service.post(f"/incidents/{service.get('/incidents')['incidents'][0]['id']}/acknowledge", {})
    expect(card).to_contain_text("acknowledged")
    expect(fold.locator(".ids code")).to_have_count(2)  # the card was drawn anew, what was unfolded stayed
    assert page.locator("img").count() == 0
    assert page.title() != "1"


def test_copying_works_where_the_page_is_not_trusted_with_the_clipboard(service: Any, opened: Any) -> None:
    """Over plain http from another machine there is no clipboard interface."""
    run = sick_run(service)
    service.log(run, 41, {"loss/total": 1.0}, events=[flight()])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.evaluate("document.addEventListener('copy', () => { window.copied = String(document.activeElement.value) })")
    fold = unfolded(page.locator(".incident").first, "flight")
    fold.get_by_role("button", name="Copy ids").click()
    expect(fold.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("window.copied") == f"{NASTY}\npep_2"


def test_stacks_unfold_as_text_on_a_phone_and_in_the_inbox(service: Any, opened: Any) -> None:
    """Nothing is wider than the screen, and how the process ended is among the events."""
    run = sick_run(service)
    incident = service.get("/incidents")["incidents"][0]["id"]
    data = {"version": 1, "pid": 7, "stacks": STACKS, "step": 40, "trigger": {"kind": "hung", "incident": incident}}
    stacks = {"time": time.time(), "kind": "stacks", "severity": "warning", "text": "no step for 61 s", "data": data}
    exit_ = {"time": time.time(), "kind": "exit", "text": "killed by SIGKILL: the kernel was out of memory"}
    service.log(run, 41, {"loss/total": 1.0}, events=[stacks, exit_, flight()])
    for path in (f"/runs/{run}", "/incidents"):
        page = opened(f"{service.url}{path}", viewport=PHONE, color_scheme="dark")
        card = page.locator(".incident").first
        expect(card.locator(".incident-sentence")).to_have_text([SENTENCE, "no step for 61 s"])
        fold = unfolded(card, "stacks")
        expect(fold.locator("pre")).to_have_text(STACKS)
        expect(unfolded(card, "flight").locator(".heatmaplayer image").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.locator("img").count() == 0
    page.goto(f"{service.url}/runs/{run}")
    page.locator("summary", has_text="Events").click()
    expect(page.locator(".events li", has_text="exit")).to_contain_text("out of memory")


def test_a_record_that_can_not_be_read_says_so(service: Any, opened: Any) -> None:
    """An event of this kind without norms is no reason for an empty box."""
    run = sick_run(service)
    event = flight()
    event["data"] = {"steps": [40], "layers": [], "first": None, "batch": {"ids": "x", "count": None}}
    service.log(run, 41, {"loss/total": 1.0}, events=[event])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    fold = unfolded(page.locator(".incident").first, "flight")
    expect(fold).to_contain_text("The recorder kept no norms.")
    expect(fold.locator(".capture-batch")).to_have_count(0)
