"""The process around a run: how it ends, and what its forked children must not do. Installed by the first `init`."""

from __future__ import annotations

import atexit
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from holter.training import Run

__all__ = ["adopt", "current", "forget"]


class _Process:
    """This process's runs, and how it seems to end."""

    def __init__(self) -> None:
        self.current: Run | None = None
        self.live: list[Run] = []
        self.error: BaseException | None = None
        self.exit_noted_at = 0.0
        self.installed = False

    def install(self) -> None:
        if self.installed:
            return
        self.installed = True
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self.in_child)
        self._hook, self._exit = sys.excepthook, sys.exit
        sys.excepthook = self.note_exception
        sys.exit = self.note_exit  # an exit status reaches neither excepthook nor atexit

    def note_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self._hook(kind, error, trace)

    def note_exit(self, status: Any = None, /) -> NoReturn:
        self.error, self.exit_noted_at = SystemExit(status), time.time()
        self._exit(status)

    def end(self) -> None:
        for run in list(self.live):
            error = self.error
            if isinstance(error, SystemExit) and run.logged_at > self.exit_noted_at:
                error = None  # somebody caught that exit, and the training went on
            if error is None:
                run.finish()
            else:
                run.fail(error)

    def in_child(self) -> None:
        for run in self.live:
            run.abandon()
        self.live, self.current, self.error = [], None, None


_process = _Process()


def current() -> Run | None:
    """The run of this process that was begun last and has not ended."""
    return _process.current


def adopt(run: Run) -> None:
    """Make ``run`` the current one, and see to its end. The run before it, if it still records, is finished."""
    _process.install()
    if _process.current is not None:
        _process.current.finish()
    _process.live.append(run)
    _process.current = run


def forget(run: Run) -> None:
    """``run`` has ended."""
    if run in _process.live:
        _process.live.remove(run)
    if _process.current is run:
        _process.current = None
