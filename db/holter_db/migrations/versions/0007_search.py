"""search: leaves of configs, tags and metric summaries as rows; indexes for the orders of a list of runs"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

from holter_db.searchable import config_rows, tag_rows
from holter_db.types import Double, Lines

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OLD: tuple[tuple[str, ...], ...] = (("project", "created_at"), ("created_at",), ("state",))
_LISTED: tuple[tuple[str, ...], ...] = (
    ("created_at", "id"),
    ("name", "id"),
    ("started_at", "id"),
    ("finished_at", "id"),
    ("state", "created_at", "id"),
    ("health", "created_at", "id"),
    ("group", "created_at", "id"),
)
_RUNS_AT_A_TIME = 500


def upgrade() -> None:
    for columns in _OLD:
        op.drop_index(_name("runs", columns), "runs")
    _index("runs", ("project", "created_at", "id"))
    for columns in _LISTED:
        _index("runs", columns, where="deleted_at IS NULL")
    _fill_search_tables(_create_config_values(), _create_run_tags())
    _create_metric_summaries()
    _summarize()
    # Made last: an index of rows that are there is smaller than one that grew with them.
    for column in ("number", "text"):
        _index("config_values", ("key", column, "run_id"), where=f"{column} IS NOT NULL")
    _index("run_tags", ("tag", "run_id"))
    for column in ("last", "min", "max", "count", "non_finite"):
        _index("metric_summaries", ("metric", column, "run_id"))


def downgrade() -> None:
    for table in ("metric_summaries", "run_tags", "config_values"):
        op.drop_table(table)
    for columns in (("project", "created_at", "id"), *_LISTED):
        op.drop_index(_name("runs", columns), "runs")
    for columns in _OLD:
        _index("runs", columns)


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"


def _index(table: str, columns: tuple[str, ...], where: str | None = None) -> None:
    only: dict[str, Any] = {} if where is None else dict.fromkeys(("sqlite_where", "postgresql_where"), sa.text(where))
    op.create_index(_name(table, columns), table, list(columns), **only)


def _create_config_values() -> sa.Table:
    return op.create_table(
        "config_values",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", Double(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_config_values_runs"),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_config_values"),
        sqlite_with_rowid=False,
    )


def _create_run_tags() -> sa.Table:
    return op.create_table(
        "run_tags",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_tags_runs"),
        sa.PrimaryKeyConstraint("run_id", "tag", name="pk_run_tags"),
        sqlite_with_rowid=False,
    )


def _create_metric_summaries() -> None:
    op.create_table(
        "metric_summaries",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("last", Double(), nullable=False),
        sa.Column("min", Double(), nullable=True),
        sa.Column("max", Double(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("non_finite", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_metric_summaries_runs"),
        sa.PrimaryKeyConstraint("run_id", "metric", name="pk_metric_summaries"),
        sqlite_with_rowid=False,
    )


def _fill_search_tables(values: sa.Table, tags: sa.Table) -> None:
    bind = op.get_bind()
    for some in _runs():
        config = [row for run_id, config, _ in some for row in config_rows(run_id, msgspec.json.decode(config))]
        tagged = [row for run_id, _, lines in some for row in tag_rows(run_id, _tags(lines))]
        if config:
            bind.execute(sa.insert(values), config)
        if tagged:
            bind.execute(sa.insert(tags), tagged)


def _runs() -> Iterator[list[Any]]:
    query = sa.text("SELECT id, config, tags FROM runs WHERE id > :after ORDER BY id LIMIT :limit")
    after = ""
    while some := op.get_bind().execute(query, {"after": after, "limit": _RUNS_AT_A_TIME}).all():
        yield list(some)
        after = some[-1].id


def _tags(lines: str) -> tuple[str, ...]:
    return Lines().process_result_value(lines, op.get_bind().dialect)


def _summarize() -> None:
    """Of the runs without segments; the others get theirs when their segments are folded."""
    order = 'w.attempt DESC, s.last_step DESC, coalesce(w."rank", 0), w.name'
    op.execute(
        f"""
        INSERT INTO metric_summaries (run_id, metric, last, min, max, count, non_finite)
        SELECT run_id, metric, last, least, greatest, total, strange FROM (
            SELECT s.run_id, s.metric, s.last, min(s.min) OVER one AS least, max(s.max) OVER one AS greatest,
                CAST(sum(s.count) OVER one AS BIGINT) AS total,
                CAST(sum(s.nan + s.positive_infinity + s.negative_infinity) OVER one AS BIGINT) AS strange,
                row_number() OVER (PARTITION BY s.run_id, s.metric ORDER BY {order}) AS place
            FROM series AS s JOIN writers AS w ON w.run_id = s.run_id AND w.writer_id = s.writer_id
            WHERE NOT EXISTS (SELECT 1 FROM segments WHERE segments.run_id = s.run_id)
            WINDOW one AS (PARTITION BY s.run_id, s.metric)
        ) AS ranked WHERE place = 1
        """
    )
