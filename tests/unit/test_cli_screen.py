"""Numbers, times and tables as a terminal shows them."""

from __future__ import annotations

import doctest
import json

import pytest

from holter_server.cli import incidents, screen

INCIDENT = {
    "id": "i1",
    "rule": "precursor_too_large",
    "severity": "critical",
    "metric": "loss/precursor",
    "writer": "rank0",
    "state": "firing",
    "step": 3333,
    "resolved_step": None,
    "message": "loss/precursor is 6.4, above 5",
    "advice": "Reduce precursor_loss_weight from 0.01 to 0.005, or scale_factor from 0.004 to 0.002. " * 2,
}


def test_the_examples_in_the_docstrings_hold() -> None:
    """number, ago and duration are described by examples."""
    failed, tried = doctest.testmod(screen)
    assert tried >= 3
    assert failed == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1e-30, "1e-30"),
        (-0.5, "-0.5"),
        (123456.789, "1.2346e+05"),
        (1e12, "1e+12"),
        ("Infinity", "Infinity"),
    ],
)
def test_a_number_keeps_five_digits(value: object, shown: str) -> None:
    """Short enough for a column, never rounded to zero."""
    assert screen.number(value) == shown


def test_json_has_strings_for_what_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is JSON for every parser, NaN included."""
    screen.print_json({"nan": float("nan"), "name": "Grüße"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"nan": "NaN", "name": "Grüße"}
    assert "Grüße" in printed


@pytest.mark.parametrize("width", [80, 120])
def test_an_incident_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its advice is wrapped below itself, not cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    screen.stdout().print(incidents.block(INCIDENT))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= width
    assert "■ critical  loss/precursor is 6.4, above 5" in lines[0]
    assert lines[1].strip() == "rule precursor_too_large · loss/precursor · step 3,333 · firing"
    advice = " ".join(line.strip(" →") for line in lines[2:])
    assert advice == INCIDENT["advice"].strip()


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_table_folds_only_what_may_fold(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id must stay whole, or it can't be copied."""
    monkeypatch.setenv("COLUMNS", str(width))
    table = screen.plain_table("run", "project/name", "state", flexible=("project/name",))
    table.add_row("0123456789ab", "a-very-long-project/" + "x" * 90, screen.state_text("running"))
    screen.stdout().print(table)
    printed = capsys.readouterr().out
    assert "0123456789ab" in printed
    assert "● running" in printed
    assert printed.count("x") == 90
    assert max(len(line) for line in printed.splitlines()) <= width


def test_no_escape_sequences_go_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Colour is for terminals."""
    screen.stdout().print(screen.health_text("critical", {"critical": 2}))
    assert capsys.readouterr().out == "■ critical (2)\n"
