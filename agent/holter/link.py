"""What the training and its shipper say to one another, over two pipes: one JSON object on each line."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

import msgspec

from holter.settings import Settings
from holter.wire import Receipt, dump_json

__all__ = ["Control", "Done", "Finish", "Heard", "Hello", "Lines", "News", "PipeControl", "Said", "ThreadControl"]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first line to the shipper: what it is to ship, and for whom."""

    spool: str
    system_spool: str
    pid: int
    settings: Settings
    stacks_signal: int | None = None  # makes the trainer write its stacks
    handle: int = -1  # a pidfd of the trainer, inherited
    whole_host: bool = True  # it samples the machine, too, and not only its own process


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """The journal is complete: ship what is left."""

    timeout: float  # seconds for which the training waits


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """What the service, or the guard, wants the training to know."""

    receipt: Receipt


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line for the person at the terminal; see `holter.notices`."""

    text: str
    kind: str | None = None  # None: news, no warning
    again_after: float | None = None  # seconds; None: never


class News(msgspec.Struct, frozen=True, tag="news"):
    """What the training's own sentry is to know."""

    rules: str | None  # the project's rules, as YAML
    acts: bool  # whether a non-finite value may make the training stop or save


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The time is over, or nothing is left."""

    complete: bool  # everything is acknowledged


ToShipper = Hello | Finish
ToTraining = Heard | Said | News | Done
_to_shipper = msgspec.json.Decoder(ToShipper, dec_hook=lambda kind, value: kind(value))
_to_training = msgspec.json.Decoder(ToTraining)


def write(file: IO[bytes], message: ToShipper | ToTraining) -> None:
    """Raises OSError or ValueError where nobody listens any more."""
    file.write(_line(message))
    file.flush()


def _line(message: ToShipper | ToTraining) -> bytes:
    if isinstance(message, Heard):  # a receipt's numbers may be NaN
        return b'{"type":"heard","receipt":' + dump_json(message.receipt) + b"}\n"
    return msgspec.json.encode(message, enc_hook=str) + b"\n"


def read_hello(line: bytes) -> Hello:
    """Raises msgspec.DecodeError or TypeError if it is none."""
    message = _to_shipper.decode(line)
    if not isinstance(message, Hello):
        raise TypeError("the first line is no hello")
    return message


class Lines:
    """The training's end: what the shipper says, until it is gone."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[ToTraining]:
        for line in self._file:
            try:
                yield _to_training.decode(line)
            except msgspec.DecodeError:
                continue  # a stray print of something that was imported


class Control:
    """The shipper's end: waits for a word of the training's."""

    gone = False  # nobody will say anything any more

    def wait(self, seconds: float) -> Finish | None:
        """The end of the journal, as soon as it is said; None after ``seconds``."""
        raise NotImplementedError


class PipeControl(Control):
    """Over a pipe, which breaks when the training dies; ``also`` is a file that then becomes readable."""

    def __init__(self, file: int, also: int = -1) -> None:
        self._file, self._also, self._buffer = file, also, b""

    def wait(self, seconds: float) -> Finish | None:
        files = [file for file in (self._file, self._also) if file >= 0]
        if self.gone or not files:
            time.sleep(seconds)
            return None
        ready, _, _ = select.select(files, [], [], seconds)
        if self._file in ready:
            data = os.read(self._file, 65_536)
            self.gone = not data
            self._buffer += data
        elif self._also in ready:
            self.gone = True
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            message = _to_shipper.decode(line)
            if isinstance(message, Finish):
                return message
        return None


class ThreadControl(Control):
    """Within one process."""

    def __init__(self) -> None:
        self._finish: Finish | None = None
        self._said = threading.Event()

    def say(self, finish: Finish) -> None:
        self._finish = finish
        self._said.set()

    def wait(self, seconds: float) -> Finish | None:
        return self._finish if self._said.wait(seconds) else None


Tell = Callable[[ToTraining], None]
