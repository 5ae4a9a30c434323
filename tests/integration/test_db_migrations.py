"""Revisions on a database that holds runs: what was known is kept, up and down again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from holter_db import commands, rule_state
from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_db.migrate import MIGRATIONS
from holter_db.rule_state import Saved
from holter_db.runs import list_ranks, list_runs


@contextmanager
def migrating(url: str) -> Iterator[tuple[sa.Connection, Config]]:
    dialect = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(dialect)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as conn:
        config.attributes["connection"] = conn
        yield conn, config
    engine.dispose()


OLD = (
    "INSERT INTO projects VALUES ('p', 1.0)",
    "INSERT INTO runs (id, project, name, tags, config, environment, state, health, open_critical, open_warning, "
    "open_info, created_at, started_at, last_seen_at, attempt, position) VALUES ('r', 'p', 'n', '', '{}', '{}', "
    "'running', 'healthy', 0, 0, 0, 1.0, 1.0, 1.0, 2, 0)",
    "INSERT INTO attempts (run_id, attempt, key, state, started_at, finished_at) "
    "VALUES ('r', 1, 'a', 'failed', 1.0, 9.0)",
    "INSERT INTO attempts (run_id, attempt, key, state, started_at) VALUES ('r', 2, 'b', 'running', 9.0)",
    *(
        "INSERT INTO writers (run_id, writer_id, attempt, name, rank, world_size, host, device, pid, last_seq, "
        f"last_seen_at, dropped) VALUES ('r', {attempt}, {attempt}, 'rank0', 0, 1, 'h', 'cpu', 7, 3, 8.0, 0)"
        for attempt in (1, 2)
    ),
    "INSERT INTO commands (run_id, id, name, args, state, requested_at, requested_by, step, result) "
    "VALUES ('r', 'c1', 'stop', '{\"why\": \"NaN\"}', 'delivered', 5.5, 'ann', 9007199254740993, 'x')",
)


def test_what_was_known_is_kept_up_and_down_again(blank_url: str) -> None:
    """Commands go to the newest attempt; a writer has ended as its attempt has; downgrading loses only what is new."""
    with migrating(blank_url) as (conn, config):
        command.upgrade(config, "0002")
        for statement in OLD:
            conn.execute(sa.text(statement))
    database = Database.open(blank_url)
    with database.write() as conn:
        [row] = commands.list_commands(conn, "r")
        assert (row.id, row.attempt, row.args, row.state) == ("c1", 2, {"why": "NaN"}, "delivered")
        assert (row.requested_at, row.step, row.result, row.answers) == (5.5, 9007199254740993, "x", ())
        ranks = [rank for attempt in (1, 2) for rank in list_ranks(conn, "r", attempt)]
        assert [(rank.state, rank.finished_at, rank.due_at) for rank in ranks] == [
            ("failed", 9.0, None),
            ("running", None, None),
        ]
        commands.expire(conn, "r", 3)
    database.close()
    with migrating(blank_url) as (conn, config):
        command.downgrade(config, "0002")
        rows = conn.execute(sa.text("SELECT id, args, state, requested_at, step FROM commands")).all()
        assert [tuple(row) for row in rows] == [("c1", '{"why": "NaN"}', "failed", 5.5, 9007199254740993)]
        assert "due_at" not in {column["name"] for column in sa.inspect(conn).get_columns("writers")}
        assert "command_answers" not in sa.inspect(conn).get_table_names()
    Database.open(blank_url).close()


SAVED = (
    "UPDATE runs SET position = 9",
    "INSERT INTO rule_sets VALUES ('p', 1, 'rules: []', 1.0), ('p', 3, 'rules: []', 2.0)",
    "INSERT INTO rule_state VALUES ('r', 4, NULL)",
)


def test_a_saved_rule_state_is_known_to_be_of_the_runs_newest_segment(blank_url: str) -> None:
    """Until revision 0005 every frame saved it, by the newest rules; a run without one is judged from its beginning."""
    with migrating(blank_url) as (conn, config):
        command.upgrade(config, "0002")
        for statement in OLD[:2]:
            conn.execute(sa.text(statement))
        conn.execute(sa.text(OLD[1].replace("'r', 'p'", "'s', 'q'")))
        command.upgrade(config, "0004")
        for statement in SAVED:
            conn.execute(sa.text(statement))
        conn.execute(sa.text("INSERT INTO rule_state VALUES ('s', 2, NULL)"))
    database = Database.open(blank_url)
    with database.read() as conn:
        assert rule_state.load(conn, "r") == Saved(4, 9, 3)
        assert rule_state.load(conn, "s") == Saved(2, 9, 0)
    database.close()
    with migrating(blank_url) as (conn, config):
        command.downgrade(config, "0004")
        assert conn.execute(sa.text("SELECT * FROM rule_state ORDER BY run_id")).all() == [
            ("r", 4, None),
            ("s", 2, None),
        ]
    Database.open(blank_url).close()


def test_rows_that_refer_to_nothing_stop_a_migration(tmp_path: Path) -> None:
    """A migration goes without foreign keys, so that it may make tables anew; what it leaves must fit all the same."""
    url = f"sqlite:///{tmp_path / 'holter.db'}"
    with migrating(url) as (conn, config):
        command.upgrade(config, "0002")
        for statement in OLD:
            conn.execute(sa.text(statement))
        conn.execute(
            sa.text("INSERT INTO attempts (run_id, attempt, key, state, started_at) VALUES ('?', 1, '', '', 1)")
        )
    with pytest.raises(DatabaseError, match="not there") as caught:
        Database.open(url)
    assert "holter db check" in caught.value.hint
    with migrating(url) as (conn, _):
        assert conn.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0002"


CONFIG = '{"lr": 0.5, "model": {"name": "x"}}'
SEARCHED = (
    "INSERT INTO projects VALUES ('p', 1.0)",
    *(
        "INSERT INTO runs (id, project, name, tags, config, environment, state, health, open_critical, open_warning, "
        "open_info, created_at, started_at, last_seen_at, attempt, position, folds, compacted) VALUES "
        f"('{run}', 'p', 'n', '\na\ntwo words\n', '{CONFIG}', '{{}}', 'finished', "
        "'healthy', 0, 0, 0, 1.0, 1.0, 1.0, 1, 1, 1, 1)"
        for run in ("folded", "waiting")
    ),
    *(
        "INSERT INTO writers (run_id, writer_id, attempt, name, rank, host, device, last_seq, last_seen_at, dropped, "
        f"state) VALUES ('{run}', {writer}, 1, 'rank{writer}', {writer}, 'h', 'cpu', 1, 1.0, 0, 'finished')"
        for run in ("folded", "waiting")
        for writer in (1, 2)
    ),
    *(
        "INSERT INTO series (run_id, writer_id, metric, count, first_step, last_step, first_time, last_time, last, "
        "last_seq, min, max, nan, positive_infinity, negative_infinity) VALUES "
        f"('{run}', {writer}, 'loss', 3, 0, {9 - writer}, 1.0, 1.0, {writer}.5, 1, {writer}.0, {writer}.75, "
        f"{writer}, 1, 0)"
        for run in ("folded", "waiting")
        for writer in (1, 2)
    ),
)
WAITING = (
    "INSERT INTO segments (run_id, writer_id, seq, position, received_at, points, payload) "
    "VALUES ('waiting', 1, 1, 1, 1.0, 3, :payload)"
)


def test_runs_of_an_older_database_can_be_searched(blank_url: str) -> None:
    """Their configs, tags and metrics become rows; of a run with segments the metrics do when these are folded."""
    with migrating(blank_url) as (conn, config):
        command.upgrade(config, "0004")
        for statement in SEARCHED:
            conn.execute(sa.text(statement))
        conn.execute(sa.text(WAITING), {"payload": b""})
    database = Database.open(blank_url)
    with database.read() as conn:
        wanted = "config.lr = 0.5 and config.model.name = x and tag = 'two words'"
        wanted += (
            " and last(loss) = 1.5 and min(loss) = 1 and max(loss) = 2.75 and count(loss) = 6 and non_finite(loss) = 5"
        )
        assert {run.id for run in list_runs(conn, filter=wanted)[0]} == {"folded", "waiting"}
        assert conn.scalars(sa.text("SELECT run_id FROM metric_summaries")).all() == ["folded"]
    database.close()
    with migrating(blank_url) as (conn, config):
        command.downgrade(config, "0004")
        assert not {"config_values", "run_tags", "metric_summaries"} & set(sa.inspect(conn).get_table_names())
        assert conn.scalar(sa.text("SELECT count(*) FROM runs")) == 2
    Database.open(blank_url).close()
