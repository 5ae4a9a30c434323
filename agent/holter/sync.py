"""`sync`: ships what was recorded offline, or what a training left behind. Safe to repeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from holter.courier import Courier, Shipped
from holter.errors import HolterError
from holter.notices import Notices
from holter.settings import Settings
from holter.spool import Spool, find_spools
from holter.transport import Backoff, Outcome, Transport, Verdict

__all__ = ["SpoolReport", "SyncReport", "sync"]


@dataclass(frozen=True, slots=True)
class SpoolReport:
    """What became of one writer's recording."""

    path: Path
    run: str
    writer: str
    shipped: Shipped  # by this call
    complete: bool  # nothing readable is left behind
    ended: bool  # the recording says how the run ended, and the service knows it
    problem: str | None = None  # why it is not complete, and what to do


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one call of `sync` has done."""

    spools: list[SpoolReport] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return all(spool.complete for spool in self.spools)

    @property
    def points(self) -> int:
        """Points that this call has brought to the service."""
        return sum(spool.shipped.points for spool in self.spools)

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(spool.run for spool in self.spools))


def sync(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    url: str | None = None,
    token: str | None = None,
    *,
    patience: float = 30.0,
    on_progress: Callable[[Spool, Shipped], None] = lambda _spool, _shipped: None,
) -> SyncReport:
    """Ship every recording at or below ``paths``. What the service has is not sent again.

    Args:
        url, token: of the service; without them ``HOLTER_URL`` and ``HOLTER_TOKEN``.
        patience: seconds for which a service that is down or overloaded is tried again, for each recording.
        on_progress: called after each frame.

    Raises:
        SpoolError: a path holds no recording. What the service refuses is in the report.
        ValueError: ``url`` is no address.
    """
    settings = Settings.read(os.environ, url=url, token=token, mode="online")
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    spools = {spool.path.resolve(): spool for path in listed for spool in find_spools(Path(path))}
    transport = Transport(settings.url, settings.token, connect=settings.connect_timeout, read=30.0)
    try:
        return SyncReport([_ship(spool, transport, patience, on_progress) for spool in _in_order(spools.values())])
    finally:
        transport.close()


def _in_order(spools: Iterable[Spool]) -> list[Spool]:
    """By start, and a training's own spool, which ends the run, behind that of its system metrics."""
    return sorted(spools, key=lambda spool: (spool.start.started_at or 0.0, "/" not in spool.start.writer.name))


def _ship(
    spool: Spool, transport: Transport, patience: float, on_progress: Callable[[Spool, Shipped], None]
) -> SpoolReport:
    courier = Courier(spool, transport, Notices())
    problem: str | None = None
    try:
        if _opened(courier, patience):
            problem = _ship_all(courier, patience, lambda: on_progress(spool, courier.shipped))
        else:
            problem = "Its own training is shipping it just now."
    except (OSError, HolterError) as error:
        problem = str(error)
    finally:
        courier.close()
    start = spool.start
    return SpoolReport(
        spool.path, str(start.id), start.writer.name, courier.shipped, problem is None, courier.ended, problem
    )


def _opened(courier: Courier, patience: float) -> bool:
    """Wait while somebody else ships the spool: a run that has just ended, or another ``holter sync``."""
    give_up_at = time.monotonic() + patience
    while not courier.open():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.1)
    return True


def _ship_all(courier: Courier, patience: float, progressed: Callable[[], None]) -> str | None:
    """None once nothing is left; otherwise why not."""
    backoff = Backoff(longest=5.0)
    give_up_at = time.monotonic() + patience
    while (outcome := courier.step()) is not None:
        if outcome.done:
            progressed()
            backoff.reset()
            give_up_at = time.monotonic() + patience
            continue
        pause = backoff.pause(outcome.retry_after)
        if outcome.verdict is not Verdict.LATER or time.monotonic() + pause > give_up_at:
            return _reason(outcome)
        time.sleep(pause)
    return None


def _reason(outcome: Outcome) -> str:
    if outcome.kind in ("run_deleted", "run_purged"):
        return f"{outcome.message}. {outcome.hint}."
    advice = {
        Verdict.DENIED: "Set HOLTER_TOKEN to a token the service knows (`holter token create` makes one).",
        Verdict.LATER: "Start the service (holter serve), or give its address (--url, HOLTER_URL), and sync again.",
        Verdict.MISSING: "Is that address a Holter service (HOLTER_URL)?",
    }
    return " ".join(part for part in (f"{outcome.message}.", outcome.hint, advice.get(outcome.verdict, "")) if part)
