"""What logging costs the training.

    python bench/agent_overhead.py [--peers all --install] [--quick] [--json FILE]

1. `log()` of 8 floats back to back: every call timed on the training thread, fresh processes taking turns.
2. A loop of steps of 1 ms, with logging and without, in many blocks in random order: wall time and processor time of
   the training thread. The loop without logging is timed twice in each turn: their difference is the noise floor.
   What runs beside the training (shipper, service) is stopped while the loop without logging is timed, so that all it
   takes away is paid by the loop with logging; "alone" stops it there, too: what is left is the thread's own cost.
3. Import, `init`, and the shipper's memory.

Holter is measured with a service on SQLite in another process, with the service down, and offline.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
from figures import (
    Interval,
    Target,
    difference_of_medians,
    hodges_lehmann,
    machine,
    print_table,
    print_targets,
    verdict,
)
from holter_service import Service, free_port
from peers import Absent, Failed, Tracker

import holter

MB = 1e6
SHIPPER = "holter.shipping"
LOOPS = {
    "busy": "Busy: steps of 1 ms of numpy",
    "alone": "Alone: the same, with everything beside the training thread stopped",
    "sleep": "Sleep: steps of a sleep of 1 ms",
}
ONLINE, DOWN, OFFLINE = "holter, online", "holter, service down", "holter, offline"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    calls: int
    seconds: float  # of one back-to-back loop, at most
    loops: dict[str, tuple[int, int]]  # turns and steps of a block, for each kind of loop
    peer_loops: dict[str, tuple[int, int]]
    starts: int
    inits: int
    age_s: float  # of the training whose shipper is weighed


# Where helpers are stopped and let run, a block is long enough for them to work as they do in an undisturbed training.
FULL = Effort(
    3, 20_000, 3.0,
    {"busy": (40, 500), "alone": (150, 50), "sleep": (15, 500)}, {"busy": (10, 200)},
    21, 9, 150.0,
)  # fmt: skip
QUICK = Effort(
    1, 5_000, 0.7,
    {"busy": (6, 200), "alone": (25, 50), "sleep": (3, 200)}, {"busy": (3, 50)},
    5, 1, 0.0,
)  # fmt: skip


class Bench:
    """Runs workers for Holter, with the service in the right state, and for peers."""

    def __init__(self, place: Path, found: list[Tracker | Absent]) -> None:
        self.place = place
        self.absent = {peer.name: peer.reason for peer in found if isinstance(peer, Absent)}
        self.peers = [peer for peer in found if isinstance(peer, Tracker)]
        down = f"http://127.0.0.1:{free_port()}"
        mine = {ONLINE: {}, DOWN: {"url": down, "finish_s": 0.2}, OFFLINE: {"mode": "offline"}}
        version = holter.__version__
        self.holter = [Tracker(name, sys.executable, version, given, "holter") for name, given in mine.items()]
        self.nothing = Tracker("an empty function", sys.executable, "", peer="nothing")
        self._count = 0

    def measure(self, tracker: Tracker, task: str, **options: Any) -> dict[str, Any] | None:
        """None, said once, where the tracker fails."""
        if tracker.name in self.absent:
            return None
        self._count += 1
        folder = self.place / f"{self._count}"
        try:
            with self._service(tracker) as given:
                return peers.measure(tracker, task, folder, **given, **options)
        except Failed as error:
            print(f"  {error}", flush=True)
            self.absent[tracker.name] = str(error)
            return None
        finally:
            peers.end_marked(folder)
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _service(self, tracker: Tracker) -> Iterator[dict[str, Any]]:
        if tracker.name != ONLINE:
            yield {}
            return
        with Service(self.place / f"service-{self._count}") as service:
            yield {"url": service.url, "service": service.pid, "finish_s": 10.0}


# --- 1. back to back ----------------------------------------------------------------------------------------------


def measure_calls(bench: Bench, effort: Effort) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    order = [bench.nothing, *bench.holter, *bench.peers]
    for turn in range(effort.rounds):
        print(f"log() back to back, round {turn + 1} of {effort.rounds} …", flush=True)
        for tracker in random.Random(turn).sample(order, len(order)):
            measured = bench.measure(tracker, "tight", calls=effort.calls, seconds=effort.seconds)
            if measured:
                found.setdefault(tracker.name, []).append(measured)
    return {tracker.name: found[tracker.name] for tracker in order if tracker.name in found}


def middle(rounds: list[dict[str, float]], what: str) -> float:
    return statistics.median(each[what] for each in rounds)


def report_calls(bench: Bench, found: dict[str, list[dict[str, float]]]) -> list[Target]:
    rows = []
    for name, rounds in found.items():
        spread = [each["median"] for each in rounds]
        quantiles = [f"{middle(rounds, what):.2f}" for what in ("median", "p99", "p99.9")]
        rows.append([name, *quantiles, f"{min(spread):.2f} to {max(spread):.2f}", f"{middle(rounds, 'calls'):.0f}"])
    rows += [[name, f"absent: {reason}", "", "", "", ""] for name, reason in bench.absent.items()]
    print_table("log() of 8 floats, back to back, µs (medians of the rounds)",
                ["tracker", "median", "p99", "p99.9", "medians of the rounds", "calls"], rows)  # fmt: skip
    targets = []
    others = {peer.name: middle(found[peer.name], "median") for peer in bench.peers if peer.name in found}
    for tracker in bench.holter:
        if tracker.name not in found:
            continue
        rounds = found[tracker.name]
        for what, limit in (("median", 2.0), ("p99", 20.0)):
            cost = middle(rounds, what)
            targets.append(
                Target(f"{tracker.name}: log() {what}", f"{cost:.2f} µs", f"≤ {limit:g} µs", verdict(cost, limit))
            )
        if others:
            name, least = min(others.items(), key=lambda item: item[1])
            cost = middle(rounds, "median")
            said = "reached" if cost < least else "not reached"
            targets.append(
                Target(f"{tracker.name}: below every peer", f"{cost:.2f} µs", f"< {least:.2f} µs ({name})", said)
            )
    return targets


# --- 2. a loop of 1 ms steps --------------------------------------------------------------------------------------


def measure_loops(bench: Bench, effort: Effort) -> dict[str, dict[str, Any]]:
    found = {}
    for tracker in [*bench.holter, *bench.peers]:
        print(f"{tracker.name}, steps of 1 ms …", flush=True)
        ours = tracker in bench.holter
        loops = effort.loops if ours else effort.peer_loops
        age = effort.age_s if tracker.name == ONLINE else 0.0
        measured = bench.measure(tracker, "paced", loops=loops, age_s=age)
        if measured:
            found[tracker.name] = measured
    return found


def slowdown(triples: list[dict[str, list[int]]], arm: str, clock: int) -> Interval:
    """Per cent that a block of ``arm`` takes longer than the loop without logging; ``clock`` 0: wall, 1: processor."""
    ratios = [100 * (each[arm][clock] / max(1, each["without"][clock]) - 1) for each in triples]
    return hodges_lehmann(ratios)


def added(triples: list[dict[str, list[int]]], arm: str, clock: int, steps: int) -> Interval:
    """Microseconds a step."""
    return hodges_lehmann([(each[arm][clock] - each["without"][clock]) / steps / 1000 for each in triples])


def report_loops(found: dict[str, dict[str, Any]]) -> list[Target]:
    targets = []
    columns = ["tracker", "wall time", "processor time of the thread", "the same in µs a step", "beside it", "turns"]
    for kind, about in LOOPS.items():
        rows = []
        for name, measured in found.items():
            if kind in measured:
                of = measured[kind]
                rows.append([name, *_cells(of, "log"), f"{of['beside_us']:.1f} µs a step", str(len(of["triples"]))])
                rows.append(["  noise: without, twice", *_cells(of, "again"), "", ""])
                targets += _loop_targets(name, kind, of) if name.startswith("holter") else []
        print_table(f"{about}, 8 metrics: slower than without logging (95 % interval)", columns, rows)
    return targets


def _cells(of: dict[str, Any], arm: str) -> list[str]:
    wall, cpu = (slowdown(of["triples"], arm, clock).text(" %") for clock in (0, 1))
    return [wall, cpu, added(of["triples"], arm, 1, of["steps"]).text()]


def _loop_targets(name: str, kind: str, of: dict[str, Any]) -> list[Target]:
    told = {"wall time": slowdown(of["triples"], "log", 0)}
    if kind != "sleep":  # a thread that sleeps has hardly any processor time to be compared with
        told["processor time"] = slowdown(of["triples"], "log", 1)
    return [
        Target(f"{name}: {what}, {kind}", interval.text(" %"), "≤ 1 %", verdict(interval, 1.0))
        for what, interval in told.items()
    ]


# --- 3. import, init, memory --------------------------------------------------------------------------------------


def measure_imports(bench: Bench, effort: Effort) -> dict[str, Any]:
    """Milliseconds of whole processes with numpy, and with numpy and holter; inside the process for each tracker."""
    print("imports …", flush=True)
    whole: dict[str, list[float]] = {"import numpy": [], "import numpy, holter": []}
    for turn in range(effort.starts):
        for code in random.Random(turn).sample(list(whole), 2):
            begin = time.perf_counter()
            _python(bench, sys.executable, code)
            whole[code].append(1000 * (time.perf_counter() - begin))
    inside: dict[str, list[float]] = {}
    trackers = [Tracker("holter", sys.executable, ""), *(p for p in bench.peers if p.name not in bench.absent)]
    for _ in range(5 if effort.starts > 10 else 2):
        for tracker in trackers:
            code = f"import time, numpy; begin = time.perf_counter(); import {tracker.name}"
            printed = _python(bench, tracker.python, f"{code}; print('took', time.perf_counter() - begin)")
            inside.setdefault(tracker.name, []).append(1000 * float(printed.split("took")[-1]))
    return {"whole": whole, "inside": inside}


def _python(bench: Bench, python: str, code: str) -> str:
    done = subprocess.run([python, "-c", code], cwd=bench.place, env=peers.environment(bench.place),
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout


def report_imports(found: dict[str, Any]) -> list[Target]:
    inside = {name: statistics.median(times) for name, times in found["inside"].items()}
    rows = [[name, f"{spent:.0f}"] for name, spent in sorted(inside.items(), key=lambda item: item[1])]
    print_table("Import behind numpy, within the process, ms", ["tracker", "median"], rows)
    beyond = difference_of_medians(found["whole"]["import numpy, holter"], found["whole"]["import numpy"])
    measured = f"{beyond.text(' ms', 0)}, {len(found['whole']['import numpy'])} starts"
    return [Target("import beyond Python and numpy", measured, "≤ 60 ms", verdict(beyond, 60.0))]


def measure_inits(bench: Bench, effort: Effort) -> dict[str, list[dict[str, dict[str, float]]]]:
    print("init …", flush=True)
    found: dict[str, list[dict[str, dict[str, float]]]] = {tracker.name: [] for tracker in bench.holter}
    for _ in range(effort.inits):
        for tracker in bench.holter:
            measured = bench.measure(tracker, "init")
            if measured:
                found[tracker.name].append(measured)
    return {name: each for name, each in found.items() if each}


def report_inits(found: dict[str, list[dict[str, dict[str, float]]]]) -> list[Target]:
    rows, targets = [], []
    for name, each in found.items():
        for which in ("first", "second"):
            middles = {
                part: 1000 * statistics.median(one[which][part] for one in each)
                for part in ("wall", "cpu", "processes", "threads")
            }
            rows.append([f"{name}, {which}", *(f"{spent:.1f}" for spent in middles.values())])
            if which == "first":
                started = middles["processes"] + middles["threads"]
                figure = f"{name}: starting processes and threads"
                targets.append(Target(figure, f"{started:.1f} ms", "< 50 ms", verdict(started, 50.0)))
    columns = ["init() in a fresh process", "wall", "processor", "starting processes", "starting threads"]
    print_table("init() on the training thread, ms (the first one imports what a run needs)", columns, rows)
    return targets


def report_memory(found: dict[str, dict[str, Any]]) -> list[Target]:
    rows, targets = [], []
    for name, measured in found.items():
        for sample in measured["memory"]:
            for helper in sample["helpers"]:
                sizes = [f"{helper[kind] / MB:.1f}" for kind in ("rss", "pss", "uss")]
                rows.append([name, f"{sample['age']:.0f}", *sizes, helper["command"][:60]])
        if name.startswith("holter"):
            targets.append(_memory_target(name, measured["memory"]))
    print_table("Helper processes, MB", ["tracker", "age s", "resident", "proportional", "unique", "process"], rows)
    return targets


def _memory_target(name: str, samples: list[dict[str, Any]]) -> Target:
    resident = [
        helper["rss"] / MB for sample in samples for helper in sample["helpers"] if SHIPPER in helper["command"]
    ]
    figure = f"{name}: resident memory of the shipper"
    if not resident:
        return Target(figure, "no shipper process", "≤ 60 MB", "not measured")
    most = max(resident)
    return Target(figure, f"{most:.1f} MB, {samples[-1]['age']:.0f} s old", "≤ 60 MB", verdict(most, 60.0))


# --- all ----------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than two minutes; wider intervals")
    peers.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    return parser.parse_args()


def main() -> None:
    options = parse()
    effort = QUICK if options.quick else FULL
    found = peers.find_peers(options.peers, options.venvs, options.install)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="holter-bench-", ignore_cleanup_errors=True) as name:
        bench = Bench(Path(name), found)
        calls = measure_calls(bench, effort)
        loops = measure_loops(bench, effort)
        imports = measure_imports(bench, effort)
        inits = measure_inits(bench, effort)
    targets = [*report_calls(bench, calls), *report_loops(loops), *report_imports(imports), *report_inits(inits),
               *report_memory(loops)]  # fmt: skip
    print_targets(targets)
    print(f"\n{time.time() - began:.0f} s")
    if options.json:
        told = {
            "machine": machine(), "began": began, "seconds": time.time() - began,
            "effort": asdict(effort), "versions": {"holter": holter.__version__, "numpy": np.__version__}
            | peers.versions(found), "absent": bench.absent,
            "calls": calls, "loops": loops, "imports": imports, "inits": inits,
            "targets": [asdict(target) for target in targets],
        }  # fmt: skip
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
