"""runs, segments, incidents, outbox"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.Column("next_attempt_at", Double(), nullable=True),
        sa.Column("lease_until", Double(), nullable=True),
        sa.Column("delivered_at", Double(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("log", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "id", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_created_at", "deliveries", ["created_at"])
    op.create_index("ix_deliveries_id", "deliveries", ["id"])
    op.create_index("ix_deliveries_state_next_attempt_at", "deliveries", ["state", "next_attempt_at"])

    op.create_table(
        "projects",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    op.create_table(
        "rule_sets",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", "version", name="pk_rule_sets"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("health", sa.Text(), nullable=False),
        sa.Column("open_critical", sa.Integer(), nullable=False),
        sa.Column("open_warning", sa.Integer(), nullable=False),
        sa.Column("open_info", sa.Integer(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.Column("started_at", Double(), nullable=False),
        sa.Column("finished_at", Double(), nullable=True),
        sa.Column("deleted_at", Double(), nullable=True),
        sa.Column("last_seen_at", Double(), nullable=False),
        sa.Column("due_at", Double(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("last_step_at", Double(), nullable=True),
        sa.Column("steps_per_second", Double(), nullable=True),
        sa.Column("planned_steps", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_created_at", "runs", ["created_at"])
    op.create_index("ix_runs_project_created_at", "runs", ["project", "created_at"])
    op.create_index("ix_runs_state", "runs", ["state"])

    op.create_table(
        "tokens",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("types", sa.Text(), nullable=False),
        sa.Column("min_severity", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("started_at", Double(), nullable=False),
        sa.Column("finished_at", Double(), nullable=True),
        sa.Column("first_step", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_attempts_runs"),
        sa.PrimaryKeyConstraint("run_id", "attempt", name="pk_attempts"),
        sa.UniqueConstraint("run_id", "key", name="uq_attempts_run_id_key"),
    )
    op.create_table(
        "commands",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("requested_at", Double(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("delivered_at", Double(), nullable=True),
        sa.Column("acknowledged_at", Double(), nullable=True),
        sa.Column("done_at", Double(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_commands_runs"),
        sa.PrimaryKeyConstraint("run_id", "id", name="pk_commands"),
    )
    op.create_table(
        "events",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time", Double(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_events_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "seq", "number", name="pk_events"),
    )
    op.create_table(
        "incidents",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("resolved_step", sa.BigInteger(), nullable=True),
        sa.Column("time", Double(), nullable=False),
        sa.Column("value", Double(), nullable=True),
        sa.Column("threshold", Double(), nullable=True),
        sa.Column("baseline", Double(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("advice", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("actions", sa.Text(), nullable=False),
        sa.Column("opened_at", Double(), nullable=False),
        sa.Column("updated_at", Double(), nullable=False),
        sa.Column("resolved_at", Double(), nullable=True),
        sa.Column("acknowledged_at", Double(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("snoozed_until", Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_incidents_runs"),
        sa.PrimaryKeyConstraint("run_id", "incident", name="pk_incidents"),
    )
    op.create_index("ix_incidents_id", "incidents", ["id"])
    op.create_index("ix_incidents_opened_at", "incidents", ["opened_at"])

    op.create_table(
        "rule_state",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_rule_state_runs"),
        sa.PrimaryKeyConstraint("run_id", name="pk_rule_state"),
    )
    op.create_table(
        "segments",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("received_at", Double(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_segments_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "seq", name="pk_segments"),
    )
    op.create_index("ix_segments_run_id_position", "segments", ["run_id", "position"])

    op.create_table(
        "series",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("first_time", Double(), nullable=False),
        sa.Column("last_time", Double(), nullable=False),
        sa.Column("last", Double(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("min", Double(), nullable=True),
        sa.Column("max", Double(), nullable=True),
        sa.Column("nan", sa.BigInteger(), nullable=False),
        sa.Column("positive_infinity", sa.BigInteger(), nullable=False),
        sa.Column("negative_infinity", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_series_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "metric", name="pk_series"),
    )
    op.create_table(
        "writers",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("world_size", sa.Integer(), nullable=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", Double(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_writers_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", name="pk_writers"),
        sa.UniqueConstraint("run_id", "attempt", "name", name="uq_writers_run_id_attempt_name"),
    )


def downgrade() -> None:
    op.drop_table("writers")
    op.drop_table("series")
    op.drop_table("segments")
    op.drop_table("rule_state")
    op.drop_table("incidents")
    op.drop_table("events")
    op.drop_table("commands")
    op.drop_table("attempts")
    op.drop_table("webhooks")
    op.drop_table("tokens")
    op.drop_table("runs")
    op.drop_table("rule_sets")
    op.drop_table("projects")
    op.drop_table("deliveries")
