"""What a service says is stored, read back over HTTP and compared with what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
from holter_service import Service
from peers.curves import times
from peers.data import METRICS
from store_courses import Course
from store_senders import Sender

from holter.wire import FloatArray

__all__ = ["Difference", "Found", "Points", "check_series", "compare_incidents", "read_back"]

SAID = ("rule", "kind", "severity", "metric", "writer", "state", "step", "last_step", "resolved_step", "time", "value",
        "threshold", "baseline", "message", "resolution", "evidence")  # fmt: skip


@dataclass
class Points:
    """How the points that came back differ from those that were acknowledged."""

    expected: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0  # another value or time, or a step that nobody sent

    @property
    def bad(self) -> int:
        return self.lost + self.doubled + self.wrong

    def raw(self) -> dict[str, int]:
        return asdict(self)

    def __add__(self, other: Points) -> Points:
        return Points(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass
class Found:
    """Everything that one service has made of the courses."""

    points: Points = field(default_factory=Points)
    events: int = 0
    events_bad: int = 0
    incidents: list[dict[str, Any]] = field(default_factory=list)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Difference:
    """Names of incidents."""

    missing: list[str]
    extra: list[str]
    different: list[str]

    def raw(self) -> dict[str, list[str]]:
        return {name: names[:100] for name, names in asdict(self).items()}


def read_back(service: Service, senders: Sequence[Sender], told: Counter[tuple[str, str]]) -> Found:
    found = Found(told=told)
    for sender in senders:
        course, steps = sender.course, sender.course.steps_before(sender.acknowledged + 1)
        found.points += _points(service, course, steps)
        texts = Counter(event["text"] for event in service.ask("GET", f"/runs/{course.run}/events")["events"])
        expected = Counter(course.events(sender.acknowledged))
        found.events += expected.total()
        found.events_bad += ((texts - expected) + (expected - texts)).total()
        found.incidents += _pages(service, f"/runs/{course.run}/incidents?limit=1000", "incidents")
    return found


def _points(service: Service, course: Course, steps: int) -> Points:
    columns: dict[str, list[dict[str, Any]]] = {}
    for part in _pages(service, f"/runs/{course.run}/series?metric=*&limit=500000", "series"):
        columns.setdefault(part["metric"], []).append(part)
    values, clock = course.values(0, steps), times(course.seed, 0, steps)
    total = Points()
    for column, metric in enumerate(METRICS):
        parts = columns.pop(metric, [])
        read = (_joined(parts, name) for name in ("steps", "times", "values"))
        total += check_series(*read, clock, values[:, column])
    return total + Points(wrong=sum(len(part["steps"]) for parts in columns.values() for part in parts))


def _joined(parts: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    return np.array([float(number) for part in parts for number in part[name]])  # "NaN" is a number to float()


def check_series(
    steps: FloatArray, clock: FloatArray, values: FloatArray, expected_clock: FloatArray, expected: FloatArray
) -> Points:
    """Compare the points read of one series, each of shape (n,), with those of the steps 0 … len(expected) - 1."""
    known = (steps >= 0) & (steps < len(expected))
    counts = np.bincount(steps[known].astype(int), minlength=len(expected))
    at = steps[known].astype(int)
    same = (values[known] == expected[at]) | (np.isnan(values[known]) & np.isnan(expected[at]))
    same &= clock[known] == expected_clock[at]
    return Points(
        expected=len(expected),
        lost=int((counts == 0).sum()),
        doubled=int((counts > 1).sum()),
        wrong=int((~same).sum() + (~known).sum()),
    )


def compare_incidents(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> Difference:
    """By their names, which the engine makes from run, rule, metric and step; then by all that they say."""
    ours, theirs = ({each["id"]: [each[name] for name in SAID] for each in some} for some in (found, expected))
    twice = [name for name, count in Counter(each["id"] for each in found).items() if count > 1]
    return Difference(
        missing=sorted(theirs.keys() - ours.keys()),
        extra=sorted(ours.keys() - theirs.keys()) + twice,
        different=sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]),
    )


def _pages(service: Service, path: str, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        status, content = service.request("GET", f"/api/v1{path}{cursor}")
        if status != 200:
            raise SystemExit(f"GET {path}: HTTP {status} {content[:300]!r}")
        page = msgspec.json.decode(content)
        found += page[what]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
