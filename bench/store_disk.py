"""Bytes on disk per point, everything included, of runs that the service has taken over HTTP and compacted."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from dataclasses import asdict

from figures import Target
from peers.data import METRICS
from store_compaction import wait_until_compacted
from store_databases import Size
from store_frames import curve_block
from store_parts import Bench, Part, at_most

from holter.wire import FRAME_MEDIA_TYPE, VERSION, Frame, encode_frame

BYTES_PER_POINT = 4.0
FRAME_ROWS = 1000
CASES = {"8 metrics": METRICS, "1 metric": METRICS[:1]}


def measure(bench: Bench) -> Part:
    part = Part("disk")
    for about, metrics in CASES.items():
        _case(bench, part, about, metrics)
    return part


def _case(bench: Bench, part: Part, about: str, metrics: Sequence[str]) -> None:
    steps = bench.effort.disk_steps
    name = f"disk{len(metrics)}"
    home = bench.home(name)
    print(f"  {steps:,} steps × {about} …", flush=True)
    with bench.service(home, name) as service:
        run = service.ask("POST", "/runs", {"project": "bench"})["run"]["id"]
        _send_all(service.port, run, metrics, steps)
        service.ask("POST", f"/runs/{run}/finish", {"state": "finished"})
        waited = wait_until_compacted(service)
    size, points = home.size(), steps * len(metrics)
    part.add(_row(f"disk, {steps:,} steps × {about}, compacted", size, points, waited))
    part.raw[about] = {"points": points, "waited_s": waited} | asdict(size)
    bench.forget(name)


def _row(figure: str, size: Size, points: int, waited: float) -> Target:
    free = "" if size.free is None else f", of which free pages {size.free / points:.2f}"
    note = f" a point{free}; an empty database {size.empty / points:.2f}; {waited:.1f} s after the end of the run"
    return at_most(figure, size.whole / points, BYTES_PER_POINT, " bytes", digits=2, note=note)


def _send_all(port: int, run: str, metrics: Sequence[str], steps: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for seq, first in enumerate(range(0, steps, FRAME_ROWS), 1):
        block = curve_block(2, metrics, first, min(FRAME_ROWS, steps - first))
        body = encode_frame(Frame(VERSION, "", "rank0", seq, [block]))
        connection.request("POST", f"/api/v1/runs/{run}/frames", body, {"Content-Type": FRAME_MEDIA_TYPE})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"A frame was refused: HTTP {answer.status} {content[:300]!r}")
    connection.close()
