"""Rows that a device still owes: asked for without waiting, and read exactly. The device is a double here."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch

from holter import device
from holter.device import Captured, Deferred, snapshot
from holter.testing import Recorder
from holter.values import NotANumber, scalar


class FakeEvent:
    """An event that passes when it is told to; it notes whether anybody waited for it."""

    def __init__(self) -> None:
        self.passed = threading.Event()
        self.waited = 0

    def query(self) -> bool:
        return self.passed.is_set()

    def synchronize(self) -> None:
        self.waited += 1
        assert self.passed.wait(10)


class FailedEvent(FakeEvent):
    """After an illegal memory access, every call raises."""

    def query(self) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    synchronize = query  # type: ignore[assignment]


def _deferred(row: list[float], *events: Any) -> Deferred:
    parts = [
        device._Part([index], torch.tensor([10.0 + index]), event, None, None) for index, event in enumerate(events)
    ]
    return Deferred(row, parts)


def test_ready_asks_and_resolve_waits() -> None:
    """A row of two devices is ready when both have their part; asking never waits."""
    one, other = FakeEvent(), FakeEvent()
    row = _deferred([math.nan, math.nan, 0.5], one, other)
    assert not row.ready()
    one.passed.set()
    assert not row.ready()
    other.passed.set()
    assert row.ready()
    assert one.waited == other.waited == 0
    assert row.resolve() == [10.0, 11.0, 0.5]
    assert one.waited == other.waited == 1


def test_resolving_twice_reads_once() -> None:
    """The journal and the flight recorder may both want it, from two threads."""
    event = FakeEvent()
    row = _deferred([math.nan], event)
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(row.resolve())) for _ in range(4)]
    for thread in threads:
        thread.start()
    event.passed.set()
    for thread in threads:
        thread.join()
    assert found == [[10.0]] * 4
    assert event.waited == 1
    assert row.ready()


def test_a_device_that_has_failed_is_ready_to_say_so() -> None:
    """Otherwise its row would hold up all rows behind it; what the host knew is still there."""
    row = _deferred([math.nan, 0.5], FailedEvent())
    assert row.ready()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        row.resolve()
    assert row.host()[1] == 0.5


def test_a_device_without_events_is_asked_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS and XPU: not ready for half a second, then taken to be."""
    now = [100.0]
    monkeypatch.setattr("holter.device.time.monotonic", lambda: now[0])
    elsewhere = torch.empty(1, device="meta")  # a tensor that is not on the host, and has no event
    row = Deferred([math.nan], [device._Part([0], elsewhere, None, None, None)])
    assert not row.ready()
    now[0] += 0.6
    assert row.ready()


@pytest.mark.parametrize(
    ("tensors", "dtype", "expected"),
    [
        ([torch.tensor(0.1), torch.tensor(0.5, dtype=torch.bfloat16)], torch.float32, [float(torch.tensor(0.1)), 0.5]),
        ([torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.1)], torch.float64, [0.1, float(torch.tensor(0.1))]),
        ([torch.tensor(2**53 - 1), torch.tensor([[True]])], torch.float64, [2.0**53 - 1, 1.0]),
        ([torch.tensor(math.nan, dtype=torch.float16), torch.tensor(-math.inf)], torch.float32, [math.nan, -math.inf]),
    ],
)
def test_numbers_travel_exactly(tensors: list[Any], dtype: Any, expected: list[float]) -> None:
    """float32 and narrower as float32, everything else as float64: one stack, no digit lost."""
    assert device._stack(torch, tensors).dtype == dtype
    assert snapshot([*tensors], [0, 1]).resolve() == pytest.approx(expected, rel=0, nan_ok=True)


def test_slots_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory is asked for once for many rows."""
    made: list[Any] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **_: made.append(size) or empty(*size, dtype=torch.float64))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    pool = device._Pool()
    first = pool.take(torch, 8)
    assert first.view(torch.float32, 8) is first.view(torch.float32, 8)
    assert first.view(torch.float64, 3).shape == (3,)
    pool.give_back(first)
    assert pool.take(torch, 8) is first
    taken = [pool.take(torch, 8) for _ in range(device.SLAB)]
    assert len({*map(id, taken)} | {id(first)}) == device.SLAB + 1
    assert len(made) == 2
    pool.take(torch, 1000)
    assert made[-1] == (1000,)


class OnDevice:
    """A tensor as it looks when it lies on a GPU."""

    device = torch.device("cuda", 0)


def test_nothing_is_asked_of_a_device_while_a_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values on the device are left out, which is said once; those on the host are kept."""
    monkeypatch.setattr("holter.device.capturing", lambda: True)
    row: list[Any] = [OnDevice(), 0.5]
    with pytest.raises(Captured):
        snapshot(row, [0])
    assert isinstance(row[0], OnDevice)
    run = Recorder()
    for step in range(2):
        run._write_row({"loss": OnDevice(), "lr": 0.5}, step)
        run._write_row({"loss": OnDevice()}, step)
    assert [found.values for found in run.rows] == [{"lr": 0.5}] * 2
    assert capsys.readouterr().err == ("holter: values on a device are left out: a CUDA graph is being captured\n")


def test_a_tensor_that_is_spread_over_ranks() -> None:
    """Reading it would need the other ranks, so it is refused; what is whole here is taken."""

    class Placement:
        def __init__(self, replicated: bool) -> None:
            self.is_replicate = lambda: replicated

    class Spread(torch.Tensor):
        placements = (Placement(True), Placement(False))

        def to_local(self) -> torch.Tensor:
            return torch.tensor(2.5)

    class Whole(Spread):
        placements = (Placement(True),)

    with pytest.raises(NotANumber, match="full_tensor"):
        scalar(torch.tensor(1.0).as_subclass(Spread))
    assert scalar(torch.tensor(1.0).as_subclass(Whole)) == 2.5
