"""Holter: a live training monitor.

>>> import holter                                            # doctest: +SKIP
>>> run = holter.init(project="denovo", config={"lr": 3e-4})  # doctest: +SKIP
>>> run.log({"loss/total": 2.5, "lr": 3e-4}, step=1)          # doctest: +SKIP

`import holter` is light: neither torch nor the server, and nothing of the agent before `init` needs it, since the
service imports `holter.wire` and `holter.health` from here, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from holter import lifecycle as _lifecycle
from holter.errors import ApiError, HolterError, ServiceUnreachable, SpoolError

if TYPE_CHECKING:
    from holter.client import Client
    from holter.recording import init
    from holter.training import EndState, Run, Severity

    run: Run | None  # the current run of this process; None before `init` and after `finish`
    __version__: str

__all__ = [
    "ApiError",
    "Client",
    "HolterError",
    "Run",
    "ServiceUnreachable",
    "SpoolError",
    "alert",
    "batch",
    "event",
    "finish",
    "init",
    "log",
    "on_command",
    "run",
    "watch",
]


_ELSEWHERE = {"Client": "holter.client", "Run": "holter.training", "init": "holter.recording"}


def log(values: Mapping[str, Any], step: int | None = None) -> None:
    """`Run.log` of the current run; nothing without one."""
    _call(lambda current: current.log(values, step))


def event(text: str, kind: str = "note", **details: Any) -> None:
    """`Run.event` of the current run; nothing without one."""
    _call(lambda current: current.event(text, kind, **details))


def alert(title: str, text: str = "", severity: Severity = "warning") -> None:
    """`Run.alert` of the current run; nothing without one."""
    _call(lambda current: current.alert(title, text, severity))


def watch(model: Any, optimizer: Any, every: int = 1, *, flight_recorder: int = 64) -> None:
    """`Run.watch` of the current run; nothing without one."""
    _call(lambda current: current.watch(model, optimizer, every, flight_recorder=flight_recorder))


def batch(ids: Any) -> None:
    """`Run.batch` of the current run; nothing without one."""
    _call(lambda current: current.batch(ids))


def on_command(name: str, function: Callable[..., Any]) -> None:
    """`Run.on_command` of the current run; nothing without one."""
    _call(lambda current: current.on_command(name, function))


def finish(state: EndState | None = None, reason: str | None = None) -> None:
    """`Run.finish` of the current run; nothing without one."""
    _call(lambda current: current.finish(state, reason))


def _call(action: Callable[[Run], None]) -> None:
    current = _lifecycle.current()
    if current is not None:
        action(current)


def __getattr__(name: str) -> Any:
    if name == "run":
        return _lifecycle.current()
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        return metadata.version("holter")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'holter' has no attribute {name!r}")
