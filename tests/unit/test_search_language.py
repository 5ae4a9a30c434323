"""The language of filters: what it takes, what it means, and what it says to what it can't take."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter_db.errors import FilterError, QueryError
from holter_db.search.fields import FIELDS, FUNCTIONS
from holter_db.search.parser import COMPARISONS_MAX, DEPTH_MAX, parse_filter, parse_operands, parse_sort
from holter_db.search.syntax import And, Compare, ConfigKey, MetricValue, Moment, Node, Not, Or, Tag

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0

lr, loss = ConfigKey("lr"), MetricValue("last", "loss/total")
state, step, created = FIELDS["state"], FIELDS["last_step"], FIELDS["created_at"]
failed = Compare(state, "=", ("failed",))


def is_(operand: ConfigKey | MetricValue | Tag, value: float | str | None) -> Compare:
    return Compare(operand, "=", (value,))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("config.lr<1e-3", Compare(lr, "<", (1e-3,))),
        (" config.lr  >= .5 ", Compare(lr, ">=", (0.5,))),
        ("config.lr == -1_000", is_(lr, -1000.0)),
        ("config.lr=inf", is_(lr, math.inf)),
        ("config.lr = -Infinity", is_(lr, -math.inf)),
        ("last(loss/total)<2", Compare(loss, "<", (2.0,))),
        ("LAST( loss/total ) = 2", is_(loss, 2.0)),
        ("max('a (b), c')=1", is_(MetricValue("max", "a (b), c"), 1.0)),
        ("state = failed", failed),
        ("state != failed", Not(failed)),
        ("not state=failed", Not(failed)),
        ("NOT NOT state=failed", Not(Not(failed))),
        ("tag = 'two words'", is_(Tag(), "two words")),
        ('tags = "say \\"hi\\" \\\\ \\d"', is_(Tag(), 'say "hi" \\ \\d')),
        ("config.'learning rate'.a = x", is_(ConfigKey("learning rate.a"), "x")),
        ("'config.lr' = 1", is_(lr, 1.0)),
        ("config.a = '1'", is_(ConfigKey("a"), "1")),
        ("config.a = TRUE", is_(ConfigKey("a"), "true")),
        ("config.a = 'TRUE'", is_(ConfigKey("a"), "TRUE")),
        ("config.a = null", is_(ConfigKey("a"), None)),
        ("config.a = 'null'", is_(ConfigKey("a"), "null")),
        ("config.a = and", is_(ConfigKey("a"), "and")),
        ("config.and = /a/b-c.yaml", is_(ConfigKey("and"), "/a/b-c.yaml")),
        ("config.a ~ 1e-3", Compare(ConfigKey("a"), "~", ("1e-3",))),
        ("config.a !~ b", Not(Compare(ConfigKey("a"), "~", ("b",)))),
        ("config.a exists", Compare(ConfigKey("a"), "exists")),
        ("config.a not exists", Not(Compare(ConfigKey("a"), "exists"))),
        ("config.lr in (1, 2,null)", Compare(lr, "=", (1.0, 2.0, None))),
        ("state not in(failed)", Not(failed)),
        ("step > 5", Compare(step, ">", (5.0,))),
        ("name = 007", Compare(FIELDS["name"], "=", ("007",))),
        (
            "state=failed or config.lr=1 and not (tag=a or tag=b)",
            Or((failed, And((is_(lr, 1.0), Not(Or((is_(Tag(), "a"), is_(Tag(), "b")))))))),
        ),
    ],
)
def test_what_people_type_is_understood(text: str, tree: Node) -> None:
    """'and' binds closer than 'or', 'not' closest; what needs no quotes takes none."""
    assert parse_filter(text, NOW) == tree


def test_nan_is_a_value() -> None:
    """The value that this product exists for."""
    for text in ("last(loss/total) = NaN", "last(loss/total)=nan"):
        tree = parse_filter(text, NOW)
        assert isinstance(tree, Compare)
        (value,) = tree.values
        assert isinstance(value, float)
        assert math.isnan(value)


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-03-01", at(2026, 3, 1), at(2026, 3, 2)),
        ("2026-02", at(2026, 2, 1), at(2026, 3, 1)),
        ("2026", at(2026, 1, 1), at(2027, 1, 1)),
        ("2025-12", at(2025, 12, 1), at(2026, 1, 1)),
        ("2026-03-01T14:30", at(2026, 3, 1, 14, 30), at(2026, 3, 1, 14, 31)),
        ("2026-03-01t14:30:05Z", at(2026, 3, 1, 14, 30, 5), at(2026, 3, 1, 14, 30, 6)),
        ("2026-03-01T14:30:05+02:00", at(2026, 3, 1, 12, 30, 5), at(2026, 3, 1, 12, 30, 6)),
        ("-7d", NOW - 7 * DAY, NOW - 7 * DAY),
        ("-1.5h", NOW - 5400, NOW - 5400),
        ("now", NOW, NOW),
        ("today", at(2026, 3, 10), at(2026, 3, 11)),
        ("1700000000.5", 1700000000.5, 1700000000.5),
    ],
)
def test_a_date_is_the_time_that_it_names(text: str, start: float, end: float) -> None:
    """A day is a whole day, so that `created = 2026-03-01` finds the runs of that day."""
    assert parse_filter(f"created > {text}", NOW) == Compare(created, ">", (Moment(start, end),))


@pytest.mark.parametrize(
    ("text", "position", "what", "hint"),
    [
        ("", 1, "empty", "state = failed"),
        ("   ", 1, "empty", ""),
        ("stat=failed", 1, "no field 'stat'", "Did you mean 'state'? There are state, health, id"),
        ("config.a = 1 and colour = red", 18, "no field 'colour'", "last_step"),
        ("loss/total < 2", 1, "no field", "last(loss/total)"),
        ("confg.lr < 2", 1, "no field", "config.lr"),
        ("config < 2", 1, "no field", "Name a key"),
        ("state = faild", 9, "no run has the state 'faild'", "running, finished, failed"),
        ("state < failed", 7, "makes no sense", "state takes = !="),
        ("last(loss) ~ 2", 12, "makes no sense", "last(loss) takes = != < <= > >="),
        ("last(loss) = fast", 14, "is a number", "NaN"),
        ("last(loss) = '2'", 14, "is a number", "without quotes"),
        ("last(loss) < NaN", 14, "less or greater than NaN", "last(loss) = NaN"),
        ("config.lr > null", 13, "less or greater than null", "config.lr != null"),
        ("mean(loss) < 2", 1, "no function 'mean'", "last, min, max, count, non_finite"),
        ("lst(loss) < 2", 1, "no function 'lst'", "Did you mean 'last'?"),
        ("last() < 2", 1, "lacks the name", "last(loss)"),
        ("last(loss < 2", 5, "not closed", "last('a (b)')"),
        ("last('loss' x) < 2", 5, "not closed", ""),
        ("name = 'abc", 8, "quote", "Close it with '"),
        ("(state = failed", 1, "not closed", "Close it"),
        ("state = failed)", 15, "')'", "'and', 'or', or the end"),
        ("state = failed tag = a", 16, "'tag'", "'and' or 'or'"),
        ("name = my run", 11, "'run'", "quotes"),
        ("name = f(x)", 8, "not a value", "in quotes"),
        ("state failed", 7, "not a comparison", "= != <"),
        ("state", 6, "the end is not a comparison", "After state"),
        ("state =", 8, "the end is not a value", ""),
        ("state = and tag = a", 9, "no run has the state 'and'", ""),
        ("and state = failed", 1, "'and'", "Here stands what is compared"),
        ("state = failed and", 19, "the end", ""),
        ("state in failed", 10, "'failed'", "in (a, b)"),
        ("state in (failed", 17, "the end", "Commas"),
        ("state in ()", 11, "not a value", ""),
        ("state not failed", 11, "not a comparison", "not in"),
        ("! state = failed", 1, "'!'", "not"),
        ("created > tomorrow", 11, "'tomorrow' is no date", "-7d"),
        ("created > 2026-02-31", 11, "no date", ""),
        ("created > 9999-12", 11, "no date", ""),
        ("created > 9999", 11, "no date", ""),
        ("created > 0000", 11, "no date", ""),
        ("created ~ 2026", 9, "makes no sense", ""),
        ("tag > a", 5, "makes no sense", "tag takes = != ~ !~"),
        ("(" * (DEPTH_MAX + 1), DEPTH_MAX + 1, "nested", ""),
        (" or ".join(["tag = a"] * (COMPARISONS_MAX + 1)), 11 * COMPARISONS_MAX + 1, "comparisons", "in"),
        ("tag in (" + ",".join(["a"] * 501) + ")", 1008, "at most 500", ""),
        ("x" * 8001, 8001, "8000 characters", ""),
    ],
)
def test_what_is_not_understood_is_shown_where_it_stands(text: str, position: int, what: str, hint: str) -> None:
    """With what could stand there instead."""
    with pytest.raises(FilterError) as caught:
        parse_filter(text, NOW)
    error = caught.value
    assert error.position == position, error.message
    assert what in error.message
    assert f"at character {position}:" in error.message
    assert error.hint
    assert hint in error.hint


PIECES = (
    "state", "config.lr", "tag", "name", "created", "last(loss)", "=", "!=", "<", ">=", "~", "!~", "!", "(", ")", ",",
    "and", "or", "not", "in", "exists", "failed", "1e-3", "NaN", "null", "-7d", "'a'", '"', "'", "\\", "日", "\x00",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join) | st.text(max_size=40))
def test_every_text_is_a_filter_or_a_clear_error(text: str) -> None:
    """Nothing else comes out of it, whatever is typed."""
    error = refusal(text)
    if error is not None:
        assert 1 <= error.position <= len(text) + 1
        assert error.message.startswith("The filter can't be understood at character")
        assert error.hint


def refusal(text: str) -> FilterError | None:
    try:
        parse_filter(text, NOW)
    except FilterError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "operand", "descending"),
    [
        ("-created_at", created, True),
        ("created", created, False),
        ("-config.lr", lr, True),
        ("last(loss/total)", loss, False),
        ("- step", step, True),
        ("config.'a, b'", ConfigKey("a, b"), False),
    ],
)
def test_orders(text: str, operand: object, descending: bool) -> None:
    """A leading "-" is from the greatest down."""
    assert parse_sort(text) == (operand, descending)


@pytest.mark.parametrize(
    "text", ["", "-", "colour", "tag", "config.lr, step", "last(loss", "mean(loss)", "state = x", "="]
)
def test_orders_that_there_are_not(text: str) -> None:
    """Each says what is wrong with it, and what there is."""
    with pytest.raises(QueryError, match="can't be sorted by") as caught:
        parse_sort(text)
    assert caught.value.hint


def test_lists_of_values() -> None:
    """Separated by commas; each is a field, a config key or a metric's value."""
    assert parse_operands("config.lr , last(loss/total),step") == [lr, loss, step]
    for wrong in ("", ",", "step,", "step step", "tag", "nothing", ",".join(["step"] * 21)):
        with pytest.raises(QueryError) as caught:
            parse_operands(wrong)
        assert caught.value.hint


def test_every_field_and_function_can_be_asked_for() -> None:
    """By its name, in any case."""
    for name, field in FIELDS.items():
        assert parse_sort(name.upper()) == (field, False)
    for function in FUNCTIONS:
        assert parse_sort(f"{function}(x)") == (MetricValue(function, "x"), False)
