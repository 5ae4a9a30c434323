"""A run's metrics in one row each: last, min, max, count, how many values were not finite.

The rows are written when a run's last segments become chunks, and so cost no frame anything. Each change of a run's
series comes with a segment, so a run without segments has rows that are right; of the others, which are the live ones
and those that have just ended, the same is computed from their series when it is asked for.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Subquery

from holter_db.schema import metric_summaries, segments, series, writers
from holter_db.search.dialects import unindexed

__all__ = ["behind", "fresh", "summaries_of", "summarize"]


def summarize(conn: Connection, run_id: str) -> None:
    """Write a run's summaries, unless it has segments. The run's row must be locked."""
    if conn.scalar(sa.select(sa.exists().where(segments.c.run_id == run_id))):
        return
    conn.execute(sa.delete(metric_summaries).where(metric_summaries.c.run_id == run_id))
    found = summaries_of(run_id)
    names = [column.name for column in metric_summaries.c]
    conn.execute(sa.insert(metric_summaries).from_select(names, sa.select(*(found.c[name] for name in names))))


def summaries_of(run_id: str) -> Subquery:
    """A run's summaries as its series are now: the columns of ``metric_summaries``."""
    return _computed(writers.c.run_id == run_id)


def behind(run_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the summaries of a run may be behind its series."""
    return sa.exists().where(segments.c.run_id == run_id).correlate_except(segments)


def _runs_with_segments() -> sa.CTE:
    """Each run once, by jumping from one to the next in the key's index: the segments themselves may be a million."""
    first = sa.select(sa.func.min(segments.c.run_id).label("run_id"))
    hops = first.cte("hops", recursive=True)
    following = sa.select(sa.func.min(segments.c.run_id)).where(segments.c.run_id > hops.c.run_id).scalar_subquery()
    hops = hops.union_all(sa.select(following).where(hops.c.run_id.is_not(None)))
    return sa.select(hops.c.run_id).where(hops.c.run_id.is_not(None)).cte("unfolded")


def _computed(of_writers: sa.ColumnElement[bool]) -> Subquery:
    """As `holter_db.catalogue.MetricInfo` has it: all writers together, ``last`` of the one that counts."""
    one: Any = {"partition_by": (series.c.run_id, series.c.metric)}
    counts = (writers.c.attempt.desc(), series.c.last_step.desc(), sa.func.coalesce(writers.c.rank, 0), writers.c.name)
    strange = series.c.nan + series.c.positive_infinity + series.c.negative_infinity
    ranked = (
        sa.select(
            series.c.run_id,
            series.c.metric,
            series.c.last,
            sa.func.min(series.c.min).over(**one).label("min"),
            sa.func.max(series.c.max).over(**one).label("max"),
            sa.cast(sa.func.sum(series.c.count).over(**one), sa.BigInteger).label("count"),
            sa.cast(sa.func.sum(strange).over(**one), sa.BigInteger).label("non_finite"),
            sa.func.row_number().over(**one, order_by=counts).label("place"),
        )
        .select_from(writers)
        # From the writers to their series, never the other way: a metric of a writer is found by the key, and a run
        # may have hundreds of metrics.
        .join(
            series,
            sa.and_(series.c.run_id == unindexed(writers.c.run_id), series.c.writer_id == writers.c.writer_id),
        )
        .where(of_writers)
        .subquery()
    )
    columns = [ranked.c[column.name] for column in metric_summaries.c]
    return sa.select(*columns).where(ranked.c.place == 1).subquery()


# The summaries of the runs whose written ones may be behind. Both databases look only at the metric that is asked for.
fresh = _computed(writers.c.run_id.in_(sa.select(_runs_with_segments().c.run_id)))
