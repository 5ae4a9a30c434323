"""Comparing: a candidate, or seeds of it, with a baseline."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from holter.health.roles import Role, role_of
from holter_db import incidents, runs
from holter_db.database import Connection
from holter_db.errors import QueryError
from holter_db.incidents import IncidentRow
from holter_db.run_rows import LIVE_STATES
from holter_db.series import MetricInfo, Series, catalogue, read_series
from holter_server import schemas
from holter_server.answers import Json
from holter_server.compare import compare
from holter_server.compare_data import Curve, Record, Trouble
from holter_server.context import Here

router = APIRouter(tags=["compare"])

Side = Annotated[list[str], Field(min_length=1, max_length=20, description="ids, or prefixes that one id has")]
INCIDENTS_PER_PAGE = 1000
_ROLES = (Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.VAL_LOSS, Role.GRAD_NORM, Role.ACCURACY)


class Sides(BaseModel):
    """The runs of the two sides; several on one side are seeds of the same training."""

    model_config = ConfigDict(extra="forbid")
    baseline: Side
    candidate: Side
    metrics: list[str] = Field(
        default_factory=lambda: ["*"], min_length=1, max_length=100, description="globs: accuracies and losses to list"
    )


@router.post("/compare", response_model=schemas.ComparisonAnswer)
def post(here: Here, body: Sides) -> Json:
    """What the runs show without statistics, row by row, and a verdict only where one side broke and the other didn't.

    Everything else is `undetermined`, with the reason and what would decide it. In `rows`, `difference` is candidate −
    baseline in the metric's unit; for `speed` it is the candidate's gain in steps per second, in percent.
    """

    def load(conn: Connection) -> tuple[list[Record], list[Record]]:
        old, new = ([here.run_id(conn, text) for text in side] for side in (body.baseline, body.candidate))
        _check_sides(old, new)
        return [_record(conn, run) for run in old], [_record(conn, run) for run in new]

    baseline, candidate = here.read(load)
    found = compare(baseline, candidate, lambda name: any(fnmatchcase(name, glob) for glob in body.metrics))
    return Json({"comparison": found})


def _check_sides(baseline: list[str], candidate: list[str]) -> None:
    named = [*baseline, *candidate]
    twice = sorted({run for run in named if named.count(run) > 1})
    if twice:
        raise QueryError(f"Named more than once: {', '.join(twice)}", "Every run belongs to one side, once.")


def _record(conn: Connection, run_id: str) -> Record:
    row = runs.get_run(conn, run_id)
    metrics = catalogue(conn, run_id)
    wanted = [metric.name for metric in metrics if _is_wanted(metric.name)]
    return Record(
        id=row.id,
        project=row.project,
        config=row.config,
        environment=row.environment,
        running=row.state in LIVE_STATES,
        planned_steps=row.planned_steps,
        last_step=_last_step(metrics),
        curves=_curves(read_series(conn, run_id, wanted)) if wanted else {},
        logged=frozenset(metric.name for metric in metrics),
        troubles=[_trouble(incident) for incident in _incidents(conn, run_id)],
    )


def _is_wanted(name: str) -> bool:
    if name.startswith("system/"):
        return name.endswith("_gb")
    return name == "perf/step_time" or role_of(name) in _ROLES


def _last_step(metrics: list[MetricInfo]) -> int | None:
    """The newest attempt's: what older ones logged beyond its first step is superseded."""
    parts = [part for metric in metrics for part in metric.series]
    newest = max((part.attempt for part in parts), default=0)
    return max((part.last_step for part in parts if part.attempt == newest), default=None)


def _curves(found: list[Series]) -> dict[str, Curve]:
    """One curve a metric: of the least rank that logs it, all attempts joined without what is superseded."""
    by_metric: dict[str, list[Series]] = {}
    for item in found:
        by_metric.setdefault(item.metric, []).append(item)
    return {metric: _joined(parts) for metric, parts in by_metric.items()}


def _joined(parts: list[Series]) -> Curve:
    # One rank's step times and losses stand for all; of memory the fullest rank counts, so all are kept.
    if not parts[0].metric.startswith("system/"):
        first = min(((0, part.rank) if part.rank is not None else (1, 0), part.writer) for part in parts)[1]
        parts = [part for part in parts if part.writer == first]
    steps, times, values = [], [], []
    for part in parts:
        kept = slice(None) if part.shadowed_from is None else part.steps < part.shadowed_from
        steps.append(part.steps[kept])
        times.append(part.times[kept])
        values.append(part.values[kept])
    joined = np.concatenate(steps)
    order = np.argsort(joined, kind="stable")
    return Curve(joined[order], np.concatenate(times)[order], np.concatenate(values)[order])


def _incidents(conn: Connection, run_id: str) -> list[IncidentRow]:
    found: list[IncidentRow] = []
    cursor: str | None = None
    while True:
        page, cursor = incidents.list_incidents(conn, run=run_id, limit=INCIDENTS_PER_PAGE, cursor=cursor)
        found.extend(page)
        if cursor is None:
            return found


def _trouble(row: IncidentRow) -> Trouble:
    terminal = row.kind == "non_finite" and row.evidence.get("class") == "C" and row.state != "resolved"
    return Trouble(row.kind, row.severity, row.metric, row.step, terminal)
