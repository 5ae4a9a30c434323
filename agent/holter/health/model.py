"""What goes into the health engine and what comes out of it: plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "SEVERITIES", "Action", "Batch", "Facts", "Kind", "Severity", "Transition", "Vitals"]

Severity = Literal["info", "warning", "critical"]
Action = Literal["open", "escalate", "update", "resolve"]
Kind = Literal[
    "non_finite", "spike", "explosion", "divergence", "grad_norm", "vanishing", "limit", "dominance", "dead",
    "parts_mismatch", "plateau", "overfitting", "lr", "loss_scale", "memory", "gpu", "throughput", "starvation",
    "rank", "hung", "lost", "failed", "not_applied",
]  # fmt: skip

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one writer that carry the same metrics, in the order in which they were logged.

    A record (a row) is what one `log` call wrote, and is never split. Shapes: ``steps`` (n,) int64, ``times`` (n,)
    float64 seconds UTC, ``values`` (n, m) float64 with NaN and ±Inf as logged.
    """

    writer: str
    metrics: tuple[str, ...]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the run apart from its points; milestones and advice may depend on it."""

    planned_steps: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vitals:
    """Signs of life, all in seconds of the service's clock: what the clock-driven rules look at."""

    now: float
    state: str  # running | finished | failed | stopped | lost | hung
    started_at: float
    last_seen_at: float  # anything at all arrived
    due_at: float | None  # when the agent promised its next sign of life
    last_step_at: float | None  # a record with a step arrived
    reason: str | None = None  # why it ended, where the agent said so
    silent: tuple[str, ...] = ()  # of several ranks, those that are late with their sign of life
    ended: tuple[str, ...] = ()  # of several ranks, those that have said their end


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of one incident. The engine decides it; the caller writes it down and tells the world.

    ``incident`` is made from the rule, the writer, the metric and the step at which it opened, so replaying the same
    points gives the same ids. ``open`` carries everything; the others carry what changed and repeat the rest.
    """

    action: Action
    incident: str
    rule: str
    kind: Kind
    severity: Severity
    metric: str
    writer: str
    step: int | None
    time: float  # seconds, UTC: the record's time, or `Vitals.now`
    message: str  # one sentence with the numbers in it
    value: float | None = None
    threshold: float | None = None
    baseline: float | None = None
    advice: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)  # the arithmetic: named numbers, short lists, the formula
    actions: tuple[str, ...] = ("notify",)  # notify | checkpoint | stop | dump, or "would-stop" …
