"""What `holter doctor` looks at. Each check changes nothing and ends within seconds, whatever it meets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import urllib3

from holter_server.cli.connection import Connection
from holter_server.cli.failure import Failure

__all__ = ["Finding", "examine"]

_ROOM = 1_000_000_000  # bytes free, below which a database soon stops a training's record
_STILL_WRITING = 60.0  # seconds; a recording that changed since then belongs to a training that ships it itself
_CLOCK_TOLERANCE = 5.0  # seconds; the Date header itself has a resolution of one

# In a process of its own: a broken installation of torch can end the process that imports it.
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or getattr(torch.version, "hip", None),
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "mps": torch.backends.mps.is_available(),
}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``fix`` is what to do about it, empty when there is nothing to do."""

    name: str
    state: Literal["good", "note", "warning", "bad"]
    detail: str
    fix: str = ""


def examine(url: str, token: str | None, db: str, directory: str) -> list[Finding]:
    """Every check, in the order in which a person would mend things."""
    findings = [_python(), *_torch_and_gpu()]
    connection = Connection(url, token)
    try:
        answer = connection.probe("/readyz")
    except Failure as failure:
        findings.append(Finding("service", "bad", failure.what, failure.todo))
    else:
        findings += [_service(connection, answer), _token(connection, bool(token)), _clock(answer)]
    return [*findings, _database(db), _leftovers(directory)]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", "good", f"{version}, holter {importlib.metadata.version('holter')}, {sys.prefix}")


def _torch_and_gpu() -> list[Finding]:
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return [Finding("torch", "bad", "importing it takes more than a minute", "Try: python -c 'import torch'")]
    if asked.returncode:
        reason = asked.stderr.strip().splitlines()[-1:] or [f"it ended with status {asked.returncode}"]
        if "No module named 'torch'" in reason[0]:
            return [Finding("torch", "note", "not installed here; the service does not need it"), _gpu([])]
        return [Finding("torch", "bad", f"does not import: {reason[0]}", "Install it anew: pip install -U torch")]
    torch = json.loads(asked.stdout)
    build = f"for {torch['cuda']}" if torch["cuda"] else "for the CPU"
    usable = torch["gpus"] or (["Apple GPU"] if torch["mps"] else [])
    return [Finding("torch", "good", f"{torch['version']}, {build}"), _gpu(usable)]


def _gpu(usable: list[str]) -> Finding:
    present = _nvidia_gpus()
    if usable:
        return Finding("gpu", "good", ", ".join(usable))
    if present:
        fix = "Install a torch that is built for your driver's CUDA"
        return Finding("gpu", "warning", f"{', '.join(present)}, but torch can't use it", fix)
    return Finding("gpu", "note", "none seen; system/gpu* metrics will be absent")


def _nvidia_gpus() -> list[str]:
    import pynvml  # noqa: PLC0415 - only doctor asks the driver

    try:
        pynvml.nvmlInit()
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())
        ]
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    return [name if isinstance(name, str) else name.decode() for name in names]


def _service(connection: Connection, answer: urllib3.BaseHTTPResponse) -> Finding:
    if answer.status == 200:
        return Finding("service", "good", f"ready at {connection.url}")
    if answer.status == 503:
        return Finding("service", "bad", f"{connection.url} answers, but is not ready", "See its log: its database?")
    return Finding("service", "bad", f"what answers at {connection.url} is not Holter", "Name it: --url or HOLTER_URL")


def _token(connection: Connection, given: bool) -> Finding:
    try:
        connection.get("/runs", limit=1)
    except Failure as failure:
        return Finding("token", "bad", failure.what, failure.todo)
    return Finding("token", "good", "accepted" if given else "none given, and the service lets us in")


def _clock(answer: urllib3.BaseHTTPResponse) -> Finding:
    date = answer.headers.get("Date")
    if date is None:
        return Finding("clock", "note", "the service does not say what time it has")
    off = time.time() - parsedate_to_datetime(date).timestamp()
    if abs(off) <= _CLOCK_TOLERANCE:
        return Finding("clock", "good", "agrees with the service")
    side = "ahead of" if off > 0 else "behind"
    return Finding("clock", "warning", f"{abs(off):.0f} s {side} the service's", "Turn time synchronisation (NTP) on")


def _database(db: str) -> Finding:
    if db.startswith("sqlite:///"):
        return _sqlite_file(Path(db.removeprefix("sqlite:///")))
    return _postgresql(db)


def _sqlite_file(file: Path) -> Finding:
    folder = file.absolute().parent
    target = file if file.exists() else folder
    if not os.access(target, os.W_OK):
        return Finding("database", "bad", f"can't write {target}", "Name another: --db sqlite:///PATH, or HOLTER_DB")
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        return Finding("database", "warning", f"only {free / 1e6:,.0f} MB free at {folder}", "Make room on that disk")
    state = f"{file.stat().st_size / 1e6:,.1f} MB" if file.exists() else "not made yet"
    return Finding("database", "good", f"{file} ({state}; {free / 1e9:,.0f} GB free)")


def _postgresql(db: str) -> Finding:
    import psycopg  # noqa: PLC0415 - only where the database is PostgreSQL

    address = db.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        with psycopg.connect(address, connect_timeout=5) as connection:
            server = connection.info.parameter_status("server_version")
            read_only = connection.execute("SHOW transaction_read_only").fetchone() == ("on",)
    except psycopg.Error as error:
        reason = (str(error).strip().splitlines() or ["it can't be reached"])[-1]
        return Finding("database", "bad", reason, "Check HOLTER_DB, and that PostgreSQL runs")
    if read_only:
        return Finding("database", "bad", f"PostgreSQL {server} is read-only", "Name the primary in HOLTER_DB")
    return Finding("database", "good", f"PostgreSQL {server} at {connection.info.host}")


def _leftovers(directory: str) -> Finding:
    from holter.errors import SpoolError  # noqa: PLC0415 - only doctor and sync read recordings
    from holter.spool import Spool, find_spools  # noqa: PLC0415

    def waits(spool: Spool) -> bool:
        newest = max((path.stat().st_mtime for path in spool.journal.iterdir()), default=0.0)
        return spool.waiting() and time.time() - newest > _STILL_WRITING

    try:
        waiting = [spool for spool in find_spools(Path(directory)) if waits(spool)]
    except SpoolError:
        return Finding("leftovers", "good", f"no recordings in {directory}")
    except OSError as error:
        return Finding(
            "leftovers", "bad", f"can't read {directory}: {error.strerror}", "Name another: --dir, HOLTER_DIR"
        )
    if not waiting:
        return Finding("leftovers", "good", f"every recording in {directory} has been shipped")
    runs = ", ".join(dict.fromkeys(str(spool.start.id) for spool in waiting[:5]))
    return Finding("leftovers", "warning", f"not shipped yet: {runs}", f"holter sync {directory}")
