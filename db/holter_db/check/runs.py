"""The invariants of one run: what other tables say of it agrees with its points, and with one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.health import SEVERITIES, readable
from holter_db.captures import KINDS
from holter_db.check.model import Check, Finding
from holter_db.check.repairs import EVENT_KEY, captured, health_counted, if_unmoved, rewritten, statement
from holter_db.check.search import look_at_search
from holter_db.check.stored import RESTORE, Stored
from holter_db.incidents import OPEN_STATES, incident_id
from holter_db.schema import (
    attempts,
    captures,
    command_answers,
    commands,
    events,
    incidents,
    rule_state,
    series,
    writers,
)

__all__ = ["RUN_CHECKS"]


def look_at_stored(_conn: Connection, stored: Stored) -> Iterator[Finding]:
    yield from stored.findings


def look_at_frames(_conn: Connection, stored: Stored) -> Iterator[Finding]:
    """Every commit of a frame gave the run one position more, so a frame that is missing, or there twice, shows."""
    acknowledged, found = stored.run["position"], stored.segments + stored.folded
    if found != acknowledged:
        what = f"The run has acknowledged {acknowledged} frames, and {found} of them are there"
        yield Finding("frames", what, RESTORE, stored.id)


def look_at_writers(conn: Connection, stored: Stored) -> Iterator[Finding]:
    known = {
        row.writer_id: row
        for row in conn.execute(
            sa.select(writers.c.writer_id, writers.c.attempt, writers.c.last_seq).where(writers.c.run_id == stored.id)
        )
    }
    numbers = set(conn.scalars(sa.select(attempts.c.attempt).where(attempts.c.run_id == stored.id)))
    for writer_id in sorted(set(stored.newest_seq) - set(known)):
        yield Finding("writers", f"There are points of writer {writer_id}, which is not there", RESTORE, stored.id)
    for writer_id, row in known.items():
        if row.attempt not in numbers:
            what = f"Writer {writer_id} belongs to attempt {row.attempt}, which is not there"
            yield Finding("writers", what, RESTORE, stored.id)
        newest = stored.newest_seq.get(writer_id, 0)
        if newest > row.last_seq:
            what = f"Writer {writer_id} has sent segment {newest}, and its newest is said to be {row.last_seq}"
            this = sa.and_(writers.c.run_id == stored.id, writers.c.writer_id == writer_id)
            behind = sa.update(writers).where(this, writers.c.last_seq < newest).values(last_seq=newest)
            yield Finding("writers", what, "--repair corrects it.", stored.id, statement(behind))
    if stored.run["attempt"] not in numbers | {1}:
        what = f"The run's newest attempt, {stored.run['attempt']}, is not there"
        yield Finding("writers", what, RESTORE, stored.id)


def look_at_catalogue(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """Count, range, last value and non-finite counts of each series are those of its stored points."""
    if not stored.whole:
        return  # what can't be read would be missing from the comparison
    rows = {
        (row["writer_id"], row["metric"]): row
        for row in conn.execute(sa.select(series).where(series.c.run_id == stored.id)).mappings()
    }
    for key in sorted(set(rows) | set(stored.series)):
        name = f"{key[1]!r} of writer {key[0]}"
        if key not in stored.series:
            this = sa.and_(series.c.run_id == stored.id, series.c.writer_id == key[0], series.c.metric == key[1])
            what = f"The catalogue has {name}, of which no point is stored"
            gone = if_unmoved(stored.mark, sa.delete(series).where(this))
            yield Finding("catalogue", what, "--repair removes the row.", stored.id, gone, name)
            continue
        tally = stored.series[key]
        wrong = tally.differs(rows[key]) if key in rows else ["everything"]
        if wrong:
            what = f"The catalogue of {name} is not what its points say: {', '.join(wrong)}"
            repair = None if key not in rows and not tally.times_known else rewritten(stored.mark, key, tally.row())
            advice = "--repair counts it anew." if repair else RESTORE
            yield Finding("catalogue", what, advice, stored.id, repair, name)


def look_at_first_steps(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """An attempt shadows older ones from its least step on, that of system metrics left out."""
    if not stored.whole:
        return
    first: dict[int, int] = {}
    of_writers = sa.select(writers.c.writer_id, writers.c.attempt, writers.c.name).where(_of(writers, stored))
    for row in conn.execute(of_writers):
        if "/" not in row.name and (step := stored.first_step.get(row.writer_id)) is not None:
            first[row.attempt] = min(step, first.get(row.attempt, step))
    of_attempts = sa.select(attempts.c.attempt, attempts.c.first_step).where(_of(attempts, stored))
    for number, said in conn.execute(of_attempts):
        wanted = first.get(number)
        if said != wanted:
            what = f"Attempt {number} begins at step {wanted}, and is said to begin at {said}"
            this = sa.and_(_of(attempts, stored), attempts.c.attempt == number)
            corrected = if_unmoved(stored.mark, sa.update(attempts).where(this).values(first_step=wanted))
            yield Finding("first_steps", what, "--repair corrects it.", stored.id, corrected, f"attempt {number}")


def look_at_incidents(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """Each has the id that the API calls it by, and the run's health is that of those that are open."""
    found: dict[str, int] = dict.fromkeys(SEVERITIES, 0)
    counts = sa.and_(incidents.c.muted.is_(None), incidents.c.settled_at.is_(None)).label("counts")
    query = sa.select(incidents.c.incident, incidents.c.id, incidents.c.state, incidents.c.severity, counts)
    for row in conn.execute(query.where(_of(incidents, stored))):
        wanted = incident_id(stored.id, row.incident)
        if row.id != wanted:
            what = f"Incident {row.incident} is called {row.id!r} and should be called {wanted!r}"
            this = sa.and_(_of(incidents, stored), incidents.c.incident == row.incident)
            renamed = statement(sa.update(incidents).where(this).values(id=wanted))
            yield Finding("incidents", what, "--repair corrects it.", stored.id, renamed)
        if row.counts and row.state in OPEN_STATES and row.severity in found:
            found[row.severity] += 1
    health = next((severity for severity in ("critical", "warning") if found[severity]), "healthy")
    said: dict[str, int] = {severity: stored.run[f"open_{severity}"] for severity in SEVERITIES}
    if said != found or stored.run["health"] != health:
        really, told = f"{health} with {_counted(found)}", f"{stored.run['health']} with {_counted(said)}"
        what = f"The run is {really}, and is said to be {told}"
        yield Finding("incidents", what, "--repair counts them anew.", stored.id, health_counted(stored.id))


def look_at_commands(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """Commands belong to attempts, and answers to commands."""
    there = sa.exists().where(attempts.c.run_id == commands.c.run_id, attempts.c.attempt == commands.c.attempt)
    for row in conn.execute(sa.select(commands.c.id, commands.c.attempt).where(_of(commands, stored), ~there)):
        what = f"Command {row.id!r} is for attempt {row.attempt}, which is not there"
        yield Finding("commands", what, RESTORE, stored.id)
    asked = sa.exists().where(*(commands.c[a] == command_answers.c[b] for a, b in _ANSWER_KEY))
    query = sa.select(command_answers).where(_of(command_answers, stored), ~asked)
    for row in conn.execute(query):
        what = f"{row.writer} of attempt {row.attempt} has answered command {row.command!r}, which is not there"
        this = sa.and_(
            _of(command_answers, stored), command_answers.c.attempt == row.attempt,
            command_answers.c.command == row.command, command_answers.c.writer == row.writer,
        )  # fmt: skip
        removed = statement(sa.delete(command_answers).where(this))
        yield Finding("commands", what, "--repair removes the answer.", stored.id, removed)


_ANSWER_KEY = (("run_id", "run_id"), ("attempt", "attempt"), ("id", "command"))


def look_at_captures(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """Each flight and stacks event has its short row beside it, and each such row its event."""
    same = sa.and_(*(events.c[name] == captures.c[name] for name in ("run_id", *EVENT_KEY)))
    lost = sa.select(*(captures.c[name] for name in EVENT_KEY)).where(
        _of(captures, stored), ~sa.exists().where(same).correlate(captures)
    )
    for row in conn.execute(lost).mappings():
        what = f"There is a capture of event {_event(row)}, which is not there"
        this = sa.and_(_of(captures, stored), *(captures.c[name] == row[name] for name in EVENT_KEY))
        removed = statement(sa.delete(captures).where(this))
        yield Finding("captures", what, "--repair removes the capture.", stored.id, removed)
    bare = sa.select(*(events.c[name] for name in EVENT_KEY), events.c.kind).where(
        _of(events, stored), events.c.kind.in_(KINDS), ~sa.exists().where(same).correlate(events)
    )
    for row in conn.execute(bare).mappings():
        what = f"Event {_event(row)} is a {row['kind']} that no incident can find"
        yield Finding("captures", what, "--repair makes it known.", stored.id, captured(stored.id, dict(row)))


def look_at_rule_state(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """The memory of the health rules can be read, and is of frames that there are."""
    query = sa.select(rule_state.c.position, rule_state.c.state).where(rule_state.c.run_id == stored.id)
    row = conn.execute(query).one_or_none()
    if row is None:
        return
    if row.position > stored.run["position"]:
        what = f"The health rules remember frame {row.position} of {stored.run['position']}"
        yield Finding("rule_state", what, RESTORE, stored.id)
    if row.state is not None and not readable(row.state):
        what = "What the health rules remember of the run can't be read"
        yield Finding("rule_state", what, "They begin anew with its next points; nothing else is lost.", stored.id)


RUN_CHECKS: tuple[Check[Stored], ...] = (
    Check("segments", "every segment, fold and chunk can be read and is what it says of itself", look_at_stored),
    Check("frames", "every acknowledged frame is there once", look_at_frames),
    Check("writers", "points belong to writers, and writers to attempts", look_at_writers),
    Check("catalogue", "the catalogue says what the points say", look_at_catalogue),
    Check("search", "runs are found by what they have", look_at_search),
    Check("first_steps", "an attempt begins where its points do", look_at_first_steps),
    Check("incidents", "the run's health is that of its open incidents", look_at_incidents),
    Check("commands", "commands belong to attempts, answers to commands", look_at_commands),
    Check("captures", "flights and stacks belong to events, and are known", look_at_captures),
    Check("rule_state", "what the health rules remember can be read", look_at_rule_state),
)


def _of(table: sa.Table, stored: Stored) -> sa.ColumnElement[bool]:
    return table.c.run_id == stored.id


def _event(row: Any) -> str:
    return f"{row['writer_id']}-{row['seq']}-{row['number']}"


def _counted(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {severity}" for severity, count in found.items() if count) or "no open incident"
