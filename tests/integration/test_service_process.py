"""The service as a process: how it starts, how it refuses to, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holter_server.errors import ServiceError
from holter_server.ingest import Pipeline
from holter_server.service import running, serve
from holter_server.settings import Settings

ROOT = Path(__file__).parents[2]
SERVE = "from holter_server.service import serve; from holter_server.settings import Settings; serve(Settings())"


def start(db: str, **settings: str) -> subprocess.Popen[str]:
    roots = os.pathsep.join(str(ROOT / name) for name in ("agent", "db", "server", "web"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HOLTER_")},
        "PYTHONPATH": roots, "HOLTER_DB": db, "HOLTER_PORT": "0", **settings,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SERVE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def address_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The printed address, and everything printed until then."""
    printed = ""
    for line in process.stdout:
        printed += line
        if found := re.search(r"Holter is at (http://\S+)", line):
            return found[1], printed
    raise AssertionError(printed + process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(database_url, client_of, number):
    """Exit status 0, no traceback, and everything acknowledged is in the database."""
    process = start(database_url)
    address, _ = address_of(process)
    service = client_of(address)
    run = service.start()
    service.log(run, 1, seq=1, loss=1.0)
    process.send_signal(number)
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    with running(Settings(db=database_url, port=0)) as base:
        assert client_of(base).get(f"/runs/{run}/metrics")["metrics"][0]["count"] == 1


def test_a_kill_loses_nothing_that_was_acknowledged(database_url, client_of):
    """Even without any chance to end in order."""
    process = start(database_url)
    address, _ = address_of(process)
    service = client_of(address)
    run = service.start()
    for seq in range(1, 21):
        service.log(run, seq, seq=seq, loss=float(seq))
    process.kill()
    process.communicate(timeout=60)
    with running(Settings(db=database_url, port=0)) as base:
        (series,) = client_of(base).get(f"/runs/{run}/series?metric=loss")["series"]
        assert series["values"] == [float(seq) for seq in range(1, 21)]


def test_beyond_loopback_it_makes_a_token_and_shows_it_once(database_url, client_of):
    """Every call needs it; the next start shows none."""
    process = start(database_url, HOLTER_HOST="0.0.0.0")
    address, printed = address_of(process)
    secret = re.search(r"^\s+(holter_\S+)$", printed, re.MULTILINE)[1]
    assert client_of(address).call("GET", "/runs").status == 401
    assert client_of(address, secret).call("GET", "/runs").status == 200
    process.terminate()
    process.communicate(timeout=60)
    process = start(database_url, HOLTER_HOST="0.0.0.0")
    address, printed = address_of(process)
    assert "holter_" not in printed
    assert client_of(address, secret).call("GET", "/runs").status == 200
    process.terminate()
    process.communicate(timeout=60)


def test_a_configured_token_is_not_printed(database_url, client_of):
    """It is known already."""
    process = start(database_url, HOLTER_HOST="0.0.0.0", HOLTER_TOKEN="correct-horse")
    address, printed = address_of(process)
    assert "horse" not in printed
    assert client_of(address, "correct-horse").call("GET", "/runs").status == 200
    process.terminate()
    process.communicate(timeout=60)


def test_a_port_in_use_is_said(tmp_path):
    """With what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"Port {port}") as refused:
            serve(Settings(db=f"sqlite:///{tmp_path}/holter.db", port=port))
    assert "--port" in refused.value.hint


@pytest.mark.parametrize("db", ["sqlite:////nowhere/at/all.db", "mysql://a/b", "what", "postgresql://127.0.0.1:1/none"])
def test_a_database_that_can_not_be_opened_is_said(db):
    """With what to do, before the port is taken."""
    with pytest.raises(ServiceError) as refused:
        serve(Settings(db=db, port=0))
    assert refused.value.message
    assert refused.value.hint


def test_an_address_of_another_machine_is_said(tmp_path):
    """192.0.2.1 is nobody's (RFC 5737)."""
    with pytest.raises(ServiceError, match=r"192\.0\.2\.1") as refused:
        serve(Settings(db=f"sqlite:///{tmp_path}/holter.db", host="192.0.2.1", token="x"))
    assert refused.value.hint


def test_a_full_disk_is_a_503_and_the_service_stays(database_url, dialect, client_of, monkeypatch):
    """What was refused is not there; what was acknowledged is; and it works again once there is room."""
    take = Pipeline.take_frames
    full = False

    def take_frames(self, tx, shipped):
        receipts = take(self, tx, shipped)
        if dialect == "postgresql":
            if full:  # as PostgreSQL says it
                tx.conn.exec_driver_sql("DO $$ BEGIN RAISE disk_full; END $$")
        elif full:
            pages = tx.conn.exec_driver_sql("PRAGMA page_count").scalar()
            tx.conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            tx.conn.exec_driver_sql("CREATE TABLE filler AS SELECT zeroblob(50000000) AS x")
        else:
            tx.conn.exec_driver_sql("PRAGMA max_page_count = 1000000000")
        return receipts

    monkeypatch.setattr(Pipeline, "take_frames", take_frames)
    with running(Settings(db=database_url, port=0)) as base:
        service = client_of(base)
        run = service.start()
        full = True
        refused = service.call(
            "POST", f"/runs/{run}/points", {"points": [{"step": 2, "values": {"loss": 2.0}}], "seq": 2}
        )
        assert (refused.status, refused.error["type"]) == (503, "database_unavailable")
        assert refused.headers["Retry-After"]
        assert refused.error["hint"]
        assert service.call("GET", "/readyz").status == 200
        full = False
        assert service.log(run, 2, seq=2, loss=2.0)["duplicate"] is False
        assert service.get(f"/runs/{run}/metrics")["metrics"][0]["count"] == 1


def test_a_queue_that_is_full_answers_429(database_url, client_of, monkeypatch):
    """With Retry-After; what was accepted before is committed."""
    take = Pipeline.take_frames
    go_on = threading.Event()

    def slow(self, tx, shipped):
        go_on.wait(60)
        return take(self, tx, shipped)

    monkeypatch.setattr(Pipeline, "take_frames", slow)
    with running(Settings(db=database_url, port=0, queue_limit=2, watchdog_interval_s=60)) as base:
        service = client_of(base)
        run = service.start()
        answers: list[int] = []

        def send(seq: int) -> None:
            body = {"points": [{"step": seq, "values": {"loss": 1.0}}], "seq": seq}
            answers.append(service.call("POST", f"/runs/{run}/points", body).status)

        threads = [threading.Thread(target=send, args=(seq,)) for seq in range(1, 11)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while 429 not in answers and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
        for thread in threads:
            thread.join()
        assert set(answers) == {200, 429}
        assert service.get(f"/runs/{run}/metrics")["metrics"][0]["count"] == answers.count(200)
