"""how each rank ended and what it promised; commands of attempts, and each rank's answer to them"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from holter_db.types import Double

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COMMAND = (
    "run_id", "id", "name", "args", "state", "requested_at", "requested_by", "delivered_at", "acknowledged_at",
    "done_at", "step", "result",
)  # fmt: skip


def upgrade() -> None:
    with op.batch_alter_table("writers") as writers:
        writers.add_column(sa.Column("due_at", Double(), nullable=True))
        writers.add_column(sa.Column("state", sa.Text(), nullable=False, server_default="running"))
        writers.add_column(sa.Column("state_reason", sa.Text(), nullable=True))
        writers.add_column(sa.Column("finished_at", Double(), nullable=True))
    with op.batch_alter_table("writers") as writers:
        writers.alter_column("state", server_default=None)
    # Until now one rank spoke for its attempt.
    ended = "SELECT state FROM attempts WHERE attempts.run_id = writers.run_id AND attempts.attempt = writers.attempt"
    at = ended.replace("SELECT state", "SELECT finished_at")
    op.execute(
        f"UPDATE writers SET state = ({ended}), finished_at = ({at}) "
        f"WHERE ({ended}) IN ('finished', 'failed', 'stopped')"
    )
    kept = _commands()
    attempts: dict[str, int] = dict(op.get_bind().execute(sa.text("SELECT id, attempt FROM runs")).all())
    op.drop_table("commands")
    table = _create_commands(sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False))
    # Which attempt a command was meant for was not written down: the newest one is where it would have gone.
    op.bulk_insert(table, [{**row, "attempt": attempts[row["run_id"]]} for row in kept])
    op.create_table(
        "command_answers",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("acknowledged_at", Double(), nullable=False),
        sa.Column("time", Double(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_command_answers_runs"),
        sa.PrimaryKeyConstraint("run_id", "attempt", "command", "writer", name="pk_command_answers"),
    )


def downgrade() -> None:
    op.drop_table("command_answers")
    # Of a command that two attempts know by one name, the newer one is kept. An expired one will not be done any more.
    newest = {(row["run_id"], row["id"]): row for row in _commands("attempt")}
    op.drop_table("commands")
    states = {"expired": "failed"}
    kept = [{name: row[name] for name in _COMMAND} for row in newest.values()]
    op.bulk_insert(_create_commands(), [{**row, "state": states.get(row["state"], row["state"])} for row in kept])
    with op.batch_alter_table("writers") as writers:
        for name in ("finished_at", "state_reason", "state", "due_at"):
            writers.drop_column(name)


def _commands(*more: str) -> list[dict[str, Any]]:
    columns = ", ".join((*_COMMAND, *more))
    found = op.get_bind().execute(sa.text(f"SELECT {columns} FROM commands ORDER BY {', '.join((*more, 'id'))}"))
    return [dict(row) for row in found.mappings()]


def _create_commands(*attempt: sa.Column[Any]) -> sa.Table:
    key = ["run_id", *(column.name for column in attempt), "id"]
    return op.create_table(
        "commands",
        sa.Column("run_id", sa.Text(), nullable=False),
        *attempt,
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
        sa.PrimaryKeyConstraint(*key, name="pk_commands"),
    )
