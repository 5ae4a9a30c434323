"""why a run was deleted, that its rows are being removed, the ids that are gone, and what each project keeps"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("deleted_because", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("purging_at", Double(), nullable=True))
    deleted = sa.text("deleted_at IS NOT NULL")
    op.create_index("ix_runs_deleted_at", "runs", ["deleted_at"], sqlite_where=deleted, postgresql_where=deleted)
    op.create_table(
        "purged_runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("purged_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_purged_runs"),
    )
    op.create_table(
        "retention",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("days", Double(), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=True),
        sa.Column("raw_days", Double(), nullable=True),
        sa.Column("updated_at", Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_retention"),
    )


def downgrade() -> None:
    op.drop_table("retention")
    op.drop_table("purged_runs")
    # A run of which half the rows are gone would come back as if it were whole: it stays deleted, as it was before.
    op.drop_index("ix_runs_deleted_at", "runs")
    op.drop_column("runs", "purging_at")
    op.drop_column("runs", "deleted_because")
