"""Comma-separated tables: Lightning's and Keras's, ultralytics' results.csv, Holter's own export, and any other."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from holter.logfiles.model import STEP_MAX, WRITER, Point, Row, Unreadable, parsed, points_of, rows_of

__all__ = ["read_table"]

_LONG = {"metric", "step", "value"}  # one point to a line


def read_table(text: str) -> list[Row]:
    """The rows of a table whose first line names its columns; an empty cell was not logged.

    Raises:
        Unreadable: there is no such line, or no number below it.
    """
    lines = csv.reader(io.StringIO(text), delimiter=_delimiter(text))
    header = [name.strip() for name in next(lines, [])]
    if len(header) < 2 or any(parsed(name) is not None for name in header):
        raise Unreadable("its first line does not name columns", "Lint reads tables with a header, such as step,loss")
    if set(map(str.lower, header)) >= _LONG:
        return _points(header, lines)
    records = [
        {name: number for name, cell in zip(header, cells, strict=False) if (number := parsed(cell)) is not None}
        for cells in lines
        if cells
    ]
    if not any(records):
        raise Unreadable("it has no numbers below its header", "Lint reads tables with a row for each step")
    return rows_of(records)


def _delimiter(text: str) -> str:
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _points(header: list[str], lines: Iterator[list[str]]) -> list[Row]:
    """Holter's own export goes metric by metric."""
    at = {name.lower(): index for index, name in enumerate(header)}
    points = []
    for cells in lines:
        step, value = parsed(cells[at["step"]]), parsed(cells[at["value"]])
        if step is not None and value is not None and abs(step) < STEP_MAX:
            time = parsed(cells[at["time"]]) if "time" in at else None
            writer = cells[at["writer"]] if "writer" in at else WRITER
            points.append(Point(int(step), writer, cells[at["metric"]], math.nan if time is None else time, value))
    return points_of(points)
