"""Intervals without assumptions about the noise, targets, and tables for benchmarks."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.96


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def widened(self, noise: float) -> Interval:
        """By what a comparison of two equal things shows."""
        return Interval(self.value, self.low - noise, self.high + noise)

    def text(self, unit: str = "", digits: int = 2) -> str:
        return f"{self.value:.{digits}f}{unit} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def hodges_lehmann(differences: ArrayLike) -> Interval:
    """The median of the pairs' averages, and the interval that Wilcoxon's signed-rank test does not reject.

    Hodges and Lehmann 1963; normal approximation of the rank statistic, good from about 15 differences on.
    """
    sample = np.sort(np.asarray(differences, dtype=float))
    n = len(sample)
    first, second = np.triu_indices(n)
    walsh = np.sort((sample[first] + sample[second]) / 2)
    spread = Z95 * np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    rank = max(0, int(np.floor(n * (n + 1) / 4 - spread)))
    return Interval(float(np.median(walsh)), float(walsh[rank]), float(walsh[-1 - rank]))


def difference_of_medians(values: ArrayLike, baseline: ArrayLike, resamples: int = 4000) -> Interval:
    """Median of ``values`` less that of ``baseline``, with a bootstrap interval (percentiles, fixed seed)."""
    rng = np.random.default_rng(0)
    a, b = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    drawn = np.median(rng.choice(a, (resamples, len(a))), axis=1) - np.median(
        rng.choice(b, (resamples, len(b))), axis=1
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(np.median(a) - np.median(b)), float(low), float(high))


def median_interval(values: ArrayLike) -> Interval:
    """The median of repeated measurements, and the order statistics that hold the true one with at least 95 %.

    The distribution-free interval of the sign test. Six measurements are the least for 95 %: it is then from the
    smallest to the greatest, as it is for fewer, which hold it with 1 - 2 ** (1 - n).
    """
    sample = np.sort(np.asarray(values, dtype=float))
    n = len(sample)
    below = [math.comb(n, k) / 2**n for k in range(n + 1)]
    cut = max((k for k in range((n + 1) // 2) if 2 * sum(below[: k + 1]) <= 0.05), default=0)
    return Interval(float(np.median(sample)), float(sample[cut]), float(sample[n - 1 - cut]))


def quantile_interval(groups: Sequence[ArrayLike], q: float, resamples: int = 1000) -> Interval:
    """The quantile ``q`` of all values, with a bootstrap interval that draws whole groups (percentiles, fixed seed).

    Values of one group are not independent: a commit that takes long delays everything that waits for it.
    """
    rng = np.random.default_rng(0)
    sample = [np.asarray(group, dtype=float) for group in groups]
    drawn = [
        float(np.quantile(np.concatenate([sample[index] for index in rng.integers(0, len(sample), len(sample))]), q))
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(np.quantile(np.concatenate(sample), q)), float(low), float(high))


def verdict(value: float | Interval, limit: float) -> str:
    """Of a figure that shall be at most ``limit``: an interval on both sides of it decides nothing."""
    found = value if isinstance(value, Interval) else Interval(value, value, value)
    if found.high <= limit:
        return "reached"
    return "not reached" if found.low > limit else "undecided: the noise is wider"


def verdict_at_least(value: float | Interval, limit: float) -> str:
    """The same of a figure that shall be at least ``limit``."""
    found = value if isinstance(value, Interval) else Interval(value, value, value)
    return verdict(Interval(-found.value, -found.high, -found.low), -limit)


@dataclass(frozen=True)
class Target:
    """One figure to reach, as measured."""

    figure: str
    measured: str
    target: str
    verdict: str


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Text left, numbers right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    print(f"\n{title}")
    for index, cells in enumerate([columns, ["-" * width for width in widths], *rows]):
        padded = [
            cell.ljust(width) if column == 0 or index == 0 or not _is_number(cell) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def print_targets(targets: Sequence[Target]) -> None:
    rows = [list(map(str, asdict(target).values())) for target in targets]
    print_table("Targets", ["figure", "measured", "target", "verdict"], rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as docs/benchmarks.md has it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """The machine in words."""
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
