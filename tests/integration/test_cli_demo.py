"""`holter demo` as a newcomer runs it: a process of its own, real trainings, a real webhook receiver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from holter_server.cli.connection import Connection

pytestmark = pytest.mark.slow


@contextmanager
def _demo(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo's process, and the page's address as it stands on the first line that is not empty."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOLTER_", "SSH_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "holter_server.cli", "demo", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )
    guard = threading.Timer(280, process.kill)
    guard.start()
    assert process.stdout is not None
    try:
        line = process.stdout.readline() or "ended"
        while not line.strip():
            line = process.stdout.readline() or "ended"
        assert line.startswith("The page: http://127.0.0.1:"), line + process.stdout.read()
        yield process, line.split()[-1]
    finally:
        guard.cancel()
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_sick_training_is_shown_with_its_advice_and_reaches_the_webhook(
    tmp_path: Path, dialect: str, blank_url: str, receiver: Any
) -> None:
    """The page first, the incident with its advice as it fires, a table at the end; --exit ends with status 0."""
    arguments = ["--recipe", "precursor_x100", "--steps", "400", "--webhook", receiver.url, "--exit"]
    elsewhere = [] if dialect == "sqlite" else ["--db", blank_url]
    with _demo(tmp_path, *arguments, *elsewhere) as (process, _):
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "rule precursor-high" in printed
    assert "reduce the curriculum weights" in " ".join(printed.split())
    table = printed[printed.rindex("incidents") :]
    assert "precursor_x100" in table
    assert "critical" in table
    sent = [request.json for request in receiver.received]
    fired = [body["data"]["incident"]["rule"] for body in sent if body["type"] == "incident.firing"]
    assert "precursor-high" in fired
    assert bool(list(tmp_path.glob(".holter/demo/*/holter.db"))) == (not elsewhere)


def test_ctrl_c_ends_the_training_too(tmp_path: Path) -> None:
    """Status 130, and nothing is left that goes on computing."""
    with _demo(tmp_path, "--recipe", "healthy_new") as (process, url):
        for _ in range(600):
            runs = Connection(url).get("/runs")["runs"]
            if runs and runs[0]["last_step"]:
                break
            threading.Event().wait(0.1)
        assert runs
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 130, printed
        assert "Traceback" not in printed
        assert not any(child.is_running() for child in children)


def test_it_serves_on_until_ctrl_c(tmp_path: Path) -> None:
    """After the trainings the page is still there; Ctrl-C is then the ordinary end."""
    with _demo(tmp_path, "--recipe", "healthy_new", "--steps", "60") as (process, url):
        assert process.stdout is not None
        printed = ""
        while "Still serving" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        (run,) = Connection(url).get("/runs")["runs"]
        assert (run["state"], run["last_step"]) == ("finished", 59)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
