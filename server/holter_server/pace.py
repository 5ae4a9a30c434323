"""How long a commit waits for company: not at all for who waits for its answer, a moment where many write now and then.

A commit costs about the same for one frame as for twenty. A client that sends its next frame once it has the answer to
the last one would be slowed down by any pause, and nobody else would use it; a thousand trainings that each send
something once a second don't notice one, and share what it costs.
"""

from __future__ import annotations

import math

__all__ = ["PAUSE_S", "Pace"]

# Measured with 1,000 writers of one small frame a second on two cores: see docs/decisions/0005.
PAUSE_S = 0.02
COMPANY = 2.0  # frames that have to be expected within a pause
RATE_S = 0.5  # over which arrivals are counted


class Pace:
    """Pure: the times are the caller's, of one monotonic clock, in seconds.

    >>> pace = Pace()
    >>> for k in range(1000):
    ...     calm = not pace.arrive(f"run{k}", k / 1000)
    >>> calm, pace.pause(1.0)
    (True, 0.02)
    >>> pace.answer(["run7"], 1.0)
    >>> pace.arrive("run7", 1.001)
    True
    """

    def __init__(self) -> None:
        self._begin = 0.0
        self._arrived = 0
        self._rate = 0.0  # arrivals a second
        self._answered: dict[str, float] = {}
        self._answered_before: dict[str, float] = {}
        self._turn = 0.0

    def arrive(self, order: str, now: float) -> bool:
        """Note a frame of the run ``order``; True if it should not wait, since its run just had an answer."""
        self._count(now)
        answered = self._answered.get(order, self._answered_before.get(order, -math.inf))
        return now - answered < PAUSE_S

    def answer(self, orders: list[str], now: float) -> None:
        """Note that frames of these runs were answered."""
        if now - self._turn > PAUSE_S:  # what is older than two pauses is forgotten
            self._answered_before, self._answered, self._turn = self._answered, {}, now
        self._answered.update(dict.fromkeys(orders, now))

    def pause(self, now: float) -> float:
        """Seconds that a commit should wait for frames that are not here yet."""
        self._count(now, 0)
        return PAUSE_S if self._rate * PAUSE_S >= COMPANY else 0.0

    def _count(self, now: float, frames: int = 1) -> None:
        passed = now - self._begin
        if passed >= RATE_S:
            self._rate = self._arrived / passed
            self._begin, self._arrived = now, 0
        self._arrived += frames
