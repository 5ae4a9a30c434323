"""What of a run is kept as rows so that runs can be found by it: the leaves of its config, and its tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from holter.wire import dump_json, jsonable
from holter_db.schema import config_values, run_tags
from holter_db.types import line

__all__ = ["TEXT_MAX", "config_rows", "keep_config", "keep_tags", "number_in", "tag_rows"]

# PostgreSQL takes at most 2,704 bytes in an index entry; a character may have four.
KEY_MAX, TEXT_MAX = 256, 300  # characters
LEAVES_MAX = 2_000
ITEMS_MAX = 32  # of a list; a longer one is found by its text
DEPTH_MAX = 20

_FINITE = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_NON_FINITE = {"NaN", "Infinity", "-Infinity"}  # as the wire spells them

Leaf = tuple[str, float | None, str | None]


def keep_config(conn: Connection, run_id: str, config: Mapping[str, Any]) -> None:
    """Replace what is known of a run's config."""
    _replace(conn, config_values, run_id, config_rows(run_id, config))


def keep_tags(conn: Connection, run_id: str, tags: Sequence[str]) -> None:
    """Replace what is known of a run's tags."""
    _replace(conn, run_tags, run_id, tag_rows(run_id, tags))


def _replace(conn: Connection, table: sa.Table, run_id: str, rows: list[dict[str, Any]]) -> None:
    conn.execute(sa.delete(table).where(table.c.run_id == run_id))
    if rows:
        conn.execute(sa.insert(table), rows)


def tag_rows(run_id: str, tags: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``run_tags``."""
    return [{"run_id": run_id, "tag": tag} for tag in dict.fromkeys(line(tag)[:TEXT_MAX] for tag in tags)]


def config_rows(run_id: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``config_values``: a leaf each, by its dotted key.

    A number is a number, also where the config has it as text (YAML reads ``1e-3`` as one); true and false are these
    words; a list is its JSON and, if it is short, its items as ``key.0``, ``key.1``, …; a mapping is ``{}`` beside its
    own leaves. null is no leaf. Keys that are longer than `KEY_MAX` and leaves beyond `LEAVES_MAX` can't be found.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, number, text in _leaves("", jsonable(config), 0):
        key = name.replace("\x00", "\ufffd")  # as `holter_db.types.Words` keeps it
        if 0 < len(key) <= KEY_MAX:
            kept = None if text is None else text[:TEXT_MAX].replace("\x00", "\ufffd")
            rows[key] = {"run_id": run_id, "key": key, "number": number, "text": kept}
        if len(rows) == LEAVES_MAX:
            break
    return list(rows.values())


def _leaves(key: str, value: Any, depth: int) -> Iterator[Leaf]:
    match value:
        case None:
            return
        case bool():
            yield key, None, "true" if value else "false"
        case int() | float():
            yield _number(key, value)
        case str():
            yield key, number_in(value), value
        case _:
            yield key, None, "{}" if isinstance(value, dict) else dump_json(value).decode()
            for name, item in _items(value) if depth < DEPTH_MAX else ():
                yield from _leaves(f"{key}.{name}" if key else name, item, depth + 1)


def _items(value: dict[str, Any] | list[Any]) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [(str(index), item) for index, item in enumerate(value)] if len(value) <= ITEMS_MAX else []


def _number(key: str, value: float) -> Leaf:
    try:
        return key, float(value), None
    except OverflowError:  # an integer of more than 308 digits
        return key, None, str(value)


def number_in(text: str) -> float | None:
    """The number that ``text`` is, as a config or a filter may spell it, or None.

    >>> number_in("1e-3"), number_in("v1")
    (0.001, None)
    """
    return float(text) if _FINITE.fullmatch(text) or text in _NON_FINITE else None
