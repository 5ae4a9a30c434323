"""Filters, orders and cursors of lists of runs, against an oracle in plain Python, on both databases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holter.wire import Block, Frame, RunStart
from holter_db import fold
from holter_db.database import Connection, Database
from holter_db.ingest import append
from holter_db.runs import delete_run, list_runs, set_state, start_run
from holter_db.schema import metric_summaries, runs
from holter_db.search import orders
from holter_db.series import catalogue

NOW = 1_700_000_000.0
STATES = ("running", "finished", "failed", "stopped", "lost", "hung")
LETTERS = "aAb%_/\\'\"()~=! 日"
NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1e-3, 1e300, 5e-324)

numbers = itertools.count()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs are looked at one by one, so that both ways of asking take part."""
    monkeypatch.setattr(orders, "PROBES", 2)


class _Undone(Exception):
    pass


@contextmanager
def undone(database: Database) -> Iterator[Connection]:
    """A transaction of which nothing stays."""
    try:
        with database.write() as conn:
            yield conn
            raise _Undone
    except _Undone:
        pass


# --- runs as Hypothesis makes them ------------------------------------------------------------------------------


@dataclass
class Told:
    """Points of one metric from one writer."""

    metric: str
    attempt: int
    rank: int
    points: list[tuple[int, float]]  # step, value


@dataclass
class Made:
    """A run: what goes into the database, and what the oracle looks at."""

    name: str
    project: str
    group: str | None
    notes: str | None
    state: str
    config: dict[str, Any]
    tags: list[str]
    created_at: float
    deleted: bool
    folded: int  # after so many shipments; -1: never
    told: list[Told]
    last_step: int | None = None
    id: str = field(default_factory=lambda: f"r{next(numbers):09d}")


# Few of each, so that runs have values in common and filters find some.
SOME_TEXTS = ("a", "A", "ab", "a%b", "a_b", "\\", "'\"", "1e-3", "NaN", "true", "{}", "日", "")
texts = st.sampled_from(SOME_TEXTS) | st.text(LETTERS, max_size=3)
words = st.sampled_from(["x", "y", "X", "xy"])
values = st.sampled_from(NUMBERS)
leaves = st.one_of(values, values, st.integers(-1, 1), texts, st.booleans(), st.none())
configs = st.fixed_dictionaries(
    {},
    optional={
        "lr": leaves,
        "a": leaves | st.lists(leaves, max_size=2) | st.dictionaries(st.sampled_from(["lr", "b"]), leaves, max_size=2),
        "odd key": st.fixed_dictionaries({"b": leaves}),
        "日": leaves,
    },
)
told = st.builds(
    Told,
    metric=st.sampled_from(["loss", "loss", "loss", "a (b)"]),
    attempt=st.sampled_from([1, 1, 2]),
    rank=st.integers(0, 1),
    points=st.lists(st.tuples(st.integers(0, 3), values), min_size=1, max_size=2),
)
made = st.builds(
    Made,
    name=words,
    project=st.sampled_from(["p", "q"]),
    group=st.none() | st.sampled_from(["g", "h"]),
    notes=st.none() | texts,
    state=st.sampled_from(STATES),
    config=configs,
    tags=st.lists(st.sampled_from(["a", "A", "ab", "x y"]), max_size=2, unique=True),
    created_at=st.integers(0, 3).map(lambda days: NOW - days * 86_400.0),
    deleted=st.sampled_from([False, False, False, True]),
    folded=st.integers(-1, 4),
    told=st.lists(told, max_size=4),
    last_step=st.none() | st.integers(0, 2),
)


def write(conn: Connection, run: Made) -> None:
    start = RunStart(
        project=run.project, id=run.id, name=run.name, config=run.config, tags=run.tags, group=run.group,
        notes=run.notes, attempt="1",
    )  # fmt: skip
    start_run(conn, start, run.created_at)
    for number, part in enumerate(run.told, 1):
        blocks = [Block.of([part.metric], *zip(*((step, NOW, [value]) for step, value in part.points), strict=True))]
        append(conn, run.id, Frame(1, str(part.attempt), f"rank{part.rank}", 0, blocks), NOW)
        if number == run.folded:
            fold_all(conn, run.id)
    set_state(conn, run.id, run.state, None, run.created_at + 60)
    if run.last_step is not None:
        conn.execute(sa.update(runs).where(runs.c.id == run.id).values(last_step=run.last_step))
    if run.deleted:
        delete_run(conn, run.id, NOW)


def fold_all(conn: Connection, run_id: str) -> None:
    for waiting in fold.pending(conn, run_id, 2**62):
        prepared = fold.prepare(conn, waiting, 2**62)
        assert prepared is not None
        assert fold.commit(conn, prepared)


# --- what a run has, according to the oracle --------------------------------------------------------------------

Value = float | str | None


def config_leaves(config: dict[str, Any]) -> dict[str, tuple[float | None, str | None]]:
    """Dotted key → number and text, either of which may be missing."""
    found: dict[str, tuple[float | None, str | None]] = {}

    def walk(key: str, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            found[key] = (None, str(value).lower())
        elif isinstance(value, float) and not math.isfinite(value):
            found[key] = (value, {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN"))
        elif isinstance(value, int | float):
            found[key] = (float(value), None)
        elif isinstance(value, str):
            number = {"1e-3": 1e-3, "NaN": math.nan}.get(value)
            found[key] = (number, value)
        elif isinstance(value, dict):
            found[key] = (None, "{}")
            for name, item in value.items():
                walk(f"{key}.{name}", item)
        else:
            found[key] = (None, "…")  # its JSON: another test looks at that
            for index, item in enumerate(value):
                walk(f"{key}.{index}", item)

    for name, item in config.items():
        walk(name, item)
    return found


def metric_values(run: Made, metric: str) -> dict[str, float | None]:
    parts: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for told in run.told:
        if told.metric == metric:
            parts.setdefault((told.attempt, told.rank), []).extend(told.points)
    if not parts:
        return {}

    def decides(writer: tuple[int, int]) -> tuple[int, int, int]:
        attempt, rank = writer
        return attempt, max(step for step, _ in parts[writer]), -rank

    counts = parts[max(parts, key=decides)]
    greatest = max(step for step, _ in counts)
    every = [value for points in parts.values() for _, value in points]
    finite = [value for value in every if math.isfinite(value)]
    return {
        "last": [value for step, value in counts if step == greatest][-1],
        "min": min(finite, default=None),
        "max": max(finite, default=None),
        "count": float(len(every)),
        "non_finite": float(len(every) - len(finite)),
    }


# --- filters with what they mean --------------------------------------------------------------------------------


@dataclass
class Asked:
    """A filter's text, and whether a run fulfils it."""

    text: str
    holds: Callable[[Made], bool]


def ascii_lower(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def is_nan(value: Value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def compare(operator: str, have: Value, want: Value) -> bool:
    """What a comparison of two values of one kind means."""
    if have is None or want is None or isinstance(have, str) != isinstance(want, str):
        return False
    if operator == "=":
        return have == want or (is_nan(have) and is_nan(want))
    if operator == "~":
        assert isinstance(have, str)
        return ascii_lower(want) in ascii_lower(have)  # type: ignore[arg-type, operator]
    return {"<": have < want, "<=": have <= want, ">": have > want, ">=": have >= want}[operator]  # type: ignore[operator]


def number_text(value: float) -> str:
    return {math.inf: "Infinity", -math.inf: "-inf"}.get(value, "NaN" if math.isnan(value) else repr(value))


def quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


@st.composite
def spellings(draw: st.DrawFn, value: Value) -> str:
    if value is None:
        return draw(st.sampled_from(["null", "None"]))
    if isinstance(value, float):
        return number_text(value)
    return quoted(value, draw(st.sampled_from(["'", '"'])))


@st.composite
def asked_of_values(
    draw: st.DrawFn,
    name: str,
    have: Callable[[Made], list[Value]],
    *,
    some: st.SearchStrategy[Value],
    ordered: st.SearchStrategy[Value] | None = None,
    texts: st.SearchStrategy[str] | None = None,
) -> Asked:
    """A comparison of what a run has; it may have a number and a text of one thing, or several texts.

    Args:
        some: what can be equal; ``ordered``: what can be greater; ``texts``: what can be a part of it.
    """
    operators = ["=", "!=", "in", "not in", "exists"]
    operators += ["<", "<=", ">", ">="] * (ordered is not None) + ["~", "!~"] * (texts is not None)
    operator = draw(st.sampled_from(operators))
    if operator == "exists":
        return Asked(f"{name} exists", lambda run: bool(have(run)))
    if operator in ("in", "not in"):
        wanted = draw(st.lists(some, min_size=1, max_size=3))
        shown = ", ".join(draw(spellings(value)) for value in wanted)

        def among(run: Made) -> bool:
            missing = None in wanted and not have(run)
            return missing or any(compare("=", one, want) for one in have(run) for want in wanted)

        return Asked(f"{name} {operator} ({shown})", lambda run: among(run) == (operator == "in"))
    plain = operator.removeprefix("!")
    chosen = {"=": some, "~": texts}.get(plain, ordered)
    assert chosen is not None
    want = draw(chosen)

    def holds(run: Made) -> bool:
        if want is None:
            return not have(run)
        return any(compare(plain, one, want) for one in have(run))

    space = draw(st.sampled_from(["", " "]))
    shown = f"{name}{space}{operator}{space}{draw(spellings(want))}"
    return Asked(shown, lambda run: holds(run) != operator.startswith("!"))


def present(*found: Value) -> list[Value]:
    return [value for value in found if value is not None]


def leaf(key: str) -> Callable[[Made], list[Value]]:
    return lambda run: present(*config_leaves(run.config).get(key, (None, None)))


def of_metric(function: str, metric: str) -> Callable[[Made], list[Value]]:
    return lambda run: present(metric_values(run, metric).get(function))


def steps(run: Made) -> list[Value]:
    return present(None if run.last_step is None else float(run.last_step))


KEYS = {"lr": "lr", "a.lr": "a.lr", "'odd key'.b": "odd key.b", "日": "日", "a.0": "a.0"}
literal = st.one_of(values, texts, st.none())
METRICS = {"loss": "loss", "'a (b)'": "a (b)"}
FUNCTIONS = ("last", "min", "max", "count", "non_finite")

ordered_numbers = st.sampled_from([number for number in NUMBERS if not math.isnan(number)])
texts_or_null = texts | st.none()
comparison = st.one_of(
    st.sampled_from(sorted(KEYS)).flatmap(
        lambda key: asked_of_values(
            f"config.{key}", leaf(KEYS[key]), some=literal, ordered=ordered_numbers | texts, texts=texts
        )
    ),
    st.tuples(st.sampled_from(FUNCTIONS), st.sampled_from(sorted(METRICS))).flatmap(
        lambda of: asked_of_values(
            f"{of[0]}({of[1]})",
            of_metric(of[0], METRICS[of[1]]),
            some=values | st.none(),
            ordered=ordered_numbers,
        )
    ),
    asked_of_values(
        "tag",
        lambda run: list(run.tags),
        some=st.sampled_from(["a", "A", "b", "x y", None]),
        texts=st.sampled_from("aAb "),
    ),
    asked_of_values("name", lambda run: [run.name], some=words, ordered=words, texts=words),
    asked_of_values("group", lambda run: present(run.group), some=st.sampled_from("gh") | st.none(), ordered=words),
    asked_of_values("notes", lambda run: present(run.notes), some=texts_or_null, ordered=texts, texts=texts),
    asked_of_values("state", lambda run: [run.state], some=st.sampled_from(STATES)),
    asked_of_values("step", steps, some=values | st.none(), ordered=ordered_numbers),
)


def joined(word: str, parts: list[Asked]) -> Asked:
    every = all if word == "and" else any
    text = f" {word} ".join(f"({part.text})" for part in parts)
    return Asked(text, lambda run: every(part.holds(run) for part in parts))


filters = st.recursive(
    comparison,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined("and", parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined("or", parts)),
        inner.map(lambda part: Asked(f"not ({part.text})", lambda run: not part.holds(run))),
    ),
    max_leaves=5,
)


# --- orders with what they mean ---------------------------------------------------------------------------------

ORDERS: dict[str, Callable[[Made], list[Value]]] = {
    "created_at": lambda run: [run.created_at],
    "name": lambda run: [run.name],
    "state": lambda run: [run.state],
    "group": lambda run: present(run.group),
    "last_step": lambda run: present(run.last_step),
    "finished_at": lambda run: [] if run.state in ("running", "lost", "hung") else [run.created_at + 60],
    "id": lambda run: [run.id],
    **{f"config.{name}": leaf(key) for name, key in KEYS.items()},
    **{
        f"{function}({name})": of_metric(function, metric) for function in FUNCTIONS for name, metric in METRICS.items()
    },
}


def in_order(have: Callable[[Made], list[Value]], descending: bool, some: list[Made]) -> list[str]:
    """Numbers, texts, NaN, nothing; within them by value and id."""

    def kind(run: Made) -> int:
        found = have(run)
        if not found:
            return 3
        return 1 if isinstance(found[0], str) else 2 if is_nan(found[0]) else 0

    def value(run: Made) -> Any:
        return (have(run)[0], run.id) if kind(run) < 2 else run.id

    ordered: list[str] = []
    for number in range(4):
        ordered += [run.id for run in sorted((r for r in some if kind(r) == number), key=value, reverse=descending)]
    return ordered


def pages(conn: Connection, limit: int, **question: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        some, cursor = list_runs(conn, limit=limit, cursor=cursor, now=NOW, **question)
        found += [run.id for run in some]
        assert len(some) == limit or cursor is None
        if cursor is None:
            return found


slowly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def written(conn: Connection, some: list[Made]) -> list[Made]:
    """Write the runs, and give those that are not deleted."""
    for run in some:
        run.id = f"r{next(numbers):09d}"
        write(conn, run)
    return [run for run in some if not run.deleted]


@settings(slowly, max_examples=15)
@given(
    some=st.lists(made, min_size=1, max_size=7),
    asked=st.lists(filters, min_size=6, max_size=6),
    sorts=st.lists(st.tuples(st.sampled_from(sorted(ORDERS)), st.booleans()), min_size=6, max_size=6),
    limit=st.integers(1, 3),
)
def test_every_filter_and_order_does_what_the_oracle_does(
    database: Database, some: list[Made], asked: list[Asked], sorts: list[tuple[str, bool]], limit: int
) -> None:
    """The same runs in the same order, whether a page holds all of them or one."""
    with undone(database) as conn:
        alive = written(conn, some)
        for question, (order, descending) in zip(asked, sorts, strict=True):
            sort = f"-{order}" if descending else order
            assert pages(conn, limit, sort=sort) == in_order(ORDERS[order], descending, alive)
            gone = in_order(ORDERS[order], descending, [run for run in some if run.deleted and question.holds(run)])
            assert pages(conn, 1000, filter=question.text, sort=sort, deleted=True) == gone
            found = in_order(ORDERS[order], descending, [run for run in alive if question.holds(run)])
            assert pages(conn, limit, filter=question.text, sort=sort) == found
            assert pages(conn, 1000, filter=question.text, sort=sort) == found


@settings(slowly, max_examples=25)
@given(some=st.lists(made, min_size=3, max_size=6), asked=st.lists(comparison, min_size=20, max_size=20))
def test_every_comparison_means_what_the_oracle_means(database: Database, some: list[Made], asked: list[Asked]) -> None:
    """NaN, infinities, what is missing, texts with every odd character: for each kind of field and operator."""
    with undone(database) as conn:
        alive = written(conn, some)
        for question in asked:
            found = {run.id for run in list_runs(conn, filter=question.text, now=NOW)[0]}
            assert found == {run.id for run in alive if question.holds(run)}, question.text


@settings(slowly, max_examples=30)
@given(told=st.lists(told, min_size=1, max_size=6), folded=st.integers(-1, 6))
def test_a_metric_is_summarized_as_the_catalogue_has_it(database: Database, told: list[Told], folded: int) -> None:
    """Whatever ranks and attempts say, before and after folding; the oracle agrees with both."""
    run = Made("x", "p", None, None, "running", {}, [], NOW, False, folded, told)
    run.id = f"r{next(numbers):09d}"
    with undone(database) as conn:
        write(conn, run)
        for folds in (False, True):
            if folds:
                fold_all(conn, run.id)
                assert conn.scalar(sa.select(sa.func.count()).select_from(metric_summaries)) == len(
                    catalogue(conn, run.id)
                )
            for info in catalogue(conn, run.id):
                for function, value in metric_values(run, info.name).items():
                    of_catalogue = getattr(info, function)
                    assert value is of_catalogue is None or compare("=", of_catalogue, value)
                    shown = "null" if value is None else number_text(value)
                    found, _ = list_runs(conn, filter=f"{function}('{info.name}') = {shown}")
                    assert [row.id for row in found] == [run.id]
