"""That runs are found by what they have: config, tags and metrics as rows of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.check.model import Finding
from holter_db.check.stored import Stored
from holter_db.schema import config_values, metric_summaries, run_tags, runs
from holter_db.searchable import config_rows, keep_config, keep_tags, tag_rows
from holter_db.summaries import summaries_of, summarize

__all__ = ["look_at_search"]


def look_at_search(conn: Connection, stored: Stored) -> Iterator[Finding]:
    """The rows that filters and orders use say what the run, and the catalogue of its metrics, say."""
    wrong = []
    if _rows(conn, config_values, stored) != _by_key(config_values, config_rows(stored.id, stored.run["config"])):
        wrong.append("config")
    if _rows(conn, run_tags, stored) != _by_key(run_tags, tag_rows(stored.id, stored.run["tags"])):
        wrong.append("tags")
    # Of a run with segments the summaries are not used.
    if stored.segments == 0 and _rows(conn, metric_summaries, stored) != _summaries(conn, stored.id):
        wrong.append("metrics")
    if wrong:
        what = f"The run is not found by what it has: {', '.join(wrong)}"
        yield Finding("search", what, "--repair writes these rows anew.", stored.id, _Rewritten(stored.id), "search")


class _Rewritten:
    """The repair: all rows of the run, as they follow from it now."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def __call__(self, conn: Connection) -> bool:
        query = sa.select(runs.c.config, runs.c.tags).where(runs.c.id == self._run_id).with_for_update()
        row = conn.execute(query).one_or_none()
        if row is None:
            return False
        keep_config(conn, self._run_id, row.config)
        keep_tags(conn, self._run_id, row.tags)
        summarize(conn, self._run_id)
        return True


def _rows(conn: Connection, table: sa.Table, stored: Stored) -> dict[str, list[Any]]:
    return _by_key(table, conn.execute(sa.select(table).where(table.c.run_id == stored.id)).mappings())


def _summaries(conn: Connection, run_id: str) -> dict[str, list[Any]]:
    return _by_key(metric_summaries, conn.execute(sa.select(summaries_of(run_id))).mappings())


def _by_key(table: sa.Table, rows: Any) -> dict[str, list[Any]]:
    """The rows of one run by the second column of their key; NaN as a text, as it is equal to nothing."""
    names = [column.name for column in table.c][1:]
    return {row[names[0]]: [_comparable(row, name) for name in names] for row in rows}


def _comparable(row: Mapping[Any, Any], name: str) -> Any:
    value = row[name]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value
