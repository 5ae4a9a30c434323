"""`holter serve` on SQLite in a process of its own, as a benchmark's other end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """Its address stays the same over `stop` and `start`; so do its data. ``settings``: further HOLTER_* variables."""

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = {f"HOLTER_{name.upper()}": value for name, value in settings.items()}
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        if self._process is not None:
            return
        database = f"sqlite:///{self._folder.resolve()}/holter.db"
        program = [sys.executable, "-m", "holter_server.cli", "serve", "--port", str(self._port), "--db", database]
        environ = {name: text for name, text in os.environ.items() if not name.startswith("HOLTER_")}
        environ |= self._settings
        with (self._folder / "service.txt").open("ab") as output:
            self._process = subprocess.Popen(program, env=environ, stdout=output, stderr=output)
        until = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                raise SystemExit(f"The service did not start; see {self._folder / 'service.txt'}.")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
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
        """As `kill -9` does it: nothing is finished, nothing is given back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
