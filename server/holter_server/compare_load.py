"""What a comparison needs of the database: which runs are meant, and each of them as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from holter.health.roles import Role, role_of
from holter_db import events, incidents, runs
from holter_db.database import Connection
from holter_db.errors import QueryError
from holter_db.events import EventRow
from holter_db.incidents import IncidentRow
from holter_db.run_rows import LIVE_STATES, RunRow
from holter_db.run_search import list_runs, resolve_run
from holter_db.series import MetricInfo, Series, catalogue, read_series

if TYPE_CHECKING:
    from holter_server.verdict.data import Curve, Examples, Record, Trouble

__all__ = ["PINNED", "PIN_TAG", "RUNS_MAX", "load_record", "resolve_sides"]

RUNS_MAX = 20  # a side
PINNED = "pinned"
PIN_TAG = "baseline"
INCIDENTS_PER_PAGE = 1000
RUNS_PER_PAGE = 500
EVALUATION = "evaluation"  # kind of the events that hold what each example came to
_KEYS = ("project", "group", "tag", "name")
_ROLES = (
    Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.WEIGHT, Role.VAL_LOSS, Role.GRAD_NORM, Role.ACCURACY, Role.STAGE,
)  # fmt: skip
_PREFIXES = ("perf/step_", "gshare/")


def resolve_sides(conn: Connection, baseline: Sequence[str], candidate: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ids of both sides. An entry is an id, a prefix of one, ``project/name``, ``pinned`` or filters.

    Filters are ``group=seeds-new``, ``tag=a,project=denovo``: every run that fits all of them. ``pinned``: the runs of
    the candidate's project with the tag "baseline".

    Raises:
        NotFound, Conflict, QueryError: nothing fits, too much does, or a run stands on both sides.
    """
    new = _ids(conn, candidate, None)
    project = runs.get_run(conn, new[0]).project
    old = _ids(conn, baseline, project)
    named = [*old, *new]
    twice = sorted({run for run in named if named.count(run) > 1})
    if twice:
        raise QueryError(f"Named more than once: {', '.join(twice)}", "Every run belongs to one side, once.")
    for name, side in (("baseline", old), ("candidate", new)):
        if len(side) > RUNS_MAX:
            raise QueryError(f"The {name} has {len(side)} runs, more than {RUNS_MAX}", "Narrow it by another filter.")
    return old, new


def _ids(conn: Connection, entries: Sequence[str], project: str | None) -> list[str]:
    found: list[str] = []
    for entry in entries:
        if entry == PINNED:
            found += _pinned(conn, project)
        elif "=" in entry:
            found += _filtered(conn, entry)
        else:
            found.append(resolve_run(conn, entry))
    return found


def _pinned(conn: Connection, project: str | None) -> list[str]:
    if project is None:
        raise QueryError("Only the baseline can be pinned", "Name the candidate by its id or by project/name.")
    found = [row.id for row in _all(conn, project=project, tag=PIN_TAG)]
    if not found:
        hint = f'Pin one: holter pin RUN, or give the tag "{PIN_TAG}" to one or several of its runs.'
        raise QueryError(f"Project {project} has no pinned baseline", hint)
    return found


def _filtered(conn: Connection, entry: str) -> list[str]:
    wanted: dict[str, str] = {}
    for part in entry.split(","):
        key, _, value = part.partition("=")
        if key.strip() not in _KEYS or not value:
            raise QueryError(f"{part!r} is no filter", f"Use {', '.join(f'{key}=…' for key in _KEYS)}.")
        wanted[key.strip()] = value
    rows = _all(conn, project=wanted.get("project"), tag=wanted.get("tag"))
    found = [row.id for row in rows if all(getattr(row, k) == v for k, v in wanted.items() if k in ("group", "name"))]
    if not found:
        raise QueryError(f"No run fits {entry}", "holter runs lists them.")
    return found


def _all(conn: Connection, **filters: Any) -> Iterable[RunRow]:
    cursor: str | None = None
    while True:
        page, cursor = list_runs(conn, sort="created_at", limit=RUNS_PER_PAGE, cursor=cursor, **filters)
        yield from page
        if cursor is None:
            return


def load_record(conn: Connection, run_id: str, wanted: Callable[[str], bool]) -> Record:
    """One run with its curves, incidents and evaluations.

    Args:
        wanted: which metrics are needed beside losses, accuracies, gradient norms, step times and memory.
    """
    from holter_server.verdict.data import Record  # noqa: PLC0415 - SciPy comes with it

    row = runs.get_run(conn, run_id)
    metrics = catalogue(conn, run_id)
    names = [metric.name for metric in metrics if _is_wanted(metric.name) or wanted(metric.name)]
    return Record(
        id=row.id,
        project=row.project,
        name=row.name,
        state=row.state,
        config=row.config,
        environment=row.environment,
        running=row.state in LIVE_STATES,
        planned_steps=row.planned_steps,
        last_step=_last_step(metrics),
        curves=_curves(read_series(conn, run_id, names)) if names else {},
        logged=frozenset(metric.name for metric in metrics),
        troubles=[_trouble(incident) for incident in _incidents(conn, run_id)],
        evaluations=_evaluations(events.list_events(conn, run_id, EVALUATION)),
    )


def _is_wanted(name: str) -> bool:
    if name.startswith("system/"):
        return name.endswith("_gb")
    return name.startswith(_PREFIXES) or role_of(name) in _ROLES


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
    from holter_server.verdict.data import Curve  # noqa: PLC0415

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
    from holter_server.verdict.data import Trouble  # noqa: PLC0415

    terminal = row.kind == "non_finite" and row.evidence.get("class") == "C" and row.state != "resolved"
    return Trouble(row.kind, row.severity, row.metric, row.step, terminal)


def _evaluations(rows: Iterable[EventRow]) -> dict[str, dict[int, Examples]]:
    """By metric and step; an event that doesn't hold equally many numbers of both kinds says nothing."""
    found: dict[str, dict[int, Examples]] = {}
    for row in rows:
        examples = _examples(row.data)
        metric = row.data.get("metric")
        if examples is not None and isinstance(metric, str) and row.step is not None:
            found.setdefault(metric, {})[row.step] = examples  # in the order of times: the newest attempt wins
    return found


def _examples(data: Mapping[str, Any]) -> Examples | None:
    from holter_server.verdict.data import Examples  # noqa: PLC0415

    scores = data.get("n_correct", data.get("scores"))
    if not isinstance(scores, list) or not scores:
        return None
    try:
        score = np.array(scores, dtype=float)
        weight = np.array(data.get("n_tokens", [1.0] * len(scores)), dtype=float)
    except (TypeError, ValueError):
        return None
    usable = score.shape == weight.shape and score.ndim == 1 and np.isfinite(score).all() and (weight > 0).all()
    return Examples(weight, score) if usable else None
