"""A run of several ranks on the page: who is behind, the mean in its band, each rank when asked for."""

from __future__ import annotations

import math
import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def run(service) -> str:
    """Three ranks: rank 1 is NaN in the end, rank 2 is behind."""
    for rank in range(3):
        writer = {"name": f"rank{rank}", "rank": rank, "world_size": 3, "host": "node<b>", "device": f"cuda:{rank}"}
        service.post("/runs", {"project": "denovo", "id": "three", "attempt": "a", "writer": writer})
        steps = 30 if rank == 2 else 50
        points = [
            {
                "step": step,
                "time": 1.7e9 + step,
                "values": {"loss": math.nan if rank == 1 and step > 40 else 1.0 + rank},
            }
            for step in range(1, steps + 1)
        ]
        service.post("/runs/three/points", {"points": points, "writer": f"rank{rank}", "seq": 1})
    return "three"


def roles(page) -> list[list[str]]:
    return page.evaluate(
        "[...document.querySelectorAll('.chart .plot')].flatMap((plot) => (plot.data ?? [])"
        ".map(({ meta }) => [meta.writer, meta.role]))"
    )


def test_ranks_are_listed_worst_first_and_follow_live(service, opened, run):
    """The straggler leads with its lag; a rank that was NaN says so; new points move the table."""
    page = opened(f"{service.url}/runs/{run}")
    rows = page.locator(".ranks-table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("rank2")
    expect(rows.nth(0).locator("[data-name='Behind']")).to_contain_text("20")
    expect(page.locator("tr[data-writer='rank1']")).to_contain_text("10 NaN/∞")
    expect(rows.nth(0)).to_contain_text("node<b> · cuda:2")
    points = [{"step": step, "time": 1.7e9 + step, "values": {"loss": 3.0}} for step in range(31, 51)]
    service.post("/runs/three/points", {"points": points, "writer": "rank2", "seq": 2})
    expect(page.locator("tr[data-writer='rank2'] [data-name='Behind']")).to_have_text("0")


def test_the_chart_is_the_mean_until_each_rank_is_asked_for(service, opened, run):
    """One line in its band and markers where rank 1 is NaN; the button adds a line for each rank."""
    page = opened(f"{service.url}/runs/{run}")
    button = page.get_by_role("button", name="3 ranks")
    expect(button).to_have_attribute("aria-pressed", "false")
    assert roles(page) == [["ranks", "band"], ["ranks", "line"], ["ranks", "non_finite"]] + [
        entry for entry in roles(page) if entry[1] == "incidents"
    ]
    marker = page.evaluate(
        "document.querySelector('.chart .plot').data.find(({ meta }) => meta.role === 'non_finite').text[0]"
    )
    assert marker == "NaN at step 41 on rank1"
    button.click()
    expect(page.locator(".legend .chip")).to_have_count(4)
    expect(page.locator(".legend .chip").last).to_have_text(re.compile("rank2"))
    assert [entry[0] for entry in roles(page) if entry[1] == "line"] == ["rank0", "rank1", "rank2", "ranks"]


def test_a_run_of_one_rank_has_no_table_of_ranks(service, opened):
    """Nor a button for them."""
    run = service.start()
    service.log(run, 1, {"loss": 1.0}, {"loss": 2.0})
    page = opened(f"{service.url}/runs/{run}")
    expect(page.locator(".chart .legend .chip")).to_have_count(1)
    expect(page.locator(".ranks")).to_be_hidden()
    expect(page.locator(".ranks-chip")).to_be_hidden()


def test_a_phone_shows_each_rank_as_a_card(service, opened, run):
    """Nothing is wider than the screen, and every value keeps its name."""
    page = opened(f"{service.url}/runs/{run}", viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    expect(page.locator(".ranks-table tbody tr")).to_have_count(3)
    width = page.evaluate("[document.documentElement.scrollWidth, document.querySelector('.ranks-card').scrollWidth]")
    assert max(width) <= 390
    named = page.evaluate("getComputedStyle(document.querySelector(\"td[data-name='Step']\"), '::before').content")
    assert named.startswith('"Step')
