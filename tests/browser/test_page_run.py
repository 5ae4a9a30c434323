"""One run's page, in a real browser."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

WIDE = {"width": 1440, "height": 1200}
PHONE = {"width": 390, "height": 844}


def chart(page: Page, figure: str) -> Locator:
    return page.locator(f'figure[data-figure="{figure}"]')


def points_drawn(page: Page, figure: str, metric: str, role: str) -> list[float]:
    """x of the points that plotly has been given for one trace."""
    return page.evaluate(
        """([figure, metric, role]) => {
             const plot = document.querySelector(`figure[data-figure="${figure}"] .js-plotly-plot`);
             const trace = (plot?.data ?? []).find(({meta}) => meta.metric === metric && meta.role === role);
             return Array.from(trace?.x ?? []);
           }""",
        [figure, metric, role],
    )


def until_drawn(page: Page, figure: str, metric: str, role: str, step: float) -> None:
    page.wait_for_function(
        """([figure, metric, role, step]) => {
             const plot = document.querySelector(`figure[data-figure="${figure}"] .js-plotly-plot`);
             const trace = (plot?.data ?? []).find(({meta}) => meta.metric === metric && meta.role === role);
             return trace?.x.includes(step);
           }""",
        arg=[figure, metric, role, step],
    )


def healthy(step: int) -> dict[str, float]:
    loss = 3 * math.exp(-step / 100) + 0.5
    return {
        "loss/total": loss, "loss/ce": loss, "loss/precursor": 0.6, "weighted/precursor": 0.06, "grad_norm": 0.5,
        "lr": 3e-4, "val/easy/token_acc": step / 300, "val/hard/token_acc": step / 600,
    }  # fmt: skip


def test_a_moving_average_is_drawn_above_the_line(service: Any, opened: Any) -> None:
    """The slider asks the service, which knows every point; the line itself stays, and both go on live."""
    run = service.start(name="noisy", planned_steps=300)
    service.log(run, 1, *({"loss": float(step % 2)} for step in range(1, 101)))
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    until_drawn(page, "loss", "loss", "line", 100)
    slider = page.get_by_label("Smoothing")
    slider.fill("0.9")
    until_drawn(page, "loss", "loss", "smoothed", 100)
    assert len(points_drawn(page, "loss", "loss", "line")) == 100
    service.log(run, 101, {"loss": 1.0})
    until_drawn(page, "loss", "loss", "smoothed", 101)
    slider.fill("0")
    page.wait_for_function(
        "() => !document.querySelector('.js-plotly-plot').data.some(({meta}) => meta.role === 'smoothed')"
    )


def test_curves_are_drawn_and_grow(service: Any, opened: Any) -> None:
    """Charts by prefix, the first ones first; new points arrive without a reload."""
    run = service.start(name="healthy_new", planned_steps=300, config={"optimizer": {"lr": 3e-4, "betas": [0.9, 0.98]}})
    service.log(run, 0, *[healthy(step) for step in range(200)])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(3)
    titles = page.locator("figure.chart h3").all_inner_texts()
    assert titles == ["loss", "weighted/precursor", "val · accuracy", "grad_norm", "lr"]
    expect(chart(page, "loss").locator(".chip", has_text="total")).to_contain_text("0.9")

    service.log(run, 200, *[healthy(step) for step in range(200, 240)])
    until_drawn(page, "loss", "loss/total", "line", 239)
    steps = points_drawn(page, "loss", "loss/total", "line")
    assert steps == list(range(240))
    expect(page.locator(".tile", has_text="Step")).to_contain_text("239 / 300")


def test_a_metric_that_comes_later_gets_its_chart(service: Any, opened: Any) -> None:
    run = service.start(name="growing")
    service.log(run, 0, {"loss/ce": 1.0})
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(1)
    service.log(run, 1, {"loss/ce": 1.0, "loss/spectrum": 0.5, "lr": 1e-3})
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(2)
    expect(chart(page, "lr").locator(".plot svg.main-svg").first).to_be_visible()


def test_every_non_finite_point_is_a_marker(service: Any, opened: Any) -> None:
    """NaN, +Inf and −Inf stand at the edge of the chart with their exact step, those that arrive live, too."""
    run = service.start(name="odd-values")
    values = [1.0, math.nan, 1.5, math.inf, 1.2, -math.inf, 1e-30]
    service.log(run, 0, *[{"score": value} for value in values])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    markers = chart(page, "score").locator(".scatterlayer .points path.point")
    until_drawn(page, "score", "score", "non_finite", 5)
    assert points_drawn(page, "score", "score", "non_finite") == [1, 3, 5]
    shapes = page.evaluate(
        """() => document.querySelector('figure[data-figure="score"] .js-plotly-plot').data
                 .find(({meta}) => meta.role === 'non_finite').marker.symbol"""
    )
    assert shapes == ["x-thin", "triangle-up", "triangle-down"]
    expect(markers).to_have_count(3 + 4)  # and the four finite points of a series this short

    service.log(run, 7, {"score": math.nan}, {"score": 2.0})
    until_drawn(page, "score", "score", "non_finite", 7)
    expect(markers).to_have_count(4 + 5)
    texts = page.evaluate(
        """() => document.querySelector('figure[data-figure="score"] .js-plotly-plot').data
                 .find(({meta}) => meta.role === 'non_finite').text"""
    )
    assert texts == ["NaN at step 1", "Infinity at step 3", "-Infinity at step 5", "NaN at step 7"]


def test_an_incident_is_a_card_with_advice_and_a_band_on_every_chart(service: Any, opened: Any) -> None:
    """It appears by itself while the page is open, and can be acknowledged."""
    run = service.start(name="precursor_x100")
    stage = {"time": 1.0, "step": 0, "kind": "stage", "text": "stage 1: CE <only>"}
    service.log(run, 0, *[healthy(step) for step in range(100)], events=[stage])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(3)
    expect(page.locator(".incident")).to_have_count(0)
    expect(chart(page, "loss").get_by_text("stage 1: CE <only>")).to_be_visible()

    sick = [{**healthy(step), "loss/precursor": 640.0, "weighted/precursor": 6.4} for step in range(100, 200)]
    service.log(run, 100, *sick)
    card = page.locator('.incident[data-severity="critical"]').first
    expect(card).to_be_visible()
    expect(card.locator(".advice")).to_contain_text("What to do")
    assert len(card.locator(".advice").inner_text()) > 40
    for figure in ("loss", "val/*:accuracy", "grad_norm"):
        expect(chart(page, figure).locator('.shapelayer path[style*="stroke-dasharray"]').first).to_be_attached()
        names = page.evaluate(
            """figure => document.querySelector(`figure[data-figure="${figure}"] .js-plotly-plot`)
                        .layout.shapes.map(({name}) => name)""",
            figure,
        )
        assert "incident critical open" in names
    expect(page.locator(".timeline .bar-incident").first).to_be_visible()
    expect(page.locator("#connection")).to_have_text("live")
    assert page.title().startswith("(")

    card.get_by_role("button", name="Acknowledge").click()
    expect(card).to_contain_text("acknowledged")


TRAINING = """
import sys, time
import holter
_, url, folder = sys.argv
with holter.init(project="denovo", name="to-be-stopped", url=url, dir=folder, planned_steps=100_000) as run:
    run.on_command("checkpoint", lambda **_: "step.pt")
    print(run.id, flush=True)
    for step in range(100_000):
        run.log({"loss/total": 1 / (step + 1)}, step=step)
        time.sleep(0.02)
        if run.should_stop:
            break
"""


@pytest.fixture
def training(service: Any, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A training in a process of its own, with the real agent, and its run's id."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", TRAINING, service.url, str(tmp_path / "spool")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def test_stop_ends_the_training_and_shows_each_step_of_the_way(
    service: Any, opened: Any, training: tuple[subprocess.Popen[str], str]
) -> None:
    """Asked once more before it stops; then requested, delivered, acknowledged and done, and the process is gone."""
    process, run = training
    page = opened(f"{service.url}/runs", viewport=WIDE)
    page.locator("tbody tr", has_text="to-be-stopped").get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("to-be-stopped")
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(1)

    page.get_by_role("button", name="Checkpoint").click()
    checkpoint = page.locator('.trail li[data-command="checkpoint"]')
    expect(checkpoint).to_have_attribute("data-state", "done")
    expect(checkpoint).to_contain_text("step.pt")

    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    assert process.poll() is None
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop the training").click()
    stop = page.locator('.trail li[data-command="stop"]')
    expect(stop).to_be_visible()
    expect(stop).to_have_attribute("data-state", "done")
    for stage in ("requested", "delivered", "acknowledged", "done"):
        expect(stop.locator(f'[data-stage="{stage}"]')).to_have_attribute("data-reached", "true")
    assert process.wait(60) == 0
    expect(page.locator(".run-head .badge").first).to_have_text("stopped")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)  # nothing is left to stop
    assert service.get(f"/runs/{run}")["run"]["state"] == "stopped"


def test_names_of_users_are_only_ever_text(service: Any, opened: Any) -> None:
    """Run, project, tag, metric, stage, config and event hold markup; none of it becomes an element or runs."""
    attack = '<img src=x onerror="window.attacked=1"><b>bold'  # a project's name holds no "/"
    run = service.start(
        name=attack, project=f"p{attack}", tags=[attack], config={attack: {"key": attack}}, notes=attack
    )
    stage = {"time": 1.0, "step": 0, "kind": "stage", "text": attack}
    note = {"time": 2.0, "step": 1, "kind": attack, "text": attack}
    service.log(run, 0, *[{f"loss/{attack}": 1.0, attack: 2.0, "loss/ce": math.nan}] * 3, events=[stage, note])
    page = opened(service.url, viewport=WIDE)
    page.locator("tbody tr").get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(attack)
    expect(page.locator(".chip", has_text="bold").first).to_be_visible()
    page.locator("details.fold summary").first.click()
    page.locator("figure.chart .plot").first.hover()
    expect(page.locator("main img, main b:not(.chip b), main .plot tspan[style*='bold']")).to_have_count(0)
    page.goto(f"{service.url}/incidents")
    expect(page.locator(".incident").first).to_be_visible()
    expect(page.locator("main img")).to_have_count(0)
    assert page.evaluate("window.attacked") is None


def test_the_run_page_is_readable_on_a_phone_and_in_the_dark(service: Any, opened: Any) -> None:
    run = service.start(name="dark-phone", planned_steps=1000, config={"a": {"rather": {"deep": {"path": "x" * 80}}}})
    service.log(run, 0, *[healthy(step) for step in range(50)], {**healthy(50), "loss/precursor": math.nan})
    options = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
    page = opened(f"{service.url}/runs/{run}", **options)
    expect(chart(page, "loss").locator("path.js-line")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 60
    text = page.evaluate("document.querySelector('.js-plotly-plot').layout.font.color")
    assert text == "#e6e9ef"


def test_zooming_asks_again_at_the_new_resolution(service: Any, opened: Any) -> None:
    """20,000 points are thinned; a hundredth of them is shown point by point, and Reset shows the whole again."""
    run = service.start(name="long")
    for first in range(0, 20_000, 5_000):
        service.log(run, first, *[{"m": math.sin(step)} for step in range(first, first + 5_000)])
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    until_drawn(page, "m", "m", "line", 19_999)
    assert len(points_drawn(page, "m", "m", "line")) <= 2_000
    page.evaluate(
        "Plotly.relayout(document.querySelector('.js-plotly-plot'), {'xaxis.range[0]': 100, 'xaxis.range[1]': 300})"
    )
    until_drawn(page, "m", "m", "line", 201)
    assert set(range(100, 301)) <= set(points_drawn(page, "m", "m", "line"))
    page.get_by_role("button", name="Reset zoom").click()
    until_drawn(page, "m", "m", "line", 19_999)


def test_config_and_events_can_be_searched_and_read(service: Any, opened: Any) -> None:
    config = {"optimizer": {"lr": 1e-30, "betas": [0.9, 0.98]}, **{f"key{index}": index for index in range(20)}}
    run = service.start(name="configured", config=config)
    service.log(
        run, 7, {"loss": 1.0}, events=[{"time": 5.0, "step": 7, "kind": "checkpoint", "text": "saved seven.pt"}]
    )
    page = opened(f"{service.url}/runs/{run}", viewport=WIDE)
    fold = page.locator("details.fold", has_text="Config")
    fold.locator("summary").click()
    fold.get_by_label("Search config").fill("optim lr")
    expect(fold.locator("tr")).to_have_count(1)
    expect(fold.locator("tr")).to_contain_text("1e-30")
    events = page.locator("details.fold", has_text="Events")
    events.locator("summary").click()
    expect(events.locator("li")).to_contain_text("saved seven.pt")


def test_an_unknown_run_says_so(service: Any, opened: Any) -> None:
    page = opened(f"{service.url}/runs/nosuchrun", viewport=WIDE, allowed="404")
    expect(page.get_by_role("alert")).to_contain_text("nosuchrun")
