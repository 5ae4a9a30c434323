"""Durable ingest over HTTP with the rules on: one connection as fast as it goes, and many writers at once."""

from __future__ import annotations

import http.client
import resource
import statistics
import time
from collections.abc import Sequence

from figures import median_interval, quantile_interval
from holter_service import Service
from store_databases import Home
from store_frames import METRICS, Template, frame_bodies
from store_load import open_loop
from store_parts import Bench, Effort, Part, at_least, at_most, cpu_seconds, told

from holter.wire import FRAME_MEDIA_TYPE

POINTS_PER_S = 1_000_000
P99_MS = 500.0
STREAMS = ((1_000, False), (10_000, False), (1_000, True), (10_000, True))
METRICS_OF_MANY = tuple(f"loss/part{index:02}" for index in range(20))


def measure(bench: Bench) -> Part:
    part = Part("ingest")
    home = bench.home("ingest")
    with bench.service(home, "ingest") as service:
        for rows, zipped in STREAMS:
            figure = f"ingest, one connection, frames of {rows:,} × 8{', gzip' if zipped else ''}"
            rates, cpu = _one_connection(bench.effort, service, home, rows, zipped)
            spent = f"; service {1e6 * statistics.median(cpu):.2f} µs of processor time a point"
            part.add(at_least(figure, median_interval(rates), POINTS_PER_S, " points/s", note=spent))
            part.raw[figure] = {"points_per_s": rates, "cpu_s_per_point": cpu}
        opened = len(service.ask("GET", "/incidents?limit=1000")["incidents"])
    part.raw["incidents_of_healthy_runs"] = opened
    bench.forget("ingest")
    many = bench.home("writers")
    with bench.service(many, "writers") as service:
        _many_writers(bench, part, service, many)
    bench.forget("writers")
    return part


# --- one connection ---------------------------------------------------------------------------------------------


def _one_connection(
    effort: Effort, service: Service, home: Home, rows: int, zipped: bool
) -> tuple[list[float], list[float]]:
    """Points per second, and seconds of the service's processor time for a point, of each repetition."""
    run = service.ask("POST", "/runs", {"project": "bench"})["run"]["id"]
    frames = max(1, effort.frames_points // (rows * len(METRICS)))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    rates, cpu = [], []
    for turn in range(effort.repetitions + 1):
        bodies = frame_bodies(1, rows, turn * frames + 1, frames, zipped=zipped)
        before, began = cpu_seconds(service, home), time.perf_counter()
        _send(connection, run, bodies, zipped)
        seconds = time.perf_counter() - began
        if turn:  # the first one warms up
            rates.append(frames * rows * len(METRICS) / seconds)
            cpu.append((cpu_seconds(service, home) - before) / (frames * rows * len(METRICS)))
    connection.close()
    _check_count(service, run, (effort.repetitions + 1) * frames * rows)
    return rates, cpu


def _send(connection: http.client.HTTPConnection, run: str, bodies: Sequence[bytes], zipped: bool) -> None:
    headers = {"Content-Type": FRAME_MEDIA_TYPE} | ({"Content-Encoding": "gzip"} if zipped else {})
    for body in bodies:
        connection.request("POST", f"/api/v1/runs/{run}/frames", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"A frame was refused: HTTP {answer.status} {content[:300]!r}")


def _check_count(service: Service, run: str, rows: int) -> None:
    metrics = service.ask("GET", f"/runs/{run}/metrics")["metrics"]
    counts = {metric["name"]: metric["count"] for metric in metrics}
    if counts != dict.fromkeys(METRICS, rows):
        raise SystemExit(f"The service has not kept what it acknowledged: {counts}, not {rows} each")


# --- many writers -----------------------------------------------------------------------------------------------


def _many_writers(bench: Bench, part: Part, service: Service, home: Home) -> None:
    effort = bench.effort
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, effort.writers + 500)), hard))
    print(f"  {effort.writers:,} writers, {effort.writers_s} s …", flush=True)
    templates = [
        Template(service.ask("POST", "/runs", {"project": "bench", "name": f"w{index}"})["run"]["id"],
                 METRICS_OF_MANY, index, effort.writers_s + 4)
        for index in range(effort.writers)
    ]  # fmt: skip
    before, began = cpu_seconds(service, home), time.perf_counter()
    load = open_loop(service.port, templates, effort.writers_s)
    seconds = time.perf_counter() - began
    spent = cpu_seconds(service, home) - before
    frames = sum(template.seq for template in templates)  # with the warm-up
    found = {name: 1000 * value for name, value in load.quantiles().items()}
    name = f"{effort.writers:,} writers × 20 metrics, 1 step/s, {effort.writers_s} s"
    interval = quantile_interval([[1000 * each for each in second] for second in load.latencies], 0.99)
    part.add(
        at_most(f"{name}: p99 until acknowledged", interval, P99_MS, " ms"),
        told(f"{name}: p50, p99.9, max", ", ".join(f"{found[each]:,.0f} ms" for each in ("p50", "p99.9", "max"))),
        at_most(f"{name}: not acknowledged within 1 s", float(load.missed(1.0)), 0.0, "",
                note=f" of {load.requests:,} ({load.refused} refused and sent again)"),
        told(f"{name}: processors busy", f"service {spent / seconds:.2f} ({1000 * spent / frames:.2f} ms a frame), "
             f"load generator {load.cpu_s / effort.writers_s:.2f}; it sent up to "
             f"{1000 * max(load.late_sends):.0f} ms late"),
    )  # fmt: skip
    part.raw["writers"] = found | {
        "writers": effort.writers, "requests": load.requests, "refused": load.refused, "failed": load.failed,
        "unanswered": load.unanswered, "missed": load.missed(1.0), "service_cpu_s": spent,
        "generator_cpu_s": load.cpu_s, "seconds": seconds, "late_send_p99_ms": 1000 * _p99(load.late_sends),
    }  # fmt: skip


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0
