"""`holter serve` in a process of its own, as a benchmark's other end; on SQLite unless told otherwise."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """Its address stays the same over `stop`, `kill` and `start`; so do its data."""

    def __init__(self, folder: Path, database: str = "", settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.database = database or f"sqlite:///{folder.resolve()}/holter.db"
        self._settings = dict(settings or {})
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        if self._process is None:
            self.spawn()
            self.wait_until_ready()

    def spawn(self) -> None:
        """Start the process and do not wait for it."""
        program = [sys.executable, "-m", "holter_server.cli", "serve", "--port", str(self.port)]
        environ = {name: text for name, text in os.environ.items() if not name.startswith("HOLTER_")}
        with (self._folder / "service.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [*program, "--db", self.database], env=environ | self._settings, stdout=output, stderr=output
            )

    def wait_until_ready(self) -> None:
        until = time.monotonic() + START_S
        while not self.answers():
            if time.monotonic() > until or self._process is None or self._process.poll() is not None:
                raise SystemExit(f"The service did not start; see {self._folder / 'service.txt'}.")
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            return self.request("GET", "/readyz", timeout=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def request(self, method: str, path: str, body: Any = None, timeout: float = 120.0) -> tuple[int, bytes]:
        """Status and body of one answer; ``body`` is sent as JSON.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer below /api/v1 that has to be a success."""
        status, content = self.request(method, f"/api/v1{path}", body)
        if status not in (200, 201):
            raise SystemExit(f"{method} {path}: HTTP {status} {content[:300]!r}; see {self._folder / 'service.txt'}.")
        return json.loads(content)

    def gauge(self, name: str) -> float | None:
        """The sum of a family's samples in ``GET /metrics``; None where there is no such family."""
        text = self.request("GET", "/metrics")[1].decode()
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found)) if found else None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
