"""What projects keep: limits by age and by number, and which runs they would cost."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from holter_db import retention
from holter_db.database import Connection
from holter_db.retention import Due, Policy
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.upkeep import default_policy

router = APIRouter(tags=["retention"])

Project = Annotated[str, Path(max_length=128)]
Days = Annotated[float | None, Query(gt=0, le=1_000_000, description="try this limit instead of what is set")]
RawDays = Annotated[float | None, Query(gt=0, le=1_000_000, description="try this limit instead of what is set")]
Runs = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="try this limit instead of what is set")]


class Limits(BaseModel):
    """What a project keeps; a limit that is null or absent does not exist."""

    model_config = ConfigDict(extra="forbid")
    days: float | None = Field(None, gt=0, le=1_000_000, description="days after a run's last sign of life")
    runs: int | None = Field(None, ge=1, le=2**31 - 1, description="the newest so many runs")
    raw_days: float | None = Field(
        None, gt=0, le=1_000_000, description="days after a run's last sign of life for its raw points; charts stay"
    )


@router.get("/retention", response_model=schemas.RetentionsAnswer)
def list_(here: Here) -> Json:
    """What each project keeps, and the default of the settings for those that say nothing."""
    default = default_policy(here.settings)

    def question(conn: Connection) -> list[shapes.Shape]:
        own = retention.own_policies(conn)
        return [
            shapes.retention(project, policy, own=project in own)
            for project, policy in retention.policies(conn, default).items()
        ]

    answer = {
        "projects": here.read(question),
        "default": shapes.plain(default),
        "purge_after_days": here.settings.purge_after_days,
    }
    return Json(answer)


@router.get("/retention/due", response_model=schemas.DueRunsAnswer)
def due(
    *,
    here: Here,
    project: Annotated[str | None, Query(max_length=128)] = None,
    days: Days = None,
    runs: Runs = None,
    raw_days: RawDays = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Json:
    """Runs that would be deleted now, or lose their raw points (`thin`), and why; nothing is done. `days`, `runs` and
    `raw_days` try limits that are not set yet.
    """
    default = default_policy(here.settings)
    tried = Policy(days, runs, raw_days)

    def question(conn: Connection) -> list[Due]:
        kept = retention.policies(conn, default)
        wanted = kept if project is None else {project: kept.get(project, default)}
        now = time.time()
        return [
            row
            for name, policy in wanted.items()
            for row in retention.due_runs(conn, name, policy if tried.off else tried, now, limit)
        ]

    return Json({"runs": [shapes.plain(row) for row in here.read(question)[:limit]]})


@router.get("/projects/{name}/retention", response_model=schemas.RetentionAnswer)
def show(here: Here, name: Project) -> Json:
    """What a project keeps. `of` says whether that was set for it, or is the default of the settings."""
    own = here.read(lambda conn: retention.get_policy(conn, name))
    policy = default_policy(here.settings) if own is None else own
    return Json({"retention": shapes.retention(name, policy, own=own is not None)})


@router.put("/projects/{name}/retention", response_model=schemas.RetentionAnswer)
def put(here: Here, name: Project, body: Limits) -> Json:
    """Set what a project keeps, in place of the default. Runs with the tag `keep` and runs that run are never deleted;
    what is deleted can be restored until it is purged.
    """
    policy = Policy(body.days, body.runs, body.raw_days)
    here.writer.call(lambda tx: retention.set_policy(tx.conn, name, policy, tx.now), order=f" {name}")
    return Json({"retention": shapes.retention(name, policy, own=True)})


@router.delete("/projects/{name}/retention", response_model=schemas.RetentionAnswer)
def clear(here: Here, name: Project) -> Json:
    """Let the default of the settings hold for a project again."""
    here.writer.call(lambda tx: retention.clear_policy(tx.conn, name), order=f" {name}")
    return Json({"retention": shapes.retention(name, default_policy(here.settings), own=False)})
