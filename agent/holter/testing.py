"""Doubles for tests, ours and yours: `Recorder`, a run that keeps everything in memory, and `FakeService`.

>>> recorder = Recorder()
>>> recorder.log({"loss": 0.5}, step=1)
>>> recorder.rows[0].values
{'loss': 0.5}
"""

from __future__ import annotations

import itertools

from holter.fake_service import FakeRun, FakeService, Fault
from holter.memory import LoggedRow, MemoryJournal
from holter.notices import Notices
from holter.records import Answer, Happened
from holter.training import Run
from holter.wire import CommandOrder, CommandUpdate, Event, Receipt

__all__ = ["FakeRun", "FakeService", "Fault", "LoggedRow", "Recorder"]


class Recorder(Run):
    """A `Run` without disk and network. It checks and converts as the real one does."""

    def __init__(self, project: str = "test", id: str = "recorder") -> None:
        self._memory = MemoryJournal(keep=True)
        self._orders = itertools.count(1)
        super().__init__(id=id, project=project, journal=self._memory, notices=Notices(quiet=True))

    @property
    def rows(self) -> list[LoggedRow]:
        """What was logged, in order."""
        return self._memory.rows

    @property
    def events(self) -> list[Event]:
        return [record.event for record in self._memory.records if isinstance(record, Happened)]

    @property
    def answers(self) -> list[CommandUpdate]:
        """What became of the commands that `order` has sent."""
        return [record.update for record in self._memory.records if isinstance(record, Answer)]

    def values(self, metric: str) -> list[float]:
        """The metric's values in the order in which they were logged."""
        return [row.values[metric] for row in self.rows if metric in row.values]

    def order(self, name: str, **args: object) -> str:
        """Have the run receive a command, as if somebody had pressed the button; returns the command's id."""
        command = f"command-{next(self._orders)}"
        self.receive(Receipt(acknowledged=0, commands=[CommandOrder(command, name, dict(args))]))
        return command
