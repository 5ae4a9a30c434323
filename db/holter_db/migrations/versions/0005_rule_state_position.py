"""how far a saved rule state has seen its run and by which rules; a revision of what rules may ask of a run"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add("runs", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0"))
    _add("rule_state", sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"))
    _add("rule_state", sa.Column("rules", sa.Integer(), nullable=False, server_default="0"))
    # Until now every frame's transaction saved the state, by the rules of that moment.
    position = "SELECT position FROM runs WHERE runs.id = rule_state.run_id"
    rules = (
        "SELECT max(rule_sets.version) FROM rule_sets JOIN runs ON runs.project = rule_sets.project "
        "WHERE runs.id = rule_state.run_id"
    )
    op.execute(f"UPDATE rule_state SET position = ({position}), rules = coalesce(({rules}), 0)")


def downgrade() -> None:
    for table, name in (("rule_state", "rules"), ("rule_state", "position"), ("runs", "revision")):
        op.drop_column(table, name)


def _add(table: str, column: sa.Column[int]) -> None:
    # Not as a batch: SQLite would make the table anew, and dropping `runs` breaks the foreign keys of its rows.
    op.add_column(table, column)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(table, column.name, server_default=None)
