"""`init`: puts a run together from its parts. The only place that knows them all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from holter import lifecycle, signals
from holter.environment import describe, plain
from holter.errors import HolterError
from holter.identity import Place, launch_key, new_id, place_of, valid_run_id
from holter.journal import MappedJournal
from holter.link import Hello
from holter.memory import MemoryJournal
from holter.notices import Notices
from holter.resume import step_to_resume
from holter.settings import Settings
from holter.shipper import ProcessShipper, ThreadShipper
from holter.spool import Spool
from holter.training import Run
from holter.values import clean_text
from holter.wire import RunStart, Writer

__all__ = ["init"]


def init(
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | Any = None,
    tags: Iterable[str] = (),
    *,
    group: str | None = None,
    notes: str | None = None,
    id: str | None = None,
    resume: bool = False,
    mode: str | None = None,
    url: str | None = None,
    token: str | None = None,
    dir: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    planned_steps: int | None = None,
) -> Run:
    """Begin to record a training.

    Works without the service: what is logged is kept below ``dir`` and shipped when the service answers.

    Args:
        project: a group of runs; without it ``HOLTER_PROJECT``, or "default".
        name: for people; the service makes one up when absent.
        config: a mapping, a namespace or a data class; kept as plain data.
        id: of the run, to continue it (a new attempt) or to share it among ranks; made when absent.
        resume: count steps on from where run ``id`` stopped, for loops that don't pass ``step``.
        mode: "online" (default), "offline" (keep it on disk for ``holter sync``), "disabled" (record nothing).
        url, token, dir: of the service, and of the recordings; without them ``HOLTER_URL``, ``HOLTER_TOKEN``,
            ``HOLTER_DIR``, or ``http://127.0.0.1:8787``, none, ``.holter``.
        rank: without it torch.distributed's, or ``RANK``, or 0.
        planned_steps: how many there will be, so that the service knows what is late.

    Raises:
        ValueError: an argument, or a ``HOLTER_*`` variable, is not what it may be. A service that is down, or that
            refuses, never raises.
    """
    settings = Settings.read(os.environ, url=url, token=token, directory=dir, mode=mode, project=project)
    notices = Notices(quiet=settings.quiet)
    place = place_of(os.environ, rank)
    run_id = id or os.environ.get("HOLTER_RUN_ID") or launch_key(os.environ, "run") or new_id()
    if not valid_run_id(run_id):
        raise ValueError(f"id={run_id!r} is no run id: use letters, digits, '.', '_' and '-', at most 64 of them.")
    if resume and not (id or os.environ.get("HOLTER_RUN_ID")):
        raise ValueError("resume=True needs the id of the run to continue: init(id=…, resume=True).")
    if settings.mode == "disabled":
        run = Run(id=run_id, project=settings.project, name=name, journal=MemoryJournal(), notices=notices,
                  on_end=lifecycle.forget)  # fmt: skip
        lifecycle.adopt(run)
        return run
    start = RunStart(
        project=clean_text(settings.project),
        id=run_id,
        name=None if name is None else clean_text(name),
        config=_config(config, notices),
        tags=[clean_text(tag) for tag in ([tags] if isinstance(tags, str) else tags or ())],
        group=None if group is None else clean_text(group),
        notes=None if notes is None else clean_text(notes),
        planned_steps=None if planned_steps is None else int(planned_steps),
        attempt=os.environ.get("HOLTER_ATTEMPT") or launch_key(os.environ, "attempt") or new_id(),
        writer=_writer(place),
        started_at=time.time(),
        environment=_environment(),
    )
    first_step = step_to_resume(settings, run_id) if resume else 0
    run = _begin(start, settings, notices, first_step)
    lifecycle.adopt(run)
    return run


def _begin(start: RunStart, settings: Settings, notices: Notices, first_step: int) -> Run:
    try:
        spool, system = _spools(start, settings, notices)
        journal = MappedJournal(
            spool.journal, notices, disk_max=settings.disk_max, shipped_to=lambda: spool.cursor().offset
        )
    except OSError as error:
        notices.warn("directory", f"nothing can be recorded, since no folder can be written: {error}. Set HOLTER_DIR.")
        return Run(id=str(start.id), project=start.project, journal=MemoryJournal(), notices=notices,
                   on_end=lifecycle.forget)  # fmt: skip
    start = spool.start
    hello = Hello(
        str(spool.path),
        str(system.path),
        os.getpid(),
        replace(settings, directory=settings.directory.absolute()),
        signals.install(spool.path),
        os.environ.get("LOCAL_RANK", "0") == "0",
    )
    shipper = (ProcessShipper if settings.shipper == "process" else ThreadShipper)(hello, notices)
    run = Run(
        id=str(start.id),
        project=start.project,
        name=start.name,
        journal=journal,
        notices=notices,
        attempt=start.attempt,
        writer=start.writer.name,
        shipper=shipper,
        directory=spool.path.parent,
        url=f"{settings.url}/runs/{start.id}" if settings.mode == "online" else None,
        first_step=first_step,
        finish_timeout=settings.finish_timeout,
        facts=(start.planned_steps, start.config, start.tags),
        on_end=lifecycle.forget,
    )
    notices.say(f"recording run {run.id} of {run.project}: {run.url or f'{run.directory} (offline)'}")
    shipper.start(run)
    return run


def _spools(start: RunStart, settings: Settings, notices: Notices) -> tuple[Spool, Spool]:
    """The run's spool and its system spool; in a temporary folder where the directory can't be written."""
    try:
        return _make_spools(settings.directory, start)
    except OSError as error:
        elsewhere = Path(tempfile.gettempdir()) / f"holter-{os.getuid() if hasattr(os, 'getuid') else 'recordings'}"
        spools = _make_spools(elsewhere, start)
        notices.warn("directory", f"{settings.directory} can't be written ({error.strerror}); recording in {elsewhere}")
        return spools


def _make_spools(directory: Path, start: RunStart) -> tuple[Spool, Spool]:
    try:
        spool = Spool.create(directory.absolute(), start)
    except FileExistsError:
        # The attempt was given, or made from the launcher, and this rank has recorded under it before: another
        # process lifetime is another attempt, or its frames would pass for those that are there already.
        start = msgspec.structs.replace(start, attempt=new_id())
        spool = Spool.create(directory.absolute(), start)
    writer = msgspec.structs.replace(start.writer, name=f"{start.writer.name}/system")
    return spool, Spool.create(directory.absolute(), msgspec.structs.replace(start, writer=writer))


def _writer(place: Place) -> Writer:
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return Writer(name=place.writer, rank=place.rank, world_size=place.world_size, host=host, pid=os.getpid())


def _config(config: Any, notices: Notices) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        found = plain(config)
        return found if isinstance(found, dict) else {"config": found}
    except Exception as error:  # noqa: BLE001 - a configuration holds anything
        notices.warn("config", f"the configuration can't be kept: {clean_text(error)}")
        return {}


def _environment() -> dict[str, Any]:
    try:
        return describe()
    except (OSError, HolterError, ValueError):
        return {}
