"""kill -9 of the service under load, again and again: what was acknowledged, the incidents and the webhooks of it.

What has to be there is known twice: the points from the senders, the incidents and messages from a service that took
the same frames undisturbed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from figures import Target, verdict
from holter_service import Service
from store_check import Found, compare_incidents, read_back
from store_compaction import segments_waiting, wait_until_compacted
from store_courses import Course
from store_databases import check_by_holter
from store_parts import Bench, Part, told
from store_senders import Receiver, Sender

RUNS = 6
PAUSE_S = 0.02  # between two frames of one run, at most: enough frames for several folds of each
STARTING = 0.2  # of the kills hit a service that is still starting
LONGEST_RUN_S, LONGEST_START_S, LONGEST_COMPACTION_S = 3.0, 1.5, 0.5
# The compactor looks often, so that many of the kills hit it.
SETTINGS = {
    "compact_interval_s": "0.1",
    "allow_private_webhooks": "1",
    "webhook_timeout_s": "1",
    "webhook_backoff_s": "0.5",
}
PATIENCE_S = 180.0  # for messages: a claim of a service that was killed is free again after half a minute


@dataclass
class Kills:
    """What the killed services were at."""

    count: int = 0
    starting: int = 0
    compacting: int = 0  # segments waited to be folded at the compactor's last look
    ready_s: list[float] = field(default_factory=list)


def measure(bench: Bench) -> Part:
    part = Part("crash")
    courses = [Course(f"crash{index:02}", 100 + index) for index in range(RUNS)]
    killed_home, calm_home = bench.home("killed"), bench.home("calm")
    killed, calm = Receiver(), Receiver()
    try:
        with bench.service(killed_home, "killed", **SETTINGS) as service:
            senders, kills = _disturbed(service, courses, killed, bench.effort.kills)
            wait_until_compacted(service)
            found = _read(service, senders, killed)
        with bench.service(calm_home, "calm", **SETTINGS) as service:
            expected = _undisturbed(service, courses, calm, [sender.acknowledged for sender in senders])
        repeats = killed.repeats()
    finally:
        killed.close()
        calm.close()
    problems, by_holter = killed_home.problems(), check_by_holter(killed_home.url)
    _report(part, kills, senders, found, expected)
    _report_checks(part, bench.kind, problems, by_holter)
    part.raw |= {"message_repeats": repeats, "problems": problems, "holter db check": by_holter}
    bench.forget("killed")
    bench.forget("calm")
    return part


# --- the two services ---------------------------------------------------------------------------------------------


def _begin(service: Service, courses: Sequence[Course], receiver: Receiver) -> None:
    service.ask("POST", "/webhooks", {"url": receiver.url, "name": "bench", "min_severity": "info"})
    for course in courses:
        service.ask("POST", "/runs", {"project": "bench", "id": course.run})


def _disturbed(
    service: Service, courses: Sequence[Course], receiver: Receiver, kills: int
) -> tuple[list[Sender], Kills]:
    """Kill the service under load, the last fifth of the kills once the runs have ended and are being compacted."""
    _begin(service, courses, receiver)
    senders = [Sender(service.port, course, pause_s=PAUSE_S) for course in courses]
    for sender in senders:
        sender.start()
    done, chance = Kills(), random.Random(time.time_ns())  # moments that differ from run to run
    at_the_end = max(1, kills // 5)
    for _ in range(kills - at_the_end):
        _kill(service, done, chance)
    _finish(service, senders)
    for _ in range(at_the_end):
        _kill(service, done, chance, longest_s=LONGEST_COMPACTION_S)
    return senders, done


def _kill(service: Service, done: Kills, chance: random.Random, longest_s: float = LONGEST_RUN_S) -> None:
    """One kill at a random moment, and a start after it."""
    if chance.random() < STARTING and done.count:
        service.kill()
        service.spawn()
        time.sleep(chance.uniform(0, LONGEST_START_S))
        done.starting += not service.answers()
    else:
        time.sleep(chance.uniform(0, longest_s))
        done.compacting += segments_waiting(service) > 0
    service.kill()
    done.count += 1
    began = time.monotonic()
    service.start()
    done.ready_s.append(time.monotonic() - began)
    print(f"\r  {done.count} kills", end="", flush=True)


def _finish(service: Service, senders: Sequence[Sender]) -> None:
    for sender in senders:
        sender.enough.set()
    _join(senders)
    for sender in senders:
        service.ask("POST", f"/runs/{sender.course.run}/finish", {"state": "finished"})
    print(f"\r  {sum(sender.acknowledged for sender in senders):,} frames acknowledged", flush=True)


def _join(senders: Sequence[Sender]) -> None:
    for sender in senders:
        sender.join()
        if sender.fault:
            raise SystemExit(f"{sender.name}: {sender.fault}")


def _undisturbed(service: Service, courses: Sequence[Course], receiver: Receiver, frames: Sequence[int]) -> Found:
    _begin(service, courses, receiver)
    senders = [Sender(service.port, course, count) for course, count in zip(courses, frames, strict=True)]
    for sender in senders:
        sender.start()
    _finish(service, senders)
    return _read(service, senders, receiver)


def _read(service: Service, senders: Sequence[Sender], receiver: Receiver) -> Found:
    print("  waiting for messages, reading back …", flush=True)
    until = time.monotonic() + PATIENCE_S
    while _unsent(service) and time.monotonic() < until:
        time.sleep(0.5)
    return read_back(service, senders, receiver.told())


def _unsent(service: Service) -> bool:
    return any(
        service.ask("GET", f"/deliveries?state={state}&limit=1")["deliveries"] for state in ("pending", "sending")
    )


# --- what came of it ----------------------------------------------------------------------------------------------


def _report(part: Part, kills: Kills, senders: list[Sender], found: Found, expected: Found) -> None:
    name = f"kill -9, {kills.count} times"
    points = found.points
    incidents = compare_incidents(found.incidents, expected.incidents)
    untold, twice = expected.told - found.told, found.told - expected.told
    firing = sum(count for (kind, _), count in expected.told.items() if kind == "incident.firing")
    part.add(
        none_of(f"{name}: acknowledged points lost, doubled or wrong", points.bad, points.expected),
        none_of(f"{name}: events lost or doubled", found.events_bad, found.events),
        none_of(f"{name}: incidents missing", len(incidents.missing), len(expected.incidents)),
        none_of(f"{name}: incidents twice, or that nothing caused", len(incidents.extra), len(found.incidents)),
        none_of(f"{name}: incidents that say something else", len(incidents.different), len(expected.incidents)),
        none_of(f"{name}: messages to the webhook missing", untold.total(), expected.told.total(),
                f", of which firing {sum(count for (kind, _), count in untold.items() if kind == 'incident.firing')}"
                f" of {firing}"),
        none_of(f"{name}: messages too many, under an id of their own", twice.total(), found.told.total()),
        told(f"{name}: of these", f"{kills.starting} while it started, {kills.compacting} with segments to fold; "
             f"{sum(sender.repeated for sender in senders)} frames were stored though their answer was lost"),
        told("start after a kill until it is ready", statistics.median(kills.ready_s), " s", digits=1,
             note=f", at most {max(kills.ready_s):.1f}"),
    )  # fmt: skip
    part.raw |= {
        "kills": kills.count, "starting": kills.starting, "compacting": kills.compacting, "ready_s": kills.ready_s,
        "frames": [sender.acknowledged for sender in senders], "retries": sum(sender.retries for sender in senders),
        "repeated": sum(sender.repeated for sender in senders), "points": points.raw(), "incidents": incidents.raw(),
        "untold": _listed(untold), "twice": _listed(twice),
    }  # fmt: skip


def _listed(counter: Counter[tuple[str, str]]) -> list[Any]:
    return [[*about, count] for about, count in sorted(counter.items())][:100]


def none_of(figure: str, bad: int, of: int, note: str = "") -> Target:
    """A count that has to be 0."""
    return Target(figure, f"{bad:,} of {of:,}{note}", "0", verdict(float(bad), 0.0) if of else "not measured")


def _report_checks(part: Part, kind: str, problems: list[str], by_holter: str) -> None:
    check = "SQLite's integrity_check and foreign_key_check" if kind == "sqlite" else "every row of PostgreSQL reads"
    said = "reached" if not problems else "not reached"
    part.add(Target(f"afterwards: {check}", "; ".join(problems)[:200] or "ok", "ok", said))
    if by_holter.startswith("this Holter has no"):
        part.add(told("afterwards: holter db check", by_holter))
    else:
        said = "reached" if by_holter == "ok" else "not reached"
        part.add(Target("afterwards: holter db check", by_holter, "ok", said))
