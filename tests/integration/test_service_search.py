"""Past runs are found over REST, on the command line and from a notebook."""

from __future__ import annotations

import json
import math
from urllib.parse import urlencode

import pytest
from typer.testing import CliRunner

import holter
from holter_server import schemas
from holter_server.cli.app import app


@pytest.fixture
def four(service):
    """Runs whose names say how they ended."""
    ends = {"good": 0.5, "better": 0.25, "nan": math.nan, "silent": None}
    for index, (name, loss) in enumerate(ends.items()):
        config = {"lr": 10.0 ** -(index + 1), "optim": {"name": "adam" if index % 2 else "sgd"}}
        run = service.start(project="denovo", name=name, config=config, tags=["even"] if index % 2 == 0 else [])
        if loss is not None:
            service.log(run, 1, loss__total=loss)
    return service


def names(service, **query: object) -> list[str]:
    return [run["name"] for run in service.get(f"/runs?{urlencode(query)}")["runs"]]


def test_runs_are_found_by_config_metric_and_tag(four):
    """The questions that people have after a sweep."""
    assert names(four, filter="config.lr < 1e-2", sort="name") == ["nan", "silent"]
    assert names(four, filter="last(loss/total) = NaN") == ["nan"]
    assert names(four, filter="last(loss/total) not exists") == ["silent"]
    assert names(four, filter="tag = even and config.optim.name = sgd", sort="created") == ["good", "nan"]
    assert names(four, filter="non_finite(loss/total) > 0 and health != healthy") == ["nan"]
    assert names(four, filter="created_at > -1h and state in (running, failed)", sort="config.lr", limit=2) == [
        "silent",
        "nan",
    ]


def test_nan_comes_after_the_numbers_and_what_is_missing_last(four):
    """In both directions, as nobody looks for them at the top."""
    assert names(four, sort="last(loss/total)") == ["better", "good", "nan", "silent"]
    assert names(four, sort="-last(loss/total)") == ["good", "better", "nan", "silent"]


def test_pages_of_an_order_by_a_metric(four):
    """`next` leads through all stretches of the order."""
    seen, cursor = [], ""
    while cursor is not None:
        query = {"sort": "last(loss/total)", "limit": 1, **({"cursor": cursor} if cursor else {})}
        page = four.get(f"/runs?{urlencode(query)}")
        seen += [run["name"] for run in page["runs"]]
        cursor = page["next"]
    assert seen == ["better", "good", "nan", "silent"]


def test_values_stand_beside_the_runs(four):
    """NaN as everywhere in the API; null where a run lacks the value."""
    query = urlencode({"values": "last(loss/total), config.lr", "sort": "config.lr"})
    answer = four.get(f"/runs?{query}")
    schemas.RunsAnswer.model_validate(answer)
    assert [run["values"] for run in answer["runs"]] == [
        {"last(loss/total)": None, "config.lr": 1e-4},
        {"last(loss/total)": "NaN", "config.lr": 1e-3},
        {"last(loss/total)": 0.25, "config.lr": 1e-2},
        {"last(loss/total)": 0.5, "config.lr": 1e-1},
    ]
    assert four.get("/runs?limit=1")["runs"][0]["values"] == {}


@pytest.mark.parametrize(
    ("query", "expected", "what", "hint"),
    [
        ({"filter": "stat = failed"}, ("invalid_filter", 1), "character 1", "Did you mean 'state'?"),
        ({"filter": "state = faild"}, ("invalid_filter", 9), "'faild'", "running, finished"),
        ({"filter": ""}, ("invalid_filter", 1), "empty", ""),
        ({"sort": "colour"}, ("invalid_query", None), "'colour'", "created_at"),
        ({"values": "tag"}, ("invalid_query", None), "tags", ""),
        ({"state": "faild"}, ("invalid_query", None), "'faild'", "running"),
        ({"health": "ill"}, ("invalid_query", None), "'ill'", "healthy"),
        ({"cursor": "abc"}, ("invalid_query", None), "cursor", ""),
        ({"limit": 0}, ("invalid_query", None), "1 to 1000", ""),
    ],
)
def test_what_can_not_be_answered_has_the_one_shape(four, query, expected, what, hint):
    """With the position in the filter, and what is allowed."""
    answer = four.call("GET", f"/runs?{urlencode(query)}")
    assert answer.status == 422
    assert (answer.error["type"], answer.error.get("position")) == expected
    assert what in answer.error["message"]
    assert hint in answer.error["hint"]
    assert answer.error["hint"]


def test_a_key_that_no_run_has_gives_nothing_and_a_hint(four):
    """It may be one that runs will have, so it is no error."""
    answer = four.get(f"/runs?{urlencode({'filter': 'config.lrr < 1'})}")
    assert (answer["runs"], answer["hint"]) == ([], "No run has config.lrr; did you mean config.lr?")
    assert four.get(f"/runs?{urlencode({'filter': 'config.lr < 0'})}")["hint"] is None
    assert four.get("/runs?sort=last(nothing)")["hint"] == "No run has last(nothing)."


def test_a_changed_config_is_found_at_once(four):
    """PATCH is seen by the next question."""
    (run,) = four.get("/runs?q=good")["runs"]
    assert four.call("PATCH", f"/runs/{run['id']}", {"config": {"lr": 7}, "tags": ["x"], "group": "g"}).status == 200
    assert names(four, filter="config.lr = 7 and tag = x", group="g") == ["good"]


def cli(service, *arguments: str):
    return CliRunner().invoke(
        app, ["runs", *arguments, "--url", service.base], env={"COLUMNS": "120", "HOLTER_TOKEN": ""}
    )


def test_the_command_line_filters_sorts_and_shows(four):
    """What is sorted by stands in the table, too."""
    result = cli(four, "--filter", "config.lr > 1e-4", "--sort", "last(loss/total)", "--show", "config.lr")
    assert result.exit_code == 0, result.output
    header, *lines = result.stdout.splitlines()
    assert header.split()[-2:] == ["config.lr", "last(loss/total)"]
    assert [(line.split()[1], *line.split()[-2:]) for line in lines] == [
        ("denovo/better", "0.01", "0.25"),
        ("denovo/good", "0.1", "0.5"),
        ("denovo/nan", "0.001", "NaN"),
    ]


def test_the_command_line_says_what_is_wrong(four):
    """Two lines and status 1; a hint at a name that no run has."""
    wrong = cli(four, "--filter", "stat=failed")
    assert wrong.exit_code == 1
    assert "character 1" in wrong.stderr
    assert "Did you mean 'state'?" in wrong.stderr
    empty = cli(four, "--filter", "config.lrr < 1")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "did you mean config.lr?" in empty.stderr
    shown = json.loads(cli(four, "-f", "last(loss/total)=NaN", "--json").stdout)
    assert [run["name"] for run in shown["runs"]] == ["nan"]


def test_the_client_filters_sorts_and_reads_values(four):
    """NaN is a float again in Python."""
    client = holter.Client(four.base)
    found = client.runs("denovo", filter="last(loss/total) exists", sort="-last(loss/total)", values="last(loss/total)")
    assert [run.name for run in found] == ["good", "better", "nan"]
    assert math.isnan(found[2].values["last(loss/total)"])
    (best,) = client.runs(sort="last(loss/total)", values=["config.lr", "config.optim.name"], limit=1)
    assert best.values == {"config.lr": 1e-2, "config.optim.name": "adam"}
    with pytest.raises(holter.ApiError, match="character 1"):
        client.runs(filter="stat=failed")
    client.close()
