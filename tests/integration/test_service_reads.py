"""What was logged is read back: views, pages, many runs, files; NaN survives in every format."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from holter import wire
from holter_server import schemas

ODD = [1.0, math.nan, math.inf, -math.inf, 1e-30, 0.1 + 0.2]
ODD_JSON = [1.0, "NaN", "Infinity", "-Infinity", 1e-30, 0.1 + 0.2]


@pytest.fixture
def run(service) -> str:
    """A run of two ranks with odd values, an event, an incident and a command."""
    run = service.start(project="denovo", config={"model": {"width": 64}})
    for rank in (0, 1):
        block = wire.Block.of(["loss/total"], range(len(ODD)), [1.7e9 + i for i in range(len(ODD))], [[v] for v in ODD])
        event = wire.Event(time=1.7e9, text="stage 2", kind="stage", step=2, data={"stage": 2})
        service.ship(run, wire.Frame(1, "", f"rank{rank}", 1, [block], [event] if rank == 0 else []))
    service.log(run, 6, lr=1e-3, loss__precursor=9.0)
    service.post(f"/runs/{run}/commands", {"name": "checkpoint"})
    return run


def test_every_read_has_the_shape_that_it_promises(service, run):
    """The models of OpenAPI and the answers are held against each other, unknown fields forbidden."""
    service.post("/webhooks", {"url": "http://127.0.0.1:9/x"})
    incident = service.get("/incidents")["incidents"][0]["id"]
    for path, model in {
        "/runs": schemas.RunsAnswer,
        f"/runs/{run}": schemas.RunDetailAnswer,
        f"/runs/{run}/metrics": schemas.MetricsAnswer,
        f"/runs/{run}/events": schemas.EventsAnswer,
        f"/runs/{run}/series?metric=*": schemas.SeriesAnswer,
        f"/runs/{run}/series?metric=*&width=10&x=time": schemas.SeriesAnswer,
        f"/runs/{run}/commands": schemas.CommandsAnswer,
        f"/runs/{run}/figures": schemas.FiguresAnswer,
        f"/runs/{run}/figures/loss": schemas.FigureAnswer,
        "/incidents": schemas.IncidentsAnswer,
        f"/incidents/{incident}": schemas.IncidentAnswer,
        "/webhooks": schemas.WebhooksAnswer,
        "/deliveries": schemas.DeliveriesAnswer,
        "/projects": schemas.ProjectsAnswer,
        "/rules": schemas.RulesAnswer,
        "/healthz": schemas.StatusAnswer,
        "/readyz": schemas.StatusAnswer,
    }.items():
        model.model_validate(service.get(path))
    asked = {"runs": [run], "metrics": ["*"]}
    schemas.SeriesOfRunsAnswer.model_validate(service.post("/series/query", asked))
    schemas.ReceiptAnswer.model_validate(service.log(run, 7, loss__precursor=9.0))


def test_the_catalogue_counts_what_is_not_finite(service, run):
    """Per metric, and per series by kind."""
    found = {metric["name"]: metric for metric in service.get(f"/runs/{run}/metrics")["metrics"]}
    total = found["loss/total"]
    assert (total["count"], total["non_finite"], total["writers"]) == (12, 6, ["rank0", "rank1"])
    assert [total["series"][0][kind] for kind in ("nan", "positive_infinity", "negative_infinity")] == [1, 1, 1]
    assert (total["min"], total["max"], total["last"]) == (1e-30, 1.0, 0.1 + 0.2)


def test_pages_of_points_fit_together(service, run):
    """Following `next` gives every point once, in order, whatever the page's size."""
    whole = service.get(f"/runs/{run}/series?metric=loss/*")["series"]
    wanted = {(s["metric"], s["writer"]): s["values"] for s in whole}
    assert wanted["loss/total", "rank1"] == ODD_JSON
    got: dict[tuple[str, str], list] = {}
    cursor = ""
    while True:
        page = service.get(f"/runs/{run}/series?metric=loss/*&limit=4{cursor}")
        assert sum(len(s["values"]) for s in page["series"]) <= 4
        for s in page["series"]:
            got.setdefault((s["metric"], s["writer"]), []).extend(s["values"])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert got == wanted


def test_a_view_keeps_every_point_that_is_not_finite(service):
    """10,000 points at 50 pixels: all three non-finite ones are there, and so is the spike."""
    run = service.start()
    values = np.sin(np.arange(10_000) / 100)
    values[[1234, 5678, 9012]] = [math.nan, math.inf, -math.inf]
    values[4321] = 1e6
    block = wire.Block.of(["loss"], range(10_000), 1.7e9 + np.arange(10_000.0), values[:, None])
    service.ship(run, wire.Frame(1, "", "rank0", 1, [block]))
    (view,) = service.get(f"/runs/{run}/series?metric=loss&width=50")["series"]
    by_step = dict(zip(view["steps"], view["values"], strict=True))
    assert len(by_step) < 400
    assert [by_step[step] for step in (1234, 5678, 9012, 4321)] == ["NaN", "Infinity", "-Infinity", 1e6]
    assert view["count"] == 10_000
    zoomed = service.get(f"/runs/{run}/series?metric=loss&width=50&from=1200&to=1240")["series"][0]
    assert zoomed["steps"] == list(range(1200, 1241))


def test_many_runs_in_one_question(service):
    """Each series names its run; a run that is named twice comes once."""
    runs = [service.start() for _ in range(3)]
    for number, run in enumerate(runs):
        service.log(run, 1, loss=number)
    asked = {"runs": [*runs, runs[0]], "metrics": ["lo*"], "width": 100, "x": "relative"}
    found = service.post("/series/query", asked)["series"]
    assert [(s["run"], s["values"]) for s in found] == [(run, [float(i)]) for i, run in enumerate(runs)]


def test_csv_keeps_every_point(service, run):
    """One row per point; numbers that JSON lacks are written out."""
    answer = service.call("GET", f"/runs/{run}/export?format=csv&metric=loss/total")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert f'filename="{run}.csv"' in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.data.decode(), newline="")))
    assert list(rows[0]) == ["run", "attempt", "writer", "metric", "step", "time", "value"]
    written = [row["value"] for row in rows if row["writer"] == "rank1"]
    assert written == ["1.0", "NaN", "Infinity", "-Infinity", "1e-30", "0.30000000000000004"]
    assert {row["run"] for row in rows} == {run}


def test_json_lines_keep_every_point(service, run):
    """Each line is JSON of its own."""
    data = service.call("GET", f"/runs/{run}/export?format=jsonl&metric=loss/total").data
    rows = [json.loads(line, parse_constant=pytest.fail) for line in data.splitlines()]
    assert [row["value"] for row in rows if row["writer"] == "rank0"] == ODD_JSON
    assert set(rows[0]) == {"run", "attempt", "writer", "metric", "step", "time", "value"}


def test_parquet_keeps_every_point(service, run):
    """Bit for bit; every metric when none is named."""
    table = pq.read_table(io.BytesIO(service.call("GET", f"/runs/{run}/export?format=parquet").data))
    rows = [row for row in table.to_pylist() if (row["metric"], row["writer"]) == ("loss/total", "rank1")]
    assert np.array([row["value"] for row in rows]).tobytes() == np.array(ODD).tobytes()
    assert [row["step"] for row in rows] == list(range(len(ODD)))
    assert set(table.column("metric").to_pylist()) == {"loss/total", "loss/precursor", "lr"}


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_run_without_points_exports_no_rows(service, format):
    """And the file can be read."""
    run = service.start()
    data = service.call("GET", f"/runs/{run}/export?format={format}").data
    if format == "parquet":
        assert pq.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data.splitlines() == ([b"run,attempt,writer,metric,step,time,value"] if format == "csv" else [])


def test_a_large_export_comes_in_row_groups(service):
    """300,000 points: several row groups, none lost."""
    run = service.start()
    for seq in range(1, 4):
        steps = np.arange((seq - 1) * 100_000, seq * 100_000)
        block = wire.Block.of(["loss"], steps, 1.7e9 + steps, steps[:, None].astype(float))
        service.ship(run, wire.Frame(1, "", "rank0", seq, [block]))
    data = service.call("GET", f"/runs/{run}/export?format=parquet").data
    table = pq.read_table(io.BytesIO(data))
    assert np.array_equal(table.column("value").to_numpy(), np.arange(300_000.0))


def test_figures_are_plotly_json(service, run):
    """With the NaN as a marker of its own, not as a gap."""
    names = [figure["name"] for figure in service.get(f"/runs/{run}/figures")["figures"]]
    assert {"loss", "lr"} <= set(names)
    figure = service.get(f"/runs/{run}/figures/loss?width=300&x=relative&theme=dark&log_y=true")
    markers = [trace for trace in figure["data"] if trace.get("meta", {}).get("role") == "non_finite"]
    assert any(text.startswith("NaN") for trace in markers for text in trace["text"])


def test_prometheus_counts(service, run):
    """Every family has its help and type."""
    text = service.call("GET", "/metrics").data.decode()
    assert 'holter_runs{state="running"} 1' in text
    assert "holter_points_total 14" in text
    assert 'holter_incidents_open{severity="critical"}' in text
    for line in text.splitlines():
        name = line.split()[2] if line.startswith("#") else line.split("{")[0].split()[0]
        assert f"# TYPE {name} " in text
