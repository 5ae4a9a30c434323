"""The live feed: what was committed goes to every socket that asked for it, coalesced and bounded.

A connection never holds more than `POINTS_HELD` points: a client that reads too slowly is told that it is behind and
asks the REST view again, so that one sleeping tab costs nothing but its own picture.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

import numpy as np

from holter.wire import dump_json
from holter_server.notices import EVERY_RUN, Notice, PointsOf

__all__ = ["Hub", "LiveConnection", "Subscription"]

POINTS_HELD = 50_000
MESSAGES_HELD = 500
RUN_PAUSE_S = 1.0  # the list of runs hears of one run at most this often
SEND_TIMEOUT_S = 30.0

Message = dict[str, Any]


class Subscription:
    """What one subscription has still to be told."""

    def __init__(self, name: str, topic: Literal["runs", "run"], run: str | None) -> None:
        self.name = name
        self.topic = topic
        self.run = run
        self._points: dict[tuple[str, str, int], list[PointsOf]] = {}
        self._held = 0
        self._behind = False
        self._messages: deque[Message] = deque()
        self._runs: dict[str, Message] = {}
        self._told_at: dict[str, float] = {}

    def offer(self, notice: Notice) -> bool:
        """Take the notice if it is of this subscription's topic; True if there is now something to send."""
        if notice.kind == "behind" and notice.run in (EVERY_RUN, self.run):
            self._drop()
            return True
        if self.topic == "run":
            if notice.run != self.run:
                return False
        elif notice.kind not in ("run", "incident"):
            return False
        match notice.kind:
            case "points":
                self._take_points(notice.points)
            case "run":
                self._runs[notice.run] = {"type": "run", "id": self.name, **notice.body}
            case kind:
                self._take_message({"type": kind, "id": self.name, **notice.body})
        return True

    def _take_points(self, points: Iterable[PointsOf]) -> None:
        for piece in points:
            self._held += len(piece.steps)
            self._points.setdefault((piece.metric, piece.writer, piece.attempt), []).append(piece)
        if self._held > POINTS_HELD:
            self._drop()

    def _take_message(self, message: Message) -> None:
        self._messages.append(message)
        if len(self._messages) > MESSAGES_HELD:
            self._messages.popleft()
            self._drop()

    def _drop(self) -> None:
        self._points.clear()
        self._held = 0
        self._behind = True

    def take(self, now: float) -> tuple[list[Message], float | None]:
        """The messages to send now, and the seconds until a held-back one may go (None: nothing is held back)."""
        messages: list[Message] = []
        if self._behind:
            messages.append({"type": "behind", "id": self.name})
            self._behind = False
        if self._points:
            series = [_series(key, pieces) for key, pieces in self._points.items()]
            messages.append({"type": "points", "id": self.name, "run": self.run, "series": series})
            self._points = {}
            self._held = 0
        messages.extend(self._messages)
        self._messages.clear()
        wait = self._take_runs(now, messages)
        return messages, wait

    def _take_runs(self, now: float, messages: list[Message]) -> float | None:
        wait: float | None = None
        for run in list(self._runs):
            due = self._told_at.get(run, 0.0) + RUN_PAUSE_S if self.topic == "runs" else 0.0
            if now >= due:
                messages.append(self._runs.pop(run))
                self._told_at[run] = now
            else:
                wait = min(due - now, wait or RUN_PAUSE_S)
        return wait


def _series(key: tuple[str, str, int], pieces: list[PointsOf]) -> Message:
    metric, writer, attempt = key
    return {
        "metric": metric,
        "writer": writer,
        "attempt": attempt,
        "steps": np.concatenate([piece.steps for piece in pieces]),
        "times": np.concatenate([piece.times for piece in pieces]),
        "values": np.concatenate([piece.values for piece in pieces]),
    }


class LiveConnection:
    """One socket's subscriptions and its sender."""

    def __init__(self, send: Callable[[str], Awaitable[None]], interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self.subscriptions: dict[str, Subscription] = {}
        self._wake = asyncio.Event()

    def offer(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            for subscription in self.subscriptions.values():
                if subscription.offer(notice):
                    self._wake.set()

    async def say(self, message: Message) -> None:
        """Send one message at once."""
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._send(dump_json(message).decode())

    async def run(self) -> None:
        """Send what was offered, in batches at least ``interval_s`` apart, until the socket closes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            waits: list[float] = []
            for subscription in list(self.subscriptions.values()):
                messages, wait = subscription.take(loop.time())
                for message in messages:
                    await self.say(message)
                if wait is not None:
                    waits.append(wait)
            if waits:
                loop.call_later(min(waits), self._wake.set)
            await asyncio.sleep(self._interval_s)


class Hub:
    """Every live connection of this process.

    Connections and subscriptions are changed in the event loop; everything else may be called from any thread.
    """

    def __init__(self) -> None:
        self._connections: set[LiveConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: Counter[str | None] = Counter()  # subscriptions of each run; None: of the list of runs

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, connection: LiveConnection) -> None:
        self._connections.add(connection)

    def remove(self, connection: LiveConnection) -> None:
        self._connections.discard(connection)
        for name in list(connection.subscriptions):
            self.unsubscribe(connection, name)

    def subscribe(self, connection: LiveConnection, subscription: Subscription) -> None:
        """Add the subscription, in place of one of the same name."""
        self.unsubscribe(connection, subscription.name)
        connection.subscriptions[subscription.name] = subscription
        self._asked[subscription.run] += 1

    def unsubscribe(self, connection: LiveConnection, name: str) -> None:
        """End the subscription, if there is one of this name."""
        ended = connection.subscriptions.pop(name, None)
        if ended is not None:
            self._asked[ended.run] -= 1
            if not self._asked[ended.run]:
                del self._asked[ended.run]

    def watches(self, run: str) -> bool:
        """Whether a subscription of this very run asks for all that happens in it."""
        return run in self._asked

    @property
    def lists(self) -> bool:
        """Whether a subscription asks for what happens to any run."""
        return None in self._asked

    @property
    def connections(self) -> int:
        return len(self._connections)

    def publish(self, notices: list[Notice]) -> None:
        """Hand ``notices`` to every connection, in the loop's own thread."""
        if notices and self._connections and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._offer, notices)

    def _offer(self, notices: list[Notice]) -> None:
        for connection in self._connections:
            connection.offer(notices)
