"""What runs have of fields, config keys and metrics: the columns of a table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.run_rows import RunRow
from holter_db.schema import config_values, metric_summaries
from holter_db.search.syntax import ConfigKey, MetricValue, Operand, RunField
from holter_db.summaries import behind, fresh

__all__ = ["values_of"]


def values_of(conn: Connection, rows: Sequence[RunRow], operands: Sequence[Operand]) -> list[dict[str, Any]]:
    """Of each run what every operand comes to, by the operand's name; None where the run lacks it."""
    columns = {str(operand): _column(conn, rows, operand) for operand in operands}
    return [{name: column.get(row.id) for name, column in columns.items()} for row in rows]


def _column(conn: Connection, rows: Sequence[RunRow], operand: Operand) -> dict[str, Any]:
    ids = [row.id for row in rows]
    match operand:
        case RunField(name):
            severity = name.removeprefix("open_")
            return {row.id: row.open_incidents[severity] if severity != name else getattr(row, name) for row in rows}
        case ConfigKey(key):
            run_id, number, text = (config_values.c[name] for name in ("run_id", "number", "text"))
            leaves = conn.execute(sa.select(run_id, number, text).where(run_id.in_(ids), config_values.c.key == key))
            return {id: text if number is None else number for id, number, text in leaves}
        case MetricValue(function, metric):
            return _metric(conn, ids, function, metric)
    raise ValueError(f"no value of {operand}")  # `parse_operands` refuses it


def _metric(conn: Connection, ids: list[str], function: str, metric: str) -> dict[str, Any]:
    run_id = metric_summaries.c.run_id
    written = sa.select(run_id, metric_summaries.c[function]).where(
        run_id.in_(ids), metric_summaries.c.metric == metric, ~behind(run_id)
    )
    computed = sa.select(fresh.c.run_id, fresh.c[function]).where(fresh.c.run_id.in_(ids), fresh.c.metric == metric)
    return {row.run_id: row[1] for row in conn.execute(written.union_all(computed))}
