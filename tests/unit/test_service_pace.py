"""How long a commit waits for company: decided from times that are passed in."""

from __future__ import annotations

import pytest

from holter_server.pace import PAUSE_S, Pace


def arrive(pace: Pace, rate: float, seconds: float, runs: int, start: float = 0.0) -> list[bool]:
    """Frames of ``runs`` runs in turn, so many a second; which of them should not wait."""
    return [pace.arrive(f"run-{index % runs}", start + index / rate) for index in range(int(rate * seconds))]


def test_a_single_frame_waits_for_nobody() -> None:
    """Nothing is known, so nothing is expected."""
    pace = Pace()
    assert not pace.arrive("r", 100.0)
    assert pace.pause(100.0) == 0.0


@pytest.mark.parametrize(("rate", "pause"), [(10, 0.0), (50, 0.0), (200, PAUSE_S), (1000, PAUSE_S)])
def test_it_waits_where_others_can_be_expected(rate: float, pause: float) -> None:
    """By how many came in the last half second."""
    pace = Pace()
    arrive(pace, rate, 1.0, 1000)
    assert pace.pause(1.0) == pause


def test_it_stops_waiting_when_they_stop_coming() -> None:
    """A rate that is long past says nothing."""
    pace = Pace()
    arrive(pace, 1000, 1.0, 1000)
    pace.arrive("r", 60.0)
    assert pace.pause(60.0) == 0.0


def test_who_sends_behind_an_answer_is_not_kept_waiting() -> None:
    """One connection as fast as it goes beside a thousand that send once a second."""
    pace = Pace()
    arrive(pace, 1000, 1.0, 1000)
    pace.answer(["fast"], 1.0)
    assert pace.arrive("fast", 1.0 + PAUSE_S / 2)
    assert not pace.arrive("run-1", 1.001)
    assert not pace.arrive("fast", 1.0 + 2 * PAUSE_S)


def test_answers_are_forgotten() -> None:
    """What it remembers is bounded by what was answered within two pauses."""
    pace = Pace()
    for index in range(10_000):
        pace.answer([f"run-{index}"], index * 0.01)
    assert len(pace._answered) + len(pace._answered_before) < 10
