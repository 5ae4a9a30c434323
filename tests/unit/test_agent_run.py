"""A run in the loop's hand: takes anything, raises nothing, loses nothing. Without disk and network."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holter.environment import plain
from holter.testing import Recorder
from holter.wire import IncidentNotice, Receipt, check_metric_name


@pytest.fixture
def run() -> Recorder:
    return Recorder()


def test_rows_are_kept_in_order_with_their_steps(run: Recorder) -> None:
    """What a loop logs is what is recorded."""
    run.log({"loss": 0.5, "lr": 1e-3}, step=10)
    run.log({"loss": np.float32(0.1), "lr": 1e-3}, step=11)
    assert [(row.step, row.values) for row in run.rows] == [
        (10, {"loss": 0.5, "lr": 1e-3}),
        (11, {"loss": float(np.float32(0.1)), "lr": 1e-3}),
    ]
    assert run.step == 11


def test_without_a_step_it_counts(run: Recorder) -> None:
    """From 0, and on from whatever step was given."""
    run.log({"a": 1.0})
    run.log({"a": 1.0})
    run.log({"a": 1.0}, step=10)
    run.log({"a": 1.0})
    assert [row.step for row in run.rows] == [0, 1, 10, 11]


def test_a_step_may_go_backwards(run: Recorder) -> None:
    """Order is the order of logging."""
    for step in (5, 3, 3):
        run.log({"a": float(step)}, step=step)
    assert [row.step for row in run.rows] == [5, 3, 3]


def test_non_finite_values_are_the_ones_that_matter(run: Recorder) -> None:
    """They are recorded as they are."""
    row = {"nan": math.nan, "inf": math.inf, "ninf": -math.inf, "tiny": 1e-30, "nzero": -0.0}
    run.log(row, step=1)
    run.log(row, step=2)  # the second time goes the short way
    assert repr([found.values for found in run.rows]) == repr([row, row])


class Hostile:
    """Raises whatever is done with it."""

    def __float__(self) -> float:
        raise RuntimeError("hostile float")

    def __str__(self) -> str:
        raise RuntimeError("hostile str")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("hostile eq")

    __hash__ = object.__hash__


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.builds(object)
    | st.builds(Hostile)
    | st.builds(np.float32, st.floats(width=32))
    | st.builds(np.zeros, st.integers(0, 3))
    | st.builds(torch.zeros, st.integers(0, 3))
)
keys = st.text() | st.integers() | st.none() | st.builds(Hostile) | st.tuples(st.text())
objects = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=8)


@settings(deadline=None, max_examples=60)
@given(values=objects | st.dictionaries(keys, objects), step=objects)
def test_log_never_raises(values: Any, step: Any) -> None:
    """Arbitrary objects as values, names and steps; what is recorded can be sent."""
    run = Recorder()
    run.log({"loss": 0.25}, step=1)
    run.log(values, step)
    run.event(values, values, severity=step, data=values, step=step)
    run.alert(values, step, severity=values)
    run.watch(values, step)
    run.on_command(values, step)
    run.log({"loss": 0.5})
    run.finish(values)
    assert run.rows[0].values == {"loss": 0.25}
    assert run.rows[-1].values == {"loss": 0.5}
    for row in run.rows:
        assert type(row.step) is int
        for name, value in row.values.items():
            check_metric_name(name)
            assert type(value) is float


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(), objects, max_size=3))
def test_any_configuration_becomes_plain(config: Any) -> None:
    """What is left is what JSON knows."""

    def check(value: Any) -> None:
        assert value is None or isinstance(value, bool | int | float | str | dict | list)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(plain(config))


def test_configurations_as_trainings_have_them() -> None:
    """Namespaces, nested mappings, numpy, large integers; a configuration that holds itself comes to an end."""
    assert plain(argparse.Namespace(lr=np.float64(0.5), n=2**70)) == {"lr": 0.5, "n": str(2**70)}
    loop: dict[str, Any] = {}
    loop["self"] = loop
    assert "self" in plain(loop)


def test_what_is_no_number_is_kept_as_an_event(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """Its neighbours are recorded, one line says so, and the same text is kept once."""
    for step in (1, 2):
        run.log({"loss": 0.5, "note": "warmup"}, step=step)
    run.log({"note": "main"}, step=3)
    assert [row.values for row in run.rows] == [{"loss": 0.5}, {"loss": 0.5}]
    assert [(event.step, event.text) for event in run.events] == [(1, "note = warmup"), (3, "note = main")]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_call_that_makes_no_sense_is_said_once(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per kind of problem, however often it happens."""
    for _ in range(100):
        run.log([0.5])  # type: ignore[arg-type]
        run.log({"a": 1.0}, step="three")  # type: ignore[arg-type]
        run.log({"a": 1.0}, step=2.5)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("holter: ") for line in lines)
    assert len(run.rows) == 200


def test_events_stand_at_the_latest_step(run: Recorder) -> None:
    """Unless they name another one."""
    run.event("before")
    run.log({"a": 1.0}, step=7)
    run.event("stage 3", kind="stage")
    run.event("earlier", step=2, severity="critical", data={"x": np.float32(1)})
    run.alert("slow", "twice the time")
    found = [(event.step, event.kind, event.severity, event.text) for event in run.events]
    assert found == [
        (None, "note", "info", "before"),
        (7, "stage", "info", "stage 3"),
        (2, "note", "critical", "earlier"),
        (7, "alert", "warning", "slow: twice the time"),
    ]


def test_a_stop_is_acknowledged_and_done_at_the_end(run: Recorder) -> None:
    """`should_stop` turns true, and the run ends as stopped."""
    assert not run.should_stop
    command = run.order("stop")
    assert run.should_stop
    assert [(answer.id, answer.state) for answer in run.answers] == [(command, "acknowledged")]
    run.finish()
    assert [answer.state for answer in run.answers] == ["acknowledged", "done"]


def test_a_handler_runs_in_the_loop_s_own_thread_at_the_next_log(run: Recorder) -> None:
    """Between two steps: not when the order arrives."""
    calls: list[dict[str, Any]] = []
    run.on_command("checkpoint", lambda **args: calls.append(args) or "saved to x.pt")
    run.log({"a": 1.0}, step=1)
    run.order("checkpoint", tag="best")
    assert not calls
    run.log({"a": 1.0}, step=2)
    assert calls == [{"tag": "best"}]
    answer = run.answers[-1]
    assert (answer.state, answer.result, answer.step) == ("done", "saved to x.pt", 2)


def test_reading_should_stop_carries_commands_out_too(run: Recorder) -> None:
    """For loops that log rarely."""
    calls: list[int] = []
    run.on_command("dump", lambda: calls.append(1))
    run.order("dump")
    assert not run.should_stop
    assert calls == [1]


def test_a_handler_that_raises_fails_its_command_only(run: Recorder) -> None:
    """The loop goes on, and the service hears why."""

    def save() -> None:
        run.log({"inside": 1.0})
        raise OSError("disk full")

    run.on_command("checkpoint", save)
    run.order("checkpoint")
    run.log({"a": 1.0}, step=1)
    run.log({"a": 2.0}, step=2)
    assert (run.answers[-1].state, run.answers[-1].result) == ("failed", "OSError: disk full")
    assert [row.step for row in run.rows] == [1, 2, 2]


def test_a_command_without_a_handler_fails_and_says_how_to_have_one(run: Recorder) -> None:
    """Nobody waits for it for ever."""
    run.order("checkpoint")
    run.log({"a": 1.0})
    assert run.answers[-1].state == "failed"
    assert "run.on_command('checkpoint', function)" in str(run.answers[-1].result)


def test_orders_are_repeated_by_the_service_and_carried_out_once(run: Recorder) -> None:
    """The same id is the same order."""
    calls: list[int] = []
    run.on_command("dump", lambda: calls.append(1))
    run.order("dump")
    run._orders = iter([1])  # type: ignore[assignment]
    run.order("dump")
    run.log({"a": 1.0})
    assert calls == [1]


def test_what_waits_at_the_end_fails(run: Recorder) -> None:
    """An order that came too late is answered, too."""
    run.on_command("checkpoint", lambda: None)
    run.order("checkpoint")
    run.finish()
    assert run.answers[-1].state == "failed"


def test_incidents_are_said_once(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """The person at the terminal sees the service's findings; resolved ones and mere information are not news."""
    notice = IncidentNotice("i1", "precursor_high", "limit", "critical", "firing", "loss/precursor", "precursor is 6.4")
    for _ in range(3):
        run.receive(Receipt(acknowledged=1, incidents=[notice]))
    assert capsys.readouterr().err == "holter: critical: precursor is 6.4\n"
    assert run.incidents["i1"] == notice


def test_after_the_end_nothing_is_recorded_and_that_is_said(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """finish twice is finish once."""
    run.log({"a": 1.0})
    run.finish()
    run.finish("failed")
    run.log({"a": 2.0})
    run.event("late")
    assert len(run.rows) == 1
    assert capsys.readouterr().err.count("\n") == 1


def _model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    model(torch.ones(4, 3)).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    optimizer.step()
    return norm


def test_watch_records_norm_and_rate_in_the_row_of_the_step(run: Recorder) -> None:
    """The total 2-norm over all parameters, as the optimizer saw it."""
    model, optimizer = _model()
    run.watch(model, optimizer)
    norms = []
    for step in range(1, 4):
        norms.append(_step(model, optimizer))
        run.log({"loss": 1.0}, step=step)
    assert [row.step for row in run.rows] == [1, 2, 3]
    assert run.values("watch/grad_norm") == pytest.approx(norms, rel=1e-6)
    assert run.values("watch/lr") == [0.1, 0.1, 0.1]
    always = {"loss", "watch/grad_norm", "watch/lr"}
    assert set(run.rows[0].values) == always | {"watch/update_ratio"}
    assert all(set(row.values) == always | {"watch/step_time", "watch/throughput"} for row in run.rows[1:])


def test_watch_gives_every_step_of_a_loop_that_logs_rarely(run: Recorder) -> None:
    """Ten optimizer steps before a log at step 10 are the steps 1 to 10; those after the last log are not lost."""
    model, optimizer = _model()
    run.watch(model, optimizer, every=2)
    for step in range(1, 13):
        _step(model, optimizer)
        if step == 10:
            run.log({"loss": 1.0}, step=step)
    run.finish()
    watched = [row.step for row in run.rows if "watch/grad_norm" in row.values]
    assert watched == [1, 3, 5, 7, 9, 11]


def test_watch_several_groups_and_half_precision(run: Recorder) -> None:
    """A learning rate for each group; squares of float16 don't overflow."""
    model, _ = _model()
    model.half()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": torch.tensor(0.2)}]
    optimizer = torch.optim.SGD(groups)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1000.0)
    run.watch(model, optimizer)
    optimizer.step()
    run.log({"loss": 1.0}, step=1)
    (row,) = run.rows
    assert row.values["watch/grad_norm"] == pytest.approx(1000 * math.sqrt(8), rel=1e-3)
    assert row.values["watch/lr/group0"] == 0.1
    assert row.values["watch/lr/group1"] == pytest.approx(0.2)


def test_watch_of_a_second_optimizer_has_names_of_its_own(run: Recorder) -> None:
    """A generator and a discriminator don't overwrite one another."""
    for _ in range(2):
        model, optimizer = _model()
        run.watch(model, optimizer)
        _step(model, optimizer)
    run.log({"loss": 1.0}, step=1)
    assert {"watch/grad_norm", "watch/1/grad_norm"} <= set(run.rows[0].values)


def test_watch_keeps_a_nan(run: Recorder) -> None:
    """A broken gradient is what it is there for."""
    model, optimizer = _model()
    run.watch(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.step()
    run.log({"loss": 1.0}, step=1)
    assert math.isnan(run.values("watch/grad_norm")[0])
