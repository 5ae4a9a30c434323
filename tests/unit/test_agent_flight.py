"""The flight recorder names the true culprit of real trainings, and keeps what is needed to run it again."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from holter.batches import batch_of
from holter.diagnosis import Record, find_first, sentence
from holter.flight import Trigger, load
from holter.records import START, Happened
from holter.spool import Reader, find_spools
from holter.testing import Recorder
from holter.wire import Event, IncidentNotice, Receipt, dump_json

INCIDENT = Trigger("incident", incident="i1", rule="non_finite", step=9)


class Net(nn.Module):
    """Five linear layers; they are defined in another order than they are used in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.sick: Callable[[Tensor], Tensor] | None = None  # what happens between blocks 1 and 2

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        for index, block in enumerate(self.blocks):
            x = torch.tanh(block(x))
            if index == 1 and self.sick is not None:
                x = self.sick(x)
        return self.head(x)


class BackwardOverflow(torch.autograd.Function):
    """Forward changes nothing; backward overflows, as a fused kernel in half precision does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - as autograd calls it
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0] * math.inf


class Training:
    """A small regression that is recorded; ``steps`` runs it on."""

    def __init__(self, folder: Path | None, *, clip: float | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.run = Recorder()
        self.run.directory = folder
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.clip = clip
        self.step = 0
        self.run.watch(self.model, self.optimizer, **options)

    def data(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 6)
        return x, x[:, :2].square()

    def steps(self, count: int, *, poison: int | None = None) -> None:
        for _ in range(count):
            x, y = self.data()
            if self.step == poison:
                x[2, 3] = math.nan
            self.run.batch([f"pep_{self.step:03d}_{index}" for index in range(4)])
            self.optimizer.zero_grad()
            prediction = self.model(x)
            losses = {"loss/first": functional.mse_loss(prediction[:, 0], y[:, 0]),
                      "loss/second": functional.mse_loss(prediction[:, 1], y[:, 1])}  # fmt: skip
            total = torch.stack([*losses.values()]).sum()
            total.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.run.log(losses | {"loss/total": total, "lr": 1e-3}, step=self.step)
            self.step += 1

    def dump(self, trigger: Trigger = INCIDENT) -> Event:
        self.run.dump_flight(trigger)
        event = self.flights()[-1]
        dump_json(event.data)
        return event

    def flights(self) -> list[Event]:
        return [event for event in self.run.events if event.kind == "flight"]


def test_a_sick_step_is_read_at_once_and_once(tmp_path: Path) -> None:
    """Before its row is overwritten, and before any rule has a name for it; its incident needs no second reading."""
    training = Training(tmp_path, flight_recorder=8)
    training.steps(300, poison=100)
    (event,) = training.flights()
    assert event.data["first"]["step"] == 100
    assert event.data["trigger"] == {"kind": "incident", "incident": None, "rule": None, "step": 100}
    notice = IncidentNotice("i", "non-finite", "non_finite", "critical", "firing", "loss/first", "NaN", 100)
    training.run.receive(Receipt(0, incidents=[notice]))
    training.steps(2)
    assert len(training.flights()) == 1
    later = IncidentNotice("j", "limit", "limit", "critical", "firing", "loss/first", "above 5", 1_000)
    training.run.receive(Receipt(0, incidents=[later]))
    training.steps(1)
    assert training.flights()[-1].data["trigger"]["incident"] == "j"


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_batch(tmp_path: Path, clip: float | None) -> None:
    """The data are NaN, the learning rate is fine: the loss comes first, and all gradients follow in that step."""
    training = Training(tmp_path, clip=clip)
    training.steps(9, poison=6)
    event = training.dump()
    assert event.text == (
        "loss/first was the first to be non-finite (NaN), at step 6, and all 10 gradients with it; "
        "batch: pep_006_0, pep_006_1 and 2 more"
    )
    assert event.data["first"] == {"what": "loss", "name": "loss/first", "step": 6, "count": 10, "of": 10}
    assert event.data["batch"]["ids"] == [f"pep_006_{index}" for index in range(4)]
    assert (event.severity, event.step, event.kind) == ("critical", 6, "flight")


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_overflow_in_the_middle_of_backward(tmp_path: Path, clip: float | None) -> None:
    """Only what lies before it in forward is non-finite. Clipping would make all of it NaN, and hides nothing."""
    training = Training(tmp_path, clip=clip)
    training.steps(5)
    training.model.sick = BackwardOverflow.apply
    training.steps(1)
    event = training.dump()
    assert event.data["first"] == {"what": "gradient", "name": "blocks.1.weight", "step": 5, "count": 6, "of": 10}
    assert event.text.startswith("gradient of blocks.1.weight was the first")
    assert "at step 5 (6 of 10 tensors); batch: pep_005_0" in event.text
    grad_norm = dict(zip(event.data["layers"], event.data["grad_norm"][5], strict=True))
    assert math.isfinite(grad_norm["head.weight"])
    assert not math.isfinite(grad_norm["embed.weight"])


def test_an_update_that_destroys_the_weights(tmp_path: Path) -> None:
    """Gradients are fine, and so is the loss; the step whose update was broken is to blame, not the next one."""
    training = Training(tmp_path)
    training.steps(4)
    state = training.optimizer.state[training.model.blocks[2].weight]
    state["exp_avg_sq"].fill_(-1.0)  # a checkpoint that was read wrongly: its root is NaN
    training.steps(3)
    event = training.dump()
    first = event.data["first"]
    assert first == {"what": "weight", "name": "blocks.2.weight", "step": 4, "count": 1, "of": 10}
    assert "blocks.2.weight was made non-finite by the optimizer's update at step 4 (1 of 10 tensors)" in event.text
    assert "whose gradients were all finite (largest norm" in event.text
    assert event.data["batch"]["step"] == 4


def test_a_learning_rate_that_throws_the_weights_away(tmp_path: Path) -> None:
    """They are numbers still, too large for the square of their norm: no word of non-finite then."""
    training = Training(tmp_path)
    training.steps(4)
    training.optimizer.param_groups[0]["lr"] = 1e38
    training.steps(1)
    event = training.dump()
    assert event.text.startswith(
        "weight of head.weight was made to overflow by the optimizer's update at step 4 (10 of"
    )


def test_it_is_known_right_after_the_update(tmp_path: Path) -> None:
    """An exception before the next step: the weights are looked at as they are now."""
    training = Training(tmp_path)
    training.steps(4)
    with torch.no_grad():
        for parameter in training.model.blocks[0].parameters():
            parameter.fill_(math.inf)
    event = training.dump()
    assert event.data["first"]["name"] == "blocks.0.weight"
    assert event.data["first"]["step"] == 3
    assert event.data["first"]["count"] == 2


def test_an_exception_with_nothing_non_finite(tmp_path: Path) -> None:
    """It says so, and names nobody."""
    training = Training(tmp_path)
    training.steps(5)
    training.run.batch(["pep_next"])
    training.run.fail(RuntimeError("the disk is gone"))
    flight, exception = (event for event in training.run.events)
    assert (flight.kind, exception.kind) == ("flight", "exception")
    assert flight.data["first"] is None
    assert flight.severity == "warning"
    assert flight.text.startswith("all losses, gradients and weights of the steps 0 to 5 were finite; the largest")
    assert flight.data["trigger"] == {"kind": "exception", "incident": None, "rule": None, "step": 4}
    assert flight.data["batch"]["ids"] == ["pep_next"]  # that of the step that failed


@pytest.mark.parametrize("clipped", [False, True])
def test_an_exception_between_backward_and_update(tmp_path: Path, clipped: bool) -> None:
    """Gradients that no optimizer step has seen are looked at, too: as they were before clipping spoiled them."""
    training = Training(tmp_path)
    training.steps(3)
    training.model.sick = BackwardOverflow.apply
    training.run.batch(["bad"])
    training.optimizer.zero_grad()
    training.model(training.data()[0]).sum().backward()
    if clipped:
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    training.run.fail(FloatingPointError("stop"))
    event = training.run.events[0]
    assert event.data["first"]["step"] == 3
    assert event.data["first"]["count"] == 6
    assert event.data["first"]["name"].startswith("blocks.1.")
    assert event.text.endswith("; batch: bad")


def test_a_loop_that_leaves_bad_steps_out_itself(tmp_path: Path) -> None:
    """The loss was NaN, no update came of it, and all was finite afterwards: that, too, is said."""
    training = Training(tmp_path)
    training.steps(3)
    training.run.log({"loss/total": math.nan}, step=3)
    training.step = 4
    training.steps(2)
    event = training.dump()
    assert event.text.startswith("loss/total was the first to be non-finite (NaN), at step 3; all was finite again at")
    assert event.data["first"]["of"] == 0


def test_validation_losses_accuse_nobody(tmp_path: Path) -> None:
    """A validation loss of NaN is no part of an update."""
    training = Training(tmp_path)
    training.steps(3)
    training.run.log({"val/loss": math.nan, "accuracy": math.nan}, step=2)
    assert training.dump().data["first"] is None


def test_a_dump_is_a_file_that_has_all_of_it(tmp_path: Path) -> None:
    """`load` reads it; with the generators restored the same random numbers come again."""
    random.seed(1)
    np.random.seed(1)
    training = Training(tmp_path, flight_recorder=150)
    training.steps(100)
    expected = (torch.randn(3).tolist(), np.random.rand(), random.random())
    training.steps(20, poison=110)
    event = training.dump()
    assert event.data["rng"]["step"] == 100
    path = tmp_path / event.data["rng"]["file"]
    assert str(path) == event.data["file"]
    flight = load(path)
    assert flight.rng_steps == [0, 100]
    flight.restore_rng(100)
    assert (torch.randn(3).tolist(), np.random.rand(), random.random()) == expected
    assert flight.arrays["grad_norm"].shape == (121, 10)  # and the weights as the last update has left them
    assert flight.about["layers"][0] == "head.weight"
    assert flight.about["first"] == event.data["first"]
    assert flight.about["batches"]["110"]["count"] == 4
    assert flight.arrays["losses"].shape == (3, 121)
    assert np.isnan(flight.arrays["losses"][0, 110])
    with pytest.raises(KeyError, match="no state is recorded before step 7"):
        flight.restore_rng(7)


def test_the_norms_are_the_norms(tmp_path: Path) -> None:
    """Against numpy, for the last steps of a ring that has gone round."""
    training = Training(tmp_path, flight_recorder=4)
    training.steps(9)
    weights = [float(p.detach().double().norm()) for p in training.model.parameters()]
    training.steps(1)
    gradients = [float(p.grad.double().norm()) for p in training.model.parameters() if p.grad is not None]
    data = training.dump().data
    assert data["steps"] == [6, 7, 8, 9]
    assert data["grad_norm"][-1] == pytest.approx(gradients, rel=1e-5)
    assert data["weight_norm"][-1] == pytest.approx(weights, rel=1e-5)
    assert data["losses"]["loss/total"] == pytest.approx(training.run.values("loss/total")[-4:])


def test_a_parameter_without_a_gradient_is_no_zero(tmp_path: Path) -> None:
    """None in the event, −1 in the file, and not counted."""
    training = Training(tmp_path)
    unused = nn.Parameter(torch.ones(3))
    training.model.register_parameter("unused", unused)
    training.optimizer.add_param_group({"params": [unused]})
    training.steps(2, poison=1)
    data = training.dump().data
    assert data["first"]["of"] == 10
    assert data["grad_norm"][0][data["layers"].index("unused")] is None
    assert load(data["file"]).arrays["grad_norm"][0].min() == -1


def test_at_most_one_dump_for_an_incident_and_one_a_minute(tmp_path: Path) -> None:
    """Whoever asks too often is told so."""
    training = Training(tmp_path)
    training.steps(2)
    for _ in range(3):
        training.run.dump_flight(INCIDENT)
        training.run.order("dump")
        training.steps(1)
    training.run.dump_flight(Trigger("incident", incident="i2"))
    kinds = [event.data["trigger"]["kind"] for event in training.run.events if event.kind == "flight"]
    assert kinds == ["incident", "command", "incident"]
    results = [answer.result for answer in training.run.answers if answer.state == "done"]
    assert results[0] is not None
    assert results[0].startswith("all losses, gradients and weights of the steps 0 to 2 were finite")
    assert results[1:] == ["It was read less than a minute ago."] * 2


def test_a_dump_of_the_user_s_own_goes_first(tmp_path: Path) -> None:
    """Whether it was registered before watch or after it."""
    for early in (True, False):
        run = Recorder()
        model = nn.Linear(1, 1)
        for register in (early, not early):
            if register:
                run.on_command("dump", lambda: "mine")
            else:
                run.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        run.order("dump")
        run.log({"a": 1.0}, step=0)
        assert run.answers[-1].result == "mine"
        run.finish()


def test_without_a_recorder_nothing_is_kept(tmp_path: Path) -> None:
    """flight_recorder=0."""
    training = Training(tmp_path, flight_recorder=0)
    training.steps(2)
    assert training.run.dump_flight(INCIDENT) is None
    training.run.fail(RuntimeError("x"))
    assert [event.kind for event in training.run.events] == ["exception"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_t_be_written_costs_only_the_file(tmp_path: Path) -> None:
    """The event is there all the same."""
    (tmp_path / "flight").write_text("in the way")
    training = Training(tmp_path)
    training.steps(2, poison=1)
    data = training.dump().data
    assert (data["file"], data["rng"]) == (None, None)
    assert data["first"]["what"] == "loss"


def test_mixed_precision_s_own_overflows_are_no_culprits(tmp_path: Path) -> None:
    """A step that the scaler leaves out is how it finds its scale; a bad update before it is what matters."""
    record = _record(gradients=[[1, 1], [math.inf, math.nan], [1, 1], [math.nan, 1]], left_out=[1])
    first = find_first(record)
    assert first is not None
    assert (first.name, first.step, first.left_out) == ("a", 3, False)
    only = _record(gradients=[[1, 1], [math.inf, math.nan], [1, 1]], left_out=[1])
    first = find_first(only)
    assert first is not None
    assert "the gradient scaler left that step out; all was finite again at step 2" in sentence(only, first, [], 0)


def test_an_overflow_that_the_scaler_left_out_is_no_alarm() -> None:
    """A real gradient scaler at its first, too large scale."""
    training = Training(None)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for step in range(2):
        training.optimizer.zero_grad()
        scaler.scale(training.model(training.data()[0]).square().sum() * 1e4).backward()
        scaler.step(training.optimizer)
        scaler.update()
        training.run.log({"lr": 1e-3}, step=step)
    event = next(event for event in training.run.events if event.kind == "flight") if training.run.events else (
        training.dump()
    )  # fmt: skip
    assert event.severity == "info"
    assert "the gradient scaler left that step out" in event.text


def _record(gradients: list[list[float]], left_out: list[int]) -> Record:
    count = len(gradients)
    return Record(
        names=["a", "b"],
        backward_order=[1, 0],
        steps=list(range(count)),
        gradients=np.array(gradients, dtype=float),
        weights=np.ones((count, 2)),
        left_out=[index in left_out for index in range(count)],
    )


numbers = st.sampled_from([0.0, 1.0, 3.5, -1.0, math.nan, math.inf])


@given(st.data())
def test_whatever_is_named_was_non_finite(data: st.DataObject) -> None:
    """At the step that is named, in the tensor that is named; and nothing is named if all is finite."""
    rows, names = data.draw(st.integers(0, 6)), ["a.weight", "a.bias", "c"]
    shape = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=rows, max_size=rows)
    record = Record(
        names,
        data.draw(st.permutations(range(3))),
        list(range(rows)),
        np.array(data.draw(shape), dtype=float).reshape(rows, 3),
        np.array(data.draw(shape), dtype=float).reshape(rows, 3),
        data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)),
        {"loss": data.draw(st.lists(st.none() | numbers, min_size=rows, max_size=rows))},
    )
    first = find_first(record)
    text = sentence(record, first, [], 0)
    assert text
    if first is None:
        assert not any(record.sick(row) for row in range(rows))
    elif first.what == "gradient":
        bad = {name for name, norm in zip(names, record.gradients[first.step], strict=True) if not math.isfinite(norm)}
        assert first.name in bad
    elif first.what == "weight":
        after = record.weights[first.step + 1 :, names.index(first.name)] if first.by_update else record.weights
        assert not np.isfinite(after).all()
    else:
        value = record.losses[first.name][first.step]
        assert value is not None
        assert not math.isfinite(value)


@pytest.mark.parametrize(
    ("given_batch", "count", "ids"),
    [
        (["a", "b"], 2, ["a", "b"]),
        ("one", 1, ["one"]),
        (np.arange(100), 100, [str(i) for i in range(64)]),
        (torch.arange(3), 3, ["0", "1", "2"]),
        (torch.randn(5, 2), 5, []),
        ({"ids": ["x"], "data": torch.randn(7, 2)}, 1, ["x"]),
        ({"input_ids": torch.ones(7, 2), "mask": torch.ones(7)}, 7, []),
        ([torch.ones(3, 2), torch.ones(3)], 3, []),
        ((i for i in range(3)), 3, ["0", "1", "2"]),
        (torch.ones(2, dtype=torch.bfloat16), 2, []),
        ([], 0, []),
        ({}, 0, []),
        (None, 1, ["None"]),
    ],
)
def test_batches_as_trainings_have_them(given_batch: Any, count: int, ids: list[str]) -> None:
    """Ids stay readable, data become a fingerprint."""
    batch = batch_of(given_batch)
    assert (batch.count, batch.ids()) == (count, ids)


def test_a_fingerprint_tells_batches_apart() -> None:
    """Equal data, equal fingerprint; one changed element, another one."""
    x = torch.randn(8, 16)
    same, other = x.clone(), x.clone()
    other[3, 3] += 1
    prints = [batch_of(each).fingerprint() for each in (x, same, other, x.reshape(16, 8))]
    assert prints[0] == prints[1]
    assert len({*prints}) == 3


SCRIPT = """
import sys, torch, holter
run = holter.init(project="p", mode="offline", dir=sys.argv[1])
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
holter.watch(model, optimizer)
for step in range(5):
    holter.batch([f"pep_{step}"])
    optimizer.zero_grad()
    loss = model(torch.ones(2, 3) * (float("inf") if step == 3 else 1.0)).square().mean()
    loss.backward()
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite")
    optimizer.step()
    holter.log({"loss": loss}, step=step)
"""


@pytest.mark.slow
def test_a_process_that_dies_by_an_exception_leaves_its_record(tmp_path: Path) -> None:
    """Nobody catches it: the interpreter ends, and the event and the file are there."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "FloatingPointError" in done.stderr
    (spool,) = (spool for spool in find_spools(tmp_path) if "system" not in spool.start.writer.name)
    events = [found.event for found, _ in Reader(spool.path).read(START) if isinstance(found, Happened)]
    flight = next(event for event in events if event.kind == "flight")
    assert flight.text == (
        "gradient of weight was the first to be non-finite, at step 3 (2 of 2 tensors: it may have come with the loss, "
        "which was not logged); batch: pep_3"
    )
    assert flight.data["trigger"]["kind"] == "exception"
    assert load(flight.data["file"]).about["first"]["step"] == 3
    assert Path(flight.data["file"]).parent == spool.path.parent / "flight" / "rank0"
