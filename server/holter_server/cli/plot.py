"""A small chart for a terminal, eight lines high, in Braille dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from holter_server.cli.screen import number

__all__ = ["Points", "draw"]

WIDTH, HEIGHT = 64, 8  # characters; each is 2 dots wide and 4 high
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by line and column
FEWEST = 4  # finite values
LOG_FROM = 20.0  # times: from there on a linear axis would show only the largest values


@dataclass(frozen=True, slots=True)
class Points:
    """One metric of a log: ``rows`` of the file, their ``steps`` and ``values``."""

    steps: Sequence[int]
    rows: Sequence[int]
    values: Sequence[float]


def draw(name: str, points: Points, marks: Sequence[int], width: int = WIDTH) -> Text:
    """The series with its range beside it; below it "▲" where the rows ``marks`` are and "×" where it is non-finite.

    Each column of dots shows the lowest and the highest of its values, so that no spike is lost. The axis is
    logarithmic where the values are positive and span more than a factor of 20.
    """
    rows, values = points.rows, points.values
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < FEWEST:
        return Text(f"    {name}: too few finite values for a chart", style="dim")
    log = min(finite) > 0 and max(finite) > LOG_FROM * min(finite)
    low, high = min(finite), max(finite)
    cells = [[0] * width for _ in range(HEIGHT)]
    for column, (bottom, top) in enumerate(_columns(values, 2 * width)):
        if bottom <= top:
            first, last = _height(bottom, low, high, log=log), _height(top, low, high, log=log)
            for dot in range(first, last + 1):
                line = HEIGHT - 1 - dot // 4
                cells[line][column // 2] |= DOTS[3 - dot % 4][column % 2]
    labels = [number(high), *[""] * (HEIGHT - 2), number(low)]
    margin = max(map(len, labels))
    lines = [
        f"    {label:>{margin}} ┤{''.join(chr(0x2800 + cell) for cell in line)}"
        for label, line in zip(labels, cells, strict=True)
    ]
    text = Text(f"    {name}{' (log axis)' if log else ''}\n", style="dim")
    text.append("\n".join(lines) + "\n", style="default")
    text.append(f"    {'':>{margin}}  {_marks(rows, values, marks, width)}\n", style="bold red")
    left, right = f"step {points.steps[0]}", str(points.steps[-1])
    text.append(f"    {'':>{margin}}  {left}{right:>{max(width - len(left), len(right) + 1)}}", style="dim")
    return text


def _columns(values: Sequence[float], columns: int) -> list[tuple[float, float]]:
    """The lowest and the highest finite value of each column of dots; of an empty one (inf, −inf)."""
    found = [(math.inf, -math.inf)] * columns
    last = max(len(values) - 1, 1)
    for index, value in enumerate(values):
        if math.isfinite(value):
            column = round(index / last * (columns - 1))
            low, high = found[column]
            found[column] = (min(low, value), max(high, value))
    return found


def _height(value: float, low: float, high: float, *, log: bool) -> int:
    if high <= low:
        return 2 * HEIGHT
    share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    return min(4 * HEIGHT - 1, max(0, round(share * (4 * HEIGHT - 1))))


def _marks(rows: Sequence[int], values: Sequence[float], marks: Sequence[int], width: int) -> str:
    line = [" "] * width
    last = max(len(rows) - 1, 1)
    for index, value in enumerate(values):
        if not math.isfinite(value):
            line[round(index / last * (width - 1))] = "×"
    for mark in marks:
        index = min(range(len(rows)), key=lambda index: abs(rows[index] - mark))
        line[round(index / last * (width - 1))] = "▲"
    return "".join(line).rstrip()
