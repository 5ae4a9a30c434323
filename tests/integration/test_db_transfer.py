"""A database copied from SQLite to PostgreSQL and back: every table, every row, every value."""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from holter import wire
from holter_db import fold, raw_rows, tokens
from holter_db.database import Database, parse_url
from holter_db.errors import DatabaseError
from holter_db.raw_rows import Checksum, PostgresqlRows, SqliteRows, kind_of
from holter_db.runs import start_run, touch_run
from holter_db.schema import metadata, series, writers
from holter_db.transfer import transfer
from holter_db.types import Double
from holter_server.service import running
from holter_server.settings import Settings

FILLED = {
    "attempts", "axes", "captures", "chunks", "command_answers", "commands", "deliveries", "events", "folds",
    "incidents", "projects", "rule_sets", "rule_state", "runs", "segments", "series", "tokens", "webhooks", "writers",
}  # fmt: skip
SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1)
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}


@pytest.fixture
def source(database_url: str, client_of: Any, receiver: Any, wait: Callable[..., Any]) -> str:
    """A database in which a service has kept runs with everything that can be in one."""
    with running(Settings(db=database_url, port=0, allow_private_webhooks=True)) as base:
        _fill(client_of(base), receiver, wait)
    with closing(Database.open(database_url)) as database, database.write() as conn:
        tokens.create(conn, "ann ☃", 1.7e9)
        for waiting in fold.pending(conn, "run-0", 2**62):
            folded = fold.prepare(conn, waiting, 2**62)
            assert folded is not None
            assert fold.commit(conn, folded)
        row = conn.execute(sa.select(series)).mappings().first()
        assert row is not None
        for number, value in enumerate(SPECIAL):
            strange = {"metric": f"strange/{number}", "last": value, "min": value, "max": None}
            conn.execute(sa.insert(series), {**row, **strange, "first_step": -(2**63), "last_step": 2**63 - 1})
    return database_url


def _fill(client: Any, receiver: Any, wait: Callable[..., Any]) -> None:
    client.post("/webhooks", {"url": receiver.url})
    rules = b"rules: [{id: precursor-high, above: 8}]"
    assert client.call("PUT", "/projects/denovo/rules", rules, Content_Type="text/yaml").status == 200
    run = client.start(
        project="denovo",
        name='quoted "name", with \\ and \n',
        notes="a NUL \x00, a snowman ☃, 🎈",
        tags=["a", "b, c"],
        config={"lr": "NaN", "text": "\x00 NaN", "deep": {"list": [1, 2.0, None, True, 10**17]}},
    )
    points = [{"step": step, "values": {"loss/total": value, "lr": 0.1}} for step, value in enumerate(SPECIAL)]
    client.post(f"/runs/{run}/points", {"points": points, "writer": "rank0", "seq": 1})
    client.log(run, 100, loss__precursor=9.0)
    happened = [
        wire.Event(1.7e9, "flight\tof \x00 the bumblebee", "flight", step=3, data={"layers": ["a", "b"]}),
        wire.Event(1.7e9, "stage 2", "stage", step=4),
    ]
    client.ship(run, wire.Frame(1, "", "rank1", 1, events=happened))
    client.post(f"/runs/{run}/commands", {"name": "checkpoint", "args": {"why": "NaN"}})
    receipt = client.ship(run, wire.Frame(1, "", "rank1", 0))
    told = [wire.CommandUpdate(order["id"], "done", 1.7e9, "saved", 7) for order in receipt["commands"]]
    client.ship(run, wire.Frame(1, "", "rank1", 0, commands=told))
    for number in range(5):
        other = client.start(project=f"project {number}", id=f"run-{number}", attempt="first")
        client.log(other, 1, loss=float(number))
        client.post("/runs", {"project": f"project {number}", "id": other, "attempt": "second"})
    client.call("DELETE", "/runs/run-4")
    client.post(f"/runs/{run}/finish", {"state": "failed", "reason": "RuntimeError: NaN"})
    wait(lambda: "run.state" in receiver.types(), "the webhook")
    wait(lambda: not client.get("/deliveries?state=sending")["deliveries"], "the deliveries to be written down")


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, read as the service reads them; equal values are equal, NaN included."""
    with closing(Database.open(url)) as database, database.read() as conn:
        return {
            table.name: sorted(_exact(row, table) for row in conn.execute(sa.select(table)))
            for table in metadata.sorted_tables
        }


def _exact(row: sa.Row[Any], table: sa.Table) -> tuple[Any, ...]:
    doubles = [isinstance(column.type, Double) for column in table.c]
    return tuple(_bits(value) if double else repr(value) for value, double in zip(row, doubles, strict=True))


def _bits(value: float | None) -> bytes:
    if value is None:
        return b""
    return struct.pack(">d", math.nan if math.isnan(value) else value + 0.0)  # SQLite keeps no sign of a zero


@pytest.mark.parametrize("piece", [16_000_000, 1])
def test_every_row_and_value_is_there_and_comes_back(
    source: str, dialect: str, new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """To the other database and back again, in one piece or a row at a time."""
    monkeypatch.setattr(raw_rows, "PIECE_BYTES", piece)
    there, back = new_url(OTHER[dialect]), new_url(dialect)
    before = rows_of(source)
    assert all(before[table] for table in FILLED)
    copied = transfer(source, there)
    assert rows_of(there) == before
    assert {table.table: table.rows for table in copied.tables} == {table: len(rows) for table, rows in before.items()}
    again = transfer(there, back)
    assert rows_of(back) == before
    assert again.tables == copied.tables  # with equal checksums
    assert not copied.source_changed
    assert not again.source_changed


def test_a_service_goes_on_from_the_copy(
    source: str, dialect: str, new_url: Callable[[str], str], client_of: Any
) -> None:
    """It shows the same points, knows what it has already taken, and takes more."""
    there = new_url(OTHER[dialect])
    transfer(source, there)
    answers = []
    for url in (source, there):
        with running(Settings(db=url, port=0)) as base:
            client = client_of(base)
            (run,) = client.get("/runs?project=denovo")["runs"]
            paths = ("series?metric=loss*", "incidents", "events", "commands", "metrics", "series?metric=*&width=10")
            answers.append([run["notes"], *(client.get(f"/runs/{run['id']}/{path}") for path in paths)])
            again = client.log("run-1", 1, seq=0, loss=5.0)
            answers[-1].append(again)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_a_target_holds_is_only_replaced_when_asked(database: Database, new_url: Callable[[str], str]) -> None:
    """Both databases say which tables hold something; --replace leaves nothing of it."""
    with database.write() as conn:
        start_run(conn, wire.RunStart(project="new", id="new"), 1.0)
    database.close()
    for dialect in ("postgresql", "sqlite"):
        there = new_url(dialect)
        with closing(Database.open(there)) as held, held.write() as conn:
            start_run(conn, wire.RunStart(project="old", id="old"), 1.0)
        before = rows_of(there)
        with pytest.raises(DatabaseError, match=r"already holds rows \(projects, runs, .*writers\)") as caught:
            transfer(database.url, there)
        assert "--replace" in caught.value.hint
        assert rows_of(there) == before
        transfer(database.url, there, replace=True)
        assert rows_of(there) == rows_of(database.url)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_failure_leaves_the_target_as_it_was(database: Database, new_url: Callable[[str], str]) -> None:
    """A number that PostgreSQL's column does not take: nothing is there, not even of the tables before it."""
    with database.write() as conn:
        start_run(conn, wire.RunStart(project="p", id="r"), 1.0)
        conn.execute(sa.update(writers).values(rank=2**40))
    there = new_url("postgresql")
    database.close()
    with pytest.raises(DatabaseError, match="table writers holds"):
        transfer(database.url, there)
    assert not any(rows_of(there).values())


def test_ctrl_c_leaves_the_target_as_it_was(
    database_url: str, dialect: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """At the last moment before it would have been kept."""
    with closing(Database.open(database_url)) as database, database.write() as conn:
        start_run(conn, wire.RunStart(project="p"), 1.0)

    def interrupt(stage: str, table: str, done: int, total: int) -> None:
        if (stage, table) == ("check", "writers"):
            raise KeyboardInterrupt

    there = new_url(OTHER[dialect])
    with pytest.raises(KeyboardInterrupt):
        transfer(database_url, there, progress=interrupt)
    if dialect == "postgresql":
        assert list(tmp_path.glob("*.db*")) == []
    assert not any(rows_of(there).values())


def test_a_copy_that_reads_back_differently_is_not_kept(
    source: str, dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that got lost, or one that changed on its way."""
    honest = SqliteRows.write
    target = tmp_path / "copy.db"
    before = b"" if dialect == "postgresql" else Path(source.removeprefix("sqlite:///")).read_bytes()

    def losing(self: SqliteRows, table: sa.Table, rows: Iterator[raw_rows.Row]) -> None:
        honest(self, table, list(rows)[1:] if table.name == "segments" else rows)

    def changing(self: SqliteRows, table: sa.Table, rows: Iterator[raw_rows.Row]) -> None:
        at = [column.name for column in table.c].index("last_step") if table.name == "runs" else 0
        wrong = ((*row[:at], (row[at] or 0) + 1, *row[at + 1 :]) for row in rows) if table.name == "runs" else rows
        honest(self, table, wrong)

    for wrong, table in ((losing, "segments"), (changing, "runs")):
        monkeypatch.setattr(SqliteRows, "write", wrong)
        with pytest.raises(DatabaseError, match=f"table {table} reads back"):
            transfer(source, f"sqlite:///{target}")
        assert not target.exists()
    assert before == (b"" if dialect == "postgresql" else Path(source.removeprefix("sqlite:///")).read_bytes())


def test_a_source_that_a_service_works_on_is_refused_unless_a_snapshot_is_wanted(
    settings: Settings, service: Any, dialect: str, new_url: Callable[[str], str]
) -> None:
    """What it takes in while the copy goes on is not in it, and that is said."""
    run = service.start()
    service.log(run, 1, loss=1.0)
    there = new_url(OTHER[dialect])
    with pytest.raises(DatabaseError, match=r"has .* open") as caught:
        transfer(settings.db, there)
    assert "--snapshot" in caught.value.hint

    def meanwhile(stage: str, table: str, done: int, total: int) -> None:
        if (stage, table, done) == ("copy", "projects", 0):
            service.log(run, 2, loss=1.0)

    copied = transfer(settings.db, there, snapshot=True, progress=meanwhile)
    assert copied.source_changed
    assert {table.table: table.rows for table in copied.tables}["segments"] == 1
    assert len(rows_of(there)["segments"]) == 1


def test_a_service_that_starts_during_the_copy_is_noticed(
    database_url: str, dialect: str, new_url: Callable[[str], str]
) -> None:
    """Then nothing is kept, since what came meanwhile would be missing."""
    with closing(Database.open(database_url)) as database:
        with database.write() as conn:
            run = start_run(conn, wire.RunStart(project="p"), 1.0).id
        database.close()

        def meanwhile(stage: str, table: str, done: int, total: int) -> None:
            if (stage, table, done) == ("check", "runs", 0):
                with database.write() as conn:
                    touch_run(conn, run, seen_at=2.0)

        there = new_url(OTHER[dialect])
        with pytest.raises(DatabaseError, match="while it was copied"):
            transfer(database_url, there, progress=meanwhile)
        assert not any(rows_of(there).values())


def test_a_target_that_a_service_works_on_is_refused(
    settings: Settings, service: Any, dialect: str, new_url: Callable[[str], str]
) -> None:
    """Even if what it holds may be replaced."""
    service.start()
    empty = new_url(OTHER[dialect])
    Database.open(empty).close()
    before = rows_of(settings.db)
    with pytest.raises(DatabaseError, match=r"has .* open") as caught:
        transfer(empty, settings.db, replace=True)
    assert "Stop it first" in caught.value.hint
    assert rows_of(settings.db)["projects"] == before["projects"]


def test_a_database_is_not_copied_into_itself(database_url: str, dialect: str, tmp_path: Path) -> None:
    """Whatever it is called."""
    by_another_name = {
        "sqlite": f"sqlite:///{tmp_path}/../{tmp_path.name}/holter.db",
        "postgresql": f"{database_url}&application_name=somebody",
    }
    for target in (database_url, by_another_name[dialect]):
        with pytest.raises(DatabaseError, match="can't be copied into itself"):
            transfer(database_url, target, replace=True)


@pytest.mark.parametrize(("revision", "hint"), [("0001", "Bring it up to date"), ("9999", "pip install -U")])
def test_another_revision_is_refused(
    database_url: str, dialect: str, new_url: Callable[[str], str], revision: str, hint: str
) -> None:
    """An older source is brought up to date by opening it; a newer one, on either side, needs a newer Holter."""
    there = new_url(OTHER[dialect])
    Database.open(there).close()
    with closing(Database.attach(parse_url(database_url))) as database, database.write() as conn:
        conn.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
    with pytest.raises(DatabaseError, match=f"revision '{revision}'") as caught:
        transfer(database_url, there)
    assert hint in caught.value.hint
    if revision == "9999":
        with pytest.raises(DatabaseError, match=f"revision '{revision}'"):
            transfer(there, database_url)


def test_a_source_that_is_not_there_is_not_made(new_url: Callable[[str], str], tmp_path: Path) -> None:
    """A missing file, databases without runs, a server that does not answer."""
    missing, blank, copy = (tmp_path / name for name in ("missing.db", "blank.db", "copy.db"))
    blank.touch()
    for source, said in (
        (f"sqlite:///{missing}", "There is no database at"),
        (f"sqlite:///{blank}", "holds no runs"),
        (new_url("postgresql"), "holds no runs"),
        ("postgresql://127.0.0.1:1/x", "can't be reached"),
    ):
        with pytest.raises(DatabaseError, match=said):
            transfer(source, f"sqlite:///{copy}")
    assert not missing.exists()
    assert not copy.exists()


# --- any rows of any table ------------------------------------------------------------------------------------------

texts = st.one_of(st.text(max_size=20), st.sampled_from(["NaN", "\\N", "", '"', "\t\n\r", "0.1"])).map(
    lambda text: text.replace("\x00", "\ufffd")  # as the tables' own types have it (`holter_db.types.Words`)
)
VALUES = {
    "double": st.one_of(st.floats(), st.sampled_from(SPECIAL)),
    "bool": st.booleans(),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "bytea": st.one_of(st.binary(max_size=50), st.just(bytes(range(256)))),
    "text": texts,
}


@st.composite
def contents(draw: st.DrawFn) -> tuple[sa.Table, list[raw_rows.Row]]:
    """A table and rows of it, whose keys are told apart by a number."""
    table = draw(st.sampled_from(metadata.sorted_tables))
    first = next(iter(table.primary_key))
    rows = []
    for number in range(draw(st.integers(0, 5))):
        row = []
        for column in table.c:
            value = draw(VALUES[kind_of(column)])
            if column is first or column.unique:
                value = f"{number} {value}"
            row.append(draw(st.sampled_from([value, None])) if column.nullable else value)
        rows.append(tuple(row))
    return table, rows


def _plain(table: sa.Table, row: raw_rows.Row) -> tuple[Any, ...]:
    kinds = [kind_of(column) for column in table.c]
    return tuple(_bits(value) if kind == "double" else value for value, kind in zip(row, kinds, strict=True))


def _checksum(table: sa.Table, rows: Iterable[raw_rows.Row]) -> str:
    checksum = Checksum(table)
    for row in rows:
        checksum.add(row)
    return checksum.text


@pytest.fixture
def written(database_url: str, dialect: str) -> Callable[[sa.Table, list[raw_rows.Row]], list[raw_rows.Row]]:
    """Writes rows, reads the table, and takes everything back."""

    def on_sqlite(table: sa.Table, rows: list[raw_rows.Row]) -> list[raw_rows.Row]:
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as conn:
            SqliteRows(conn).write(table, rows)
            return list(SqliteRows(conn).read(table))

    def on_postgresql(table: sa.Table, rows: list[raw_rows.Row]) -> list[raw_rows.Row]:
        with closing(psycopg.connect(database_url)) as conn:
            conn.execute("SET session_replication_role = replica")  # these rows refer to no run that there is
            PostgresqlRows(conn).write(table, rows)
            return list(PostgresqlRows(conn).read(table))

    return on_sqlite if dialect == "sqlite" else on_postgresql


@given(contents())
@examples(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_reads_back_as_it_was_written(
    written: Callable[[sa.Table, list[raw_rows.Row]], list[raw_rows.Row]], drawn: tuple[sa.Table, list[raw_rows.Row]]
) -> None:
    """Of every table that there is, on both databases."""
    table, rows = drawn
    found = written(table, rows)
    key = [column.name for column in table.c].index(next(iter(table.primary_key)).name)
    found.sort(key=lambda row: int(row[key].split(" ")[0]))
    assert [_plain(table, row) for row in found] == [_plain(table, row) for row in rows]
    assert _checksum(table, found) == _checksum(table, reversed(rows))


@given(contents(), st.data())
def test_a_checksum_sees_any_change(drawn: tuple[sa.Table, list[raw_rows.Row]], data: st.DataObject) -> None:
    """Of one value, of its type, of the number of rows; not of their order."""
    table, rows = drawn
    whole = _checksum(table, rows)
    if not rows:
        return
    assert _checksum(table, rows[1:]) != whole
    assert _checksum(table, [*rows, rows[0]]) != whole
    at = data.draw(st.integers(0, len(table.c) - 1))
    value = data.draw(st.one_of(*VALUES.values(), st.none()))
    double = kind_of(list(table.c)[at]) == "double" and (value is None or isinstance(value, float))
    if double or kind_of(list(table.c)[at]) != "double":
        changed = (*rows[0][:at], value, *rows[0][at + 1 :])
        same = _plain(table, changed) == _plain(table, rows[0]) and type(value) is type(rows[0][at])
        assert (_checksum(table, [changed, *rows[1:]]) == whole) is same
