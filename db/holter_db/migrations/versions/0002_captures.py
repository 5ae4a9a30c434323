"""captures"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "captures",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("time", Double(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("first_step", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("trigger_kind", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_captures_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "seq", "number", name="pk_captures"),
    )


def downgrade() -> None:
    op.drop_table("captures")
