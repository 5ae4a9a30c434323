"""What a run says about itself when it starts: its configuration as plain data, and where it runs."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from holter.values import clean_text

__all__ = ["describe", "plain"]

_SECRET = re.compile(r"(token|password|passwd|secret|api[-_]?key)", re.IGNORECASE)
DEPTH_MAX = 20
ITEMS_MAX = 10_000


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` as what JSON knows: namespaces and data classes as mappings, arrays as lists, the rest as its text.

    Non-finite numbers stay floats (the wire writes them as strings); integers beyond 64 bits become text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | np.integer):
        return int(value) if -(2**63) <= int(value) < 2**63 else str(int(value))
    if isinstance(value, float | np.floating):
        return float(value)
    if isinstance(value, str) or depth > DEPTH_MAX:
        return clean_text(value)
    return _container(value, depth + 1)


def _container(value: Any, depth: int) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif type(value).__name__ == "Namespace":
        value = vars(value)
    if isinstance(value, Mapping):
        return {clean_text(key): plain(item, depth) for key, item in list(value.items())[:ITEMS_MAX]}
    if isinstance(value, np.ndarray) and value.size <= ITEMS_MAX:
        return plain(value.tolist(), depth)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth) for item in list(value)[:ITEMS_MAX]]
    return clean_text(value)


def describe() -> dict[str, Any]:
    """Python, machine, command line (secrets left out), git commit, and torch where the training has imported it."""
    torch = sys.modules.get("torch")
    facts = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "platform": sys.platform,
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "command": _command(sys.argv),
        "directory": _directory(),
        "commit": _commit(),
        "torch": getattr(torch, "__version__", None),
    }
    return {name: plain(value) for name, value in facts.items() if value is not None}


def _command(arguments: list[str]) -> list[str]:
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = argument.startswith("-") and _SECRET.search(name) is not None
        shown.append("…" if hide_next else f"{name}=…" if secret and equals else argument)
        hide_next = secret and not equals
    return shown


def _directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _commit() -> str | None:
    """The commit that is checked out, read from the files: starting git takes longer than all the rest."""
    try:
        here = Path.cwd()
        git = next((folder / ".git" for folder in (here, *here.parents) if (folder / ".git").is_dir()), None)
        if git is None:
            return None
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:40]
        reference = head[5:]
        if (git / reference).exists():
            return (git / reference).read_text().strip()[:40]
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line[:40] for line in packed if line.endswith(f" {reference}")), None)
    except OSError:
        return None
