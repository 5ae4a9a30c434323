"""`holter tail PATH`: a training's values straight from its recording, without a service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import holter
from holter_server.cli.app import app

TRAINING = """
import sys, time
import holter
_, folder, end = sys.argv
run = holter.init(project="denovo", name="offline", mode="offline", dir=folder)
for step in range(1_000_000):
    run.log({"loss/total": 1.0 / (step + 1), "lr": 3e-4 if step < 5 else float("nan")}, step=step)
    if step == 3:
        run.event("stage 2", kind="stage")
        print("started", flush=True)
    if end == "stop" and step >= 40:
        break
    time.sleep(0.01)
run.finish()
"""


def tail(path: Path | str, *arguments: str, width: int = 100) -> Result:
    env = {"COLUMNS": str(width), "HOLTER_URL": "http://127.0.0.1:1", "HOLTER_TOKEN": ""}
    return CliRunner().invoke(app, ["tail", str(path), "--interval", "0.1", *arguments], env=env)


def train(folder: Path, end: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(folder), end], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def looks(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_training_is_followed_while_it_writes(tmp_path: Path) -> None:
    """Several looks, each with the newest values, until the recording says how the run ended."""
    process = train(tmp_path, "stop")
    result = tail(tmp_path, "--json")
    process.communicate(timeout=60)
    assert result.exit_code == 0, result.stderr
    found = looks(result)
    steps = [look["step"] for look in found if look["values"]]
    assert len(steps) >= 2  # it was read while it grew
    assert steps == sorted(set(steps))
    assert found[-1]["step"] == 40
    assert (found[-1]["state"], found[-1]["ended"]) == ("finished", True)
    values = [look["values"] for look in found if look["values"]][-1]
    assert values == {"loss/total": 1.0 / 41, "lr": "NaN"}
    events = [event for look in found for event in look["events"]]
    assert [event["text"] for event in events if event["kind"] == "stage"] == ["stage 2"]


@pytest.mark.parametrize("width", [60, 120])
def test_it_looks_like_the_tail_of_a_run(tmp_path: Path, width: int) -> None:
    """A title, a header, rows, events between them, the end; and which of the two is followed is said apart."""
    with holter.init(project="denovo", name="plane", mode="offline", dir=tmp_path) as run:
        run.log({"loss/total": 2.0, "lr": float("inf")}, step=7)
        run.event("stage 2", kind="stage", step=7)
    result = tail(tmp_path, width=width)
    lines = result.stdout.splitlines()
    assert lines[0] == "denovo/plane"
    assert "· info stage: stage 2 (step 7)" in lines
    assert "loss/total" in lines[-3]
    assert lines[-2].split()[:2] == ["7", "2"]
    assert "Infinity" in lines[-2]
    assert lines[-1] == "✓ finished"
    assert "recording in" in result.stderr
    assert max(map(len, lines)) <= width


def test_only_the_metrics_that_were_asked_for(tmp_path: Path) -> None:
    """As of a run at a service; system metrics only when named."""
    with holter.init(project="denovo", mode="offline", dir=tmp_path) as run:
        run.log({"loss/total": 2.0, "lr": 1.0}, step=7)
    (look,) = looks(tail(tmp_path, "--metric", "lo*", "--json"))
    assert look["values"] == {"loss/total": 2.0}


def test_a_killed_training_ends_the_following(tmp_path: Path) -> None:
    """Its recording has no end: that its process is gone is enough, and nothing that it wrote is missed."""
    process = train(tmp_path, "never")
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = looks(tail(tmp_path, "--json"))
    assert (found[-1]["state"], found[-1]["ended"]) == ("failed", True)
    assert max(look["step"] for look in found) >= 4


def test_of_several_runs_the_newest_is_followed(tmp_path: Path) -> None:
    """And that is said."""
    for name, step in (("old", 1), ("new", 2)):
        with holter.init(project="denovo", name=name, mode="offline", dir=tmp_path) as run:
            run.log({"loss": 1.0}, step=step)
    result = tail(tmp_path)
    assert result.stdout.splitlines()[0] == "denovo/new"
    assert "newest of 2 runs" in result.stderr


def test_of_several_attempts_the_newest_is_followed(tmp_path: Path) -> None:
    """A resumed run goes on where the newer attempt is."""
    for step in (50, 10):
        with holter.init(project="denovo", id="r1", mode="offline", dir=tmp_path) as run:
            run.log({"loss": float(step)}, step=step)
    (look,) = looks(tail(tmp_path, "--json"))
    assert (look["step"], look["values"]) == (10, {"loss": 10.0})


def test_what_is_on_disk_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its name could be a run's, `project/name`; a folder without recordings is none."""
    monkeypatch.chdir(tmp_path)
    with holter.init(project="denovo", name="plane", mode="offline", dir="denovo/gaussian") as run:
        run.log({"loss": 1.0}, step=1)
    (tmp_path / "empty").mkdir()
    local = tail("denovo/gaussian")
    assert local.exit_code == 0
    assert "not a run at the service" in local.stderr
    remote = tail("empty")
    assert remote.exit_code == 1
    assert "No service at" in remote.stderr


@pytest.mark.parametrize("path", ["./nothing", "/nothing/there", "."])
def test_a_path_without_a_recording_is_not_looked_for_at_the_service(path: str, tmp_path: Path, monkeypatch) -> None:
    """What can only be a path is answered as one."""
    monkeypatch.chdir(tmp_path)
    result = tail(path)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == f"Error: There is no recording in {path}"
