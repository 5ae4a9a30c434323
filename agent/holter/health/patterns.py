"""Which metrics a rule looks at: globs over names, roles, exceptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from holter.health.roles import Role

__all__ = ["Selection", "Selector", "first_match", "matches"]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern.lower()))


def matches(pattern: str, name: str) -> bool:
    """Whether the glob fits the whole name; case does not count and ``*`` goes across "/".

    >>> matches("weighted/*precursor*", "Weighted/Precursor")
    True
    """
    return _compiled(pattern).match(name.lower()) is not None


def first_match(patterns: Sequence[str], name: str) -> int | None:
    """Index of the first of the ``patterns`` that fits ``name``."""
    return next((index for index, pattern in enumerate(patterns) if matches(pattern, name)), None)


@dataclass(frozen=True, slots=True)
class Selection:
    """Columns of a record that a rule looks at, and for each the index of the pattern that chose it."""

    columns: tuple[int, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Selector:
    """Chooses metrics that fit one of ``metrics`` and have one of ``roles`` (where given), and are no exceptions."""

    metrics: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    exceptions: tuple[str, ...] = ()

    def select(self, names: Sequence[str], roles: Sequence[Role]) -> Selection:
        """The columns of a record with these names and roles."""
        return _selected(self, tuple(names), tuple(roles))

    def rank(self, name: str, role: Role) -> int:
        """Index of the pattern that fits, -1 for a metric that is not chosen."""
        if (self.roles and role not in self.roles) or first_match(self.exceptions, name) is not None:
            return -1
        rank = first_match(self.metrics, name) if self.metrics else 0
        return -1 if rank is None else rank


@lru_cache(maxsize=4096)  # a thousand runs of one project log the same metrics
def _selected(selector: Selector, names: tuple[str, ...], roles: tuple[Role, ...]) -> Selection:
    found = [(column, rank) for column, name in enumerate(names) if (rank := selector.rank(name, roles[column])) >= 0]
    return Selection(tuple(column for column, _ in found), tuple(rank for _, rank in found))
