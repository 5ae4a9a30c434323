"""`holter compare`, `holter pin` and `holter plan` against a real service and real (tiny) trainings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from holter import wire
from holter_server.cli.app import app

STEPS = 120


def train(service, noise: int, level: float = 0.8, *, nan: bool = False, **start) -> str:
    run = service.start(project="p", planned_steps=STEPS, environment={"host": "h1"}, config={"seed": noise}, **start)
    random = np.random.default_rng([noise, round(1000 * level)])
    values = np.c_[2 + 0.01 * random.normal(size=STEPS), np.ones(STEPS), np.full(STEPS, 0.1),
                   level + 0.001 * random.normal(size=STEPS)]  # fmt: skip
    if nan:
        values[60:, :2] = np.nan
    names = ["loss/total", "grad_norm", "perf/step_time", "val/acc"]
    service.ship(
        run, wire.Frame(1, "", "rank0", 1, [wire.Block.of(names, range(STEPS), 1.7e9 + np.arange(STEPS), values)])
    )
    return run


def holter(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160", "NO_COLOR": "1"})


def test_every_exit_status(service, tmp_path: Path):
    """0 accepted, 1 rejected, 2 undetermined, 3 could not compare; and the reports."""
    old = [train(service, seed, 0.8, group="old") for seed in (1, 2, 3)]
    for seed in (1, 2, 3):
        train(service, seed, 0.85, group="new")
    broken, early = train(service, 9, nan=True), service.start(project="p")
    at = ("--url", service.base)
    reports = ("--markdown", str(tmp_path / "r.md"), "--html", str(tmp_path / "r.html"))
    accepted = holter("compare", "group=old", "group=new", "--explain", *reports, *at)
    assert accepted.exit_code == 0, accepted.output
    assert "Candidate accepted" in accepted.stdout
    assert "t-interval over 3 runs a side" in accepted.stdout
    assert "| Quality | val/acc |" in (tmp_path / "r.md").read_text()
    page = (tmp_path / "r.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    assert holter("compare", "group=new", "group=old", *at).exit_code == 1
    rejected = holter("compare", old[0], broken, "--json", *at)
    assert rejected.exit_code == 1
    assert json.loads(rejected.stdout)["comparison"]["verdict"] == "rejected"
    assert holter("compare", old[0], old[1], *at).exit_code == 2
    assert holter("compare", old[0], early, *at).exit_code == 3
    assert holter("compare", old[0], "nothing", *at).exit_code == 3
    assert holter("compare", old[0], old[1], "--url", "http://127.0.0.1:9").exit_code == 3
    wrong = tmp_path / "mine.yaml"
    wrong.write_text("criteria:\n  - {id: a, metrix: [x]}\n")
    answer = holter("compare", old[0], old[1], "--criteria", str(wrong), *at)
    assert (answer.exit_code, "line 2" in answer.stderr) == (3, True)


def test_pinning(service):
    """The newest pin replaces what was pinned before."""
    first, second, candidate = (train(service, seed) for seed in (1, 2, 3))
    at = ("--url", service.base)
    assert holter("compare", "pinned", candidate, *at).exit_code == 3
    for run in (first, second):
        assert holter("pin", run, *at).exit_code == 0
        found = json.loads(holter("compare", "pinned", candidate, "--json", *at).stdout)["comparison"]
        assert [each["id"] for each in found["runs"]["baseline"]] == [run]


SCRIPT = """
import random, sys, time, holter
steps, seed, level, dies = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
with holter.init(project="plan", name=sys.argv[5], config={"seed": seed}, planned_steps=steps) as run:
    for step in range(steps):
        bad = dies and step >= dies
        loss = float("nan") if bad else 2 + 0.01 * random.random()
        run.log({"loss/total": loss, "grad_norm": loss, "val/acc": level + 0.001 * random.random()}, step=step)
        if bad:
            time.sleep(0.02)
        if run.should_stop:
            break
"""


def a_plan(folder: Path, *, dies: int, steps: int) -> Path:
    (folder / "train.py").write_text(SCRIPT)
    command = "[python, train.py, '{steps}', '{seed}', '%s', '%d', '%s-{seed}']"
    plan = folder / "plan.yaml"
    plan.write_text(
        f"steps: {steps}\nseeds: [1, 2, 3]\nsanity: {steps}\n"
        f"baseline: {{name: old, command: {command % (0.8, 0, 'old')}}}\n"
        f"candidate: {{name: new, command: {command % (0.9, dies, 'new')}}}\n"
    )
    return plan


def test_a_plan_ends_with_verdict_and_report(service, tmp_path: Path):
    """Three seeds of two real (and tiny) trainings; the sanity check counts as the first of them."""
    done = holter(
        "plan", str(a_plan(tmp_path, dies=0, steps=150)), "--report", str(tmp_path / "out"), "--url", service.base
    )
    assert done.exit_code == 0, done.output
    assert "Candidate accepted" in (tmp_path / "out" / "report.md").read_text()
    assert len(service.get("/runs?project=plan")["runs"]) == 6


def test_a_sick_run_is_stopped_and_ends_the_plan(service, tmp_path: Path):
    """NaN for good: nothing else is trained."""
    plan = a_plan(tmp_path, dies=20, steps=3000)
    done = holter("plan", str(plan), "--report", str(tmp_path / "out"), "--url", service.base)
    assert done.exit_code == 1, done.output
    assert "fell ill" in (tmp_path / "out" / "report.md").read_text()
    (run,) = service.get("/runs?project=plan")["runs"]
    assert run["state"] == "stopped"
    assert run["last_step"] < 2999


def test_a_wrong_plan(tmp_path: Path):
    """Its line, or that it can't be read."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("steps: 5\nseedz: [1]\n")
    done = holter("plan", str(plan))
    assert (done.exit_code, "line 2" in done.stderr) == (3, True)
    assert holter("plan", str(tmp_path / "nothing.yaml")).exit_code == 3
