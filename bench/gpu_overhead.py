"""What log of 8 device metrics, watch(every=1) and the flight recorder add to a transformer step of 2 to 5 ms.

    python bench/gpu_overhead.py [--pairs 40] [--steps 50] [--cpu]

Each variant runs in short blocks next to blocks of the bare loop, in alternating order; what is reported is the median
of the paired differences with a 95 % bootstrap interval. The first line of the table compares the bare loop with
itself: what lies within its interval is noise. Synchronisations are the warnings of torch's sync debug mode, counted
in a pass of their own. Without a GPU it says so and ends; --cpu runs the same code on the CPU, whose figures say
nothing about a GPU.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import holter

VARIANTS: dict[str, dict[str, Any]] = {
    "bare loop, once more": {"log": False, "recorder": None},
    "log of 8 device metrics": {"log": True, "recorder": None},
    "log + watch": {"log": True, "recorder": 0},
    "log + watch + flight recorder": {"log": True, "recorder": 64},
}


class Transformer(nn.Module):
    """A decoder-like stack; its size is chosen so that a step takes 2 to 5 ms."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(512, width)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 512)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(tokens)))


class Loop:
    """One training, with or without Holter; `block` runs some steps and returns the seconds for each."""

    def __init__(self, device: torch.device, size: dict[str, int], *, log: bool, recorder: int | None) -> None:
        torch.manual_seed(0)
        self.device, self.log, self.step = device, log, 0
        self.model = Transformer(size["width"], size["layers"]).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device.type == "cuda")
        self.tokens = torch.randint(512, (size["batch"], size["length"]), device=device)
        self.folder = tempfile.TemporaryDirectory()
        self.run: Any = None
        if log:
            self.run = _offline_run(self.folder.name)
            if recorder is not None:
                self.run.watch(self.model, self.optimizer, flight_recorder=recorder)

    def block(self, steps: int) -> float:
        self.wait()
        begin = time.perf_counter()
        for _ in range(steps):
            self.one()
        self.wait()
        return (time.perf_counter() - begin) / steps

    def one(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self.model(self.tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.tokens.flatten())
        loss.backward()
        self.optimizer.step()
        detached = loss.detach()
        parts = {f"loss/{index}": detached * index for index in range(8)}  # in the bare loop, too
        if self.run is not None:
            self.run.log(parts, step=self.step)
        self.step += 1

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
        self.folder.cleanup()


def _offline_run(folder: str) -> Any:
    """A recording of its own, so that several can be open at once: `init` would end the one before."""
    from holter import lifecycle

    lifecycle._process.current = None
    return holter.init(project="bench", mode="offline", dir=folder)


def synchronisations(loop: Loop, steps: int) -> int:
    if loop.device.type != "cuda":
        return 0
    loop.block(5)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                loop.one()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message).lower() for warning in seen)


def interleaved(bare: Loop, other: Loop, pairs: int, steps: int) -> tuple[np.ndarray, list[float]]:
    """Relative differences of each pair (pairs,), and the bare loop's seconds."""
    differences, seconds = [], []
    for index in range(pairs):
        order: list[Callable[[int], float]] = [bare.block, other.block]
        found = [block(steps) for block in (order if index % 2 else order[::-1])]
        without, with_holter = found if index % 2 else found[::-1]
        differences.append(with_holter / without - 1)
        seconds.append(without)
    return np.array(differences), seconds


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Median and 95 % bootstrap interval."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(differences, (4_000, len(differences))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(differences)), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cpu", action="store_true", help="the same code on the CPU")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--cpu runs the code on the CPU)")
        return 0
    os.environ["HOLTER_QUIET"] = "1"
    device = torch.device("cpu" if options.cpu else "cuda")
    size = {"width": 64, "layers": 2, "batch": 2, "length": 16} if options.cpu else {
        "width": 1024, "layers": 6, "batch": 8, "length": 128}  # fmt: skip
    name = f"{platform.machine()}, {torch.get_num_threads()} threads" if options.cpu else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}; {options.pairs} pairs of {options.steps} steps")
    bare = Loop(device, size, log=False, recorder=None)
    bare.block(options.steps)
    for title, variant in VARIANTS.items():
        loop = Loop(device, size, **variant)
        loop.block(options.steps)
        differences, seconds = interleaved(bare, loop, options.pairs, options.steps)
        median, low, high = interval(differences)
        waits = f"{synchronisations(loop, 50)} synchronisations in 50 steps" if device.type == "cuda" else ""
        step = f"{statistics.median(seconds) * 1e3:.2f} ms"
        print(f"{title:<32} {median:+7.2%}  [{low:+.2%}, {high:+.2%}]  of {step}  {waits}")
        loop.close()
    bare.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
