"""policies and breakers of webhooks, held and grouped deliveries, flapping and muted incidents, authors of rules"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NEW: dict[str, tuple[tuple[str, Any, str | None], ...]] = {  # table: (column, type, value of the rows that are there)
    "incidents": (("muted", sa.Text(), None), ("flaps", sa.Integer(), "0"), ("settled_at", Double(), None)),
    "deliveries": (
        ("reason", sa.Text(), "new"),
        ("held", sa.Text(), None),
        ("give_up_at", Double(), None),
        ("grouped_into", sa.Text(), None),
    ),
    "rule_sets": (("author", sa.Text(), ""), ("comment", sa.Text(), "")),
    "webhooks": (
        ("shown", sa.Text(), ""),
        ("policy", sa.Text(), "{}"),
        ("failures", sa.Integer(), "0"),
        ("open_until", Double(), None),
        ("last_error", sa.Text(), None),
        ("window_at", Double(), None),
        ("window_sent", sa.Integer(), "0"),
    ),
}


def upgrade() -> None:
    # Column by column, not as a batch: SQLite would make the tables anew.
    for table, columns in _NEW.items():
        for name, kind, value in columns:
            op.add_column(table, sa.Column(name, kind, nullable=value is None, server_default=value))
            if value is not None and op.get_bind().dialect.name == "postgresql":
                op.alter_column(table, name, server_default=None)
    # Which part of an address is secret is the service's to say: it does so when it starts.
    op.create_table(
        "incident_aliases",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("stands_for", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_incident_aliases_runs"),
        sa.PrimaryKeyConstraint("run_id", "incident", name="pk_incident_aliases"),
    )
    op.create_table(
        "mutes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("until", Double(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mutes"),
    )


def downgrade() -> None:
    op.drop_table("mutes")
    op.drop_table("incident_aliases")
    op.execute("UPDATE incidents SET state = 'firing' WHERE state = 'snoozed'")
    op.execute("UPDATE deliveries SET state = 'failed', last_error = held WHERE state IN ('skipped', 'grouped')")
    op.execute("UPDATE commands SET state = 'expired' WHERE state = 'dry_run'")
    op.execute("DELETE FROM webhooks WHERE NOT (url LIKE 'http://%' OR url LIKE 'https://%')")
    for table, columns in _NEW.items():
        for name, _, _ in reversed(columns):
            op.drop_column(table, name)
