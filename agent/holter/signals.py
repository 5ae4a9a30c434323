"""What a dying or stuck training leaves behind: the interpreter's own fault handler, writing into the spool's folder.

These handlers are written in C and need neither the interpreter's lock nor a working heap, so they also speak when the
main thread sits in a driver call. None of them is installed over a handler of the user's.

- ``crash.txt``: a fatal signal (segmentation fault, abort, bus error): where every thread was
- ``ended.txt``: SIGTERM or SIGHUP, as a scheduler sends it: where every thread was; then the process ends as it would
- ``stacks.txt``: asked for by the shipper, with a signal that nobody uses, when steps have stopped
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
from pathlib import Path
from typing import TextIO

__all__ = ["CRASH", "ENDED", "STACKS", "install"]

CRASH, ENDED, STACKS = "crash.txt", "ended.txt", "stacks.txt"
_STACKS_OFFSET = 9  # SIGRTMIN + 9: the C library keeps the first ones, users who need one take the next or the last


class _Files:
    """Files stay open as long as the handlers that write to them."""

    def __init__(self) -> None:
        self.open: dict[str, TextIO] = {}
        self.own_crash = False


_files = _Files()


def install(folder: Path) -> int | None:
    """Have this process's fault handlers write into ``folder``, the newest run's.

    Returns the number of the signal that makes it write its stacks; None where that can't be had (Windows; a handler of
    the user's; a full disk).
    """
    if not hasattr(faulthandler, "register"):
        return None
    try:
        _catch_crashes(folder)
        for name in ("SIGTERM", "SIGHUP"):
            _note_end(getattr(signal, name), folder)
        return _listen(folder)
    except (OSError, ValueError, RuntimeError, io.UnsupportedOperation):
        return None


def _catch_crashes(folder: Path) -> None:
    if faulthandler.is_enabled() and not _files.own_crash:
        return  # the user has it write elsewhere
    file = _keep(CRASH, folder)
    faulthandler.enable(file, all_threads=True)
    _files.own_crash = True


def _note_end(number: int, folder: Path) -> None:
    """``chain``: the process then ends by this signal, as it would have."""
    known = f"{ENDED}{number}" in _files.open
    if signal.getsignal(number) is not signal.SIG_DFL and not known:
        return
    file = _keep(ENDED, folder, f"{ENDED}{number}")
    faulthandler.unregister(number)
    faulthandler.register(number, file, all_threads=True, chain=True)


def _listen(folder: Path) -> int | None:
    if not hasattr(signal, "SIGRTMIN"):
        return None
    number = signal.SIGRTMIN + _STACKS_OFFSET
    if STACKS not in _files.open and signal.getsignal(number) is not signal.SIG_DFL:
        return None
    file = _keep(STACKS, folder)
    faulthandler.unregister(number)
    faulthandler.register(number, file, all_threads=True, chain=False)
    return int(number)


def _keep(name: str, folder: Path, key: str = "") -> TextIO:
    before = _files.open.get(key or name)
    file = (folder / name).open("a", encoding="utf-8")
    _files.open[key or name] = file
    if before is not None:
        with contextlib.suppress(OSError):
            before.close()
    return file


def read(folder: Path, name: str, start: int = 0) -> str:
    """What a handler has written behind byte ``start``; "" for nothing."""
    try:
        with (folder / name).open("rb") as file:
            file.seek(start)
            return file.read(200_000).decode("utf-8", "replace")
    except OSError:
        return ""


def size(folder: Path, name: str) -> int:
    try:
        return os.stat(folder / name).st_size
    except OSError:
        return 0
