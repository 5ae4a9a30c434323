"""An open-loop load generator: many writers on connections of their own, each with a request at fixed times.

One thread, epoll, precomputed requests. A late answer does not delay the schedule: the writer's next requests wait for
it on our side, and every latency counts from the time at which its request was due, so that nothing that a stall
delays is left out ("coordinated omission", G. Tene).
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from store_frames import Template

__all__ = ["Load", "open_loop"]

PATIENCE_S = 30.0  # for answers, once the schedule is over
AGAIN = (429, 503)
RETRY_S = 1.0


@dataclass
class Load:
    """What came of it. Latencies in seconds, a list for each second of the schedule; a request that was not answered
    at all has the time for which it was waited.
    """

    latencies: list[list[float]]
    late_sends: list[float] = field(default_factory=list)  # seconds behind the schedule, of writers that were free
    refused: int = 0  # answers 429 and 503; sent again
    failed: int = 0  # other answers than 200, and connections that broke
    unanswered: int = 0
    cpu_s: float = 0.0  # processor time of this process

    @property
    def requests(self) -> int:
        return sum(map(len, self.latencies)) + self.failed

    def missed(self, deadline_s: float) -> int:
        """Requests that were not acknowledged in time."""
        return sum(each > deadline_s for second in self.latencies for each in second) + self.failed

    def quantiles(self) -> dict[str, float]:
        every = np.concatenate([np.asarray(second) for second in self.latencies])
        found = np.quantile(every, [0.5, 0.99, 0.999, 1.0]).tolist()
        return dict(zip(("p50", "p99", "p99.9", "max"), found, strict=True))


class _Writer:
    """One connection. At most one request is on its way; what is due meanwhile waits."""

    def __init__(self, port: int, template: Template) -> None:
        self.template = template
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due: deque[float] = deque()  # the first one is on its way if `busy`
        self.busy = False
        self.answer = b""

    def send_next(self) -> None:
        self._send(self.template.advance(time.time()))

    def send_again(self) -> None:
        self._send(self.template.again())

    def _send(self, request: bytearray) -> None:
        self.busy = True
        sent = self.socket.send(request)
        assert sent == len(request), "a request of one step fits into the buffer of an idle connection"

    def receive(self) -> int | None:
        """The status of the answer once it is whole.

        Raises:
            ConnectionError: the connection is closed.
        """
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("the service hung up")
        self.answer += got
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.answer[:end].lower()
        place = head.index(b"content-length:") + 15
        length = int(head[place:].split(b"\r\n", 1)[0])
        if len(self.answer) < end + 4 + length:
            return None
        status, self.answer = int(self.answer[9:12]), b""
        return status


def open_loop(port: int, templates: Sequence[Template], seconds: int, warm_up: int = 2) -> Load:
    """A request of each template every second for ``warm_up + seconds`` seconds; what is due in the first ``warm_up``
    is left out. The phases of the writers are spread evenly over the second.
    """
    writers = [_Writer(port, template) for template in templates]
    load = Load([[] for _ in range(seconds)])
    gc.collect()
    gc.freeze()
    try:
        _Loop(writers, load, seconds, warm_up).run()
    finally:
        gc.unfreeze()
        for writer in writers:
            writer.socket.close()
    return load


class _Loop:
    def __init__(self, writers: list[_Writer], load: Load, seconds: int, warm_up: int) -> None:
        self.writers, self.load, self.warm_up = writers, load, warm_up
        self.total = (seconds + warm_up) * len(writers)
        self.poll: Any = select.epoll()
        self.of = {writer.socket.fileno(): writer for writer in writers}
        for number in self.of:
            self.poll.register(number, select.EPOLLIN)
        self.again: deque[tuple[float, _Writer]] = deque()  # refused requests, by the time to send them again
        self.waiting = 0

    def run(self) -> None:
        begin = time.perf_counter() + 0.1
        count, due = 0, begin
        gap = 1.0 / len(self.writers)
        cpu = None
        self.begin = begin
        while count < self.total or (self.waiting and time.perf_counter() < due + PATIENCE_S):
            now = time.perf_counter()
            while count < self.total and begin + count * gap <= now:
                due = begin + count * gap
                if cpu is None and due >= begin + self.warm_up:
                    cpu = time.process_time()
                self._fall_due(self.writers[count % len(self.writers)], due, now)
                count += 1
            while self.again and self.again[0][0] <= now:
                self.again.popleft()[1].send_again()
            pause = begin + count * gap - now if count < self.total else 0.05
            self._listen(max(0.0, min(pause, 0.05)))
        self.load.cpu_s = time.process_time() - (cpu or 0.0)
        self._give_up_waiting(time.perf_counter())

    def _fall_due(self, writer: _Writer, due: float, now: float) -> None:
        writer.due.append(due)
        self.waiting += 1
        if not writer.busy:
            self.load.late_sends.append(now - due)
            writer.send_next()

    def _listen(self, pause: float) -> None:
        for number, _ in self.poll.poll(pause):
            writer = self.of[number]
            try:
                status = writer.receive()
            except ConnectionError:
                self._give_up(number)
                continue
            if status is not None:
                self._answered(writer, status)

    def _answered(self, writer: _Writer, status: int) -> None:
        now = time.perf_counter()
        if status in AGAIN:
            self.load.refused += 1
            self.again.append((now + RETRY_S, writer))
            return
        due = writer.due.popleft()
        self.waiting -= 1
        second = int(due - self.begin) - self.warm_up
        if status != 200:
            self.load.failed += 1
        elif second >= 0:
            self.load.latencies[second].append(now - due)
        writer.busy = False
        if writer.due:
            writer.send_next()

    def _give_up_waiting(self, now: float) -> None:
        self.load.unanswered = self.waiting
        for writer in self.writers:
            for due in writer.due:
                second = int(due - self.begin) - self.warm_up
                if second >= 0:
                    self.load.latencies[second].append(now - due)

    def _give_up(self, number: int) -> None:
        """A connection that broke: all that waits for it has failed."""
        self.poll.unregister(number)
        writer = self.of.pop(number)
        self.load.failed += len(writer.due)
        self.waiting -= len(writer.due)
        writer.due.clear()
        writer.busy = True  # so that nothing is sent on it any more
