"""What runs can be found by, and that lists stay right while runs come, change and go."""

from __future__ import annotations

import base64
import math
import random
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from holter.wire import Block, Frame, RunFinish, RunStart
from holter_db import fold
from holter_db.database import Connection, Database
from holter_db.errors import QueryError
from holter_db.ingest import append
from holter_db.runs import (
    delete_run,
    finish_run,
    list_runs,
    run_values,
    search_hint,
    set_state,
    start_run,
    update_run,
)
from holter_db.schema import config_values, run_tags, runs
from holter_db.search import orders
from holter_db.searchable import config_rows

NOW = 1_773_144_000.0  # 2026-03-10T12:00:00Z
DAY = 86_400.0


def found(conn: Connection, filter: str, **question: Any) -> list[str]:
    return [run.id for run in list_runs(conn, filter=filter, now=NOW, **question)[0]]


def log(conn: Connection, run: str, metric: str, *values: float) -> None:
    steps = range(len(values))
    append(conn, run, Frame(1, "", "rank0", 0, [Block.of([metric], steps, steps, [[value] for value in values])]), NOW)


# --- configs and tags -------------------------------------------------------------------------------------------


def leaves(config: dict[str, Any]) -> dict[str, tuple[float | None, str | None]]:
    return {row["key"]: (row["number"], row["text"]) for row in config_rows("r", config)}


def test_a_config_becomes_its_leaves() -> None:
    """Dotted keys; numbers also where YAML made texts of them; lists as their JSON and their items."""
    config = {
        "lr": 1e-3, "steps": 5, "amp": True, "name": "adam", "yaml": "1e-3", "version": "1.2.3", "none": None,
        "limit": math.inf, "model": {"dim": 8, "a.b": {"c": 1}}, "betas": [0.9, "x", [1]], "empty": {},
        "huge": 10**400, "": 7,
    }  # fmt: skip
    assert leaves(config) == {
        "lr": (1e-3, None), "steps": (5.0, None), "amp": (None, "true"), "name": (None, "adam"),
        "yaml": (1e-3, "1e-3"), "version": (None, "1.2.3"), "limit": (math.inf, "Infinity"), "model": (None, "{}"),
        "model.dim": (8.0, None), "model.a.b": (None, "{}"), "model.a.b.c": (1.0, None),
        "betas": (None, '[0.9,"x",[1]]'), "betas.0": (0.9, None), "betas.1": (None, "x"), "betas.2": (None, "[1]"),
        "betas.2.0": (1.0, None), "empty": (None, "{}"), "huge": (None, str(10**400)[:300]),
    }  # fmt: skip


def test_a_config_of_any_size_is_taken(database: Database) -> None:
    """What is too long or too much is left out of the search, not refused: PostgreSQL's indexes have limits."""
    config: dict[str, Any] = {"日" * 256: "日" * 5000, "b" * 257: 1, "many": list(range(33)), "nul": "a\x00b"}
    config["deep"] = {}
    inner = config["deep"]
    for _ in range(40):
        inner["a"] = {}
        inner = inner["a"]
    config |= {f"key{number}": number for number in range(3000)}
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r", config=config, tags=["日" * 5000]), NOW)
        assert conn.scalar(sa.select(sa.func.count()).select_from(config_values)) == 2000
        assert found(conn, f"config.{'日' * 256} = {'日' * 5000}") == ["r"]
        assert found(conn, f"tag = {'日' * 5000}") == ["r"]
        assert found(conn, "config.many ~ ',31,' and config.many.0 not exists and config.nul = 'a\x00b'") == ["r"]
        assert found(conn, "config.key7 = 7 and config.deep exists") == ["r"]
        assert found(conn, f"config.{'b' * 257} exists") == []


def test_the_search_follows_every_change_of_a_config(database: Database) -> None:
    """Start, another rank, a new attempt, a person's change."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r", attempt="1", config={"lr": 1, "seed": 0}, tags=["a"]), NOW)
        start_run(conn, RunStart(project="p", id="r", attempt="1", config={"lr": 5}, tags=["z"]), NOW)
        assert found(conn, "config.lr = 1 and tag = a and tag != z") == ["r"]
        start_run(conn, RunStart(project="p", id="r", attempt="2"), NOW)
        assert found(conn, "config.lr = 1 and tag = a") == ["r"]
        start_run(conn, RunStart(project="p", id="r", attempt="3", config={"lr": 2}, tags=["b"]), NOW)
        assert found(conn, "config.lr = 2 and config.seed not exists and tag = a and tag = b") == ["r"]
        update_run(conn, "r", config={"lr": 3})
        assert found(conn, "config.lr = 3 and tag = b") == ["r"]
        update_run(conn, "r", tags=["c"], name="new")
        assert found(conn, "config.lr = 3 and tag = c and tag != a and name = new") == ["r"]
        update_run(conn, "r", tags=[], config={})
        assert found(conn, "config.lr = null and tag = null") == ["r"]
        for table in (config_values, run_tags):
            assert conn.scalar(sa.select(sa.func.count()).select_from(table)) == 0


# --- dates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "runs"),
    [
        ("created = today", "b"),
        ("created = 2026-03-09", "c"),
        ("created > 2026-03-09", "b"),
        ("created >= 2026-03-09", "bc"),
        ("created < 2026-03-09", "d"),
        ("created <= 2026-03-09", "cd"),
        ("created != 2026-03-09", "bd"),
        ("created > -1d", "b"),
        ("created >= -1d", "bc"),
        ("created in (-1d, 2026-03-08)", "cd"),
        ("created = 2026-03 and created = 2026", "bcd"),
        ("finished > -90m", "d"),
        ("finished = null", "bc"),
        ("finished exists", "d"),
        ("not finished > -90m", "bc"),
        (f"started = {NOW - DAY}", "c"),
    ],
)
def test_runs_of_a_time(database: Database, filter: str, runs: str) -> None:
    """A day means all of it; relative dates count from now; a run that has not finished is not before anything."""
    with database.write() as conn:
        for id, days in (("b", 0), ("c", 1), ("d", 2)):
            start_run(conn, RunStart(project="p", id=id, started_at=NOW - days * DAY), NOW - days * DAY)
        set_state(conn, "d", "finished", None, NOW - 3600)
        assert "".join(found(conn, filter)) == runs


def test_further_pages_count_from_the_first_ones_now(database: Database) -> None:
    """Else runs would fall out of "-1d" while somebody pages."""
    with database.write() as conn:
        for number in range(4):
            start_run(conn, RunStart(project="p", id=f"r{number}"), NOW - DAY + number)
        page, cursor = list_runs(conn, filter="created >= -1d", limit=2, sort="created", now=NOW)
        rest, _ = list_runs(conn, filter="created >= -1d", limit=2, sort="created", cursor=cursor, now=NOW + 3)
    assert [run.id for run in (*page, *rest)] == ["r0", "r1", "r2", "r3"]


# --- pages while runs come and go -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sort", ["-created_at", "name", "config.lr", "-config.lr", "last(loss)", "-last(loss)", "-step"]
)
@pytest.mark.parametrize("filter", [None, "config.lr != 2 and not tag = odd"])
def test_every_run_that_stays_is_on_exactly_one_page(
    database: Database, monkeypatch: pytest.MonkeyPatch, sort: str, filter: str | None
) -> None:
    """Others are started, deleted and finished between the pages, with the same values and with others."""
    monkeypatch.setattr(orders, "PROBES", 3)
    rng = random.Random(sort)
    with database.write() as conn:
        for number in range(24):
            begin(conn, rng, f"stay{number:02d}")
            begin(conn, rng, f"go{number:02d}")
        whole = [run.id for run in list_runs(conn, sort=sort, filter=filter, limit=1000)[0]]
        seen: list[str] = []
        cursor = None
        for turn in range(100):
            page, cursor = list_runs(conn, sort=sort, filter=filter, limit=3, cursor=cursor)
            seen += [run.id for run in page]
            if cursor is None:
                break
            begin(conn, rng, f"come{turn:02d}")
            delete_run(conn, f"go{turn:02d}", NOW)
            if turn % 3 == 0:
                delete_run(conn, page[-1].id, NOW) if page[-1].id.startswith("come") else None
    stayed = [id for id in seen if id.startswith("stay")]
    assert stayed == [id for id in whole if id.startswith("stay")]
    assert len(seen) == len(set(seen))


def begin(conn: Connection, rng: random.Random, id: str) -> None:
    lr: dict[str, Any] = rng.choice([{}, {"lr": "x"}, {"lr": math.nan}, {"lr": 2}, {"lr": rng.randrange(3)}])
    start = RunStart(project="p", id=id, name=rng.choice("abc"), config=lr, tags=rng.choice([[], ["odd"]]))
    start_run(conn, start, NOW + rng.randrange(4))
    if rng.random() < 0.8:
        log(conn, id, "loss", rng.choice([1.0, 2.0, math.nan, math.inf]))


def test_a_cursor_outlives_the_run_that_it_names(database: Database) -> None:
    """The next page begins where that run was."""
    with database.write() as conn:
        for number in range(6):
            start_run(conn, RunStart(project="p", id=f"r{number}"), NOW)
        page, cursor = list_runs(conn, limit=3)
        delete_run(conn, page[-1].id, NOW)
        rest, end = list_runs(conn, limit=3, cursor=cursor)
    assert ([run.id for run in rest], end) == (["r2", "r1", "r0"], None)


# --- what people try --------------------------------------------------------------------------------------------

ATTACKS = (
    "' OR '1'='1", "'; DROP TABLE runs; --", '" OR ""="', "%", "_", "\\", "a%' --", "x') OR 1=1 --", "\x00", "日本",
    "NULL", "$1", ":p", "%(p)s", "{}", "?", "/*", "0x27", "𝕏", "\n",
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_reaches_the_database_as_sql(database: Database, attack: str) -> None:
    """As a value, a key, a metric, a tag: it finds the run that has it, and no other."""
    quoted = "'" + attack.replace("\\", "\\\\").replace("'", "\\'") + "'"
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="plain", name="n", config={"a": "b"}, tags=["t"]), NOW)
        odd = RunStart(project="p", id="odd", name=attack, config={"a": attack, attack: 1}, tags=[attack], group=attack)
        start_run(conn, odd, NOW)
        log(conn, "odd", "m" + attack.replace("\x00", ""), 1.0)
        metric = f"'m{quoted[1:]}".replace("\x00", "")
        for filter in (
            f"name = {quoted}", f"name ~ {quoted}", f"config.a = {quoted}", f"config.a ~ {quoted}",
            f"config.a in ({quoted}, 'zz')", f"config.{quoted} = 1", f"config.{quoted} exists", f"tag = {quoted}",
            f"tag ~ {quoted}", f"group = {quoted}", f"last({metric}) = 1",
        ):  # fmt: skip
            assert found(conn, filter) == ["odd"], filter
            assert found(conn, f"not ({filter})") == ["plain"], filter
        sorted_by = [run.id for run in list_runs(conn, sort=f"-config.{quoted}")[0]]
        assert sorted_by == ["odd", "plain"]
        assert [run.id for run in list_runs(conn, sort=f"last({metric})")[0]] == ["odd", "plain"]
        assert [run.id for run in list_runs(conn, tag=attack)[0]] == ["odd"]
        assert [run.id for run in list_runs(conn, group=attack)[0]] == ["odd"]
        asked_for = [run.id for run in list_runs(conn, q=attack)[0]]
        assert asked_for == (["odd"] if attack.strip() else ["plain", "odd"])  # white space alone asks for nothing
        assert conn.scalar(sa.select(sa.func.count()).select_from(runs)) == 2


CONTENTS: tuple[Any, ...] = (
    ["created_at", 0.0, 0, "text", "id"],
    ["created_at", 0.0, 0, None, "id"],
    ["created_at", 0.0, 0, 5, "id"],
    ["created_at", 0.0, 1, None, "id"],
    ["created_at", 0.0, -1, 1.0, "id"],
    ["created_at", 0.0, 0, 1.0, 5],
    ["created_at", 0.0, 0, 1.0],
    ["name", 0.0, 0, "a", "id"],
    "created_at",
)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_cursor_that_was_made_up_is_refused(database: Database, content: Any) -> None:
    """Before it reaches the database."""
    cursor = base64.urlsafe_b64encode(msgspec.msgpack.encode(content)).decode().rstrip("=")
    with database.read() as conn, pytest.raises(QueryError, match="cursor"):
        list_runs(conn, sort="created_at", cursor=cursor)


@pytest.mark.parametrize(
    ("sort", "value"),
    [("created_at", math.nan), ("created_at", math.inf), ("step", 2**63 - 1), ("attempt", 2**40), ("name", "\x00'")],
)
def test_a_cursor_with_an_odd_value_is_only_a_place(database: Database, sort: str, value: Any) -> None:
    """It gives a page, an empty one perhaps."""
    cursor = base64.urlsafe_b64encode(msgspec.msgpack.encode([sort, 0.0, 0, value, "\x00"])).decode().rstrip("=")
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r"), NOW)
        list_runs(conn, sort=sort, cursor=cursor)


# --- names that no run has --------------------------------------------------------------------------------------


def test_a_name_that_no_run_has_is_hinted_at(database: Database) -> None:
    """With the one that it may be a misspelling of; what some run has is not spoken of."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="r", config={"learning_rate": 1, "name": "x"}), NOW)
        log(conn, "r", "loss/total", 1.0)

        def hint(filter: str | None = None, sort: str = "-created_at") -> str | None:
            return search_hint(conn, filter=filter, sort=sort)

        assert hint() is None
        assert hint("config.name = y or last(loss/total) > 5 or tag = none", "-config.learning_rate") is None
        assert hint("config.learning_rat = 1") == "No run has config.learning_rat; did you mean config.learning_rate?"
        assert hint("config.zzz = 1") == "No run has config.zzz."
        assert hint(None, "max(loss_total)") == "No run has max(loss_total)."
        finish_and_fold(conn, "r")
        assert hint("last(loss/totl) = NaN") == "No run has last(loss/totl); did you mean last(loss/total)?"
        assert hint("config.zzz = 1", "config.nam") == (
            "No run has config.nam; did you mean config.name? No run has config.zzz."
        )
        assert hint("last(loss/total) > 5") is None


def finish_and_fold(conn: Connection, run: str) -> None:
    finish_run(conn, run, RunFinish(), NOW)
    for waiting in fold.pending(conn, run, 2**62):
        prepared = fold.prepare(conn, waiting, 2**62)
        assert prepared is not None
        assert fold.commit(conn, prepared)


# --- values beside the runs -------------------------------------------------------------------------------------


def test_values_are_those_that_the_filter_sees(database: Database) -> None:
    """Before and after folding; None where a run lacks one."""
    with database.write() as conn:
        start_run(conn, RunStart(project="p", id="a", config={"lr": 1e-3, "model": {"name": "x"}}), NOW)
        start_run(conn, RunStart(project="p", id="b"), NOW)
        log(conn, "a", "loss", 3.0, math.nan)
        for _ in range(2):
            rows, _ = list_runs(conn, sort="id")
            a, b = run_values(
                conn, rows, "config.lr, config.model.name, last(loss), min(loss), count(loss), open_info, name"
            )
            assert math.isnan(a.pop("last(loss)"))
            assert a == {
                "config.lr": 1e-3, "config.model.name": "x", "min(loss)": 3.0, "count(loss)": 2, "open_info": 0,
                "name": rows[0].name,
            }  # fmt: skip
            assert {name: value for name, value in b.items() if value is not None} == {
                "open_info": 0,
                "name": rows[1].name,
            }
            finish_and_fold(conn, "a")
        log(conn, "a", "loss", 4.0, 5.0, 6.0)
        assert run_values(conn, rows, "last(loss)") == [{"last(loss)": 6.0}, {"last(loss)": None}]
        assert found(conn, "last(loss) = 6 and count(loss) = 5 and non_finite(loss) = 1") == ["a"]


# --- what a page costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("question", "index"),
    [
        ({}, "ix_runs_created_at_id"),
        ({"sort": "name"}, "ix_runs_name_id"),
        ({"sort": "-started"}, "ix_runs_started_at_id"),
        ({"sort": "finished"}, "ix_runs_finished_at_id"),
        ({"project": "p"}, "ix_runs_project_created_at_id"),
        ({"state": "failed"}, "ix_runs_state_created_at_id"),
        ({"health": "critical"}, "ix_runs_health_created_at_id"),
        ({"group": "g"}, "ix_runs_group_created_at_id"),
        ({"filter": "config.lr < 1 and tag = a"}, "ix_runs_created_at_id"),
        ({"sort": "-config.lr"}, "ix_config_values_key_number_run_id"),
        *(({"sort": f"{name}(loss)"}, f"ix_metric_summaries_metric_{name}_run_id") for name in ("last", "min", "max")),
    ],
)
def test_a_page_is_read_off_an_index(database: Database, question: dict[str, Any], index: str) -> None:
    """Whatever index is added beside those of the orders: SQLite must not prefer it and sort all runs for a page."""
    asked: list[tuple[str, Any]] = []
    with database.read() as conn:
        sa.event.listen(conn, "before_cursor_execute", lambda _c, _cursor, sql, values, *_: asked.append((sql, values)))
        list_runs(conn, **question)
        sql, values = asked[0]
        plan = [row.detail for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
    walked = next(number for number, line in enumerate(plan) if "USING" in line)
    assert index in plan[walked], plan
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan[walked : walked + 2], plan
