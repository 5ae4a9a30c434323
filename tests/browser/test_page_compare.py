"""The compare page: verdict, table, tree, charts; by keyboard, on a phone, in the dark."""

from __future__ import annotations

import math
import random

from playwright.sync_api import expect


def trained(service, group: str, seed: int, level: float, planned: int = 150) -> str:
    run = service.start(group=group, name=f"{group}-{seed}", config={"seed": seed, "<b>": group}, planned_steps=planned)
    draw = random.Random(f"{group} {seed}")
    rows = [
        {
            "loss/total": 2 * math.exp(-step / 80) + 0.02 * draw.random(),
            "grad_norm": 1 + 0.1 * draw.random(),
            "val/acc": level + 0.002 * draw.random(),
        }
        for step in range(150)
    ]
    service.log(run, 0, *rows)
    return run


def test_a_comparison_by_address(service, opened):
    """Three seeds a side: accepted, a row's arithmetic unfolds by keyboard, charts are drawn."""
    for seed in (1, 2, 3):
        trained(service, "old", seed, 0.80)
        trained(service, "new", seed, 0.85)
    page = opened(f"{service.url}/compare?baseline=group=old&candidate=group=new")
    expect(page.locator(".compare-verdict .badge")).to_have_text("Candidate accepted")
    row = page.locator(".compare-table tbody tr").first
    expect(row).to_contain_text("val/acc")
    more = row.get_by_role("button")
    more.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#arithmetic-0")).to_contain_text("t-interval over 3 runs a side")
    expect(page.locator('.compare-tree .node[data-taken="true"]')).to_have_count(3)
    page.locator(".compare-plot").first.scroll_into_view_if_needed()  # charts are drawn once they are in sight
    expect(page.locator(".compare-charts .js-plotly-plot").first).to_be_visible()
    page.locator(".compare-keys summary").click()
    expect(page.locator(".compare-keys")).to_contain_text("<b>")


def test_the_form_and_what_goes_wrong(service, opened):
    """An unknown run is said in the service's own words; then one run a side is undetermined, with what is needed."""
    old, new = trained(service, "old", 1, 0.8), trained(service, "new", 1, 0.8, planned=1000)
    page = opened(f"{service.url}/compare", allowed="404")
    page.get_by_label("Baseline").fill(old)
    page.get_by_label("Candidate").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("nothing")
    page.get_by_label("Candidate").fill(new)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compare-verdict .badge")).to_have_text("Could not compare")
    expect(page.locator(".standing")).to_contain_text("At the same step, 149")
    assert f"candidate={new}" in page.url


def test_it_fits_a_phone_in_the_dark(service, opened):
    """Nothing is wider than the screen but the table, which scrolls by itself."""
    old, new = trained(service, "old", 1, 0.8), trained(service, "new", 2, 0.8)
    page = opened(
        f"{service.url}/compare?baseline={old}&candidate={new}",
        viewport={"width": 390, "height": 800},
        color_scheme="dark",
    )
    expect(page.locator(".compare-honest")).to_contain_text("Which answer would lead where")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
