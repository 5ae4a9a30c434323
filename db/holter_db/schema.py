"""The tables. Every table that grows has ``run_id`` first in its primary key, so that PostgreSQL can be partitioned
or distributed by run; projects, webhooks, tokens, rule_sets, mutes
and retention are small reference tables.

All times are float64 seconds, UTC. Steps are int64.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, LargeBinary, Table

from holter_db.types import Double, Json, Lines, Words

__all__ = [
    "REVISION",
    "attempts",
    "axes",
    "captures",
    "chunks",
    "command_answers",
    "commands",
    "config_values",
    "deliveries",
    "events",
    "folds",
    "incident_aliases",
    "incidents",
    "metadata",
    "metric_summaries",
    "mutes",
    "projects",
    "purged_runs",
    "retention",
    "rule_sets",
    "rule_state",
    "run_tags",
    "runs",
    "segments",
    "series",
    "tokens",
    "webhooks",
    "writers",
]

# The newest migration; a test compares it with the migrations folder. Known here so that opening an up-to-date
# database need not load Alembic.
REVISION = "0008"

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _of_run() -> Column[str]:
    return Column("run_id", Words, primary_key=True)


def _run_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run_id"], ["runs.id"])


def _of_listed(*columns: str) -> Index:
    """An index of the runs that lists show, in the order of their pages."""
    alive = sa.text("deleted_at IS NULL")
    return Index(None, *columns, "id", sqlite_where=alive, postgresql_where=alive)


def _where(present: str, *columns: str) -> Index:
    """An index of the rows that have the column ``present``."""
    has = sa.text(f"{present} IS NOT NULL")
    return Index(None, *columns, sqlite_where=has, postgresql_where=has)


projects = Table(
    "projects",
    metadata,
    Column("name", Words, primary_key=True),
    Column("created_at", Double, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("group", Words),
    Column("notes", Words),
    Column("tags", Lines, nullable=False),
    Column("config", Json, nullable=False),
    Column("environment", Json, nullable=False),
    Column("state", Words, nullable=False),
    Column("state_reason", Words),
    Column("health", Words, nullable=False),
    Column("open_critical", Integer, nullable=False),
    Column("open_warning", Integer, nullable=False),
    Column("open_info", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("deleted_at", Double),
    Column("deleted_because", Words),
    Column("purging_at", Double),  # since when its rows are being removed: it can't be restored any more
    Column("last_seen_at", Double, nullable=False),
    Column("due_at", Double),
    Column("last_step", BigInteger),
    Column("last_step_at", Double),
    Column("steps_per_second", Double),
    Column("planned_steps", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),  # of the newest segment, in the order of commits
    Column("folds", BigInteger, nullable=False),  # how often segments were folded into chunks
    Column("compacted", BigInteger, nullable=False),  # everything up to this position lies in full chunks, as it stays
    Column("revision", BigInteger, nullable=False),  # of what rules may ask of it: config, tags, planned steps
    _where("deleted_at", "deleted_at"),  # of the others SQLite must not look up that they are not deleted
    # What a list of runs can be sorted by at once, and what it is filtered by beside "newest first". Only columns that
    # a frame does not change: PostgreSQL then needs no index entry for it.
    Index(None, "project", "created_at", "id"),  # of deleted runs as well: their number names the next one
    *(_of_listed(*columns) for columns in (("created_at",), ("name",), ("started_at",), ("finished_at",))),
    *(_of_listed(column, "created_at") for column in ("state", "health", "group")),
)

# The leaves of the configs, for filters and orders; `holter_db.searchable` keeps them in step with runs.config.
config_values = Table(
    "config_values",
    metadata,
    _of_run(),
    Column("key", Words, primary_key=True),  # dotted
    Column("number", Double),
    Column("text", Words),  # its first 300 characters; also of numbers that were written as text
    _run_key(),
    _where("number", "key", "number", "run_id"),
    _where("text", "key", "text", "run_id"),
    sqlite_with_rowid=False,  # the rows lie in the order of their key, once: half the size
)

run_tags = Table(
    "run_tags",
    metadata,
    _of_run(),
    Column("tag", Words, primary_key=True),  # its first 300 characters
    _run_key(),
    Index(None, "tag", "run_id"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    _of_run(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),  # counts from 1
    Column("key", Words, nullable=False),  # as the agent named it
    Column("state", Words, nullable=False),
    Column("state_reason", Words),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("first_step", BigInteger),  # smallest step of its points, system metrics left out
    _run_key(),
    sa.UniqueConstraint("run_id", "key"),
)

writers = Table(
    "writers",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),  # counts from 1 within the run
    Column("attempt", Integer, nullable=False),
    Column("name", Words, nullable=False),
    Column("rank", Integer),
    Column("world_size", Integer),
    Column("host", Words, nullable=False),
    Column("device", Words, nullable=False),
    Column("pid", BigInteger),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("due_at", Double),  # when it promised its next sign of life
    Column("state", Words, nullable=False),  # running, or how it said that it ended
    Column("state_reason", Words),
    Column("finished_at", Double),
    _run_key(),
    sa.UniqueConstraint("run_id", "attempt", "name"),
)

segments = Table(
    "segments",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("points", Integer, nullable=False),
    Column("first_step", BigInteger),
    Column("last_step", BigInteger),
    Column("payload", LargeBinary, nullable=False),
    _run_key(),
    Index(None, "run_id", "position"),
)

# Which frames the chunks hold: one row a fold, so that a frame that comes again is known when its segment is gone.
folds = Table(
    "folds",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("seqs", LargeBinary),  # ascending; NULL: every one from first_seq to last_seq
    _run_key(),
)

# Where the points of a chunk lie. Metrics that were logged together share one, so steps and times are stored once.
# Each column is compressed by `holter_db.codec`; all are in the order of (step, seq, row).
axes = Table(
    "axes",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("axis", BigInteger, primary_key=True, autoincrement=False),  # counts from 1 within the writer
    Column("count", BigInteger, nullable=False),
    Column("first_position", BigInteger, nullable=False),  # least and greatest of its segments' positions
    Column("last_position", BigInteger, nullable=False),
    Column("steps", LargeBinary, nullable=False),
    Column("seqs", LargeBinary, nullable=False),  # of the segment that each point came in
    Column("rows", LargeBinary, nullable=False),  # its row within that segment
    Column("positions", LargeBinary, nullable=False),  # that segment's position
    Column("times", LargeBinary, nullable=False),  # the bits of float64 as int64
    _run_key(),
)

# A slice of one series. Chunks of a series overlap only where points came late; `holter_db.merge` mends that.
chunks = Table(
    "chunks",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("metric", Words, primary_key=True),
    Column("axis", BigInteger, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),  # of the first point
    Column("last_step", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_time", Double),  # of the first and the last point; NULL where times don't ascend with the steps
    Column("last_time", Double),
    # Whether its points are there. Asking that of "values" itself would make SQLite read them: 0.15 ms a row.
    Column("raw", sa.Boolean, nullable=False),
    Column("coarse", LargeBinary, nullable=False),  # its pyramid in at most 8 cells or so; see `holter_db.cells`
    Column("cells", LargeBinary),  # in cells of some 512 points; NULL for a small chunk
    Column("values", LargeBinary),  # NULL once only the pyramid is kept
    _run_key(),
)

series = Table(
    "series",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("metric", Words, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("first_time", Double, nullable=False),
    Column("last_time", Double, nullable=False),
    Column("last", Double, nullable=False),  # of the greatest (step, seq, row); may be NaN
    Column("last_seq", BigInteger, nullable=False),
    Column("min", Double),  # over finite values; NULL where there is none
    Column("max", Double),
    Column("nan", BigInteger, nullable=False),
    Column("positive_infinity", BigInteger, nullable=False),
    Column("negative_infinity", BigInteger, nullable=False),
    _run_key(),
)

# One row for each metric of a run whose points lie in chunks, so that runs can be ordered by a metric without reading
# the series of all of them. Of a run that has segments they may be behind: see `holter_db.summaries`.
metric_summaries = Table(
    "metric_summaries",
    metadata,
    _of_run(),
    Column("metric", Words, primary_key=True),
    Column("last", Double, nullable=False),  # of the newest attempt's greatest step, lowest rank first; may be NaN
    Column("min", Double),  # over finite values; NULL where there is none
    Column("max", Double),
    Column("count", BigInteger, nullable=False),
    Column("non_finite", BigInteger, nullable=False),
    _run_key(),
    *(Index(None, "metric", column, "run_id") for column in ("last", "min", "max", "count", "non_finite")),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # within the frame
    Column("time", Double, nullable=False),
    Column("step", BigInteger),
    Column("kind", Words, nullable=False),
    Column("severity", Words, nullable=False),
    Column("text", Words, nullable=False),
    Column("data", Json, nullable=False),
    _run_key(),
)

# What of an event of kind "flight" or "stacks" is needed to find it and to speak of it. The event itself may hold a
# megabyte of norms, which no list of incidents should read.
captures = Table(
    "captures",
    metadata,
    _of_run(),
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", Words, nullable=False),
    Column("time", Double, nullable=False),
    Column("step", BigInteger),
    Column("first_step", BigInteger),  # of the steps that it covers
    Column("last_step", BigInteger),
    Column("trigger_kind", Words, nullable=False),  # incident | exception | command | hung
    Column("incident", Words),  # that it was made for, as the agent names it
    Column("summary", Json, nullable=False),  # the event's data without what is long
    _run_key(),
)

incidents = Table(
    "incidents",
    metadata,
    _of_run(),
    Column("incident", Words, primary_key=True),  # the engine's name for it, unique within the run
    Column("id", Words, nullable=False),  # "<run_id>-<incident>", what the API calls it
    Column("rule", Words, nullable=False),
    Column("kind", Words, nullable=False),
    Column("severity", Words, nullable=False),
    Column("metric", Words, nullable=False),
    Column("writer", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("step", BigInteger),
    Column("last_step", BigInteger),
    Column("resolved_step", BigInteger),
    Column("time", Double, nullable=False),
    Column("value", Double),
    Column("threshold", Double),
    Column("baseline", Double),
    Column("message", Words, nullable=False),
    Column("resolution", Words),
    Column("advice", Words, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("actions", Lines, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("resolved_at", Double),
    Column("acknowledged_at", Double),
    Column("acknowledged_by", Words),
    Column("snoozed_until", Double),
    Column("muted", Words),  # id of the mute that keeps it quiet
    Column("flaps", Integer, nullable=False),  # times that a flapping incident has opened; 0: it does not flap
    Column("settled_at", Double),  # since when a flapping incident's condition is not met, by the service's clock
    _run_key(),
    Index(None, "id"),
    Index(None, "opened_at"),
)

# While an incident flaps, what the engine opens anew about the same thing is that incident.
incident_aliases = Table(
    "incident_aliases",
    metadata,
    _of_run(),
    Column("incident", Words, primary_key=True),  # the engine's name
    Column("stands_for", Words, nullable=False),  # the engine's name of the incident that it is counted to
    _run_key(),
)

deliveries = Table(
    "deliveries",
    metadata,
    _of_run(),  # "" for a test of a webhook, which belongs to no run: hence no foreign key
    Column("id", Words, primary_key=True),
    Column("webhook", Words, nullable=False),
    Column("incident", Words),
    Column("type", Words, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", Words, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("next_attempt_at", Double),
    Column("lease_until", Double),
    Column("delivered_at", Double),
    Column("last_status", Integer),
    Column("last_error", Words),
    Column("log", Json, nullable=False),
    Column("reason", Words, nullable=False),  # why it was decided to tell; a name of `holter_server.notify.decide`
    Column("held", Words),  # why it does not leave yet; it does at next_attempt_at
    Column("give_up_at", Double),  # a day after it was first due
    Column("grouped_into", Words),  # the delivery that carries it
    Index(None, "id"),
    Index(None, "state", "next_attempt_at"),
    Index(None, "created_at"),
)

commands = Table(
    "commands",
    metadata,
    _of_run(),
    # In the key, because the guards of two attempts may give the same incident, and so its command, the same name.
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("args", Json, nullable=False),
    Column("state", Words, nullable=False),
    Column("requested_at", Double, nullable=False),
    Column("requested_by", Words, nullable=False),
    Column("delivered_at", Double),
    Column("acknowledged_at", Double),
    Column("done_at", Double),
    Column("step", BigInteger),
    Column("result", Words),
    _run_key(),
)

command_answers = Table(
    "command_answers",
    metadata,
    _of_run(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("command", Words, primary_key=True),
    Column("writer", Words, primary_key=True),
    Column("state", Words, nullable=False),
    Column("acknowledged_at", Double, nullable=False),
    Column("time", Double, nullable=False),  # of the newest answer
    Column("result", Words),
    Column("step", BigInteger),
    _run_key(),
)

# The health engine's memory. It is behind the run by a few segments: what came after `position` is observed again.
rule_state = Table(
    "rule_state",
    metadata,
    _of_run(),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # of the newest segment in it
    Column("rules", Integer, nullable=False),  # version of the project's rules that made it; 0: it had none
    Column("state", LargeBinary),
    _run_key(),
)

rule_sets = Table(
    "rule_sets",
    metadata,
    Column("project", Words, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),  # counts from 1; the greatest one applies
    Column("text", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("author", Words, nullable=False),
    Column("comment", Words, nullable=False),
)

mutes = Table(
    "mutes",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project", Words, nullable=False),
    Column("run_id", Words),  # NULL: every run of the project
    Column("rule", Words, nullable=False),
    Column("metric", Words, nullable=False),  # a glob; empty: every metric
    Column("until", Double),  # NULL: until it is taken away
    Column("author", Words, nullable=False),
    Column("comment", Words, nullable=False),
    Column("created_at", Double, nullable=False),
)

# What an agent is told that still has points of a run of which nothing is left: else it would begin the run anew.
purged_runs = Table(
    "purged_runs",
    metadata,
    _of_run(),
    Column("purged_at", Double, nullable=False),
)

# What a project keeps, where it is not what the settings say. NULL: no limit of that kind.
retention = Table(
    "retention",
    metadata,
    Column("project", Words, primary_key=True),
    Column("days", Double),
    Column("runs", Integer),
    Column("raw_days", Double),
    Column("updated_at", Double, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Words, primary_key=True),
    Column("url", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("project", Words),  # NULL: every project
    Column("types", Lines, nullable=False),  # empty: every type
    Column("min_severity", Words, nullable=False),
    Column("enabled", sa.Boolean, nullable=False),
    Column("secret", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("shown", Words, nullable=False),  # the address without what is secret in it
    Column("policy", Json, nullable=False),  # a `holter_db.policies.Policy`
    Column("failures", Integer, nullable=False),  # in a row, of whatever delivery
    Column("open_until", Double),  # the circuit breaker lets nothing through before
    Column("last_error", Words),
    Column("window_at", Double),  # start of the minute that the rate limit counts in
    Column("window_sent", Integer, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", Words, primary_key=True),
    Column("digest", Words, nullable=False, unique=True),  # sha256 of the secret, hex
    Column("created_at", Double, nullable=False),
)
