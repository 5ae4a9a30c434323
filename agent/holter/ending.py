"""How a process that is not ours to wait for has ended: looked up by the shipper after the trainer's death.

Only a parent is told its child's exit status. The shipper is the child, so it puts together what can be known: what the
fault handlers left behind, the status in ``/proc`` while the dead process has not been collected yet, and the kernel's
counts of out-of-memory kills before and after.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holter import signals

__all__ = ["Ending", "Process"]

_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)

_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_FATAL_SIGNALS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": getattr(signal, "SIGBUS", signal.SIGSEGV),
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended that said nothing itself. ``exit_code`` and ``signal`` are None where nobody could tell."""

    text: str
    state: Literal["finished", "failed", "stopped"] = "failed"
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    stacks: str = ""


class Process:
    """The trainer, as its shipper sees it."""

    def __init__(self, pid: int, folder: Path, handle: int = -1) -> None:
        """``handle``: a pidfd of it, opened while it lived for certain; -1 where there is none."""
        self.pid, self._folder, self.handle = pid, folder, handle
        self._kernel_counts = _memory_events(pid)
        self._kills = _kills(self._kernel_counts)
        self._status: int | None = None

    def alive(self) -> bool:
        """Whether it runs. The moment it does not, its exit status is looked up: it is there for a short time only."""
        if self.handle >= 0 and not select.select([self.handle], [], [], 0)[0]:
            return True
        state, status = _state(self.pid)
        if state == "Z":
            self._status = status
            return False
        return state is not None if Path("/proc/self/stat").exists() else os.getppid() == self.pid

    def ending(self) -> Ending:
        """Call it once the process has ended."""
        if self._status is None:
            self._status = _asked(self.handle)
        if self._status is None:
            state, status = _state(self.pid)
            self._status = status if state == "Z" else None
        crash, ended = (signals.read(self._folder, name) for name in (signals.CRASH, signals.ENDED))
        return _conclude(self._status, crash, ended, out_of_memory=_kills(self._kernel_counts) > self._kills)


def _conclude(status: int | None, crash: str, ended: str, *, out_of_memory: bool) -> Ending:
    """``status`` as `os.waitpid` gives it, if known."""
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
    fatal = _FATAL.search(crash)
    if number is None and fatal:
        number = next((int(value) for name, value in _FATAL_SIGNALS.items() if name in fatal.group(1)), None)
    if number is None and code is None and ended:
        number = int(signal.SIGTERM)
    if code == 0:
        return Ending("the process ended with exit code 0, by os._exit", "finished", exit_code=0)
    if code is not None:
        return Ending(f"the process ended with exit code {code} without saying why", exit_code=code, stacks=crash)
    if fatal:
        return Ending(f"the process crashed: {fatal.group(1)}", signal=number, stacks=crash)
    if number in {signal.SIGTERM, getattr(signal, "SIGHUP", None)}:
        text = f"terminated by {_name(number)}, as a scheduler or a person sends it"
        return Ending(text, "stopped", signal=number, stacks=ended)
    if out_of_memory and number in {None, signal.SIGKILL}:
        return Ending("killed: the machine or its container was out of memory", signal=9, out_of_memory=True)
    if number is not None:
        return Ending(f"killed by {_name(number)}", signal=number, stacks=crash or ended)
    return Ending("the process ended without a word: SIGKILL, or os._exit")


def _name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def _state(pid: int) -> tuple[str | None, int]:
    """State letter and exit status of a process by ``/proc``; None where it is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, 0
    return fields[0], int(fields[-1]) if len(fields) > 40 else 0


def _asked(handle: int) -> int | None:
    """The exit status by PIDFD_GET_INFO, which Linux 6.15 and later answer even when the process is collected."""
    if handle < 0:
        return None
    import fcntl  # noqa: PLC0415 - there is no handle where there is no fcntl

    info = bytearray(64)  # struct pidfd_info: the mask of what is wanted, and given, first; the status last
    struct.pack_into("<Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(handle, _GET_INFO, info)
    except OSError:
        return None
    (given,) = struct.unpack_from("<Q", info)
    return int(struct.unpack_from("<i", info, 60)[0]) if given & _INFO_EXIT else None


def _memory_events(pid: int) -> Path | None:
    """Where the kernel counts out-of-memory kills: for the process's control group, else for the whole machine."""
    groups = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                groups.append(Path(f"/sys/fs/cgroup{group}/memory.events"))
            elif "memory" in controllers.split(","):
                groups.append(Path(f"/sys/fs/cgroup/memory{group}/memory.oom_control"))
    files = [*groups, Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")]
    return next((file for file in files if _kills(file) >= 0), None)


def _kills(file: Path | None) -> int:
    """-1 where the file says nothing of it."""
    if file is None:
        return -1
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return next((int(line[1]) for line in lines if line[:1] == ["oom_kill"]), -1)
    except (OSError, ValueError):
        return -1
