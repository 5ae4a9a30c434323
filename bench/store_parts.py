"""What the parts of `store.py` share: how much is measured, where, and what a part gives back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from figures import Interval, Target, verdict, verdict_at_least
from holter_service import Service
from store_databases import Home

__all__ = ["FULL", "QUICK", "Bench", "Effort", "Part", "at_least", "at_most", "cpu_seconds", "told"]


@dataclass(frozen=True)
class Effort:
    """Sizes of what is measured."""

    frames_points: int  # of one repetition of the ingest by one connection
    repetitions: int
    writers: int  # at once
    writers_s: int
    disk_steps: int
    view_points: tuple[int, int]
    history_points: int
    compared_steps: int
    first_views: int  # repetitions
    stored_points: int
    live_s: int
    kills: int
    peer_history: int
    peer_compared: int
    peer_s: float


FULL = Effort(2_000_000, 6, 1000, 30, 1_000_000, (1_000_000, 100_000_000), 1_000_000, 10_000, 6, 100_000_000, 60, 50,
              1_000_000, 10_000, 5.0)  # fmt: skip
QUICK = Effort(400_000, 3, 200, 6, 50_000, (100_000, 1_000_000), 100_000, 1_000, 3, 2_000_000, 5, 5,
               20_000, 500, 1.0)  # fmt: skip


@dataclass
class Bench:
    """Where the parts work. Each asks for databases and services by a name of its own."""

    place: Path
    kind: str  # sqlite | postgresql
    make_home: Callable[[str], Home]
    effort: Effort

    def home(self, name: str) -> Home:
        return self.make_home(name)

    def service(self, home: Home, name: str, **settings: str) -> Service:
        """A service on ``home`` that is not started yet; ``settings``: HOLTER_* without the prefix, in lower case."""
        environ = {f"HOLTER_{key.upper()}": text for key, text in settings.items()}
        return Service(self.place / f"service-{name}", home.url, environ)

    def forget(self, name: str) -> None:
        """Free the disk of a part's SQLite file."""
        shutil.rmtree(self.place / f"db-{name}", ignore_errors=True)


@dataclass
class Part:
    """What one part has found: rows for people, and everything for machines."""

    name: str
    rows: list[Target] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    table: tuple[list[str], list[list[str]]] | None = None  # columns and rows of a table of its own

    def add(self, *rows: Target) -> None:
        for row in rows:
            self.rows.append(row)
            print(f"  {row.figure}: {row.measured}" + (f" (target {row.target}: {row.verdict})" if row.verdict else ""),
                  flush=True)  # fmt: skip


def at_most(
    figure: str, value: float | Interval, limit: float, unit: str, *, digits: int = 0, note: str = ""
) -> Target:
    """A figure that shall be at most ``limit``, with its verdict."""
    return Target(figure, _shown(value, unit, digits) + note, f"≤ {limit:,g}{unit}", verdict(value, limit))


def at_least(
    figure: str, value: float | Interval, limit: float, unit: str, *, digits: int = 0, note: str = ""
) -> Target:
    return Target(figure, _shown(value, unit, digits) + note, f"≥ {limit:,.0f}{unit}", verdict_at_least(value, limit))


def told(figure: str, value: float | Interval | str, unit: str = "", *, digits: int = 0, note: str = "") -> Target:
    """A figure without a target."""
    return Target(figure, (value if isinstance(value, str) else _shown(value, unit, digits)) + note, "–", "")


def _shown(value: float | Interval, unit: str, digits: int) -> str:
    if isinstance(value, Interval):
        return f"{value.value:,.{digits}f}{unit} ({value.low:,.{digits}f} to {value.high:,.{digits}f})"
    return f"{value:,.{digits}f}{unit}"


def cpu_seconds(service: Service, home: Home | None = None) -> float:
    """Processor time so far of a service with all its processes, and of the database's server where there is one."""
    main = psutil.Process(service.pid)
    processes = [main, *main.children(recursive=True), *(home.processes() if home else [])]
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system  # of those that have ended
    return total
