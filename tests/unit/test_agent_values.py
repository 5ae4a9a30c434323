"""What a loop has at hand becomes float64 exactly, or is said not to be a number."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holter.values import NotANumber, clean_text, flatten, metric_name, scalar, snapshot, unique_names, whole
from holter.wire import METRIC_NAME_MAX, check_metric_name


@settings(deadline=None)
@given(st.floats())
def test_a_float_stays_itself(value: float) -> None:
    """NaN, ±Inf, -0.0 and subnormal numbers included."""
    assert struct.pack("<d", scalar(value)) == struct.pack("<d", value)
    assert struct.pack("<d", scalar(np.float64(value))) == struct.pack("<d", value)


@settings(deadline=None)
@given(st.floats(width=32))
def test_a_float32_becomes_the_same_number(value: float) -> None:
    """No detour over decimal digits."""
    for given_value in (np.float32(value), np.array(value, dtype=np.float32), torch.tensor(value)):
        found = scalar(given_value)
        assert type(found) is float
        assert found == value or (math.isnan(found) and math.isnan(value))
        assert math.copysign(1, found) == math.copysign(1, value) or math.isnan(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (3, 3.0),
        (np.int32(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.array([[2.5]]), 2.5),
        (torch.tensor([1.5], requires_grad=True), 1.5),
        (torch.tensor(2, dtype=torch.int8), 2.0),
        (torch.tensor(True), 1.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (np.float16(0.1), float(np.float16(0.1))),
    ],
)
def test_numbers_of_any_make(value: Any, expected: float) -> None:
    """Whatever is one real number is taken."""
    found = scalar(value)
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "no number"),
        ("0.5", "no number"),
        (b"1", "no number"),
        (1j, "complex"),
        (np.complex64(1), "complex"),
        (torch.tensor(1j), "complex"),
        (10**400, "too large"),
        (np.arange(3), r"shape \(3,\)"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (np.array([]), r"shape \(0,\)"),
        (np.array("x"), "no number"),
        (object(), "no number"),
        ([1.0], "no number"),
    ],
)
def test_what_is_no_number_is_said_to_be_none(value: Any, says: str) -> None:
    """The message says what it is instead."""
    with pytest.raises(NotANumber, match=says):
        scalar(value)


def test_a_row_from_a_device_is_what_it_was_when_it_was_logged() -> None:
    """The snapshot is taken at once: changing a tensor in place afterwards changes no record."""
    loss, half = torch.tensor(1.5), torch.tensor(2, dtype=torch.float16)
    row = snapshot([0.25, loss, half], [1, 2])
    loss.zero_()
    assert row.resolve() == [0.25, 1.5, 2.0]


@pytest.mark.parametrize(
    ("step", "expected"),
    [(3, 3), (True, 1), (np.int64(7), 7), (3.0, 3), (3.9, 3), (torch.tensor(5), 5), (np.array(4), 4), (-2, -2)],
)
def test_steps_become_integers(step: Any, expected: int) -> None:
    """Whatever counts is taken."""
    found = whole(step)
    assert (type(found), found) == (int, expected)


def test_large_steps_are_exact() -> None:
    """Not by way of a float."""
    assert whole(np.int64(2**62 + 1)) == 2**62 + 1


@pytest.mark.parametrize("step", [None, "x", math.nan, math.inf, 2**63, -(2**63), 1j, [1], np.arange(2)])
def test_steps_that_are_none(step: Any) -> None:
    """What can't be a step says so."""
    with pytest.raises(NotANumber):
        whole(step)


@settings(deadline=None)
@given(st.lists(st.text() | st.integers() | st.none(), max_size=8, unique=True))
def test_names_are_always_fit_to_be_sent(names: list[Any]) -> None:
    """Whatever the user calls a metric, the service can keep it, and two names stay two."""
    cleaned = unique_names(names)
    assert len(set(cleaned)) == len(names)
    for name in cleaned:
        check_metric_name(name)
        name.encode()


def test_a_long_name_keeps_its_beginning_and_stays_itself() -> None:
    """A hash of the whole name tells it from others that begin alike, in every run."""
    one, two = metric_name("m" * 10_000), metric_name("m" * 10_001)
    assert len(one) == METRIC_NAME_MAX
    assert one.startswith("m" * 200)
    assert one != two
    assert one == metric_name("m" * 10_000)


def test_nested_values_become_paths() -> None:
    """As charts are grouped."""
    assert flatten({"loss": {"ce": 1, "aux": {"x": 2}}, "lr": 3}) == {"loss/ce": 1, "loss/aux/x": 2, "lr": 3}


def test_texts_are_always_fit_to_be_sent() -> None:
    """Lone surrogates, NUL, objects whose str fails, and very long texts."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    for value in ("\ud800", "a\x00b", Broken(), "x" * 100_000):
        text = clean_text(value)
        text.encode()
        assert "\x00" not in text
        assert len(text) <= 10_000
