"""Every command that talks to a service, against a real one."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import holter
from holter_server.cli.app import app
from holter_server.cli.connection import Connection
from holter_server.service import running
from holter_server.settings import Settings

TINY = 1e-30


@pytest.fixture(scope="module")
def url(shared_database_url: str) -> Iterator[str]:
    with running(Settings(port=0, db=shared_database_url, token=None, allow_private_webhooks=True)) as service:
        yield service.url


@pytest.fixture(scope="module")
def sick(url: str) -> dict[str, Any]:
    """A run that ended after its loss had become NaN."""
    connection = Connection(url)
    config = {"optimizer": {"lr": 3e-4}, "layers": 2}
    start = {"project": "denovo", "name": "sick", "config": config, "tags": ["a"], "planned_steps": 200}
    run = connection.post("/runs", start)["run"]
    losses = [2.0 - step / 100 for step in range(100)] + ["NaN"] * 60
    points = [{"step": step, "values": {"loss/total": loss, "lr": TINY}} for step, loss in enumerate(losses)]
    points[-1]["values"]["lr"] = "-Infinity"
    connection.post(f"/runs/{run['id']}/points", {"points": points, "seq": 1})
    connection.post(f"/runs/{run['id']}/finish", {"state": "finished"})
    found: dict[str, Any] = connection.get(f"/runs/{run['id']}")["run"]
    return found


def _holter(url: str, *arguments: str, width: int = 120) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", url], env={"COLUMNS": str(width), "HOLTER_TOKEN": ""})


@pytest.mark.parametrize("width", [80, 120])
def test_runs_lists_what_there_is(url: str, sick: dict[str, Any], width: int) -> None:
    """One line per run with id, name, state and health, within the terminal."""
    result = _holter(url, "runs", "--project", "denovo", width=width)
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if sick["id"] in line]
    assert "denovo/sick" in line
    assert "✓ finished" in line
    assert "■ critical" in line
    assert "159/200" in line
    assert max(len(line) for line in result.stdout.splitlines()) <= width


def test_runs_for_machines(url: str, sick: dict[str, Any]) -> None:
    """--json is the API's answer."""
    result = _holter(url, "runs", "--tag", "a", "--json")
    assert [run["id"] for run in json.loads(result.stdout)["runs"]] == [sick["id"]]


def test_a_filter_without_a_match_says_so(url: str, sick: dict[str, Any]) -> None:
    """Nothing on standard output, and a way out on standard error."""
    result = _holter(url, "runs", "--project", "none")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No run matches" in result.stderr


@pytest.mark.parametrize("form", ["id", "prefix", "project/name"])
def test_a_run_can_be_named_in_three_ways(url: str, sick: dict[str, Any], form: str) -> None:
    """Id, unique prefix, project/name."""
    named = {"id": sick["id"], "prefix": sick["id"][:11], "project/name": "denovo/sick"}[form]
    result = _holter(url, "show", named, "--json")
    assert json.loads(result.stdout)["run"]["id"] == sick["id"]


def test_an_unknown_run_says_what_to_do(url: str) -> None:
    """Two lines, status 1."""
    result = _holter(url, "show", "nothing-like-that")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("width", [80, 120])
def test_show_has_config_metrics_and_incidents_with_advice(url: str, sick: dict[str, Any], width: int) -> None:
    """What a person would look for on the run's page."""
    result = _holter(url, "show", sick["id"], width=width)
    assert result.exit_code == 0
    assert "optimizer.lr" in result.stdout
    assert "loss/total" in result.stdout
    assert "NaN" in result.stdout
    incident = Connection(url).get("/incidents", run=sick["id"])["incidents"][0]
    printed = " ".join(result.stdout.split())
    assert " ".join(incident["advice"].split())[:40] in printed
    assert incident["rule"] in printed
    assert max(len(line) for line in result.stdout.splitlines()) <= width


def test_tail_of_an_ended_run_shows_its_end_and_ends(url: str, sick: dict[str, Any]) -> None:
    """The last values, the incidents, the state."""
    result = _holter(url, "tail", "denovo/sick", width=80)
    assert result.exit_code == 0
    assert "159" in result.stdout
    assert "NaN" in result.stdout
    assert result.stdout.rstrip().endswith("✓ finished")
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_tail_for_machines_is_a_line_of_json_each(url: str, sick: dict[str, Any]) -> None:
    """With only the metrics that were asked for."""
    result = _holter(url, "tail", sick["id"], "--metric", "lo*", "--json")
    (look,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert look["step"] == 159
    assert look["values"] == {"loss/total": "NaN"}
    assert look["state"] == "finished"
    assert look["incidents"]


def test_csv_goes_to_standard_output_with_every_point(url: str, sick: dict[str, Any]) -> None:
    """NaN, -Infinity and 1e-30 as they were logged."""
    result = _holter(url, "export", sick["id"])
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 320
    values = {(row["metric"], int(row["step"])): float(row["value"]) for row in rows}
    assert math.isnan(values["loss/total", 120])
    assert values["lr", 5] == TINY
    assert values["lr", 159] == -math.inf


def test_parquet_goes_into_a_file_whole_or_not_at_all(url: str, sick: dict[str, Any], tmp_path: Path) -> None:
    """Nothing but the file is left, and it can be read."""
    file = tmp_path / "points.parquet"
    result = _holter(url, "export", "denovo/sick", "-f", "parquet", "-m", "lr", "-o", str(file))
    assert result.exit_code == 0, result.stderr
    table = pyarrow.parquet.read_table(file)
    assert table.num_rows == 160
    assert list(tmp_path.iterdir()) == [file]


def test_json_lines(url: str, sick: dict[str, Any]) -> None:
    """One object per point."""
    lines = _holter(url, "export", sick["id"], "-f", "jsonl", "-m", "loss/*").stdout.splitlines()
    assert json.loads(lines[-1])["value"] == "NaN"


def test_a_file_that_can_t_be_written_is_two_lines(url: str, sick: dict[str, Any], tmp_path: Path) -> None:
    """Instead of a traceback."""
    result = _holter(url, "export", sick["id"], "-o", str(tmp_path / "missing" / "x.csv"))
    assert result.exit_code == 1
    assert "Can't write" in result.stderr


def test_stop_really_stops_a_training(url: str, tmp_path: Path) -> None:
    """The command waits, shows each state it sees, and the loop ends."""
    steps: list[int] = []
    running_loop = threading.Event()

    def train() -> None:
        with holter.init(project="stop", name="endless", url=url, dir=tmp_path) as run:
            for step in range(1_000_000):
                run.log({"loss": 1.0 / (step + 1)}, step=step)
                steps.append(step)
                running_loop.set()
                if run.should_stop:
                    return
                threading.Event().wait(0.01)

    training = threading.Thread(target=train, daemon=True)
    training.start()
    assert running_loop.wait(30)
    for _ in range(300):  # the run reaches the service after its first shipment
        if Connection(url).get("/runs", project="stop")["runs"]:
            break
        threading.Event().wait(0.1)
    result = _holter(url, "stop", "stop/endless", "--wait", "60")
    training.join(60)
    assert not training.is_alive()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "stop: requested"
    assert "stop: done" in result.stdout
    again = _holter(url, "stop", "stop/endless")
    assert again.exit_code == 1
    assert "stopped already" in again.stderr


def test_a_command_that_nobody_answers_is_left_standing(url: str) -> None:
    """Without an agent a stop stays requested; that is said, and is no failure."""
    run = Connection(url).post("/runs", {"project": "deaf", "name": "deaf"})["run"]
    result = _holter(url, "checkpoint", run["id"], "--wait", "0")
    assert result.exit_code == 0
    assert "checkpoint: requested" in result.stdout
    assert "has not answered yet" in result.stdout


def test_a_webhook_from_add_to_remove(url: str, receiver: Any) -> None:
    """Add shows the secret, test reaches the receiver, list and remove do what they say."""
    added = json.loads(_holter(url, "webhook", "add", receiver.url, "--name", "me", "--json").stdout)["webhook"]
    assert added["secret"].startswith("whsec_")
    tested = _holter(url, "webhook", "test", added["id"])
    assert tested.exit_code == 0, tested.stderr
    assert "answered 204" in tested.stdout
    assert len(receiver.received) == 1
    listed = _holter(url, "webhook", "list")
    assert receiver.url in listed.stdout
    assert added["secret"] not in listed.stdout
    assert _holter(url, "webhook", "remove", added["id"]).exit_code == 0
    assert "No webhooks yet" in _holter(url, "webhook", "list").stderr


def test_a_webhook_that_fails_says_why(url: str) -> None:
    """A receiver that is not there is a failed test."""
    added = json.loads(_holter(url, "webhook", "add", "http://127.0.0.1:1/hook", "--json").stdout)["webhook"]
    tested = _holter(url, "webhook", "test", added["id"])
    _holter(url, "webhook", "remove", added["id"])
    assert tested.exit_code == 1
    assert "Not delivered" in tested.stderr


def test_an_address_that_is_none_is_refused(url: str) -> None:
    """With the service's own words."""
    result = _holter(url, "webhook", "add", "ftp://example.org")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2


def test_sync_ships_an_offline_run_once(url: str, tmp_path: Path) -> None:
    """The second time there is nothing new, and that is success too."""
    with holter.init(project="offline", name="plane", mode="offline", dir=tmp_path) as run:
        for step in range(50):
            run.log({"loss": 1.0 / (step + 1)}, step=step)
    first = json.loads(_holter(url, "sync", str(tmp_path), "--json").stdout)
    assert first["complete"]
    assert sum(row["points"] for row in first["recordings"]) >= 50
    shown = json.loads(_holter(url, "show", "offline/plane", "--json").stdout)
    assert shown["run"]["last_step"] == 49
    again = _holter(url, "sync", str(tmp_path), "--json")
    assert again.exit_code == 0
    assert sum(row["points"] for row in json.loads(again.stdout)["recordings"]) == 0


def test_sync_of_nothing_says_where_recordings_are(url: str, tmp_path: Path) -> None:
    """An empty folder is not silently a success."""
    result = _holter(url, "sync", str(tmp_path))
    assert result.exit_code == 1
    assert ".holter" in result.stderr


def test_doctor_finds_a_good_service_good(url: str, tmp_path: Path) -> None:
    """Each check is one line for people and one object for machines."""
    database, recordings = f"sqlite:///{tmp_path / 'holter.db'}", str(tmp_path)
    arguments = ["doctor", "--db", database, "--dir", recordings]
    checks = {check["name"]: check for check in json.loads(_holter(url, *arguments, "--json").stdout)["checks"]}
    assert {"python", "torch", "gpu", "service", "token", "clock", "database", "leftovers"} <= set(checks)
    for name in ("python", "service", "token", "clock", "leftovers"):
        assert checks[name]["state"] == "good", checks[name]
    assert not (tmp_path / "holter.db").exists()
    assert "ready at" in _holter(url, *arguments).stdout


def test_doctor_says_how_to_mend_what_is_broken(tmp_path: Path) -> None:
    """No service: status 1, and the fix is named."""
    result = _holter("http://127.0.0.1:1", "doctor", "--db", f"sqlite:///{tmp_path / 'x.db'}", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "holter serve" in result.stdout


def test_doctor_sees_what_was_not_shipped(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that has not changed for long and is not at the service needs a sync."""
    with holter.init(project="offline", name="left", mode="offline", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    monkeypatch.setattr("holter_server.cli.checks._STILL_WRITING", -1.0)
    result = _holter(url, "doctor", "--db", f"sqlite:///{tmp_path / 'x.db'}", "--dir", str(tmp_path))
    assert f"holter sync {tmp_path}" in " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def explained(url: str) -> dict[str, Any]:
    """A run with an incident for which the agent has kept a flight and, as it hung afterwards, stacks."""
    connection = Connection(url)
    writer = {"name": "rank0", "host": "node7"}
    run = connection.post("/runs", {"project": "denovo", "name": "explained", "writer": writer, "attempt": "a"})["run"]
    points = [{"step": step, "values": {"loss/total": 1.0 if step < 9 else "NaN"}} for step in range(10)]
    answer = connection.post(f"/runs/{run['id']}/points", {"points": points, "attempt": "a", "seq": 1})
    (notice,) = answer["incidents"]
    flight = {
        "trigger": {"kind": "incident", "incident": notice["id"]},
        "first": {"what": "gradient", "name": "head.weight", "step": 9, "count": 1, "of": 2},
        "batch": {"step": 9, "ids": [f"pep_{index}" for index in range(32)], "count": 40},
        "layers": ["head.weight", "head.bias"], "steps": [8, 9], "grad_norm": [[1.0, 1.0], ["NaN", 1.0]],
        "file": "/data/it's here/9.npz",
    }  # fmt: skip
    stacks = {"stacks": "Thread 1:\n" + "  File\n" * 100, "step": 9, "trigger": {"incident": notice["id"]}}
    events = [
        {"time": 1.7e9, "kind": "flight", "step": 9, "text": "gradient of head.weight was the first", "data": flight},
        {"time": 1.7e9, "kind": "stacks", "text": "no step for 61 s", "data": stacks},
        {"time": 1.7e9, "kind": "exit", "text": "killed by SIGKILL: the kernel was out of memory"},
    ]
    connection.post(f"/runs/{run['id']}/points", {"events": events, "attempt": "a", "seq": 2})
    return {"run": run["id"], "incident": notice["id"]}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("named", [False, True])
def test_an_incident_is_told_in_a_few_lines(url: str, explained: dict[str, Any], width: int, named: bool) -> None:
    """What fired, the arithmetic, the advice, which tensor on which batch, and where the rest is."""
    wanted = [explained["incident"]] if named else []
    result = _holter(url, "show", "denovo/explained", "--incident", *wanted, width=width)
    assert result.exit_code == 0, result.stderr
    incident = Connection(url).get(f"/incidents/{explained['incident']}")["incident"]
    said = " ".join(result.stdout.split())
    for text in (
        incident["message"][:40], incident["advice"][:40], incident["severity"], "value NaN",
        "gradient of head.weight was the first", "pep_7 and 32 more", "on node7", "8 to 9", "no step for 61 s",
        "Thread 1:", "41 lines more",
    ):  # fmt: skip
        assert text in said
    assert "pep_8" not in said
    assert """  holter.flight.load("/data/it's here/9.npz")""" in result.stdout.splitlines()  # whole, to be copied
    assert max(len(line) for line in result.stdout.splitlines()) <= width


def test_an_incident_for_machines_has_the_whole_record(url: str, explained: dict[str, Any]) -> None:
    """With the norms and the stacks."""
    told = json.loads(_holter(url, "show", explained["run"], "--incident", "--json").stdout)
    assert told["incident"]["id"] == explained["incident"]
    assert told["flight"]["data"]["grad_norm"] == [[1.0, 1.0], ["NaN", 1.0]]
    assert told["stacks"]["data"]["stacks"].count("\n") == 101


def test_an_incident_that_is_not_there_names_those_that_are(url: str, explained: dict[str, Any]) -> None:
    """Two lines; and of a healthy run the question is answered, too."""
    result = _holter(url, "show", explained["run"], "--incident", "zzz")
    assert result.exit_code == 1
    assert explained["incident"].removeprefix(explained["run"] + "-") in result.stderr
    run = Connection(url).post("/runs", {"project": "denovo", "name": "healthy"})["run"]["id"]
    healthy = _holter(url, "show", run, "--incident")
    assert (healthy.exit_code, healthy.stdout) == (0, "")
    assert "No incident" in healthy.stderr
    assert json.loads(_holter(url, "show", run, "--incident", "--json").stdout)["incident"] is None


def test_show_says_how_the_process_ended_and_what_was_kept(url: str, explained: dict[str, Any]) -> None:
    """The sentence stands under the incident, the end among the facts."""
    said = " ".join(_holter(url, "show", explained["run"]).stdout.split())
    assert "killed by SIGKILL: the kernel was out of memory" in said
    assert "gradient of head.weight was the first" in said
