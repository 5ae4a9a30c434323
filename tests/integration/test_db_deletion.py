"""Deleting, restoring and purging: hidden at once, had back whole, and at the end no row is left anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, Frame, RunStart
from holter_db.database import Connection, Database
from holter_db.deletion import begin_purge, delete_run, due_for_purge, purge_some, restore_run
from holter_db.errors import Conflict, Gone, NotFound
from holter_db.ingest import append
from holter_db.runs import finish_run, get_run, list_runs, resolve_run, start_run
from holter_db.schema import metadata, projects, purged_runs, runs
from holter_db.series import read_series
from holter_db.types import Double, Json, Lines

NOW = 1_700_000_000.0
ROWS = 70  # of each table: more than one slice removes at once
TABLES = [table for table in metadata.sorted_tables if "run_id" in table.c and table is not purged_runs]


def started(conn: Connection, id: str, project: str = "p") -> str:
    return start_run(conn, RunStart(project=project, id=id), NOW).id


def fill(conn: Connection, run_id: str) -> None:
    """Rows of the run in every table that there is: also in those that a later revision adds."""
    for table in TABLES:
        conn.execute(sa.delete(table).where(table.c.run_id == run_id))
        many = [column for column in table.primary_key if column.name != "run_id"]
        rows = [
            {column.name: _value(column, run_id, number) for column in table.columns}
            for number in range(1, ROWS + 1 if many else 2)
        ]
        conn.execute(sa.insert(table), rows)


def _value(column: sa.Column[Any], run_id: str, number: int) -> Any:
    if column.name == "run_id":
        return run_id
    kinds = {sa.LargeBinary: b"x" * 500, Json: {}, Lines: (), Double: 1.0, sa.Boolean: True}
    for kind, value in kinds.items():
        if isinstance(column.type, kind):
            return value
    return number if isinstance(column.type, sa.Integer) else f"{run_id} {number:04}"


def count(conn: Connection, run_id: str) -> dict[str, int]:
    query = {table.name: sa.select(sa.func.count()).where(table.c.run_id == run_id) for table in TABLES}
    found = {name: conn.scalar(select) or 0 for name, select in query.items()}
    found["runs"] = conn.scalar(sa.select(sa.func.count()).select_from(runs).where(runs.c.id == run_id)) or 0
    return {name: rows for name, rows in found.items() if rows}


def purge(conn: Connection, run_id: str) -> int:
    """Rows removed, in one go."""
    return purge_some(conn, run_id, NOW, deleted_before=None, more=lambda: True).rows


def test_a_restored_run_is_as_it_was(database: Database) -> None:
    """Every field and every point; while it is deleted, no list has it and nothing is added to it."""
    values = np.array([[1.0], [np.nan], [-np.inf]])
    block = Block.of(("loss",), [1, 2, 3], [NOW] * 3, values)
    frame = Frame(version=1, attempt="", writer="rank0", seq=1, blocks=[block])
    with database.write() as conn:
        run = started(conn, "a")
        append(conn, run, frame, NOW)
        before = get_run(conn, run)
        deleted = delete_run(conn, run, NOW + 5, "ann")
        assert (deleted.deleted_at, deleted.deleted_because) == (NOW + 5, "ann")
        assert list_runs(conn)[0] == []
        assert [row.id for row in list_runs(conn, deleted=True)[0]] == [run]
        with pytest.raises(Gone, match="deleted"):
            append(conn, run, frame, NOW)
        with pytest.raises(Gone, match="deleted"):
            resolve_run(conn, run)
        with pytest.raises(Gone):
            delete_run(conn, run, NOW)
    with database.write() as conn:
        assert restore_run(conn, resolve_run(conn, "a", deleted=True)) == before
        assert restore_run(conn, run) == before
    with database.read() as conn:
        (series,) = read_series(conn, run, ["*"])
    assert series.values.tobytes() == values.tobytes()


def test_a_purge_leaves_nothing_of_the_run_and_everything_of_others(database: Database) -> None:
    """In every table; the id stays used, so that no agent begins the run anew with what it has left."""
    with database.write() as conn:
        for run in ("a", "b"):
            fill(conn, started(conn, run))
        untouched = count(conn, "b")
        assert set(untouched) == {table.name for table in TABLES} | {"runs"}
        delete_run(conn, "a", NOW)
        begin_purge(conn, "a", NOW)
        assert purge(conn, "a") == sum(count(conn, "b").values())
        assert count(conn, "a") == {}
        assert count(conn, "b") == untouched
        for attempt in (get_run, restore_run, resolve_run):
            with pytest.raises(Gone, match="purged"):
                attempt(conn, "a")
    with pytest.raises(Gone, match="purged"), database.write() as conn:
        started(conn, "a")
    with database.read() as conn:
        assert count(conn, "a") == {}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slices=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=6))
def test_a_purge_goes_on_where_it_was_interrupted(database: Database, slices: list[tuple[int, bool]]) -> None:
    """However often it stops between two pieces, or loses one with its transaction: at the end all is gone, once."""
    with database.write() as conn:
        for table in (*reversed(TABLES), purged_runs, runs, projects):
            conn.execute(sa.delete(table))
        fill(conn, started(conn, "a"))
        total = sum(count(conn, "a").values())
        delete_run(conn, "a", NOW)
    removed = 0
    for pieces, lost in [*slices, (1000, False)]:
        left = iter(range(pieces - 1, -1, -1))
        with database.write() as conn:
            done = purge_some(conn, "a", NOW, deleted_before=NOW, more=lambda left=left: next(left) > 0)
            if lost:
                conn.rollback()
            else:
                removed += done.rows
        with database.read() as conn:
            assert sum(count(conn, "a").values()) == total - removed
            if removed and not done.done:
                assert due_for_purge(conn, None) == ["a"]  # begun: it does not wait for its time any more
    assert removed == total
    with database.write() as conn:
        assert purge_some(conn, "a", NOW, deleted_before=NOW, more=lambda: True) == (0, True, False)
        assert due_for_purge(conn, NOW) == []


def test_a_run_that_is_being_purged_can_not_be_restored(database: Database) -> None:
    """Half a run would pass for a whole one."""
    with database.write() as conn:
        fill(conn, started(conn, "a"))
        delete_run(conn, "a", NOW)
        assert not purge_some(conn, "a", NOW, deleted_before=NOW, more=lambda: False).done
    with database.write() as conn:
        with pytest.raises(Gone, match="purged"):
            restore_run(conn, "a")
        (row,) = list_runs(conn, deleted=True)[0]
        assert row.purging_at == NOW


def test_only_what_is_due_goes(database: Database) -> None:
    """What was deleted later, what was restored meanwhile, and what is not deleted at all stays."""
    with database.write() as conn:
        for number, run in enumerate(("old", "new", "given-up", "restored", "alive")):
            started(conn, run)
            if run != "alive":
                delete_run(conn, run, NOW + number)
        begin_purge(conn, "given-up", NOW + 9)
        assert due_for_purge(conn, None) == ["given-up"]
        assert due_for_purge(conn, NOW) == ["given-up", "old"]
        restore_run(conn, "restored")
        for run in ("new", "restored", "alive"):
            assert purge_some(conn, run, NOW, deleted_before=NOW, more=lambda: True) == (0, True, False)
            assert count(conn, run)["runs"] == 1
        with pytest.raises(Conflict, match="not deleted"):
            begin_purge(conn, "alive", NOW)
        with pytest.raises(NotFound, match="'nothing'"):
            begin_purge(conn, "nothing", NOW)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_servers_share_a_purge(database: Database, database_url: str) -> None:
    """While one removes rows of a run, the other does not wait for it, and does not think that it is done."""
    other = Database.open(database_url)
    with database.write() as conn:
        fill(conn, started(conn, "a"))
        delete_run(conn, "a", NOW)
    with database.write() as first:
        assert purge_some(first, "a", NOW, deleted_before=NOW, more=lambda: False).rows
        with other.write() as second:
            assert purge_some(second, "a", NOW, deleted_before=NOW, more=lambda: True) == (0, False, True)
    with other.write() as second:
        assert purge_some(second, "a", NOW, deleted_before=NOW, more=lambda: True).done
    other.close()


def test_a_deleted_run_can_not_be_finished(database: Database) -> None:
    """Its agent hears that it was deleted, keeps the end, and says it once the run is restored."""
    from holter.wire import RunFinish

    with database.write() as conn:
        started(conn, "a")
        delete_run(conn, "a", NOW)
        with pytest.raises(Gone):
            finish_run(conn, "a", RunFinish(state="finished"), NOW)
        restore_run(conn, "a")
        assert finish_run(conn, "a", RunFinish(state="finished"), NOW).state == "finished"
