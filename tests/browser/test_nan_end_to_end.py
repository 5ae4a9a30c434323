"""NaN, +Inf, −Inf and 1e-30 are followed from `log()` to the pixel, on both databases. This is what Holter is for."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
import urllib3
from playwright.sync_api import Browser
from websockets.asyncio.client import connect

import holter
from holter_db.database import Database
from holter_db.series import read_series
from holter_server.service import running
from holter_server.settings import Settings

LOGGED = [1.5, math.nan, math.inf, -math.inf, 1e-30, 2.5]
AS_JSON = [1.5, "NaN", "Infinity", "-Infinity", 1e-30, 2.5]
SPECIAL = {"NaN": 1, "Infinity": 2, "-Infinity": 3}  # and the step at which each was logged


def same(found: list[float], expected: list[float]) -> bool:
    """Equal number for number, NaN equal to NaN."""
    return len(found) == len(expected) and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found, expected, strict=True)
    )


async def listen(base: str, run_id: str, wanted: int, ready: asyncio.Event) -> list[object]:
    """Values of `loss/total` as they come over the live socket, until ``wanted`` have come."""
    values: list[object] = []
    async with connect(base.replace("http", "ws") + "/api/v1/live") as socket:
        await socket.send(json.dumps({"type": "subscribe", "id": "a", "topic": "run", "run": run_id}))
        while len(values) < wanted:
            message = json.loads(await asyncio.wait_for(socket.recv(), 30))
            if message["type"] == "subscribed":
                ready.set()
            if message["type"] == "points":
                for series in message["series"]:
                    if series["metric"] == "loss/total":
                        values.extend(series["values"])
    return values


async def log_and_listen(base: str, folder: Path) -> tuple[str, list[object]]:
    run = await asyncio.to_thread(holter.init, project="exact", name="specials", url=base, dir=str(folder))
    http = urllib3.PoolManager()
    for _ in range(200):  # the run is registered by the shipper, not by init
        if http.request("GET", f"{base}/api/v1/runs/{run.id}").status == 200:
            break
        await asyncio.sleep(0.05)
    ready = asyncio.Event()
    listening = asyncio.create_task(listen(base, run.id, len(LOGGED), ready))
    await asyncio.wait_for(ready.wait(), 30)
    for step, value in enumerate(LOGGED):
        run.log({"loss/total": value, "lr": 0.1}, step=step)
    heard = await listening
    await asyncio.to_thread(run.finish)
    return run.id, heard


@pytest.mark.browser
def test_non_finite_values_arrive_everywhere_exactly_as_logged(
    database_url: str, tmp_path: Path, browser: Browser
) -> None:
    """SQLite and PostgreSQL, REST, CSV, Parquet, the live socket and the page all show what was logged."""
    with running(Settings(db=database_url, port=0)) as base:
        with ThreadPoolExecutor(1) as pool:  # playwright's own event loop runs in this thread
            run_id, heard = pool.submit(lambda: asyncio.run(log_and_listen(base, tmp_path))).result()
        assert heard == AS_JSON

        http = urllib3.PoolManager()
        api = f"{base}/api/v1/runs/{run_id}"

        answer = http.request("GET", f"{api}/series?metric=loss/total")
        assert answer.json()["series"][0]["values"] == AS_JSON
        view = http.request("GET", f"{api}/series?metric=loss/total&width=100").json()["series"][0]
        assert view["values"] == AS_JSON
        assert (view["min"], view["max"], view["non_finite"]) == (1e-30, 2.5, 3)

        text = http.request("GET", f"{api}/export?format=csv&metric=loss/total").data.decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["value"] for row in rows] == ["1.5", "NaN", "Infinity", "-Infinity", "1e-30", "2.5"]
        assert same([float(row["value"]) for row in rows], LOGGED)

        lines = http.request("GET", f"{api}/export?format=jsonl&metric=loss/total").data.decode().splitlines()
        assert [json.loads(line)["value"] for line in lines] == AS_JSON

        table = pq.read_table(io.BytesIO(http.request("GET", f"{api}/export?format=parquet&metric=loss/total").data))
        assert same(table["value"].to_pylist(), LOGGED)
        assert table["value"].null_count == 0

        assert same(list(holter.Client(base).run(run_id).series("loss/total")[0].values), LOGGED)

        markers_on_the_page(browser, f"{base}/runs/{run_id}")

    database = Database.open(database_url)
    with database.read() as connection:
        (series,) = read_series(connection, run_id, ["loss/total"])
    database.close()
    assert same(series.values.tolist(), LOGGED)
    assert (series.nan, series.positive_infinity, series.negative_infinity) == (1, 1, 1)


def markers_on_the_page(browser: Browser, address: str) -> None:
    """Each non-finite point is one drawn marker, named in the chart's own data with its exact step."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_function(
        """() => [...document.querySelectorAll('.js-plotly-plot')].some(plot => (plot.data || []).some(trace =>
             trace.meta && trace.meta.metric === 'loss/total' && trace.meta.role === 'non_finite'))""",
        timeout=30_000,
    )
    found = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data
             .map((trace, index) => ({trace, index}))
             .filter(({trace}) => trace.meta && trace.meta.metric === 'loss/total' && trace.meta.role === 'non_finite')
             .map(({trace, index}) => ({
               x: Array.from(trace.x), hover: Array.from(trace.text).map(String),
               drawn: plot.querySelectorAll(`.scatterlayer .trace${plot._fullData[index].uid} .points path`).length,
             })))"""
    )
    steps = sorted(x for trace in found for x in trace["x"])
    assert steps == sorted(SPECIAL.values())
    assert sum(trace["drawn"] for trace in found) == len(SPECIAL)
    words = " ".join(text for trace in found for text in trace["hover"])
    assert words == "NaN at step 1 Infinity at step 2 -Infinity at step 3"
    page.close()


def test_a_nan_is_readable_in_the_tables_themselves(database_url: str, tmp_path: Path) -> None:
    """Someone who opens the database with its own client finds NaN, not NULL."""
    with running(Settings(db=database_url, port=0)) as base:
        body = {"points": [{"step": 1, "values": {"loss": "NaN", "accuracy": "-Infinity"}}]}
        http = urllib3.PoolManager()
        run = http.request("POST", f"{base}/api/v1/runs", json={"project": "exact"}).json()["run"]["id"]
        assert http.request("POST", f"{base}/api/v1/runs/{run}/points", json=body).status == 200
    query = "SELECT metric, last FROM series ORDER BY metric"
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        rows = connection.execute(query).fetchall()
        connection.close()
        assert rows == [("accuracy", -math.inf), ("loss", "NaN")]
    else:
        with psycopg.connect(database_url.replace("+psycopg", "")) as server:
            (_, accuracy), (_, loss) = server.execute(query).fetchall()
        assert accuracy == -math.inf
        assert math.isnan(loss)
