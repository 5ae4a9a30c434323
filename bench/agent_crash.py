"""How many steps a `kill -9` right behind the last `log` call costs.

    python bench/agent_crash.py [--peers all --install] [--quick] [--json FILE]

A training logs 5,000 steps of 8 floats back to back, pauses for 0.3 s, logs 50 more and kills itself with SIGKILL
behind the last call. Then the run is read back by the documented way; for Holter that is `holter.sync` to a service
(twice: the second one must ship nothing) and `holter.Client`. A step is kept if each metric has it exactly once with
its value.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peers
from figures import Target, machine, print_table, print_targets, verdict
from holter_service import Service
from peers import Absent, Failed, Tracker
from peers.data import METRICS, tally

import holter
from holter.sync import SyncReport, sync

SHIPPER = "holter.shipping"
QUIET_S = 2.0  # without any change: what a killed training has left behind has done what it will do
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Case:
    """One situation in which Holter's training is killed."""

    name: str
    mode: str = "online"
    up: bool = True  # the service, during the run
    kill_shipper: bool = False


CASES = (
    Case("service up"),
    Case("service down during the run", up=False),
    Case("shipper killed in the middle", kill_shipper=True),
    Case("offline", mode="offline"),
)


@dataclass(frozen=True)
class Outcome:
    """One killed run."""

    lost: int
    doubled: int
    wrong: int
    median_us: float
    delivered_before_sync: int = 0  # steps that the shipper has brought home by itself
    second_sync_points: int = 0
    killed: int | None = None  # shippers
    problem: str | None = None

    @property
    def whole(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.second_sync_points or self.problem)


def holter_run(tracker: Tracker, case: Case, folder: Path, service: Service, steps: int) -> Outcome:
    (service.start if case.up else service.stop)()
    options: dict[str, Any] = {"mode": case.mode, "url": service.url, "steps": steps}
    if case.kill_shipper:  # at a time that differs from run to run: while it starts, sends, waits, moves its cursor
        options |= {"kill": SHIPPER, "kill_after": random.Random(folder.name).uniform(0.0, 1.5)}
    crashed = peers.measure(tracker, "crash", folder, **options)
    service.start()
    try:
        with_client = holter.Client(service.url)
        run = (folder / "identity").read_text()
        before = wait_until_settled(with_client, run, folder, steps + 50)
        first, second = sync_when_free(folder, service.url), sync(folder, service.url)
        found = tally(read_back(with_client, run), steps + 50)
    finally:
        peers.end_marked(folder)
    problems = [spool.problem for report in (first, second) for spool in report.spools if spool.problem]
    return Outcome(
        lost=found["lost"], doubled=found["doubled"], wrong=found["wrong"], median_us=crashed["median"],
        delivered_before_sync=before, second_sync_points=second.points, killed=crashed["killed"],
        problem=problems[0] if problems else None,
    )  # fmt: skip


def wait_until_settled(client: holter.Client, run: str, folder: Path, steps: int) -> int:
    """Steps at the service once the run is complete there, or nothing of the training is left, or nothing changes."""
    until = time.monotonic() + PATIENCE_S
    last, since = None, time.monotonic()
    while time.monotonic() < until:
        count, left = count_steps(client, run), [process.pid for process in peers.marked(folder)]
        files = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.exists()}
        if not left or count >= steps:
            break
        if (count, left, files) != last:
            last, since = (count, left, files), time.monotonic()
        elif time.monotonic() - since > QUIET_S:
            break
        time.sleep(0.1)
    return count_steps(client, run)


def count_steps(client: holter.Client, run: str) -> int:
    try:
        counts = {metric["name"]: metric["count"] for metric in client.run(run).metrics()}
    except holter.ApiError:
        return 0  # the service does not know the run yet
    return min(counts.get(name, 0) for name in METRICS)


def sync_when_free(folder: Path, url: str) -> SyncReport:
    """`sync`, again while a shipper that the training has left behind is still at it."""
    until = time.monotonic() + PATIENCE_S
    while not (report := sync(folder, url)).complete and time.monotonic() < until:
        time.sleep(0.5)
    return report


def read_back(client: holter.Client, run: str) -> dict[str, list[tuple[int, float]]]:
    read: dict[str, list[tuple[int, float]]] = {}
    for series in client.run(run).series("loss/*"):
        pairs = zip(series.steps.tolist(), series.values.tolist(), strict=True)
        read.setdefault(series.metric, []).extend(pairs)
    return read


def peer_run(tracker: Tracker, folder: Path, steps: int) -> Outcome:
    crashed = peers.measure(tracker, "crash", folder, steps=steps)
    until = time.monotonic() + 4.0
    while peers.marked(folder) and time.monotonic() < until:
        time.sleep(0.1)
    peers.end_marked(folder)
    found = peers.measure(tracker, "read", folder, steps=steps)
    return Outcome(found["lost"], found["doubled"], found["wrong"], crashed["median"])


def repeat(
    runs: int, one: Callable[[Path], Outcome], place: Path, name: str, longest_s: float = float("inf")
) -> Iterator[Outcome]:
    """``runs`` outcomes, or fewer once ``longest_s`` seconds are over."""
    until = time.monotonic() + longest_s
    for index in range(runs):
        if time.monotonic() > until:
            return
        folder = place / f"{name.replace(' ', '-')}-{index}"
        try:
            yield one(folder)
        finally:
            peers.end_marked(folder)
            shutil.rmtree(folder, ignore_errors=True)


def measure_holter(options: argparse.Namespace, place: Path) -> dict[str, list[Outcome]]:
    tracker = Tracker("holter", sys.executable, holter.__version__)
    outcomes: dict[str, list[Outcome]] = {}
    with Service(place / "service") as service:
        for case in CASES:
            print(f"holter, {case.name} …", flush=True)
            outcomes[case.name] = kept = []
            for outcome in repeat(options.runs, lambda f, c=case: holter_run(tracker, c, f, service, options.steps),
                                  place, case.name):  # fmt: skip
                kept.append(outcome)
                if case.kill_shipper and not outcome.killed:
                    print("  no shipper process was found, so none was killed: this case is not measured")
                    outcomes[case.name] = []
                    break
    return outcomes


def measure_peers(found: list[Tracker | Absent], options: argparse.Namespace, place: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for peer in found:
        if isinstance(peer, Absent):
            results[peer.name] = peer
            continue
        print(f"{peer.name} …", flush=True)
        try:
            each = repeat(options.peer_runs, lambda f, p=peer: peer_run(p, f, options.steps), place, peer.name, 30.0)
            results[peer.name] = list(each)
        except Failed as error:
            results[peer.name] = Absent(peer.name, str(error))
    return results


def line(name: str, outcomes: list[Outcome]) -> list[str]:
    if not outcomes:
        return [name, "0", "not measured", "", "", "", ""]
    lost = [each.lost for each in outcomes]
    return [
        name,
        str(len(outcomes)),
        f"{min(lost)} to {max(lost)}",
        str(max(each.doubled for each in outcomes)),
        str(max(each.wrong for each in outcomes)),
        f"{statistics.median(each.median_us for each in outcomes):.1f}",
        f"{min(each.delivered_before_sync for each in outcomes)}" if name.startswith("holter") else "",
    ]


def report(steps: int, ours: dict[str, list[Outcome]], theirs: dict[str, Any]) -> list[Target]:
    columns = ["tracker", "runs", "steps lost", "doubled", "wrong", "log() median µs", "without sync, at least"]
    rows = [line(f"holter, {name}", outcomes) for name, outcomes in ours.items()]
    for name, outcomes in theirs.items():
        if isinstance(outcomes, Absent):
            rows.append([name, "0", f"absent: {outcomes.reason}", "", "", "", ""])
        else:
            rows.append(line(name, outcomes))
    print_table(f"kill -9 behind the last of {steps + 50:,} log calls", columns, rows)
    targets = []
    for name, outcomes in ours.items():
        for problem in {each.problem for each in outcomes if each.problem}:
            print(f"holter, {name}: {problem}")
        broken = sum(not each.whole for each in outcomes)
        measured = f"{len(outcomes) - broken} of {len(outcomes)} runs whole" if outcomes else "not measured"
        said = verdict(float(broken), 0.0) if outcomes else "not measured"
        targets.append(Target(f"kill -9, {name}", measured, "every run whole, the second sync ships 0", said))
    print_targets(targets)
    return targets


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 runs of each case instead of 20")
    parser.add_argument("--runs", type=int, help="of each of Holter's cases")
    parser.add_argument("--steps", type=int, default=5000, help="before the pause; 50 more follow")
    peers.add_options(parser)
    parser.add_argument("--peer-runs", type=int, help="of each peer, within 30 s (3, or 1 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args()
    options.runs = options.runs or (2 if options.quick else 20)
    options.peer_runs = options.peer_runs or (1 if options.quick else 3)
    return options


def main() -> None:
    options = parse()
    found = peers.find_peers(options.peers, options.venvs, options.install)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="holter-bench-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        theirs = measure_peers(found, options, place)
        ours = measure_holter(options, place)
    targets = report(options.steps, ours, theirs)
    if options.json:
        told = {
            "machine": machine(), "began": began, "seconds": time.time() - began, "steps": options.steps + 50,
            "versions": {"holter": holter.__version__} | peers.versions(found),
            "holter": {name: [asdict(each) for each in outcomes] for name, outcomes in ours.items()},
            "peers": {
                name: asdict(each) if isinstance(each, Absent) else [asdict(one) for one in each]
                for name, each in theirs.items()
            },
            "targets": [asdict(target) for target in targets],
        }  # fmt: skip
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
