"""One measurement in one process, in the environment of the tracker measured: ``worker.py PEER TASK FOLDER OPTIONS``.

OPTIONS is JSON. The result is written to ``FOLDER/result.json``, since trackers print what they like.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from adapters import Agent, Log, load
from data import row, tally
from store_tasks import STORE_TASKS

MARK = "HOLTER_BENCH_MARK"  # in the environment of a worker and of every process that it starts


def helpers(agent_only: str = "") -> list[psutil.Process]:
    """Processes that the tracker has started, detached ones, too; only those with ``agent_only`` in their command."""
    mark = os.environ[MARK]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                command = " ".join(process.cmdline())
                if agent_only in command:
                    found.append(process)
    return found


# --- back to back -------------------------------------------------------------------------------------------------


def tight(agent: Agent, options: dict[str, Any]) -> dict[str, Any]:
    """Microseconds of each ``log`` call, back to back, after 50 calls that are not counted."""
    log = agent.begin()
    rows = [row(step) for step in range(4096)]
    for step in range(50):
        log(dict(rows[step]), step)
    costs = _timed(log, rows, 50, options["calls"], options["seconds"])
    return {"calls": len(costs), **_quantiles(costs)}


def _timed(log: Log, rows: list[dict[str, float]], first: int, calls: int, seconds: float) -> list[int]:
    clock = time.perf_counter_ns
    costs = []
    until = clock() + int(seconds * 1e9)
    for step in range(first, first + calls):
        values = dict(rows[step % 4096])
        begin = clock()
        log(values, step)
        end = clock()
        costs.append(end - begin)
        if end > until:
            break
    return costs


def _quantiles(costs: list[int]) -> dict[str, float]:
    found = np.quantile(np.array(costs) / 1000, [0.5, 0.99, 0.999, 1.0]).tolist()
    return dict(zip(("median", "p99", "p99.9", "max"), found, strict=True))


# --- a loop of 1 ms steps -----------------------------------------------------------------------------------------


class Work:
    """About 1 ms of numpy for each call: a small network's forward pass, in place."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x, self.y = rng.standard_normal((96, 96)), np.empty((96, 96))
        self.weights = rng.standard_normal((96, 96)) / 10
        self.repeats = 1
        single = min(self._seconds() for _ in range(300))
        self.repeats = max(1, round(0.001 / single))

    def _seconds(self) -> float:
        begin = time.perf_counter()
        self()
        return time.perf_counter() - begin

    def __call__(self) -> None:
        for _ in range(self.repeats):
            np.matmul(self.x, self.weights, out=self.y)
            np.tanh(self.y, out=self.x)


class Loop:
    """Blocks of steps, with ``log`` and without. Only a block's inside is timed."""

    def __init__(self, step: Callable[[], None], log: Log) -> None:
        self.step, self.log, self.steps = step, log, 50
        self.rows = [row(step) for step in range(4096)]
        self.logged = 0

    def block(self, arm: str) -> tuple[int, int]:
        """Nanoseconds of wall time, and of processor time of this thread."""
        run = self._with_log if arm == "log" else self._without
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        run()
        return time.perf_counter_ns() - wall, time.thread_time_ns() - cpu

    def _with_log(self) -> None:
        work, log, rows, first = self.step, self.log, self.rows, self.logged
        for step in range(first, first + self.steps):
            work()
            log(dict(rows[step % 4096]), step)  # the dictionary is part of what logging costs
        self.logged += self.steps

    def _without(self) -> None:
        work, first = self.step, self.logged
        for _step in range(first, first + self.steps):
            work()


class Beside:
    """What the tracker has running beside the training thread. It is stopped while the loop without logging is timed,
    so that work left over from logging is paid by the loop with logging. A service on this machine counts as one.
    """

    def __init__(self, service: int | None) -> None:
        self._service = [psutil.Process(service)] if service else []
        self._helpers: list[psutil.Process] = []
        self._stopped = False
        self.refresh()

    def refresh(self) -> None:
        self.let_run()
        self._helpers = helpers()

    def stop(self) -> None:
        if not self._stopped:
            self._send(signal.SIGSTOP)
            self._stopped = True

    def let_run(self) -> None:
        if self._stopped:
            self._send(signal.SIGCONT)
            self._stopped = False

    def _send(self, number: int) -> None:
        for process in [*self._helpers, *self._service]:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def cpu(self) -> float:
        """Seconds of processor time of this process's other threads and of the helpers, not of the service."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        total = own.ru_utime + own.ru_stime - time.thread_time()
        for process in self._helpers:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def paced(agent: Agent, options: dict[str, Any]) -> dict[str, Any]:
    """Turns of three blocks (with logging, without, without again), in a random order each, for each kind of loop:

    busy: the step is about 1 ms of numpy. sleep: it is a sleep of 1 ms. alone: as busy, with everything beside the
    training thread stopped while it logs, too, which leaves the cost of the thread itself.
    """
    work = Work()
    log = agent.begin()
    began = time.monotonic()
    beside = Beside(options.get("service"))
    loop = Loop(work, log)
    for arm in ("log", "without", "log", "without"):
        loop.block(arm)
    early = memory(began)
    result: dict[str, Any] = {"repeats": work.repeats}
    for kind, (turns, steps) in options["loops"].items():
        loop.step, loop.steps = (_sleep if kind == "sleep" else work), steps
        cpu, logged = beside.cpu(), loop.logged
        triples = list(_turns(loop, beside, turns, alone=kind == "alone"))
        spent = 1e6 * (beside.cpu() - cpu) / max(1, loop.logged - logged)
        result[kind] = {"steps": steps, "triples": triples, "beside_us": spent}
    loop.step = work
    while time.monotonic() < began + options.get("age_s", 0.0):
        loop.block("log")
    return result | {"memory": [early, memory(began)], "logged": loop.logged}


def _sleep() -> None:
    time.sleep(0.001)


def _turns(loop: Loop, beside: Beside, turns: int, *, alone: bool) -> Iterator[dict[str, tuple[int, int]]]:
    arms, order = ["log", "without", "again"], random.Random(turns)
    try:
        for index in range(turns):
            if index % 20 == 0:
                beside.refresh()
            order.shuffle(arms)
            triple = {}
            for arm in arms:
                if arm == "log" and not alone:
                    beside.let_run()
                else:
                    beside.stop()
                triple[arm] = loop.block(arm)
            yield triple
            if alone:  # what was logged is shipped outside of what is timed
                beside.let_run()
                time.sleep(0.05)
    finally:
        beside.let_run()


def memory(began: float) -> dict[str, Any]:
    """Resident, proportional and unique memory of each helper in bytes, and the age of the run in seconds."""
    found = []
    for process in helpers():
        with contextlib.suppress(psutil.Error):
            full = process.memory_full_info()
            command = " ".join(process.cmdline())
            found.append({"command": command, "rss": full.rss, "pss": full.pss, "uss": full.uss})
    return {"age": time.monotonic() - began, "helpers": found}


# --- init ---------------------------------------------------------------------------------------------------------


class StartTimes:
    """Seconds spent in starting processes and threads, by whichever call of the standard library."""

    def __init__(self) -> None:
        self.seconds = {"processes": 0.0, "threads": 0.0}
        self._inside = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        places = [(subprocess.Popen, "__init__", "processes"), (os, "posix_spawn", "processes"),
                  (os, "posix_spawnp", "processes"), (os, "fork", "processes"),
                  (threading.Thread, "start", "threads")]  # fmt: skip
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for owner, name, kind in places:
            setattr(owner, name, self._timed(getattr(owner, name), kind))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if self._inside or threading.current_thread() is not threading.main_thread():
                return function(*args, **named)
            self._inside = True
            begin = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.seconds[kind] += time.perf_counter() - begin
                self._inside = False

        return call


def init(agent: Agent, _: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the first and of a second start of a run in this process, and the parts that start helpers."""
    starts = []
    for _again in range(2):
        times = StartTimes()
        with times.watching():
            wall, cpu = time.perf_counter(), time.thread_time()
            agent.begin()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        starts.append({"wall": wall, "cpu": cpu, **times.seconds})
        agent.end()
    return {"first": starts[0], "second": starts[1]}


# --- kill -9 ------------------------------------------------------------------------------------------------------


def crash(agent: Agent, options: dict[str, Any]) -> None:
    """Steps back to back, a pause, 50 more, and SIGKILL to itself behind the last call."""
    steps, last = options["steps"], options["steps"] + 50
    rows = [row(step) for step in range(last)]
    log = agent.begin()
    costs, killed = [], None
    clock = time.perf_counter_ns
    for step in range(steps):
        if step == steps // 2 and options.get("kill") is not None:
            killed = _kill_helper(options["kill"], options["kill_after"])
        values = rows[step]
        begin = clock()
        log(values, step)
        costs.append(clock() - begin)
    write(agent.folder, {**_quantiles(costs), "killed": killed})
    time.sleep(0.3)
    for step in range(steps, last):
        log(rows[step], step)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_helper(command: str, after_s: float) -> int:
    """SIGKILL to the helper with ``command``, ``after_s`` seconds after it was found; how many there were."""
    until = time.monotonic() + 3.0
    while not (found := helpers(command)) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(after_s if found else 0.0)
    for process in found:
        process.kill()
    return len(found)


def read(agent: Agent, options: dict[str, Any]) -> dict[str, Any]:
    return dict(tally(agent.read(), options["steps"] + 50, agent.precision))


def write(folder: Path, result: object) -> None:
    partial = folder / "result.part"
    partial.write_text(json.dumps(result))
    partial.rename(folder / "result.json")


TASKS: dict[str, Callable[[Agent, dict[str, Any]], Any]] = {
    "tight": tight,
    "paced": paced,
    "init": init,
    "crash": crash,
    "read": read,
    **STORE_TASKS,
}


def main(peer: str, task: str, folder: Path, options: dict[str, Any]) -> None:
    agent = load(peer)(folder, options)
    write(folder, TASKS[task](agent, options))
    if task in ("tight", "paced"):
        agent.end()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
