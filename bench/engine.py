"""How fast the health engine is: points per second in blocks of 1,000, microseconds per series in blocks of 10.

python bench/engine.py [--rows 200000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

from holter.health import Batch, Engine, Facts, RuleSet

PLAIN = ("train/loss", "train/grad_norm", "lr", "train/accuracy", "perf/step_time", "tokens_per_second", "epoch", "mfu")
DENOVO = (
    "loss/total loss/ce loss/spectrum loss/precursor weighted/ce weighted/spectrum weighted/precursor weight/spectrum "
    "weight/precursor grad_norm lr train/token_acc curriculum/stage perf/step_time perf/it_per_s"
)


def healthy(names: tuple[str, ...], rows: int) -> np.ndarray:
    """A run in which nothing is wrong, shape (rows, metrics); the weighted parts add up to the total."""
    rng = np.random.default_rng(0)
    values = np.exp(-np.arange(rows) / 5e4)[:, None] * rng.lognormal(0, 0.1, (rows, len(names)))
    column = {name: index for index, name in enumerate(names)}
    for name in column.keys() & {"curriculum/stage", "lr"}:
        values[:, column[name]] = 1.0
    if "weighted/ce" in column:
        values[:, column["weighted/spectrum"]] *= 0.08
        values[:, column["weighted/precursor"]] *= 0.01
        parts = [values[:, index] for name, index in column.items() if name.startswith("weighted/")]
        values[:, column["loss/total"]] = sum(parts)
        values[:, column["train/token_acc"]] = 0.5
    return values


def blocks(names: tuple[str, ...], values: np.ndarray, rows: int) -> Iterator[Batch]:
    steps = np.arange(len(values))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        yield Batch("rank0", names, steps[part], steps[part] * 0.1, values[part])


def measure(names: tuple[str, ...], values: np.ndarray, rows: int) -> tuple[float, int]:
    """Seconds of this process for all blocks, and the transitions told."""
    engine = Engine(RuleSet.default(), Facts())
    told = 0
    batches = list(blocks(names, values, rows))
    start = time.process_time()
    for batch in batches:
        told += len(engine.observe(batch))
    return time.process_time() - start, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    for title, names in (("default pack", PLAIN), ("default and denovo packs", tuple(DENOVO.split()))):
        values = healthy(names, options.rows)
        seconds, told = measure(names, values, 1000)
        print(f"{title}, {len(names)} series, blocks of 1,000: {values.size / seconds:12,.0f} points/s ({told} told)")
        few = values[: options.rows // 20]
        seconds, _ = measure(names, few, 10)
        each = seconds / (len(few) / 10 * len(names))
        print(f"{title}, {len(names)} series, blocks of 10:    {1e6 * each:12.1f} µs per series and block")
        engine = Engine(RuleSet.default(), Facts())
        for batch in blocks(names, few, 1000):
            engine.observe(batch)
        start = time.process_time()
        for _ in range(200):
            state = engine.save()
        saving = (time.process_time() - start) / 200
        print(f"{title}, save: {1e6 * saving:.0f} µs, {len(state):,} bytes")


if __name__ == "__main__":
    main()
