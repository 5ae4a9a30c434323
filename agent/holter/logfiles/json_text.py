"""JSON: one object to a line, and the trainer_state.json of Hugging Face's Trainer."""

from __future__ import annotations

import json
import math
from typing import Any

from holter.logfiles.model import STEP_MAX, WRITER, Point, Row, Unreadable, flatten, parsed, points_of, rows_of

__all__ = ["read_json", "read_json_lines"]


def read_json(text: str) -> list[Row]:
    """The rows of a trainer_state.json (its `log_history`), or of a list of objects.

    Raises:
        Unreadable: it is no JSON, or holds no such list.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise Unreadable(f"it is no JSON ({error})", "A file of one object to a line is called .jsonl") from None
    history = content.get("log_history") if isinstance(content, dict) else content
    if not isinstance(history, list):
        hint = "Lint reads trainer_state.json, lists of objects, and .jsonl"
        raise Unreadable("it has no list log_history", hint)
    return _rows(history)


def read_json_lines(text: str) -> list[Row]:
    """The rows of a text with one object to a line; a last line that was cut off is left out.

    Raises:
        Unreadable: a line is no JSON object.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    entries = []
    for index, line in enumerate(lines):
        try:
            entries.append(json.loads(line))
        except ValueError:
            if index + 1 == len(lines) and entries:
                break  # the training was killed while it wrote
            raise Unreadable(f"line {index + 1} is no JSON", "Each line has to be an object") from None
    return _rows(entries)


def _rows(entries: list[Any]) -> list[Row]:
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if objects and all(isinstance(entry.get("metric"), str) for entry in objects):
        return points_of(point for entry in objects if (point := _point(entry)) is not None)
    records = [dict(flatten(entry)) for entry in objects]
    if not any(records):
        raise Unreadable("it has no objects with numbers", 'Such as {"step": 1, "loss": 2.5}')
    return rows_of(records)


def _point(entry: dict[str, Any]) -> Point | None:
    """One line of Holter's own export."""
    step, value, time = (parsed(entry.get(key)) for key in ("step", "value", "time"))
    if step is None or value is None or not abs(step) < STEP_MAX:
        return None
    return Point(
        int(step), str(entry.get("writer", WRITER)), entry["metric"], math.nan if time is None else time, value
    )
