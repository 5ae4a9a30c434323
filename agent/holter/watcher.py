"""`Run.watch`: what an optimizer step tells about a training, without a line in the loop and without waiting.

Values are taken in a hook before each optimizer step, on the device, and kept until `log` says which step it was.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from holter.device import capturing
from holter.flight import FlightRecorder
from holter.layers import Layers
from holter.norms import Norms, Sample
from holter.notices import Notices
from holter.patches import listen, stop_listening
from holter.scaling import Scaling

__all__ = ["Watcher"]

WAITING_MAX = 10_000  # optimizer steps between two `log` calls; beyond, the oldest are let go
SELDOM = 10  # every so many due steps: what costs more (the update's size, the allocator's figures)
GIGABYTE = 1e9


class Watcher:
    """Watches one model and its optimizer.

    ``grad_norm`` is the 2-norm over all gradients, unscaled, before clipping: taken from torch's clipping where the
    training clips, computed otherwise (one foreach call). Nothing is computed for steps that are not due, apart from
    what the flight recorder keeps of every step.
    """

    def __init__(
        self, model: Any, optimizer: Any, every: int, prefix: str, notices: Notices, *, flight_recorder: int = 0
    ) -> None:
        """Raises AttributeError or TypeError if these are no module and no optimizer."""
        self.optimizer = optimizer
        self._layers = Layers(model)
        self._every = max(1, int(every))
        self._prefix, self._notices = prefix, notices
        self._scaling = Scaling(optimizer)
        self.flight = FlightRecorder(self._layers, int(flight_recorder)) if int(flight_recorder) > 0 else None
        self._steps = 0  # optimizer steps so far, those included that the gradient scaler left out
        self._waiting: deque[dict[str, Any]] = deque(maxlen=WAITING_MAX)
        self._sample: Sample | None = None
        self._sampled: dict[str, Any] | None = None  # the row that waits for the update's size
        self._measured: Norms | None = None  # of the gradients, before they were clipped
        self._total: Any = None  # the same over all of them, as the clipping has found it
        self._clipped: set[int] = set()  # parameters that were clipped since the last step
        self._samples, self._since, self._steps_since = 0, 0.0, 0
        self._off = False
        self._torch: Any = sys.modules["torch"]
        self._uncompiled = self._torch.compiler.disable(self._safely)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        listen(self)

    def take(self) -> list[dict[str, Any]]:
        """What has been seen since the last call: one mapping per optimizer step, empty where it was left out."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def place(self, steps: list[int]) -> None:
        """The rows that were taken last stand at these steps."""
        if self.flight is not None:
            self.flight.place(steps)

    def note_batch(self, batch: Any, count: int) -> None:
        """The next optimizer step learns from these ``count`` examples."""
        self._samples += count
        if self.flight is not None:
            self.flight.note_batch(batch)

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        stop_listening(self)
        self._layers.close()
        for hook in self._hooks:
            hook.remove()

    # --- told by torch: none of it may raise

    def _before_step(self, *_: Any) -> None:
        self._outside_graphs(self._observe)

    def _after_step(self, *_: Any) -> None:
        self._outside_graphs(self._complete)

    def _outside_graphs(self, action: Any) -> None:
        # A compiled `optimizer.step` has a graph break of torch's own in it, so that another one breaks no promise.
        if self._torch.compiler.is_compiling():
            self._uncompiled(action)
        else:
            self._safely(action)

    def clips(self, parameters: list[Any], total: Any) -> Any:
        """Gradients are about to be clipped. Returns what to clip by instead of ``total``, None where that is right."""
        return self._safely(lambda: self._note_clipping(parameters, total))

    def clipped(self, parameters: list[Any], total: Any) -> None:
        """They were clipped; their norm was ``total``."""
        if total is not None and self._covers(parameters):
            self._total = total

    def scaler_steps(self, scaler: Any) -> None:
        """A gradient scaler is about to step the optimizer, or not to."""
        self._safely(lambda: self._scaling.begin(scaler, self._steps))

    def scaler_stepped(self) -> None:
        self._safely(self._end_scaling)

    def _safely(self, action: Any) -> Any:
        if self._off:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - a hook that raises would end the training
            self._notices.warn("watch", f"watch has stopped: {type(error).__name__}: {error}")
            self._off = True  # torch walks through its hooks right now, so that none may be taken out
            return None

    def _end_scaling(self) -> None:
        if self._scaling.end() == self._steps:  # no step came between: infinite gradients, which it leaves out
            self._observe(skipped=True)

    # --- one optimizer step

    def _observe(self, *, skipped: bool = False) -> None:
        due = self._steps % self._every == 0
        values: dict[str, Any] = {}
        if capturing():
            self._notices.warn("capture", "watch leaves steps out while a CUDA graph is captured")
            if self.flight is not None:
                self.flight.skip(self._steps)
        else:
            self._layers.settle()
            left_out = self._scaling.note(skipped=skipped)
            divisor = self._measure(due)
            if due:
                values = self._values(divisor)
            self._steps_since += 1
            if self.flight is not None:
                if divisor is not None:  # only now, since the values above are computed from the same row
                    self.flight.gradient_row(self._steps).div_(divisor)
                self.flight.observe(self._steps, left_out)
            if due:
                self._take_seldom(values, skipped)
                self._take_pace(values)
        self._measured = self._total = None
        self._clipped.clear()
        self._steps += 1
        self._waiting.append(values)

    def _complete(self) -> None:
        row, self._sampled = self._sampled, None
        if row is not None and self._sample is not None:
            ratio = self._sample.ratio()
            if ratio is not None:
                row[self._named("update_ratio")] = ratio
        if self.flight is not None:
            self.flight.end_step(self._steps)

    def _measure(self, due: bool) -> Any:
        """See to it that the gradients are measured as far as they are needed; returns what to divide them by."""
        clipped = self._measured is not None or self._total is not None
        if self.flight is not None or (due and (self._total is None or self._grouped)):
            self._measured = self._measured or self._measure_gradients()
        return self._scaling.divisor(clipped=clipped)

    def _measure_gradients(self) -> Norms:
        gradients = [parameter.grad for parameter in self._layers.parameters]
        out = absent = None
        if self.flight is not None:
            out, absent = self.flight.gradient_row(self._steps), self.flight.absent
        return self._layers.norms(gradients, out, absent)

    @property
    def _grouped(self) -> bool:
        return len(self.optimizer.param_groups) > 1

    def _named(self, name: str) -> str:
        return f"{self._prefix}{name}_local" if self._layers.sharded else self._prefix + name

    def _values(self, divisor: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if self._total is not None:
            values[f"{self._prefix}grad_norm"] = self._total
        elif self._measured is not None and self._measured.each:
            values[self._named("grad_norm")] = self._measured.total()
        if self._grouped and self._measured is not None:
            for index, places in enumerate(self._layers.places_of_groups(self.optimizer.param_groups)):
                norm = self._measured.total_at(places)
                if norm is not None:
                    values[self._named("grad_norm") + f"/group{index}"] = norm
        if divisor is not None:
            values = {name: norm / divisor for name, norm in values.items()}
        for index, group in enumerate(self.optimizer.param_groups):
            name = f"lr/group{index}" if self._grouped else "lr"
            values[self._prefix + name] = group["lr"] if isinstance(group["lr"], float) else group["lr"] * 1.0
        for name, value in self._scaling.values().items():
            values[self._prefix + name] = value
        return values

    def _take_seldom(self, values: dict[str, Any], skipped: bool) -> None:
        if self._steps // self._every % SELDOM:
            return
        if self._layers.refresh():
            self._sample = None
            if self.flight is not None:
                self.flight.reset()
        values |= {self._prefix + name: value for name, value in _memory(self._layers.device).items()}
        if not skipped and self._layers.parameters:
            if self._sample is None:
                self._sample = Sample(self._layers.parameters)
            self._sample.take()
            self._sampled = values

    def _take_pace(self, values: dict[str, Any]) -> None:
        now = time.perf_counter()
        if self._since:
            seconds = now - self._since
            values[f"{self._prefix}step_time"] = seconds / self._steps_since
            values[f"{self._prefix}throughput"] = self._steps_since / seconds if seconds else 0.0
            if self._samples:
                values[f"{self._prefix}samples_per_second"] = self._samples / seconds if seconds else 0.0
        self._since, self._steps_since, self._samples = now, 0, 0

    # --- clipping

    def _covers(self, parameters: list[Any]) -> bool:
        """Whether every parameter of ours that has a gradient is among ``parameters``."""
        given = {id(parameter) for parameter in parameters}
        return bool(given & self._layers.ids) and all(
            id(parameter) in given for parameter in self._layers.parameters if parameter.grad is not None
        )

    def _note_clipping(self, parameters: list[Any], total: Any) -> Any:
        self._layers.settle()
        mine = self._layers.ids.intersection(map(id, parameters))
        if not mine or capturing():
            return None
        if mine & self._clipped:  # clipped again without a step between: what counts is the last time
            self._measured = self._total = None
            self._clipped.clear()
        first = not self._clipped
        self._clipped |= mine
        instead = None
        if total is not None and self._covers(parameters):
            self._total = instead = _whole(total)
        if first and (self._total is None or self._grouped or self.flight is not None):
            self._measured = self._measure_gradients()  # clipping by a NaN makes every gradient NaN
        return instead if instead is not total else None


def _whole(total: Any) -> Any:
    """The norm over all ranks.

    Of FSDP's sharded gradients every rank has its own part of the norm, and clipping adds them up in its first line,
    on every rank. Doing just that here, and clipping by the sum, is the same one collective.
    """
    if not hasattr(total, "placements"):
        return total
    if all(placement.is_replicate() for placement in total.placements):
        return total.to_local()
    return total.full_tensor()


def _memory(device: Any) -> dict[str, float]:
    """Of torch's allocator on ``device``, in 10⁹ bytes. Read on the host; nothing is asked of the device."""
    torch: Any = sys.modules["torch"]
    if device is None or device.type != "cuda":
        return {}
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    return {
        "memory_allocated_gb": stats["allocated_bytes"]["all"]["current"] / GIGABYTE,
        "memory_reserved_gb": stats["reserved_bytes"]["all"]["current"] / GIGABYTE,
        "memory_peak_gb": stats["allocated_bytes"]["all"]["peak"] / GIGABYTE,
    }
