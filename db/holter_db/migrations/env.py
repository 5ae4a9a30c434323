"""Alembic's entry point: on the connection that `holter_db.migrate` passes, or on ``-x url=…`` of the command line."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from alembic import context

from holter_db.schema import metadata
from holter_db.types import Double


def render(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Our text types are TEXT to the database; a migration need not follow what they mean to the code."""
    if kind != "type":
        return False
    if isinstance(item, sa.types.TypeDecorator) and isinstance(item.impl, sa.Text):
        return "sa.Text()"
    return "Double()" if isinstance(item, Double) else False


def differs(_context: object, _inspected: object, _declared: object, found: object, wanted: object) -> bool | None:
    """SQLite says REAL of a column that was declared DOUBLE PRECISION; None leaves the comparison to Alembic."""
    return False if isinstance(wanted, Double) and isinstance(found, sa.Float) else None


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_item=render,
        compare_type=differs,
        transactional_ddl=True,  # SQLite's DDL is transactional as well, and our connections say BEGIN themselves
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


passed = context.config.attributes.get("connection")
if passed is not None:
    run(passed)
else:
    url = context.get_x_argument(as_dictionary=True).get("url", "sqlite:///holter.db")
    with sa.create_engine(url).begin() as opened:
        run(opened)
