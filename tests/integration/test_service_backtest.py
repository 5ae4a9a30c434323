"""Rules tried on stored runs: the same engine over the same records finds the same incidents."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from holter import wire
from holter_db.replay import iter_batches
from holter_server import schemas
from holter_server.cli.app import app

SAME = ("rule", "kind", "severity", "metric", "writer", "step", "resolved_step", "message", "advice")
LAX = "rules:\n  - id: precursor-high\n    above: 100\n    clear: 90\n"


@pytest.fixture
def spiked(service) -> str:
    """A finished run whose precursor loss is too high for two records and comes back, shipped in odd pieces."""
    run = service.start(project="denovo", name="spiked")
    values = [0.5, 0.5, 7.0, 9.0] + [0.5] * 60
    for seq, start in enumerate(range(0, len(values), 7), 1):
        points = [
            {"step": step, "time": 1.7e9 + step, "values": {"loss/total": 3.0, "loss/precursor": value}}
            for step, value in enumerate(values[start : start + 7], start)
        ]
        service.post(f"/runs/{run}/points", {"points": points, "seq": seq})
    service.post(f"/runs/{run}/finish", {"state": "finished"})
    return run


def _live(service, run: str) -> list[tuple]:
    return _shown(reversed(service.get(f"/incidents?run={run}&limit=1000")["incidents"]))


def _shown(incidents) -> list[tuple]:
    return sorted((tuple(row[name] for name in SAME) for row in incidents), key=str)


def _backtest(service, *runs: str, **body):
    answer = service.post("/rules/backtest", {"runs": list(runs), **body})
    schemas.BacktestAnswer.model_validate(answer)
    return answer


def test_the_default_rules_find_what_the_live_run_had(service, spiked):
    """The same rule at the same step, in the same words, to the same end; and nothing is written."""
    live = _live(service, spiked)
    answer = _backtest(service, spiked)
    (result,) = answer["runs"]
    assert ("precursor-high", 2) in [(row["rule"], row["step"]) for row in result["incidents"]]
    assert all(row["resolved_step"] is not None for row in result["incidents"] if row["rule"] == "precursor-high")
    assert _shown(result["incidents"]) == live
    assert (result["run"], result["name"], result["already"]) == (spiked, "spiked", len(live))
    assert (answer["fired"], sum(answer["rules"].values())) == (len(live), len(live))
    assert _live(service, spiked) == live


def test_a_laxer_threshold_finds_none(service, spiked):
    """The rules of the body count, and only for this call."""
    off = LAX + "  - id: loss-explosion\n    enabled: false\n"
    answer = _backtest(service, spiked, rules=off)
    assert (answer["fired"], answer["rules"], answer["runs"][0]["incidents"]) == (0, {}, [])
    assert answer["runs"][0]["already"] > 0
    assert _backtest(service, spiked)["fired"] > 0


def test_whose_rules_are_taken(service, spiked):
    """Each run's own project's, unless a project is named; an empty text means the default ones."""
    service.call("PUT", "/projects/denovo/rules", {"rules": LAX})
    assert "precursor-high" not in _backtest(service, spiked)["rules"]
    assert "precursor-high" in _backtest(service, spiked, project="another")["rules"]
    assert "precursor-high" in _backtest(service, spiked, rules="")["rules"]


def test_non_finite_values_of_several_ranks_are_judged_as_they_were_live(service):
    """NaN and infinity survive the store; a failed run's end is judged, too."""
    run = service.start(project="denovo")
    for seq in range(1, 5):
        for rank in (0, 1):
            steps = range(10 * (seq - 1), 10 * seq)
            rows = [[float("nan") if rank == 1 and step >= 25 else 2.0, 0.5] for step in steps]
            rows[3][1] = float("inf") if (rank, seq) == (0, 2) else 0.5
            block = wire.Block.of(["loss/total", "grad_norm"], steps, [1.7e9 + step for step in steps], rows)
            service.ship(run, wire.Frame(1, "", f"rank{rank}", seq, [block]))
    service.post(f"/runs/{run}/finish", {"state": "failed", "reason": "ValueError: NaN"})
    (result,) = _backtest(service, run)["runs"]
    found = {(row["rule"], row["writer"], row["step"]) for row in result["incidents"]}
    assert {("non-finite", "rank1", 25), ("non-finite", "rank0", 13)} <= found
    assert "run-failed" in {rule for rule, _, _ in found}
    assert _shown(result["incidents"]) == _live(service, run)


def test_a_typo_is_answered_with_its_line(service, spiked):
    """And with the keys that are allowed there, before any run is looked at."""
    body = {
        "runs": ["nothing-like-that"],
        "rules": "rules:\n  - id: precursor-high\n    abov: 8\n",
        "project": "denovo",
    }
    answer = service.call("POST", "/rules/backtest", body)
    assert (answer.status, answer.error["type"], answer.error["line"]) == (422, "invalid_rules", 3)
    assert "above" in answer.error["allowed_keys"]
    assert answer.error["message"].startswith("denovo.yaml line 3")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"runs": ["nothing-like-that"]}, 404),
        ({"runs": ["a"] * 51}, 422),
        ({"runs": []}, 422),
        ({}, 422),
        ({"runs": ["a"], "threshold": 1}, 422),
    ],
)
def test_what_can_not_be_tried_is_said(service, body, status):
    """Unknown runs, too many, none, unknown fields."""
    answer = service.call("POST", "/rules/backtest", body)
    assert answer.status == status
    assert answer.error["message"]


def test_records_come_in_the_order_of_commits_over_every_page(service, spiked, database):
    """Rows stay rows, whatever the pages are."""
    for size in (1, 3, 256):
        with database.read() as conn:
            batches = list(iter_batches(conn, spiked, values=size))
        assert [int(step) for batch in batches for step in batch.steps] == list(range(64))
        assert {(batch.writer, batch.metrics) for batch in batches} == {("rank0", ("loss/total", "loss/precursor"))}


def test_the_command_line_tries_a_file(service, spiked, tmp_path):
    """A table for people, the API's answer for machines, status 0 either way; a typo in the file's own name."""

    def holter(*arguments: str):
        env = {"COLUMNS": "100", "HOLTER_TOKEN": ""}
        return CliRunner().invoke(app, ["rules", "backtest", *arguments, "--url", service.base], env=env)

    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - id: precursor-high\n    above: 8\n    clear: 6\n")
    result = holter(str(file), "denovo/spiked", spiked[:11])
    assert result.exit_code == 0, result.output
    assert "precursor-high" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100
    found = json.loads(holter(str(file), spiked, "--json").stdout)
    assert found == _backtest(service, spiked, rules=file.read_text())
    assert [row["step"] for row in found["runs"][0]["incidents"] if row["rule"] == "precursor-high"] == [3]
    file.write_text("rules:\n  - id: precursor-high\n    abov: 8\n")
    wrong = holter(str(file), spiked)
    assert wrong.exit_code == 1
    assert "line 3" in wrong.stderr
