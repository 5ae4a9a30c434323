"""Who is recording: ids of runs and attempts, made without asking anyone, and this process's rank."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Place", "launch_key", "new_id", "place_of", "valid_run_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, whose order is the order of the ids
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_id(now: float | None = None) -> str:
    """12 characters: 7 of seconds since the epoch, so that ids sort by time, and 5 random ones."""
    number = (int(time.time() if now is None else now) << 25) | secrets.randbits(25)
    return _base32(number, 12)


def _base32(number: int, length: int) -> str:
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(length)))


def valid_run_id(text: str) -> bool:
    """Whether ``text`` can stand in an address and as a folder: letters, digits, dot, dash, underscore; at most 64."""
    return _RUN_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Place:
    """This process among the processes of its training."""

    rank: int = 0
    world_size: int = 1

    @property
    def writer(self) -> str:
        return f"rank{self.rank}"


def place_of(environ: Mapping[str, str], rank: int | None = None) -> Place:
    """The given rank, else torch.distributed's if it is initialised, else ``RANK``, else 0."""
    found_rank, found_size = _distributed() or (_number(environ, "RANK", 0), _number(environ, "WORLD_SIZE", 1))
    chosen = found_rank if rank is None else rank
    return Place(chosen, max(found_size, chosen + 1))


def _distributed() -> tuple[int, int] | None:
    torch: Any = sys.modules.get("torch")  # never imported for this: what is not imported is not initialised
    try:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank()), int(distributed.get_world_size())
    except (AttributeError, RuntimeError, ValueError):
        return None
    return None


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default


def launch_key(environ: Mapping[str, str], what: str) -> str | None:
    """An id that all ranks which one torchrun started on this machine make alike; None elsewhere.

    It is made from the launcher's process and its start, so the next launch makes another one. Trainings over several
    machines give the id themselves (``HOLTER_RUN_ID``, ``HOLTER_ATTEMPT``).
    """
    if "TORCHELASTIC_RUN_ID" not in environ or _number(environ, "WORLD_SIZE", 1) < 2:
        return None
    started = _parent_start()
    if started is None:
        return None
    seed = (what, os.getppid(), started, environ.get("TORCHELASTIC_RESTART_COUNT") if what == "attempt" else "")
    digest = hashlib.sha256(repr(seed).encode()).digest()
    return _base32((int(float(started)) << 25) | int.from_bytes(digest[:4], "big") >> 7, 12)


def _parent_start() -> str | None:
    """Seconds since the epoch at which the parent process started, to a hundredth (Linux; None elsewhere)."""
    try:
        fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return f"{int(boot.split()[1]) + int(fields[19]) / os.sysconf('SC_CLK_TCK'):.2f}"
    except (OSError, IndexError, ValueError, StopIteration):
        return None
