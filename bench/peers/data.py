"""What every training in these benchmarks logs, and how what is read back is compared with it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping

METRICS = tuple(f"loss/part{index}" for index in range(8))
GOLDEN = 0.6180339887498949  # its multiples modulo 1 have a full mantissa and no short period


def value(step: int, column: int) -> float:
    return 4.0 * ((step * len(METRICS) + column + 1) * GOLDEN % 1.0)


def row(step: int) -> dict[str, float]:
    return {name: value(step, column) for column, name in enumerate(METRICS)}


def tally(read: Mapping[str, Iterable[tuple[int, float]]], steps: int, precision: str = "float64") -> dict[str, int]:
    """How many of the steps 0 … ``steps`` - 1 came back: a step counts as kept if each metric has it, exactly once
    and with the value that was logged (rounded to ``precision``).
    """
    exact = _single if precision == "float32" else float
    counts = {name: Counter[int]() for name in METRICS}
    wrong: set[int] = set()
    for column, name in enumerate(METRICS):
        for step, found in read.get(name, ()):
            counts[name][step] += 1
            if not 0 <= step < steps or found != exact(value(step, column)):
                wrong.add(step)
    doubled = {step for each in counts.values() for step, times in each.items() if times > 1}
    whole = {step for step in range(steps) if all(each[step] for each in counts.values())}
    kept = whole - doubled - wrong
    return {
        "steps": steps,
        "kept": len(kept),
        "lost": steps - len(kept),
        "missing": steps - len(whole),
        "doubled": len(doubled),
        "wrong": len(wrong),
        "last": max(whole, default=-1),
    }


def _single(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])
