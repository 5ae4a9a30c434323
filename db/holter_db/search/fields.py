"""What can be asked of a run, under which names."""

from __future__ import annotations

from difflib import get_close_matches

from holter_db.errors import FilterError, QueryError
from holter_db.search.syntax import Compare, ConfigKey, MetricValue, Node, Operand, RunField, Tag
from holter_db.search.tokens import Token
from holter_db.searchable import TEXT_MAX
from holter_db.types import line

__all__ = ["CHOICES", "FIELDS", "FUNCTIONS", "operand", "simple"]

CHOICES = {
    "state": ("running", "finished", "failed", "stopped", "lost", "hung"),
    "health": ("healthy", "warning", "critical"),
}
_TEXTS = ("id", "name", "project", "group", "notes", "state_reason")
_NUMBERS = (
    "last_step", "planned_steps", "steps_per_second", "attempt", "open_critical", "open_warning", "open_info",
)  # fmt: skip
_DATES = ("created_at", "started_at", "finished_at", "last_seen_at")
_SHORT = {"created": "created_at", "started": "started_at", "finished": "finished_at", "step": "last_step"}

FIELDS: dict[str, RunField] = {
    **{name: RunField(name, "choice", choices) for name, choices in CHOICES.items()},
    **{name: RunField(name, "text") for name in _TEXTS},
    **{name: RunField(name, "date") for name in _DATES},
    **{name: RunField(name, "number") for name in _NUMBERS},
}
FUNCTIONS = ("last", "min", "max", "count", "non_finite")

_EVERYTHING = f"{', '.join(FIELDS)}, tag, config.KEY, or {', '.join(FUNCTIONS)} of a metric, such as last(loss)"


def operand(token: Token) -> Operand:
    """What ``token`` asks of a run.

    Raises:
        FilterError: nothing has that name; the hint lists what there is.
    """
    if token.kind == "call":
        return _metric(token)
    if token.kind not in ("word", "text"):
        raise FilterError(f"{token} is no field", token.position, f"There are {_EVERYTHING}")
    prefix, _, key = token.text.partition(".")
    if prefix == "config" and key:
        return ConfigKey(key)
    name = token.text.lower()
    if name in ("tag", "tags"):
        return Tag()
    if (field := FIELDS.get(_SHORT.get(name, name))) is not None:
        return field
    raise FilterError(f"a run has no field {token.text!r}", token.position, _advice(token.text))


def simple(
    *, project: str | None, state: str | None, health: str | None, group: str | None, tag: str | None
) -> list[Node]:
    """The comparisons that the plain parameters of a list stand for.

    Raises:
        QueryError: there is no such state or health.
    """
    given = {"project": project, "state": state, "health": health, "group": group}
    for name, choices in CHOICES.items():
        if (value := given[name]) is not None and value not in choices:
            raise QueryError(f"No run has the {name} {value!r}", f"Use one of {', '.join(choices)}.")
    wanted: list[Node] = [Compare(FIELDS[name], "=", (value,)) for name, value in given.items() if value is not None]
    return wanted if tag is None else [*wanted, Compare(Tag(), "=", (line(tag)[:TEXT_MAX],))]


def _metric(token: Token) -> MetricValue:
    function = token.text.lower()
    if function not in FUNCTIONS:
        near = _near(function, FUNCTIONS)
        raise FilterError(f"there is no function {token.text!r}", token.position, f"{near}Use {', '.join(FUNCTIONS)}")
    if not token.metric:
        raise FilterError(f"{function}() lacks the name of a metric", token.position, "Write for example last(loss)")
    return MetricValue(function, token.metric)


def _advice(name: str) -> str:
    if name.lower() == "config":
        return "Name a key of it: config.lr"
    if "/" in name:
        return f"A metric needs a function: last({name}), min, max, count or non_finite"
    if "." in name:
        return f"A key of the config begins with 'config.': config.{name.split('.', 1)[1]} or config.{name}"
    return f"{_near(name.lower(), (*FIELDS, *_SHORT, 'tag'))}There are {_EVERYTHING}"


def _near(name: str, names: tuple[str, ...]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
