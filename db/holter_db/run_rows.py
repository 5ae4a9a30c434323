"""A run as it is read: the row, its attempts, its writers, and what the watchdog needs of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import RowMapping

from holter.health.model import Vitals

__all__ = ["LIVE_STATES", "SILENT_AFTER_S", "AttemptRow", "LiveRun", "ProjectRow", "RunRow", "WriterRow", "run_row"]

LIVE_STATES = ("running", "lost", "hung")
SILENT_AFTER_S = 10.0  # as the default of the rule run-lost: so late with a promised sign of life counts as gone


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. The field names are those of its JSON."""

    id: str
    project: str
    name: str
    group: str | None
    notes: str | None
    tags: tuple[str, ...]
    config: dict[str, Any]
    state: str  # running | finished | failed | stopped | lost | hung
    state_reason: str | None
    health: str  # healthy | warning | critical: the worst open incident; "info" counts as healthy
    created_at: float
    started_at: float  # of the newest attempt
    finished_at: float | None
    last_seen_at: float
    due_at: float | None
    last_step: int | None
    last_step_at: float | None
    planned_steps: int | None
    steps_per_second: float | None
    attempt: int  # the newest one; counts from 1
    environment: dict[str, Any]
    open_incidents: dict[str, int]  # {"critical": 0, "warning": 1, "info": 0}
    deleted_at: float | None  # hidden since then, until it is restored or purged
    deleted_because: str | None
    purging_at: float | None  # since when its rows are being removed


_PLAIN = tuple(field.name for field in fields(RunRow) if field.name != "open_incidents")


def run_row(row: RowMapping) -> RunRow:
    """The `RunRow` of a row of the table ``runs``."""
    counts = {severity: row[f"open_{severity}"] for severity in ("critical", "warning", "info")}
    return RunRow(open_incidents=counts, **{name: row[name] for name in _PLAIN})


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One process lifetime of a run."""

    attempt: int
    key: str
    state: str
    state_reason: str | None
    started_at: float
    finished_at: float | None
    first_step: int | None  # smallest step of its points; older attempts are shadowed from here


@dataclass(frozen=True, slots=True)
class WriterRow:
    """One source of points inside an attempt."""

    writer_id: int
    attempt: int
    name: str
    rank: int | None
    world_size: int | None
    host: str
    device: str
    pid: int | None
    last_seq: int
    last_seen_at: float
    dropped: int  # points it had to give up
    due_at: float | None  # when it promised its next sign of life
    state: str  # running | finished | failed | stopped, as it said itself
    state_reason: str | None
    finished_at: float | None

    @property
    def registered(self) -> bool:
        """It has introduced itself (``POST /runs``); others are known by their points alone."""
        return self.world_size is not None

    def silent(self, now: float) -> bool:
        """It has broken its promise of a sign of life, and has not said that it ended."""
        return self.state == "running" and self.due_at is not None and now - self.due_at > SILENT_AFTER_S


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What the watchdog looks at, for a run that is running, lost or hung."""

    id: str
    project: str
    state: str
    state_reason: str | None
    started_at: float
    last_seen_at: float
    due_at: float | None
    last_step: int | None
    last_step_at: float | None
    position: int  # of its newest segment
    revision: int  # of its config, tags and planned steps

    def vitals(self, now: float) -> Vitals:
        """The same for the health engine, at the service's time ``now``."""
        return Vitals(
            now=now,
            state=self.state,
            started_at=self.started_at,
            last_seen_at=self.last_seen_at,
            due_at=self.due_at,
            last_step_at=self.last_step_at,
            reason=self.state_reason,
        )


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project and how many runs it has."""

    name: str
    runs: int
    running: int
    last_seen_at: float | None
