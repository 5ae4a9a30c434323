"""What the agent says to the person who watches the terminal: one line per kind of problem, never a flood."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

__all__ = ["Notices"]


class Notices:
    """Lines on standard error that begin with ``holter:``. Safe from any thread, and never raises."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Print news that is no problem; left out with ``HOLTER_QUIET=1``."""
        if not self._quiet:
            _print(message)

    def warn(self, kind: str, message: str, *, again_after: float = float("inf")) -> bool:
        """Print the first warning of this kind; the next one only after ``again_after`` seconds."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(kind, float("-inf")) < again_after:
                return False
            self._said[kind] = now
        _print(message)
        return True


def _print(message: str) -> None:
    # Standard error may be closed, or a pipe whose reader is gone; neither is the training's problem.
    with contextlib.suppress(Exception):
        line = " ".join(message.split())
        sys.stderr.write(f"holter: {line}\n")
        sys.stderr.flush()
