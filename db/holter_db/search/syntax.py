"""A filter as a tree of plain values, and what it asks of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "And",
    "Compare",
    "ConfigKey",
    "MetricValue",
    "Moment",
    "Node",
    "Not",
    "Operand",
    "Operator",
    "Or",
    "RunField",
    "Tag",
    "Value",
    "comparisons",
]


@dataclass(frozen=True, slots=True)
class RunField:
    """A column of the run."""

    name: str
    kind: Literal["text", "choice", "number", "date"]
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """A leaf of the run's config, by its dotted key."""

    key: str

    def __str__(self) -> str:
        return f"config.{self.key}"


@dataclass(frozen=True, slots=True)
class Tag:
    """The run's tags: a comparison holds if one of them fulfils it."""

    def __str__(self) -> str:
        return "tag"


@dataclass(frozen=True, slots=True)
class MetricValue:
    """What a metric came to."""

    function: str  # a column of the summaries
    metric: str

    def __str__(self) -> str:
        return f"{self.function}({self.metric})"


Operand = RunField | ConfigKey | Tag | MetricValue


@dataclass(frozen=True, slots=True)
class Moment:
    """What a date means: the time from ``start`` on and before ``end``, seconds UTC; one instant if they are equal."""

    start: float
    end: float


Value = float | str | Moment | None
Operator = Literal["=", "<", "<=", ">", ">=", "~", "exists"]


@dataclass(frozen=True, slots=True)
class Compare:
    """Whether one of the ``values`` fulfils the comparison. What a run lacks fulfils none but ``= null``."""

    operand: Operand
    operator: Operator
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    part: Node


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]


Node = And | Or | Not | Compare


def comparisons(node: Node) -> Iterator[Compare]:
    """Every comparison in a tree."""
    match node:
        case Compare():
            yield node
        case Not(part):
            yield from comparisons(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from comparisons(part)
