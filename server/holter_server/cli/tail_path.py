"""`holter tail PATH`: the same lines as of a run at a service, straight from the recording on disk.

Nobody needs to ship it, and nothing of it is changed. Of several runs or attempts below PATH the newest is followed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holter.wire import Event, jsonable
from holter_server.cli.failure import Failure

if TYPE_CHECKING:
    from holter.spool import Reader, Spool

__all__ = ["Recording", "is_recording"]

_EVENTS_AT_FIRST = 20  # older ones are not told again
_NOT_TOLD = ("value",)  # what a `log` call could not take; there may be one for every step
_LAST_WORD_S = 5.0  # for which a dead training's shipper may still say how it ended
_CLOCK_SLACK_S = 5.0


def is_recording(text: str) -> bool:
    """Whether ``text`` names something on disk that holds recordings."""
    path = Path(text)
    if not path.is_dir():
        return False
    # DIR/run/attempt/writer/start.json; no deeper, or a run called "home" would have all of it searched.
    return any(next(path.glob("*/" * depth + "start.json"), None) is not None for depth in range(4))


class Recording:
    """The newest attempt of the newest run at or below ``path``, while it is written."""

    def __init__(self, path: Path) -> None:
        """Raises `Failure` where there is no recording that can be read."""
        self._path = path
        spools = self._spools()
        self._run = max(spools, key=_age).start.id
        self.others = len({spool.start.id for spool in spools} - {self._run})
        self._following: dict[Path, _Writer] = {}
        self._values: dict[str, tuple[int, float]] = {}
        self._attempt = ""

    @property
    def name(self) -> str:
        """``project/name``, or the run's id where it was given no name."""
        start = max((spool for spool in self._spools() if spool.start.id == self._run), key=_age).start
        return f"{start.project}/{start.name or start.id}"

    def close(self) -> None:
        while self._following:
            self._following.popitem()[1].close()

    def looks(self, wanted: Callable[[str], bool], interval: float) -> Iterator[dict[str, Any]]:
        """As of a run at a service, with events in place of incidents; ``interval`` seconds lie between two looks."""
        last_step, first = None, True
        gone_since: float | None = None
        while True:
            gone = self._is_gone()  # asked before reading: what it wrote last is still read
            happened = self._read()
            # Who outlives the training may say how it ended a moment later.
            gone_since = (gone_since or time.monotonic()) if gone else None
            given_up = gone_since is not None and time.monotonic() - gone_since >= _LAST_WORD_S and not happened
            state = self._state() or ("lost" if given_up else "running")
            values = {name: value for name, (_, value) in self._values.items() if wanted(name)}
            step = max((self._values[name][0] for name in values), default=None)
            if first or step != last_step or happened or state != "running":
                yield {
                    "step": step,
                    "values": jsonable(values) if step != last_step else {},
                    "events": [jsonable(event) for event in (happened[-_EVENTS_AT_FIRST:] if first else happened)],
                    "incidents": [],
                    "state": state,
                    "ended": state != "running",
                }
            last_step, first = step, False
            if state != "running":
                return
            time.sleep(interval)

    def _spools(self) -> list[Spool]:
        from holter.errors import SpoolError  # noqa: PLC0415 - the other commands need not wait for the agent
        from holter.spool import find_spools  # noqa: PLC0415

        try:
            return find_spools(self._path)
        except SpoolError as error:
            raise Failure(error.message, error.hint) from None

    def _read(self) -> list[Event]:
        """Take in what is new; the events in the order of their times."""
        of_run = [spool for spool in self._spools() if spool.start.id == self._run]
        attempt = max(of_run, key=_age).start.attempt
        if attempt != self._attempt:  # resumed meanwhile
            self.close()
            self._attempt, self._values = attempt, {}
        for spool in of_run:
            if spool.start.attempt == attempt and spool.path not in self._following:
                self._following[spool.path] = _Writer(spool)
        happened: list[Event] = []
        for writer in sorted(self._following.values(), key=lambda writer: -writer.spool.start.writer.rank):
            happened += writer.read()
            for name, (step, value) in writer.newest.items():
                if name not in self._values or step >= self._values[name][0]:
                    self._values[name] = (step, value)
            writer.newest.clear()
        return sorted((event for event in happened if event.kind not in _NOT_TOLD), key=lambda event: event.time)

    def _state(self) -> str | None:
        return next((writer.state for writer in self._following.values() if writer.state), None)

    def _is_gone(self) -> bool:
        """True when every writer's process ran on this machine and is there no more."""
        return bool(self._following) and all(_is_dead(writer.spool) for writer in self._following.values())


class _Writer:
    """One writer's journal, read on from where the last look ended."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.newest: dict[str, tuple[int, float]] = {}  # metric → (step, value), since it was last asked
        self.state: str | None = None  # how the run ended, once it says so
        self._names: dict[int, tuple[str, ...]] = {}
        self._reader, self._position = _open(spool)

    def close(self) -> None:
        self._reader.close()

    def read(self) -> list[Event]:
        from holter import records  # noqa: PLC0415 - the other commands need not wait for the agent

        happened = []
        for record, position in self._reader.read(self._position):
            self._position = position
            match record:
                case records.Names():
                    self._names[record.number] = record.metrics
                case records.Points():
                    for name, value in zip(self._names.get(record.names, ()), record.values, strict=False):
                        self.newest[name] = (record.step, value)
                case records.Happened():
                    happened.append(record.event)
                case records.End() if record.finish is not None:
                    self.state = record.finish.state
        return happened


def _open(spool: Spool) -> tuple[Reader, int]:
    """Where the format of the journal is known: its reader, and the position at which it begins."""
    from holter.errors import SpoolError  # noqa: PLC0415 - the other commands need not wait for the agent
    from holter.spool import START, Reader  # noqa: PLC0415

    try:
        return Reader(spool.path), START
    except SpoolError as error:
        raise Failure(error.message, error.hint) from None


def _age(spool: Spool) -> float:
    return spool.start.started_at or 0.0


def _is_dead(spool: Spool) -> bool:
    writer = spool.start.writer
    if not writer.pid or writer.host != socket.gethostname():
        return False
    import psutil  # noqa: PLC0415 - the other commands need not wait for it

    try:
        # The number may be another process's by now: that one began later.
        return psutil.Process(writer.pid).create_time() > _age(spool) + _CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
