"""The tables can be partitioned or distributed by run, those that will be added, too (docs/scaling.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKeyConstraint, Integer, MetaData, Table, Text, UniqueConstraint

from holter_db.schema import metadata

# Small, and read beside the rows of any run: a distributed database has a copy of them on every node. A table that
# grows with the runs does not belong here.
REFERENCE = {"mutes", "projects", "retention", "rule_sets", "tokens", "webhooks"}


def run_of(table: Table) -> str:
    """The column that says to which run a row belongs."""
    return "id" if table.name == "runs" else "run_id"


def faults(tables: MetaData) -> Iterator[str]:
    """Everything that would keep the tables from being distributed by run."""
    for table in tables.sorted_tables:
        for column in table.c:
            if column.identity is not None or column.default is not None or table.autoincrement_column is column:
                yield f"{table.name}.{column.name} is numbered by the database"
        if table.name in REFERENCE:
            yield from _faults_of_reference(table)
        else:
            yield from _faults_of_distributed(table)


def _faults_of_reference(table: Table) -> Iterator[str]:
    for key in table.foreign_key_constraints:
        if key.referred_table.name not in REFERENCE:
            yield f"{table.name} refers to {key.referred_table.name}, which is not on every node"


def _faults_of_distributed(table: Table) -> Iterator[str]:
    run = run_of(table)
    if next(iter(table.primary_key)).name != run:
        yield f"{table.name} does not have {run} first in its primary key"
    unique = [item for item in table.constraints if isinstance(item, UniqueConstraint)]
    for item in [*unique, *(index for index in table.indexes if index.unique)]:
        if next(iter(item.columns)).name != run:
            yield f"{table.name} has something unique that does not begin with {run}"
    for key in table.foreign_key_constraints:
        pairs = {(element.parent.name, element.column.name) for element in key.elements}
        if key.referred_table.name not in REFERENCE and (run, run_of(key.referred_table)) not in pairs:
            yield f"{table.name} refers to rows of {key.referred_table.name} that may lie on another node"


def test_every_table_that_grows_is_of_one_run() -> None:
    """The run is first in its primary key and in all that is unique, and its foreign keys stay within the run."""
    assert list(faults(metadata)) == []
    assert set(metadata.tables) >= REFERENCE


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ([Column("id", Text, primary_key=True)], "does not have run_id first"),
        ([Column("n", Integer, primary_key=True)], "numbered by the database"),
        (
            [Column("id", Text, primary_key=True), Column("run_id", Text, primary_key=True)],
            "does not have run_id first",
        ),
        (
            [Column("run_id", Text, primary_key=True), Column("name", Text), UniqueConstraint("name")],
            "something unique",
        ),
        (
            [Column("run_id", Text, primary_key=True), Column("name", Text), sa.Index(None, "name", unique=True)],
            "something unique",
        ),
        (
            [Column("run_id", Text, primary_key=True), Column("of", Text), ForeignKeyConstraint(["of"], ["runs.id"])],
            "may lie on another node",
        ),
    ],
)
def test_a_table_that_breaks_this_is_found(columns: list[sa.SchemaItem], fault: str) -> None:
    """The check above sees each of the ways to break it."""
    tables = MetaData()
    Table("runs", tables, Column("id", Text, primary_key=True))
    Table("new", tables, *columns)
    assert any(fault in found for found in faults(tables))


def test_the_page_on_scaling_says_for_every_table_where_it_goes() -> None:
    """Its statements for a distributed PostgreSQL are complete, in the order of the foreign keys."""
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    placed = re.findall(r"SELECT (create_reference_table|create_distributed_table)\('(\w+)'(?:, '(\w+)')?", page)
    assert {table for how, table, _ in placed if how == "create_reference_table"} == REFERENCE
    distributed = {table: column for how, table, column in placed if how == "create_distributed_table"}
    expected = [table for table in metadata.tables.values() if table.name not in {*REFERENCE, "deliveries"}]
    assert distributed == {table.name: run_of(table) for table in expected}
    assert next(iter(distributed)) == "runs"
