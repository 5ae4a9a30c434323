"""Where a run that is resumed counts on, for loops that don't pass their step."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from holter.errors import SpoolError
from holter.records import START, Points
from holter.settings import Settings
from holter.spool import Reader, find_spools
from holter.transport import Transport

__all__ = ["step_to_resume"]

ASK_TIMEOUT = 2.0  # seconds: `init` is outside the loop, but nobody likes to wait for it


def step_to_resume(settings: Settings, run_id: str) -> int:
    """One more than the latest step of the run's recordings here and of what the service knows; 0 for neither."""
    latest = max(_recorded(settings, run_id), _shipped(settings, run_id) if settings.mode == "online" else -1)
    return latest + 1


def _recorded(settings: Settings, run_id: str) -> int:
    try:
        spools = find_spools(settings.directory.absolute() / run_id)
    except SpoolError:
        return -1
    latest = -1
    for spool in spools:
        reader = Reader(spool.path)
        steps = (record.step for record, _ in reader.read(START) if isinstance(record, Points))
        latest = max(latest, max(steps, default=-1))
        reader.close()
    return latest


class _Known(msgspec.Struct):
    last_step: int | None = None


class _Answer(msgspec.Struct):
    run: _Known


def _shipped(settings: Settings, run_id: str) -> int:
    transport = Transport(settings.url, settings.token, connect=ASK_TIMEOUT, read=ASK_TIMEOUT)
    outcome = transport.request("GET", f"/runs/{quote(run_id, safe='')}")
    transport.close()
    if not outcome.done:
        return -1
    try:
        last_step = msgspec.json.decode(outcome.body, type=_Answer).run.last_step
    except msgspec.DecodeError:
        return -1
    return -1 if last_step is None else last_step
