"""Starts the shipper, a process of its own, and hears what it says; threads of this process where none can be had."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from holter import link
from holter.errors import HolterError
from holter.link import Done, Finish, Heard, Hello, News, Said
from holter.notices import Notices
from holter.wire import Receipt

if TYPE_CHECKING:
    from holter.worker import Worker

__all__ = ["Listener", "ProcessShipper", "Shipper", "ThreadShipper"]

RESTARTS = 5  # of a shipper that dies; then it is left at that
RESTART_PAUSE = 0.5  # seconds before the first restart, doubled each time


class Listener(Protocol):
    """What a shipper tells the training: `holter.training.Run`."""

    def receive(self, receipt: Receipt) -> None: ...
    def follow(self, rules: str | None, acts: bool) -> None: ...


class Shipper(Protocol):
    """What a run needs of its shipper."""

    def start(self, listener: Listener) -> None: ...
    def close(self, seal: Callable[[], None], timeout: float) -> bool: ...
    def abandon(self) -> None: ...

    goes_on: bool  # after `close`: what is left is still being shipped


class ProcessShipper:
    """A process that outlives this one. Starting it costs the calling thread some milliseconds."""

    def __init__(self, hello: Hello, notices: Notices) -> None:
        self._hello, self._notices = hello, notices
        self._listener: Listener | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._instead: ThreadShipper | None = None
        self._closing = False
        self._deaths = 0
        self._complete = self.goes_on = False
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="holter-link", daemon=True)

    @property
    def pid(self) -> int | None:
        """The shipper's process; None before its start."""
        return None if self._process is None else self._process.pid

    def start(self, listener: Listener) -> None:
        self._listener = listener
        try:
            self._process = self._spawn()
        except OSError:  # no processes to be had: a sandbox, a limit
            self._instead = ThreadShipper(self._hello, self._notices)
            self._instead.start(listener)
            return
        self._thread.start()

    def close(self, seal: Callable[[], None], timeout: float) -> bool:
        """``seal`` the journal, and wait for at most ``timeout`` seconds until all of it is acknowledged."""
        if self._instead is not None:
            return self._instead.close(seal, timeout)
        self._closing = True
        seal()
        self._say(Finish(timeout))
        self._finished.wait(timeout + 1.0)
        self._let_go()
        return self._complete

    def abandon(self) -> None:
        """In a forked child: the process is the parent's, and so are the pipes."""
        if self._instead is not None:
            self._instead.abandon()
        process, self._process, self._closing = self._process, None, True
        if process is None:
            return
        process.returncode = 0  # it is none of the child's business how it ends
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    os.close(pipe.fileno())

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Raises OSError where no process can be started."""
        if "python" not in Path(sys.executable or "").name.lower():  # a program that embeds Python would start itself
            raise FileNotFoundError("this process's executable is no Python")
        package = str(Path(__file__).resolve().parent.parent)
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, package]),
            "OMP_NUM_THREADS": "1",  # numpy's threads would only cost memory
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        # Opened here: by the time the shipper runs, a training of a few steps may be dead.
        handle = _own_handle()
        with contextlib.ExitStack() as files:
            log = files.enter_context((Path(self._hello.spool) / "shipper.log").open("ab"))
            if handle >= 0:
                files.callback(os.close, handle)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "holter.shipping"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[handle] if handle >= 0 else [],
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C, and its end, are for the training
            )
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            link.write(process.stdin, msgspec.structs.replace(self._hello, handle=handle))
        return process

    def _say(self, message: Finish) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                link.write(self._process.stdin, message)

    def _listen(self) -> None:
        try:
            while self._process is not None and self._process.stdout is not None:
                for message in link.Lines(self._process.stdout):
                    self._hear(message)
                    if self._finished.is_set():
                        return
                if not self._start_again():
                    return
        except (OSError, ValueError):  # the interpreter is closing its files
            pass
        finally:
            if self._process is not None and self._process.stdout is not None:
                with contextlib.suppress(OSError):
                    self._process.stdout.close()
            self._finished.set()

    def _hear(self, message: link.ToTraining) -> None:
        if isinstance(message, Done):
            self._complete = message.complete
            self._finished.set()
        elif self._listener is not None:
            _pass_on(message, self._listener, self._notices)

    def _start_again(self) -> bool:
        """After the death of the shipper: the journal has everything, and the next one goes on where it stopped."""
        if self._process is None:
            return False
        self._process.wait()
        self._deaths += 1
        if self._deaths > RESTARTS:
            folder = Path(self._hello.spool).parent
            self._notices.warn(
                "shipper",
                f"the shipper has died {self._deaths} times. Recording goes on; ship it with: holter sync {folder}",
            )
            return False
        time.sleep(0.0 if self._closing else RESTART_PAUSE * 2 ** (self._deaths - 1))
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = self._spawn()
        if self._closing:
            self._say(Finish(self._hello.settings.finish_timeout))
        return True

    def _let_go(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if self._complete:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        if process.returncode is None and process.poll() is None:
            self.goes_on = not self._complete
            process.returncode = 0  # it goes on by itself; nobody here waits for it


class ThreadShipper:
    """The same work in threads of this process: no death of the training is survived."""

    def __init__(self, hello: Hello, notices: Notices) -> None:
        self._hello, self._notices = hello, notices
        self._control = link.ThreadControl()
        self._worker: Worker | None = None
        self._complete = self.goes_on = False
        self._finished = threading.Event()
        self._listener: Listener | None = None
        self._thread = threading.Thread(target=self._run, name="holter-shipper", daemon=True)

    def start(self, listener: Listener) -> None:
        from holter.worker import Worker  # noqa: PLC0415 - a process that has a shipper never needs it

        self._listener = listener
        try:
            self._worker = Worker(self._hello, self._control, self._hear, trainer=None)
            self._thread.start()
        except (OSError, HolterError, RuntimeError) as error:
            self._finished.set()
            self._notices.warn("shipper", f"nothing can be shipped: {error}. Recording goes on; use holter sync")

    def close(self, seal: Callable[[], None], timeout: float) -> bool:
        seal()
        self._control.say(Finish(timeout))
        self._finished.wait(timeout + 1.0)
        self._thread.join(0.5)
        return self._complete

    def abandon(self) -> None:
        """In a forked child there is no such thread, and its locks are the parent's."""
        if self._worker is not None:
            self._worker.abandon()

    def _run(self) -> None:
        try:
            if self._worker is not None:
                self._worker.run()
        finally:
            self._finished.set()

    def _hear(self, message: link.ToTraining) -> None:
        if isinstance(message, Done):
            self._complete = message.complete
            self._finished.set()
        elif self._listener is not None:
            _pass_on(message, self._listener, self._notices)


def _own_handle() -> int:
    """A pidfd of this process; -1 where the system has none, or forbids it."""
    try:
        return os.pidfd_open(os.getpid())
    except (OSError, AttributeError):
        return -1


def _pass_on(message: Heard | Said | News, listener: Listener, notices: Notices) -> None:
    match message:
        case Heard():
            listener.receive(message.receipt)
        case News():
            listener.follow(message.rules, message.acts)
        case Said(text=text, kind=None):
            notices.say(text)
        case Said(text=text, kind=str(kind), again_after=again):
            notices.warn(kind, text, again_after=float("inf") if again is None else again)
