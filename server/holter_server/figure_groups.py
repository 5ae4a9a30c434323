"""Which metrics share a chart, what the chart is called, and in which order charts stand on the page.

Metrics share a chart when they share their prefix (`loss/ce`, `loss/total`) and their quantity: seconds and GB under
one prefix get a chart each. One level deeper the middle part becomes the line, so that `val/easy/token_acc` and
`val/hard/token_acc`, or one quantity of eight GPUs, stand in one chart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["NamedMetric", "figure_name", "line_labels", "list_figures", "metric_place", "quantity"]

_QUANTITIES: tuple[tuple[str, str], ...] = (
    ("%", r"(percent|pct|utili[sz]ation)$"),
    ("GB", r"(^|_)gb$"),
    ("MB", r"(^|_)mb$"),
    ("bytes", r"(^|_)bytes$"),
    ("°C", r"temperature(_c)?$"),
    ("W", r"(power|watts)(_w)?$"),
    ("ms", r"(^|_)ms$"),
    ("s", r"(time|seconds|secs?|_s)$(?<!per_s)"),
    ("per second", r"per_s(ec(ond)?)?$"),
    ("accuracy", r"(^|_)(acc|accuracy|f1|auc|precision|recall)$"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _QUANTITIES)

# What people look at first. A figure's place is the first entry that its name starts with.
_ORDER = (
    "loss", "weighted", "val", "eval", "train", "grad_norm", "grad", "lr", "learning_rate", "weight",
)  # fmt: skip
_LATE = ("perf", "throughput", "curriculum", "epoch", "system")
_OWN_SECTION = 3  # figures of one prefix from which on the prefix gets a section of its own


class NamedMetric(Protocol):
    """What is needed of an entry of the catalogue."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Figure:
    name: str
    metrics: tuple[str, ...]

    @property
    def top(self) -> str:
        return re.split(r"[/:]", self.name, maxsplit=1)[0]


def quantity(metric: str) -> str | None:
    """The unit that a metric's last part tells of, or None.

    >>> quantity("perf/step_time"), quantity("perf/it_per_s"), quantity("loss/ce")
    ('s', 'per second', None)
    """
    leaf = metric.rsplit("/", 1)[-1]
    return next((name for name, pattern in _PATTERNS if pattern.search(leaf)), None)


def figure_name(metric: str) -> str:
    """The chart that a metric belongs to; it depends on nothing but the metric's name.

    >>> figure_name("loss/ce"), figure_name("lr"), figure_name("val/easy/token_acc"), figure_name("perf/step_time")
    ('loss', 'lr', 'val/*:accuracy', 'perf:s')
    """
    parts = metric.split("/")
    unit = quantity(metric)
    if len(parts) == 1:
        return metric
    if len(parts) == 2:
        return f"{parts[0]}:{unit}" if unit else parts[0]
    return f"{'/'.join(parts[:-2])}/*:{unit or parts[-1]}"


def list_figures(catalogue: Iterable[NamedMetric]) -> list[dict[str, Any]]:
    """The charts of a run, in the order in which they stand on the page.

    Each is ``{"name", "title", "section", "metrics", "unit"}``. ``section`` is the prefix where a prefix has several
    charts, else "" for the page's first section.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for metric in sorted({entry.name for entry in catalogue}):
        groups[figure_name(metric)].append(metric)
    figures = sorted((_Figure(name, tuple(metrics)) for name, metrics in groups.items()), key=_place)
    per_prefix = Counter(figure.top for figure in figures)
    return [
        {
            "name": figure.name,
            "title": _title(figure),
            "section": figure.top if figure.top == "system" or per_prefix[figure.top] >= _OWN_SECTION else "",
            "metrics": sorted(figure.metrics, key=metric_place),
            "unit": quantity(figure.metrics[0]),
        }
        for figure in figures
    ]


def _place(figure: _Figure) -> tuple[int, str]:
    if figure.top in _ORDER:
        return _ORDER.index(figure.top), figure.name
    if figure.top in _LATE:
        return len(_ORDER) + 1 + _LATE.index(figure.top), figure.name
    return len(_ORDER), figure.name


def metric_place(metric: str) -> tuple[bool, str]:
    """Sorts the metrics of one figure: the total first, then by name."""
    return metric.rsplit("/", 1)[-1] != "total", metric


def _title(figure: _Figure) -> str:
    if len(figure.metrics) == 1:
        return figure.metrics[0]
    head, _, unit = figure.name.partition(":")
    if not head.endswith("/*"):
        return f"{head} · {unit}" if unit else head
    families = {re.sub(r"\d+$", "", metric.split("/")[-2]) for metric in figure.metrics}
    numbered = families.pop() if len(families) == 1 else ""
    head = head.removesuffix("/*") + (f" · {numbered}" if numbered else "")
    return f"{head} · {unit}"


def line_labels(metrics: Sequence[str]) -> dict[str, str]:
    """What each metric is called within its chart: its name without the parts that all of them share.

    >>> line_labels(["val/easy/token_acc", "val/hard/token_acc"])
    {'val/easy/token_acc': 'easy', 'val/hard/token_acc': 'hard'}
    >>> line_labels(["loss/ce"])
    {'loss/ce': 'ce'}
    """
    names = sorted(set(metrics))
    split = [name.split("/") for name in names]
    shortest = min((len(parts) for parts in split), default=0)
    lead = _shared(split, range(shortest))
    trail = _shared(split, range(-1, -1 - (shortest - lead), -1))
    return {
        name: "/".join(parts[lead : len(parts) - trail]) or parts[-1] for name, parts in zip(names, split, strict=True)
    }


def _shared(split: list[list[str]], places: Iterable[int]) -> int:
    count = 0
    for place in places:
        if len({parts[place] for parts in split}) > 1:
            break
        count += 1
    return count
