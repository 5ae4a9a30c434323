"""chunks: compressed slices of series with their pyramid, on shared axes; which frames they hold"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BLOBS = {"axes": ("steps", "seqs", "rows", "positions", "times"), "chunks": ("coarse", "cells", "values")}


def upgrade() -> None:
    # Not as a batch: SQLite would make the table anew, and dropping `runs` breaks the foreign keys of its rows.
    for name in ("folds", "compacted"):
        op.add_column("runs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        if op.get_bind().dialect.name == "postgresql":
            op.alter_column("runs", name, server_default=None)
    op.create_table(
        "folds",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("seqs", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_folds_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "first_seq", name="pk_folds"),
    )
    op.create_table(
        "axes",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("axis", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in _BLOBS["axes"]),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_axes_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "axis", name="pk_axes"),
    )
    op.create_table(
        "chunks",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("writer_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("axis", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_time", Double(), nullable=True),
        sa.Column("last_time", Double(), nullable=True),
        sa.Column("raw", sa.Boolean(), nullable=False),
        sa.Column("coarse", sa.LargeBinary(), nullable=False),
        sa.Column("cells", sa.LargeBinary(), nullable=True),
        sa.Column("values", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_chunks_runs"),
        sa.PrimaryKeyConstraint("run_id", "writer_id", "metric", "axis", name="pk_chunks"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in _BLOBS.items():
            for name in columns:  # compressed already: PostgreSQL's own attempt costs time and gains nothing
                op.execute(f'ALTER TABLE {table} ALTER COLUMN "{name}" SET STORAGE EXTERNAL')


def downgrade() -> None:
    for name in ("chunks", "axes", "folds"):
        if op.get_bind().scalar(sa.text(f"SELECT count(*) FROM {name}")):
            raise RuntimeError("This database holds compacted points, which revision 0003 can't read")
    for name in ("chunks", "axes", "folds"):
        op.drop_table(name)
    for name in ("folds", "compacted"):
        op.drop_column("runs", name)
