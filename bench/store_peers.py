"""Other trackers on the same points, where they can do it, and Holter as its users meet it: through `log()`."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
from peers import Absent, Failed, Tracker
from peers.data import METRICS
from store_compaction import compact, wait_until_compacted
from store_frames import store_run
from store_parts import Bench, Part, told
from store_views import ask_in_process, compare_over_http

import holter
from holter_db.database import Database

__all__ = ["COLUMNS", "measure"]

COLUMNS = ["tracker", "ingest, points/s", "bytes a point", "full history of n points", "what its page draws of them",
           "50 runs × 4 metrics × n points"]  # fmt: skip
FILL_S = 600.0


def measure(bench: Bench, options: argparse.Namespace) -> Part:
    part = Part("peers")
    rows = [_row(tracker, part, bench) for tracker in peers.find_peers(options.peers, options.venvs, options.install)]
    rows.append(_holter(bench, part))
    part.table = (COLUMNS, rows)
    rates = {name: found["ingest"]["points_per_s"] for name, found in part.raw.items() if "ingest" in found}
    others = {name: rate for name, rate in rates.items() if name != "holter"}
    if others:
        best = max(others, key=lambda name: others[name])
        part.add(told("ingest through log(), against the best peer", rates["holter"] / others[best], " times", digits=1,
                      note=f" {best}'s {others[best]:,.0f} points/s"))  # fmt: skip
    return part


# --- a peer -------------------------------------------------------------------------------------------------------


def _row(tracker: Tracker | Absent, part: Part, bench: Bench) -> list[str]:
    if isinstance(tracker, Absent):
        part.raw[tracker.name] = asdict(tracker)
        return [tracker.name, f"absent: {tracker.reason}", "", "", "", ""]
    print(f"  {tracker.name} …", flush=True)
    found: dict[str, Any] = {"version": tracker.version}
    part.raw[tracker.name] = found
    folder = bench.place / f"peer-{tracker.name}"
    sizes = {"points": bench.effort.peer_history, "steps": bench.effort.peer_compared}
    try:
        found["ingest"] = _ingest(tracker, folder / "ingest", bench.effort.peer_s)
        found["fill"] = peers.measure(tracker, "fill", folder / "reading", FILL_S, **sizes)
        found["look"] = peers.measure(tracker, "look", folder / "reading", FILL_S)
    except Failed as error:
        found["problem"] = str(error)
    finally:
        for name in ("ingest", "reading"):
            peers.end_marked(folder / name)
        shutil.rmtree(folder, ignore_errors=True)
    return [f"{tracker.name} {tracker.version}", *_cells(found)]


def _ingest(tracker: Tracker, folder: Path, seconds: float, **more: Any) -> dict[str, Any]:
    found = peers.measure(tracker, "ingest", folder, FILL_S, seconds=seconds, **more)
    return found | {
        "points_per_s": found["points"] / found["total_s"],
        "bytes_per_point": found["bytes"] / found["points"],
    }


def _cells(found: dict[str, Any]) -> list[str]:
    ingest, fill, look = (found.get(name, {}) for name in ("ingest", "fill", "look"))
    cells = [f"{ingest['points_per_s']:,.0f}" if ingest else "–", f"{ingest['bytes_per_point']:.1f}" if ingest else "–"]
    if not look:
        return [*cells, found.get("problem", "–"), "", ""]
    history, view, compare = look["history"], look.get("view"), look.get("compare")
    cells.append(f"{_seconds(history['first'])} (n = {fill['points']:,})")
    spike = "" if view is None else "with the spike" if view["spike"] else "without the spike"
    cells.append("–" if view is None else f"{_seconds(view['first'])} ({view['points']:,} points, {spike})")
    cells.append("–" if compare is None else f"{_seconds(compare['first'])} (n = {fill['steps']:,})")
    return cells


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


# --- Holter -------------------------------------------------------------------------------------------------------


def _holter(bench: Bench, part: Part) -> list[str]:
    print("  holter …", flush=True)
    found: dict[str, Any] = {"version": holter.__version__}
    part.raw["holter"] = found
    found["ingest"] = _holter_ingest(bench)
    points, steps = bench.effort.peer_history, bench.effort.peer_compared
    home = bench.home("peers")
    database = Database.open(home.url)
    spike = int(points * 0.618)
    store_run(database, "long", 3, METRICS[:1], points, spike=spike)
    names = [f"run{index}" for index in range(50)]
    for seed, name in enumerate(names):
        store_run(database, name, seed, METRICS[:4], steps)
    compact(database)
    database.close()
    asked = {"url": home.url, "run": "long", "metrics": [METRICS[0]], "width": 1000, "repetitions": 1}
    history, view = (ask_in_process(asked | {"what": what}) for what in ("history", "view"))
    found["fill"] = {"points": points, "steps": steps}
    found["look"] = {"history": {"first": history["first"][0]},
                     "view": {"first": view["first"][0], "points": view["points"],
                              "spike": view["greatest_in_answer"] == view["max"]}}  # fmt: skip
    with bench.service(home, "peers") as service:
        found["look"]["compare"] = {"first": compare_over_http(service.port, names, METRICS[:4])[0]}
    bench.forget("peers")
    return [f"holter {holter.__version__}, with a service", *_cells(found)]


def _holter_ingest(bench: Bench) -> dict[str, Any]:
    """`log()` in one process, the shipper in another, the service in a third, until all is acknowledged."""
    home = bench.home("agent")
    folder = bench.place / "peer-holter"
    tracker = Tracker("holter", sys.executable, holter.__version__)
    with bench.service(home, "agent") as service:
        try:
            found = _ingest(tracker, folder, bench.effort.peer_s, url=service.url, finish_s=240.0)
        finally:
            peers.end_marked(folder)
        run = (folder / "identity").read_text()
        counts = {each["name"]: each["count"] for each in service.ask("GET", f"/runs/{run}/metrics")["metrics"]}
        if any(counts.get(name, 0) != found["steps"] for name in METRICS):
            raise SystemExit(f"finish() came back before everything was acknowledged: {counts}, not {found['steps']}")
        found["compacted_s"] = wait_until_compacted(service)
    found["bytes_per_point"] = home.size().whole / found["points"]
    shutil.rmtree(folder, ignore_errors=True)
    bench.forget("agent")
    return found
