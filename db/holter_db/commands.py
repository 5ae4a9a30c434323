"""What the service asks of a run: requested → delivered → acknowledged → done or failed, never backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import CommandUpdate
from holter_db.errors import QueryError
from holter_db.names import new_id
from holter_db.schema import commands

__all__ = ["CommandRow", "list_commands", "mark_delivered", "pending", "request", "update"]

_ORDER = ("requested", "delivered", "acknowledged", "done", "failed")
_PENDING = ("requested", "delivered")


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command. The field names are those of its JSON."""

    id: str
    name: str
    args: dict[str, Any]
    state: str  # requested | delivered | acknowledged | done | failed
    requested_at: float
    requested_by: str
    delivered_at: float | None
    acknowledged_at: float | None
    done_at: float | None
    step: int | None  # at which the training carried it out
    result: str | None


def request(  # noqa: PLR0917 - the order in which a command is spoken of: who shall do what, who says so, when
    conn: Connection, run_id: str, name: str, args: dict[str, Any], by: str, now: float
) -> CommandRow:
    """Ask the run for something. Asking again before the run has seen it changes nothing.

    Args:
        by: who asks: a person, or a rule such as "rule:non_finite_loss".

    Raises:
        QueryError: the name is empty or too long.
    """
    if not name.strip() or len(name) > 64:
        raise QueryError("A command's name has 1 to 64 characters", 'Use "stop", "checkpoint" or "dump".')
    for row in pending(conn, run_id):
        if (row.name, row.args) == (name, args):
            return row
    row = CommandRow(new_id(now), name, args, "requested", now, by, None, None, None, None, None)
    values = {field: getattr(row, field) for field in CommandRow.__slots__}
    conn.execute(sa.insert(commands), {"run_id": run_id, **values})
    return row


def pending(conn: Connection, run_id: str) -> list[CommandRow]:
    """Commands that the run has not acknowledged, oldest first.

    Delivered ones are among them: the answer that carried them may have been lost, and the agent knows their ids.
    """
    return _rows(conn, commands.c.run_id == run_id, commands.c.state.in_(_PENDING))


def mark_delivered(conn: Connection, run_id: str, ids: Sequence[str], now: float) -> list[CommandRow]:
    """The commands were put into an answer to the run; those that this changed."""
    fresh = (commands.c.run_id == run_id, commands.c.id.in_(list(ids)), commands.c.state == "requested")
    changed = conn.scalars(
        sa.update(commands).where(*fresh).values(state="delivered", delivered_at=now).returning(commands.c.id)
    ).all()
    return _rows(conn, commands.c.run_id == run_id, commands.c.id.in_(changed)) if changed else []


def update(conn: Connection, run_id: str, answer: CommandUpdate) -> CommandRow | None:
    """The training's answer to a command; None where it answers to one that is not known.

    A late or repeated answer never takes a command back: a command that is done stays done.
    """
    this = sa.and_(commands.c.run_id == run_id, commands.c.id == answer.id)
    earlier = _ORDER[: min(_ORDER.index(answer.state), _ORDER.index("done"))]
    values: dict[str, Any] = {"state": answer.state}
    values["acknowledged_at"] = sa.func.coalesce(commands.c.acknowledged_at, sa.literal(answer.time))
    values["delivered_at"] = sa.func.coalesce(commands.c.delivered_at, sa.literal(answer.time))
    if answer.state != "acknowledged":
        values["done_at"] = answer.time
    values |= {key: value for key, value in (("result", answer.result), ("step", answer.step)) if value is not None}
    conn.execute(sa.update(commands).where(this, commands.c.state.in_(earlier)).values(values))
    found = _rows(conn, this)
    return found[0] if found else None


def list_commands(conn: Connection, run_id: str) -> list[CommandRow]:
    """Every command of a run, oldest first."""
    return _rows(conn, commands.c.run_id == run_id)


def _rows(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[CommandRow]:
    columns = [commands.c[name] for name in CommandRow.__slots__]
    query = sa.select(*columns).where(*conditions).order_by(commands.c.requested_at, commands.c.id)
    return [CommandRow(*row) for row in conn.execute(query)]
