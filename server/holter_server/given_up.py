"""Points that a writer has had to give up because its disk bound was reached: an incident on the run.

The engine can't raise it: it sees records, and these are the ones that never came. Its transitions are made here and go
the way of all others, in the transaction of the frame that told of the loss.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from holter.health.model import Action, Kind, Transition
from holter_db.database import Connection
from holter_db.incidents import IncidentRow, list_incidents
from holter_db.ingest import Appended
from holter_db.runs import LIVE_STATES, RunRow

__all__ = ["RULE", "noted", "over"]

RULE = "points-given-up"
# Of the closed list: a configured threshold was reached. "lost" means a run of which nothing is heard, and a run with
# an open incident of that kind is shown as lost.
KIND: Kind = "limit"
ADVICE = (
    "Bring the service back, or mend the way to it: what is on the training's disk is shipped then. Raise "
    "HOLTER_DISK_MAX where the training runs, so that the next outage may last longer. The points that were given up "
    "can't be had back; the run's charts have a gap there."
)


def noted(run: RunRow, writer: str, appended: Appended, now: float) -> list[Transition]:
    """What a frame that tells of more points given up means for the run's incidents."""
    if appended.dropped is None:
        return []
    points = "1 point" if appended.dropped == 1 else f"{appended.dropped:,} points"
    told = Transition(
        action="update",  # the store opens what is not known yet
        incident=_name(appended.attempt, writer),
        rule=RULE,
        kind=KIND,
        severity="warning",
        metric="",
        writer=writer,
        step=run.last_step,
        time=now,
        message=f"{writer} has given up {points}: its disk bound was reached before the service took them",
        value=float(appended.dropped),
        advice=ADVICE,
        evidence={"given_up": appended.dropped, "attempt": appended.attempt},
    )
    if appended.late or run.state not in LIVE_STATES:  # told, and over at once: nothing more can come of it
        return [told, _resolved(told, run.last_step, now)]
    return [told]


def over(conn: Connection, run_id: str, now: float, before: int | None = None) -> list[Transition]:
    """The end of such incidents with the end of the run, or of the attempts ``before`` one that has begun."""
    found, _ = list_incidents(conn, run=run_id, state="open", limit=1000)
    mine = [row for row in found if row.rule == RULE]
    return [_resolved(row, row.last_step, now) for row in mine if before is None or row.evidence["attempt"] < before]


def _resolved(what: Transition | IncidentRow, step: int | None, now: float) -> Transition:
    same: dict[str, Any] = {name: getattr(what, name) for name in ("incident", "rule", "severity", "metric", "writer")}
    action: Action = "resolve"
    return Transition(
        action=action, kind=KIND, step=step, time=now, message="The attempt is over", actions=("notify",), **same
    )


def _name(attempt: int, writer: str) -> str:
    """The same for the same attempt and writer, in the form of the engine's names."""
    digest = hashlib.blake2s(f"{RULE}\x1f{attempt}\x1f{writer}".encode(), digest_size=10).digest()
    return base64.b32encode(digest).decode("ascii").lower()
