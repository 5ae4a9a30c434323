"""What the service asks of an attempt: requested → delivered → acknowledged → done or failed, never backwards.

Every rank of the attempt gets the command and answers for itself; the command's own state is what the answers make of
it. One that a newer attempt has overtaken is ``expired``: a stop must not stop the run that was resumed after it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import CommandUpdate
from holter_db.errors import QueryError
from holter_db.many import Lookup, bound, members
from holter_db.names import new_id
from holter_db.schema import command_answers, commands, runs
from holter_db.upsert import insert_new
from holter_db.writers import list_ranks

__all__ = [
    "UNFINISHED",
    "CommandAnswer",
    "CommandRow",
    "answer",
    "expire",
    "find_commands",
    "list_commands",
    "mark_delivered",
    "note_dry_run",
    "pending",
    "request",
    "settle",
    "waiting",
]

UNFINISHED = ("requested", "delivered", "acknowledged")
_FINAL = ("done", "failed")
_GUARDS_ID = re.compile(r"[A-Za-z0-9_.]{1,64}-([A-Za-z0-9_.:-]{1,64})")  # "<incident>-<name>"


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """What one rank has said to a command."""

    writer: str
    state: str  # acknowledged | done | failed
    time: float  # of the answer, seconds, UTC
    result: str | None
    step: int | None  # at which the rank carried it out
    acknowledged_at: float


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command of one attempt. The field names are those of its JSON."""

    id: str
    attempt: int
    name: str
    args: dict[str, Any]
    state: str  # requested | delivered | acknowledged | done | failed | expired | dry_run (only written down)
    requested_at: float
    requested_by: str
    delivered_at: float | None
    acknowledged_at: float | None
    done_at: float | None
    step: int | None  # at which the training carried it out
    result: str | None
    answers: tuple[CommandAnswer, ...] = ()


_COLUMNS = tuple(name for name in CommandRow.__slots__ if name != "answers")


def request(  # noqa: PLR0917 - the order in which a command is spoken of: who shall do what, who says so, when
    conn: Connection,
    run_id: str,
    name: str,
    args: dict[str, Any],
    by: str,
    now: float,
    *,
    attempt: int | None = None,
    id: str | None = None,
) -> CommandRow:
    """Ask an attempt for something. Asking again before the run has seen it changes nothing.

    Args:
        by: who asks: a person, or a rule such as "rule:non_finite_loss".
        attempt: None stands for the newest one.
        id: the command's name where it follows from its cause. If the attempt has such a command, it is that one.

    Raises:
        QueryError: the name is empty or too long.
    """
    if not name.strip() or len(name) > 64:
        raise QueryError("A command's name has 1 to 64 characters", 'Use "stop", "checkpoint" or "dump".')
    number = attempt or conn.scalar(sa.select(runs.c.attempt).where(runs.c.id == run_id)) or 1
    if id is not None and (known := _one(conn, run_id, number, id)) is not None:
        return _explained(conn, run_id, known, args)
    if id is None:
        for row in _rows(conn, _of(run_id, number), commands.c.state.in_(("requested", "delivered"))):
            if (row.name, row.args) == (name, args):
                return row
    row = CommandRow(id or new_id(now), number, name, args, "requested", now, by, None, None, None, None, None)
    conn.execute(sa.insert(commands), {"run_id": run_id, **_values(row)})
    return row


def note_dry_run(  # noqa: PLR0917 - as `request`
    conn: Connection, run_id: str, attempt: int, id: str, name: str, args: dict[str, Any], by: str, now: float
) -> CommandRow:
    """Write down what a rule in a dry run would have asked for; no rank is told."""
    result = f"would have asked for: {name}"
    row = CommandRow(id, attempt, name, args, "dry_run", now, by, None, None, now, None, result)
    conn.execute(sa.insert(commands), {"run_id": run_id, **_values(row)})
    return row


def _explained(conn: Connection, run_id: str, row: CommandRow, args: dict[str, Any]) -> CommandRow:
    """A command that was known by its answer alone, now with the reason for it."""
    if row.args or not args:
        return row
    conn.execute(sa.update(commands).where(_this(run_id, row.attempt, row.id)).values(args=args))
    return replace(row, args=args)


def pending(conn: Connection, run_id: str, attempt: int, writer: str) -> list[CommandRow]:
    """Commands of the attempt that this rank has not answered, oldest first.

    Delivered ones are among them: the response that carried them may have been lost, and the agent knows their ids.
    So are those that another rank has failed at: a stop has to reach every rank that can still be reached.
    """
    mine = sa.and_(
        command_answers.c.run_id == commands.c.run_id,
        command_answers.c.attempt == commands.c.attempt,
        command_answers.c.command == commands.c.id,
        command_answers.c.writer == writer,
    )
    return _rows(
        conn,
        _of(run_id, attempt),
        commands.c.state.in_((*UNFINISHED, "failed")),
        ~sa.exists().where(mine).correlate(commands),
    )


def waiting(conn: Connection, run_ids: Collection[str]) -> set[str]:
    """Those of the runs that have a command which `pending` may give to somebody."""
    return {run_id for (run_id,) in _WAITING.rows(conn, bound(run_ids))}


def _waiting(dialect: str) -> sa.Select[Any]:
    unanswered = sa.or_(*(commands.c.state == sa.literal_column(f"'{state}'") for state in (*UNFINISHED, "failed")))
    these = commands.c.run_id.in_(members(dialect, "runs"))
    return sa.select(commands.c.run_id).where(these, unanswered).distinct()


def mark_delivered(conn: Connection, run_id: str, attempt: int, ids: Sequence[str], now: float) -> list[CommandRow]:
    """The commands were put into an answer to the run; those that this changed."""
    fresh = (_of(run_id, attempt), commands.c.id.in_(list(ids)), commands.c.state == "requested")
    changed = conn.scalars(
        sa.update(commands).where(*fresh).values(state="delivered", delivered_at=now).returning(commands.c.id)
    ).all()
    return _rows(conn, _of(run_id, attempt), commands.c.id.in_(changed)) if changed else []


def answer(  # noqa: PLR0917 - whose answer it is, then what was said
    conn: Connection, run_id: str, attempt: int, writer: str, said: CommandUpdate, now: float
) -> CommandRow | None:
    """Write down what a rank says to a command; None where nobody can have asked for such a command.

    A late or repeated answer takes nothing back. An answer to a command "<incident>-<name>" that is not known comes
    from the agent's guard, which runs the rules beside the training and was quicker: the command is made of it.
    """
    row = _one(conn, run_id, attempt, said.id) or _made_by_guard(conn, run_id, attempt, said)
    if row is None:
        return None
    _write_answer(conn, run_id, attempt, writer, said)
    # Of an attempt that a newer one has overtaken nobody is waited for.
    alive = set() if row.state == "expired" else _alive(conn, run_id, attempt, now)
    return _settled(conn, run_id, _one(conn, run_id, attempt, said.id) or row, alive)


def settle(conn: Connection, run_id: str, attempt: int, now: float) -> list[CommandRow]:
    """Look at the attempt's unfinished commands again once a rank is gone; those that this finished."""
    unfinished = _rows(conn, _of(run_id, attempt), commands.c.state.in_(UNFINISHED))
    if not unfinished:
        return []
    alive = _alive(conn, run_id, attempt, now)
    settled = [(row, _settled(conn, run_id, row, alive)) for row in unfinished]
    return [after for before, after in settled if after != before]


def expire(conn: Connection, run_id: str, before: int) -> list[CommandRow]:
    """Attempt ``before`` has begun: what earlier ones have not finished, nobody shall do any more."""
    old = (commands.c.run_id == run_id, commands.c.attempt < before, commands.c.state.in_(UNFINISHED))
    changed = conn.execute(
        sa.update(commands).where(*old).values(state="expired").returning(commands.c.attempt, commands.c.id)
    ).all()
    found = (_one(conn, run_id, attempt, id) for attempt, id in changed)
    return [row for row in found if row is not None]


def list_commands(conn: Connection, run_id: str, attempt: int | None = None) -> list[CommandRow]:
    """Every command of a run, or of one attempt, oldest first."""
    return _rows(conn, commands.c.run_id == run_id if attempt is None else _of(run_id, attempt))


def find_commands(
    conn: Connection, run_id: str, keys: Collection[tuple[int, str]]
) -> dict[tuple[int, str], CommandRow]:
    """Those commands of a run that there are, by attempt and id."""
    wanted = set(keys)
    rows = _rows(conn, commands.c.run_id == run_id, commands.c.id.in_([id for _, id in wanted]))
    return {key: row for row in rows if (key := (row.attempt, row.id)) in wanted}


def _made_by_guard(conn: Connection, run_id: str, attempt: int, said: CommandUpdate) -> CommandRow | None:
    named = _GUARDS_ID.fullmatch(said.id)
    if named is None:
        return None
    newest = conn.scalar(sa.select(runs.c.attempt).where(runs.c.id == run_id)) or attempt
    state = "expired" if attempt < newest else "requested"
    row = CommandRow(said.id, attempt, named[1], {}, state, said.time, "guard", None, None, None, None, None)
    conn.execute(sa.insert(commands), {"run_id": run_id, **_values(row)})
    return row


def _write_answer(conn: Connection, run_id: str, attempt: int, writer: str, said: CommandUpdate) -> None:
    key = {"run_id": run_id, "attempt": attempt, "command": said.id, "writer": writer}
    what = {"state": said.state, "time": said.time, "result": said.result, "step": said.step}
    if insert_new(conn, command_answers, key | what | {"acknowledged_at": said.time}, key=tuple(key)):
        return
    if said.state in _FINAL:
        here = (command_answers.c[name] == value for name, value in key.items())
        unfinished = command_answers.c.state == "acknowledged"
        conn.execute(sa.update(command_answers).where(*here, unfinished).values(what))


def _alive(conn: Connection, run_id: str, attempt: int, now: float) -> set[str]:
    ranks = list_ranks(conn, run_id, attempt)
    return {rank.name for rank in ranks if rank.state == "running" and not rank.silent(now)}


def _settled(conn: Connection, run_id: str, row: CommandRow, alive: Collection[str]) -> CommandRow:
    """The command as its answers make it; what it has become is written down."""
    after = _judged(row, alive)
    if after != row:
        conn.execute(sa.update(commands).where(_this(run_id, row.attempt, row.id)).values(_values(after)))
    return after


def _judged(row: CommandRow, alive: Collection[str]) -> CommandRow:
    state = _overall(row.answers, alive)
    if row.state in _FINAL or state is None or (row.state == "expired" and state not in _FINAL):
        return row
    seen = min(said.acknowledged_at for said in row.answers)
    told = [said for said in row.answers if said.state == state] or list(row.answers)  # some have done it, not all
    spoken = next((said for said in told if said.result is not None), told[0])
    result = spoken.result
    if state == "failed" and len(row.answers) > 1:
        result = f"{spoken.writer}: {result}" if result else f"{spoken.writer} failed"
    at = {"failed": told[0].time, "done": max(said.time for said in told)}.get(state)
    return replace(
        row,
        state=state,
        delivered_at=seen if row.delivered_at is None else row.delivered_at,
        acknowledged_at=seen if row.acknowledged_at is None else row.acknowledged_at,
        done_at=at,
        step=spoken.step,
        result=result,
    )


def _overall(answers: Sequence[CommandAnswer], alive: Collection[str]) -> str | None:
    if any(said.state == "failed" for said in answers):
        return "failed"
    done = {said.writer for said in answers if said.state == "done"}
    if done and done.issuperset(alive):
        return "done"
    return "acknowledged" if answers else None


def _of(run_id: str, attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(commands.c.run_id == run_id, commands.c.attempt == attempt)


def _this(run_id: str, attempt: int, id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_of(run_id, attempt), commands.c.id == id)


def _values(row: CommandRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COLUMNS}


def _one(conn: Connection, run_id: str, attempt: int, id: str) -> CommandRow | None:
    found = _rows(conn, _this(run_id, attempt, id))
    return found[0] if found else None


def _rows(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[CommandRow]:
    columns = [commands.c[name] for name in _COLUMNS]
    query = sa.select(commands.c.run_id, *columns).where(*conditions)
    rows = conn.execute(query.order_by(commands.c.requested_at, commands.c.attempt, commands.c.id)).all()
    if not rows:
        return []
    answers = _answers(conn, rows[0].run_id, {row.id for row in rows})
    return [replace(CommandRow(*row[1:]), answers=tuple(answers.get((row.attempt, row.id), ()))) for row in rows]


def _answers(conn: Connection, run_id: str, ids: Collection[str]) -> dict[tuple[int, str], list[CommandAnswer]]:
    """The answers to each (attempt, command), in the order of their times."""
    fields = [command_answers.c[name] for name in CommandAnswer.__slots__]
    query = (
        sa.select(command_answers.c.attempt, command_answers.c.command, *fields)
        .where(command_answers.c.run_id == run_id, command_answers.c.command.in_(list(ids)))
        .order_by(command_answers.c.time, command_answers.c.writer)
    )
    found: dict[tuple[int, str], list[CommandAnswer]] = {}
    for attempt, command, *said in conn.execute(query):
        found.setdefault((attempt, command), []).append(CommandAnswer(*said))
    return found


_WAITING = Lookup(_waiting, ("runs",))
