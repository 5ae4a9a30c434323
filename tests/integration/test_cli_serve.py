"""`holter serve` as a process of its own: the real console script, real signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from holter_server.cli.connection import Connection

SCRIPT = Path(sys.executable).with_name("holter")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "holter_server.cli"]


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLTER_")}
    return kept | more


def _fails(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "serve", *arguments]
    environment = _environment(**variables)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


@contextmanager
def _serving(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and what it printed up to and including its address."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(**variables),
    )
    guard = threading.Timer(90, process.kill)
    guard.start()
    assert process.stdout is not None
    try:
        printed = ""
        while "Holter is at " not in printed:
            line = process.stdout.readline()
            assert line, f"ended with {process.wait()}: {printed}"
            printed += line
        yield process, printed
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def _url(printed: str) -> str:
    return printed.split("Holter is at ")[1].split(maxsplit=1)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_nothing_is_lost(blank_url: str, number: signal.Signals) -> None:
    """Status 0, no traceback; what was acknowledged is there after a restart."""
    with _serving("--db", blank_url) as (process, printed):
        run = Connection(_url(printed)).post("/runs", {"project": "p", "name": "kept"})["run"]
        points = {"points": [{"step": 1, "values": {"loss": "NaN"}}], "seq": 1}
        Connection(_url(printed)).post(f"/runs/{run['id']}/points", points)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    with _serving("--db", blank_url) as (_, printed):
        (metric,) = Connection(_url(printed)).get(f"/runs/{run['id']}/metrics")["metrics"]
        assert (metric["name"], metric["last"], metric["non_finite"]) == ("loss", "NaN", 1)


def test_a_port_in_use_is_two_lines(tmp_path: Path) -> None:
    """What is in the way, and what to type instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _fails("--port", str(port), "--db", f"sqlite:///{tmp_path / 'x.db'}")
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr.splitlines()[1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "db", ["mysql://x", "sqlite:////no/such/folder/x.db", "postgresql://127.0.0.1:1/x", "nonsense"]
)
def test_a_database_that_can_t_be_opened_is_two_lines(db: str) -> None:
    """Whatever is wrong with it."""
    done = _fails("--port", "0", "--db", db)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert done.stderr.startswith("Error: ")


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    """A typo in --host."""
    done = _fails("--host", "192.0.2.1", "--port", "0", "--db", f"sqlite:///{tmp_path / 'x.db'}")
    assert done.returncode == 1
    assert "192.0.2.1" in done.stderr


def test_beyond_loopback_a_token_is_made_shown_and_needed(blank_url: str) -> None:
    """Bound to every address, the first start prints a token, and only it opens the API."""
    with _serving("--host", "0.0.0.0", "--db", blank_url) as (_, printed):
        url = _url(printed)
        (secret,) = [line.strip() for line in printed.splitlines() if line.strip().startswith("holter_")]
        assert urllib3.request("GET", f"{url}/api/v1/runs", retries=False).status == 401
        assert Connection(url, secret).get("/runs")["runs"] == []
    with _serving("--host", "0.0.0.0", "--db", blank_url) as (_, printed):
        assert secret not in printed


def test_a_password_is_not_printed(tmp_path: Path) -> None:
    """An error about PostgreSQL must not show what is in its address."""
    done = _fails("--port", "0", "--db", "postgresql://holter:hunter2secret@127.0.0.1:1/holter")
    assert done.returncode == 1
    assert "hunter2secret" not in done.stdout + done.stderr
