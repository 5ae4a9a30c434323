"""What a rule set would have said of a run that is already stored: the live engine over the stored records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holter.health import Engine, RuleSet, Transition
from holter_db import runs
from holter_db.database import Connection
from holter_db.replay import count_incidents, iter_batches
from holter_db.runs import LIVE_STATES, RunRow
from holter_server.engines import facts_of
from holter_server.vital_signs import vitals_of

__all__ = ["backtest"]

SHOWN = ("rule", "kind", "severity", "metric", "writer", "step", "message", "advice")


def backtest(conn: Connection, run_id: str, rules: RuleSet) -> dict[str, Any]:
    """The incidents that ``rules`` find in the run, in the order in which they open, and how many it really had.

    The clock is not replayed, only the run's end: a run that was hung or lost in between left no record of that.

    Raises:
        NotFound: there is no such run.
    """
    run = runs.get_run(conn, run_id)
    found: dict[str, dict[str, Any]] = {}
    for transition in _replay(conn, run, rules):
        _enter(found, transition)
    return {
        "run": run.id,
        "name": run.name,
        "incidents": list(found.values()),
        "already": count_incidents(conn, run.id),
    }


def _replay(conn: Connection, run: RunRow, rules: RuleSet) -> Iterator[Transition]:
    engine = Engine(rules, facts_of(run))
    for batch in iter_batches(conn, run.id):
        yield from engine.observe(batch)
    if run.state not in LIVE_STATES:
        yield from engine.tick(vitals_of(run, run.last_seen_at if run.finished_at is None else run.finished_at))


def _enter(found: dict[str, dict[str, Any]], transition: Transition) -> None:
    """Keep an incident as `holter_db.incidents.apply` does, so that both tell of the same one in the same words."""
    incident = found.get(transition.incident)
    if incident is None:
        found[transition.incident] = {name: getattr(transition, name) for name in SHOWN} | {"resolved_step": None}
    elif transition.action == "resolve":
        incident["resolved_step"] = transition.step
    else:
        incident |= {name: getattr(transition, name) for name in ("kind", "severity", "message")}
        incident["advice"] = transition.advice or incident["advice"]
