"""What is printed and how: consoles, JSON for machines, numbers, times and states in words."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import IO, Any, Literal, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holter.wire import jsonable

__all__ = [
    "PIPE_WIDTH",
    "ago",
    "clock",
    "duration",
    "health_text",
    "number",
    "plain_table",
    "print_json",
    "severity_text",
    "state_text",
    "stderr",
    "stdout",
    "step",
]

PIPE_WIDTH = 160  # characters; a pipe has no width of its own, and 80 would cut what `grep` is to find

_STATES = {
    "running": ("●", "green"),
    "finished": ("✓", "default"),
    "failed": ("✗", "red"),
    "stopped": ("■", "yellow"),
    "lost": ("?", "red"),
    "hung": ("!", "red"),
    "silent": ("?", "red"),
}
_SEVERITIES = {"critical": ("■", "bold red"), "warning": ("▲", "yellow"), "info": ("·", "cyan")}
_HEALTHS = {"healthy": ("●", "green"), "warning": ("▲", "yellow"), "critical": ("■", "bold red")}


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(file=stream, highlight=False)
    width = None if "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=cast(IO[str], _Trimmed(stream)), highlight=False, width=width)


class _Trimmed:
    """A stream for files and pipes: Rich fills lines with spaces, which nobody wants there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r" +(?=\n)", "", text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


def print_json(value: Any) -> None:
    """``value`` as indented JSON on standard output; non-finite numbers are strings, as everywhere in Holter."""
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain_table(*columns: str, right: tuple[str, ...] = (), flexible: tuple[str, ...] = ()) -> Table:
    """A table without lines. On a narrow terminal columns in ``flexible`` give way.

    The others stay whole, so that ids and numbers can be read and copied at any width.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=column not in flexible, overflow="fold")
    return table


def state_text(state: str) -> Text:
    mark, style = _STATES.get(state, ("·", "default"))
    return Text(f"{mark} {state}", style=style)


def health_text(health: str, open_incidents: dict[str, int] | None = None) -> Text:
    """The health and, where there are any, how many incidents of that severity are open."""
    mark, style = _HEALTHS.get(health, ("·", "default"))
    count = (open_incidents or {}).get(health, 0)
    return Text(f"{mark} {health}" + (f" ({count})" if count else ""), style=style)


def severity_text(severity: str) -> Text:
    mark, style = _SEVERITIES.get(severity, ("·", "default"))
    return Text(f"{mark} {severity}", style=style)


def number(value: Any) -> str:
    """A metric's value, to five significant digits; the API's "NaN" and "Infinity" as they are.

    >>> number(0.000123456), number(28120), number("NaN"), number(None)
    ('0.00012346', '28120', 'NaN', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.5g}"


def step(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def ago(moment: float | None, now: float | None = None) -> str:
    """How long ago ``moment`` (seconds, UTC) was.

    >>> ago(1000.0, now=1007.0), ago(1000.0, now=8300.0), ago(None)
    ('7 s', '2 h', '–')
    """
    if moment is None:
        return "–"
    return duration((time.time() if now is None else now) - moment)


def duration(seconds: float) -> str:
    """Seconds in the unit a person would choose.

    >>> duration(3.4), duration(185), duration(90000)
    ('3 s', '3 min', '25 h')
    """
    for unit, size, limit in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{max(0, int(seconds // size))} {unit}"
    return f"{int(seconds // 86400)} d"


def clock(moment: float | None) -> str:
    """``moment`` (seconds, UTC) in the reader's own time zone."""
    return "–" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
