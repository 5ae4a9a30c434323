"""The agent and `Client` against the real service, on both databases: what a loop logs is what a notebook reads."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import holter
from holter.client import SeriesList
from holter.sync import sync

ODD = [1.0, math.nan, math.inf, -math.inf, 1e-30, -0.0, 5e-324, 0.1 + 0.2]


@pytest.fixture
def client(service: Any) -> Iterator[holter.Client]:
    client = holter.Client(service.base)
    yield client
    client.close()


@pytest.fixture
def recorded(client: holter.Client, tmp_path: Path) -> holter.Run:
    """A finished run of odd values, with an event."""
    with holter.init(project="denovo", name="odd", config={"lr": 1e-3}, url=client.url, dir=tmp_path) as run:
        for step, value in enumerate(ODD):
            run.log({"loss/total": value, "loss/ce": np.float32(0.1)}, step=10 * step)
        run.event("stage 2", kind="stage")
    return run


def test_series_come_back_exactly(client: holter.Client, recorded: holter.Run) -> None:
    """As numpy arrays, bit by bit apart from a NaN's payload."""
    loss, ce = client.run(recorded.id).series(["loss/total", "loss/ce"])
    if loss.metric != "loss/total":
        loss, ce = ce, loss
    assert (loss.writer, loss.rank, loss.shadowed_from, len(loss)) == ("rank0", 0, None, len(ODD))
    assert loss.steps.tolist() == [10 * step for step in range(len(ODD))]
    assert repr(loss.values.tolist()) == repr(ODD)
    assert set(ce.values.tolist()) == {float(np.float32(0.1))}
    assert (loss.steps.dtype, loss.times.dtype, loss.values.dtype) == (np.int64, np.float64, np.float64)
    assert np.all(np.diff(loss.times) >= 0)


def test_a_run_is_found_in_three_ways(client: holter.Client, recorded: holter.Run) -> None:
    """By id, by a prefix, by project and name; and in lists."""
    for text in (recorded.id, recorded.id[:9], "denovo/odd"):
        assert client.run(text).id == recorded.id
    (found,) = client.runs(project="denovo")
    assert (found.project, found.name, found.state, found.config) == ("denovo", "odd", "finished", {"lr": 1e-3})
    assert client.runs(project="another") == []
    assert client.runs(limit=1)[0].id == recorded.id
    for text in ("nothing", "denovo/nothing"):
        with pytest.raises(holter.ApiError) as raised:
            client.run(text)
        assert (raised.value.status, raised.value.kind) == (404, "run_not_found")


def test_everything_else_of_a_run(client: holter.Client, recorded: holter.Run, tmp_path: Path) -> None:
    """Catalogue, events, incidents, a figure, files, a view."""
    run = client.run(recorded.id)
    assert {"loss/total", "loss/ce"} <= {metric["name"] for metric in run.metrics()}
    assert [event["text"] for event in run.events()] == ["stage 2"]
    assert "non_finite" in {incident["kind"] for incident in run.incidents()}
    assert {incident["run"] for incident in client.incidents()} == {run.id}
    assert isinstance(run.figure("loss/*"), go.Figure)
    (view,) = run.series("loss/total", width=10)
    assert np.isnan(view.values).sum() == 1
    (part,) = run.series("loss/total", first_step=20, last_step=40)
    assert part.steps.tolist() == [20, 30, 40]
    lines = run.export(tmp_path / "run.jsonl", metrics="loss/total").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10 * step for step in range(len(ODD))]
    with pytest.raises(holter.ApiError):
        run.export(tmp_path / "run.xyz")


def test_a_long_series_comes_in_pages(client: holter.Client, tmp_path: Path) -> None:
    """And is one array."""
    with holter.init(project="p", url=client.url, dir=tmp_path) as run:
        for step in range(30_000):
            run.log({"loss": step / 7}, step=step)
    (series,) = client.run(run.id).series("loss")
    assert np.array_equal(series.steps, np.arange(30_000))
    assert np.array_equal(series.values, np.arange(30_000) / 7)


def test_stop_from_a_notebook(client: holter.Client, tmp_path: Path, wait: Callable[..., Any]) -> None:
    """The loop ends, and the command says so."""
    run = holter.init(project="p", url=client.url, dir=tmp_path)
    wait(lambda: client.runs(project="p"), "the run")
    view = client.run(run.id)
    assert view.stop()["state"] == "requested"
    step = 0
    while not run.should_stop:
        run.log({"loss": 1.0}, step=step)
        step += 1
        time.sleep(0.005)
    run.finish()
    assert view.refresh().state == "stopped"
    assert [(command["name"], command["state"]) for command in view.commands()] == [("stop", "done")]


def test_offline_then_sync_twice(client: holter.Client, tmp_path: Path) -> None:
    """Every point once."""
    with holter.init(project="p", mode="offline", url=client.url, dir=tmp_path) as run:
        for step, value in enumerate(ODD):
            run.log({"loss": value}, step=step)
    first, second = sync(tmp_path, client.url), sync(tmp_path, client.url)
    assert (first.complete, second.complete, second.points) == (True, True, 0)
    (series,) = client.run(run.id).series("loss")
    assert repr(series.values.tolist()) == repr(ODD)
    assert client.run(run.id).state == "finished"


def test_a_service_that_is_not_there() -> None:
    """An error of its own, which says what to do."""
    with pytest.raises(holter.ServiceUnreachable, match="holter serve"):
        holter.Client("http://127.0.0.1:9").runs()


def test_tables_where_pandas_or_polars_is_installed(
    client: holter.Client, recorded: holter.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for each point; without the library, an error that names it."""
    series = client.run(recorded.id).series("loss/*")
    for name in ("pandas", "polars"):
        module = ModuleType(name)
        module.DataFrame = dict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        table = getattr(series, f"to_{name}")()
        assert list(table) == ["metric", "writer", "attempt", "step", "time", "value"]
        assert {len(column) for column in table.values()} == {2 * len(ODD)}
        assert table["metric"].count("loss/ce") == len(ODD)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(holter.HolterError, match=f"pip install {name}"):
            getattr(SeriesList(), f"to_{name}")()
