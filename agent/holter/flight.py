"""The flight recorder: the norms of every gradient and weight of the last optimizer steps, in a ring on the device.

Each step writes two rows of the ring and waits for nothing. Only `FlightRecorder.dump`, after an incident or an
exception, reads it.

The file of a dump is an ``.npz`` of numpy (no pickles; `load` reads it, and so does ``numpy.load``):

============================  ==========================================================================================
``about``                     JSON: ``version``, ``trigger``, ``text``, ``first``, ``batches``, ``layers``, ``losses``'
                              names
``steps`` (n,)                int64; ``left_out`` (n,) bool: the gradient scaler left it out
``grad_norm``,                float64 (n, p), before clipping, unscaled; before the step. −1: there was no gradient, or
``weight_norm``               no weight was measured
``losses`` (m, n)             float64; ``losses_logged`` (m, n) bool
``batch/STEP`` (k,)           ids or data of a batch that was on the device
``rng/STEP/…``                states of the random number generators right before that step
============================  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holter.batches import IDS_MAX, Batch
from holter.diagnosis import LOSSES, First, Record, find_first, sentence
from holter.health.roles import role_of
from holter.layers import Layers
from holter.norms import Norms
from holter.randomness import rng_state, set_rng_state
from holter.values import Deferred
from holter.wire import Event, jsonable

__all__ = ["Flight", "FlightRecorder", "Trigger", "load"]

RNG_EVERY = 100  # optimizer steps
ROWS_PER_STEP = 8  # logged rows that are kept, for each step of the ring
EVENT_LAYERS_MAX, EVENT_STEPS_MAX, EVENT_LOSSES_MAX = 200, 128, 12
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Trigger:
    """Why the record is read."""

    kind: Literal["incident", "exception", "command"]
    incident: str | None = None
    rule: str | None = None
    step: int | None = None


@dataclass
class _Slot:
    """One optimizer step: ``number`` counts them, ``step`` is the one that `log` named."""

    number: int
    left_out: Any = False  # True, False, or a tensor that is not 0 if so
    batches: list[Batch] = field(default_factory=list)
    step: int | None = None
    measured: bool = True


@dataclass(frozen=True)
class _Reading:
    """The ring as arrays, and what belongs to its rows."""

    record: Record
    batches: list[list[Batch]]
    failure: str | None = None  # why the device could not be read


class FlightRecorder:
    """Keeps the last ``size`` optimizer steps of the parameters ``layers``."""

    def __init__(self, layers: Layers, size: int) -> None:
        self.absent: Any = None  # a scalar on the device, for parameters without a gradient
        self._layers, self._size = layers, size
        self._gradients: list[Any] = []  # the rows of the ring, views of shape (p,)
        self._weights: list[Any] = []
        self._ring: Any = None  # (2, size + 1, p): one row more, for the step that is on its way
        self._slots: deque[_Slot] = deque(maxlen=size)
        self._unplaced: deque[_Slot] = deque(maxlen=size)
        self._batches: list[Batch] = []  # since the last optimizer step
        self._logged: deque[tuple[int, tuple[str, ...], Any]] = deque(maxlen=ROWS_PER_STEP * size)
        self._rng: deque[tuple[int, dict[str, Any]]] = deque(maxlen=size // RNG_EVERY + 2)
        self._ahead: int | None = None  # the step whose gradients are in the ring before it has come
        self._seen: list[tuple[Any, int]] = []  # gradients of the latest step: weak references, and their versions
        self._dumped: set[str] = set()
        self._dumped_at = -60.0
        self._dumps = 0
        self.end_step(0)

    # --- during the training: nothing here waits

    def gradient_row(self, number: int) -> Any:
        """The row (p,) of the ring for optimizer step ``number``."""
        if self._ring is None:
            self._make_ring()
        self._ahead = number
        return self._gradients[number % (self._size + 1)]

    def observe(self, number: int, left_out: Any) -> None:
        """Before optimizer step ``number``, whose gradients stand in their row already."""
        parameters = self._layers.parameters
        if parameters:
            self.gradient_row(number)
            self._layers.norms(parameters, out=self._weights[number % (self._size + 1)])
        self._note_gradients()
        self._add(_Slot(number, left_out, self._batches, measured=bool(parameters)))

    def skip(self, number: int) -> None:
        """Optimizer step ``number`` could not be looked at."""
        self._add(_Slot(number, False, self._batches, measured=False))

    def end_step(self, steps: int) -> None:
        """After the step; there have been ``steps`` of them. The next one starts with the generators as they are."""
        self._note_gradients()
        if steps % RNG_EVERY == 0:
            self._rng.append((steps, rng_state()))

    def place(self, steps: list[int]) -> None:
        """The steps of the loop at which the oldest optimizer steps stand that had none yet."""
        for step in steps[-len(self._unplaced) :] if self._unplaced else ():
            self._unplaced.popleft().step = step

    def note(self, step: int, metrics: tuple[str, ...], row: Any) -> None:
        """A row that was logged: a list of floats, or a `Deferred`."""
        self._logged.append((step, metrics, row))

    def note_batch(self, batch: Batch) -> None:
        self._batches.append(batch)

    def reset(self) -> None:
        """The parameters are others now: what is recorded belongs to the old ones."""
        self._ring = None
        self._slots.clear()
        self._unplaced.clear()
        self._seen = []

    def _note_gradients(self) -> None:
        gradients = self._end_gradients()
        self._seen = [(weakref.ref(gradient), gradient._version) for gradient in gradients]

    def _end_gradients(self) -> list[Any]:
        """Of the first and the last parameter: enough to see whether there was another backward pass."""
        parameters = self._layers.parameters
        return [each.grad for each in parameters[:1] + parameters[-1:] if each.grad is not None]

    def _add(self, slot: _Slot) -> None:
        self._batches, self._ahead = [], None
        self._slots.append(slot)
        self._unplaced.append(slot)

    def _make_ring(self) -> None:
        torch: Any = sys.modules["torch"]
        parameters = [getattr(each, "_local_tensor", each) for each in self._layers.parameters]
        wide = torch.float64 if parameters and parameters[0].dtype == torch.float64 else torch.float32
        device = parameters[0].device if parameters else torch.device("cpu")
        with torch.no_grad():
            self._ring = torch.full((2, self._size + 1, len(parameters)), -1.0, dtype=wide, device=device)
            self.absent = torch.full((), -1.0, dtype=wide, device=device)
            self._gradients, self._weights = list(self._ring[0]), list(self._ring[1])

    # --- after it went wrong: may wait for the device

    def due(self, trigger: Trigger) -> bool:
        """Whether to dump: once for an incident, otherwise once a minute, and always when the training fails."""
        if trigger.kind == "exception":
            return True
        if trigger.incident is not None:
            return trigger.incident not in self._dumped
        return time.monotonic() - self._dumped_at >= 60.0

    def dump(self, trigger: Trigger, next_step: int, folder: Path | None) -> Event:
        """Read the ring, write all of it to a file in ``folder`` (None: no file), and say what was found.

        ``next_step`` is that of optimizer steps that no `log` has named yet.
        """
        if trigger.incident is not None:
            self._dumped.add(trigger.incident)
        else:
            self._dumped_at = time.monotonic()
        reading = self._read(next_step)
        first = find_first(reading.record)
        row = first.row if first else len(reading.record.steps) - 1
        batches = reading.batches[row] if 0 <= row < len(reading.batches) else []
        ids, count = _ids_of(batches), sum(batch.count for batch in batches)
        text = sentence(reading.record, first, ids, count)
        if reading.failure:
            text = f"the device could not be read ({reading.failure}); {text}"
        step = first.step if first else trigger.step
        about = {"version": 1, "trigger": asdict(trigger), "first": first and first.as_data(), "text": text}
        path = self._write(reading, about, folder, step)
        data = about | _event_data(reading.record, first)
        del data["text"]
        data["batch"] = None
        if batches:
            fingerprint = None if reading.failure else _fingerprint_of(batches)
            data["batch"] = {"step": reading.record.steps[row], "ids": ids, "count": count, "fingerprint": fingerprint}
        data["file"] = None if path is None else str(path)
        data["rng"] = None if path is None else self._rng_data(reading, first, path)
        severity: Any = "info" if trigger.kind == "command" else "warning"
        if first is not None:  # a step that the gradient scaler has left out did no harm
            severity = "info" if first.left_out else "critical"
        return Event(time.time(), text, "flight", step, severity, data)

    def _read(self, next_step: int) -> _Reading:
        slots = list(self._slots)
        unplaced = [slot for slot in slots if slot.step is None]
        steps = [slot.step for slot in slots if slot.step is not None]
        steps += range(next_step, next_step + len(unplaced))  # those are always the latest
        failure = None
        try:
            gradients, weights = self._read_ring(slots)
            left_out = [bool(slot.left_out) for slot in slots]
            now = self._now()
        except RuntimeError as error:  # a CUDA error is reported to whoever asks next
            failure = str(error).strip().splitlines()[0][:200]
            gradients = weights = np.full((len(slots), len(self._layers.names)), -1.0)
            left_out, now = [False] * len(slots), None
        batches = [slot.batches for slot in slots]
        if now is not None or self._batches:
            nothing = np.full((1, len(self._layers.names)), -1.0)
            pending_gradients, pending_weights = now or (nothing, nothing)
            gradients, weights = np.vstack([gradients, pending_gradients]), np.vstack([weights, pending_weights])
            steps, left_out = [*steps, next_step + len(unplaced)], [*left_out, False]
            batches = [*batches, self._batches]
        record = Record(self._layers.names, self._layers.backward_order(), steps, gradients, weights, left_out)
        return self._with_losses(record, batches, failure)

    def _read_ring(self, slots: list[_Slot]) -> tuple[FloatArray, FloatArray]:
        shape = (len(slots), len(self._layers.names))
        if self._ring is None or not slots:
            return np.full(shape, -1.0), np.full(shape, -1.0)
        if self._ring.device.type == "cuda":
            sys.modules["torch"].cuda.synchronize(self._ring.device)  # the training may use a stream of its own
        ring = self._ring.cpu().double().numpy()
        rows = [slot.number % (self._size + 1) for slot in slots]
        gradients, weights = ring[0][rows], ring[1][rows]
        unknown = [index for index, slot in enumerate(slots) if not slot.measured]
        gradients[unknown], weights[unknown] = -1.0, -1.0
        return gradients, weights

    def _now(self) -> tuple[FloatArray, FloatArray] | None:
        """Norms (1, p) of a step that has not come to its update. None if nothing happened since the latest one."""
        parameters = self._layers.parameters
        if not parameters:
            return None
        weights = _read(self._layers.norms(parameters), len(parameters))
        if self._ahead is not None:  # clipped already: what the gradients were before stands in the ring
            row = self._gradients[self._ahead % (self._size + 1)]
            return row.cpu().double().numpy().reshape(1, -1), weights
        known = [(reference(), version) for reference, version in self._seen]
        fresh = [
            gradient
            for gradient in self._end_gradients()
            if not any(gradient is seen and gradient._version == version for seen, version in known)
        ]
        if not fresh:
            return None if np.isfinite(weights).all() else (np.full_like(weights, -1.0), weights)
        gradients = [parameter.grad for parameter in parameters]
        return _read(self._layers.norms(gradients), len(parameters)), weights

    def _with_losses(self, record: Record, batches: list[list[Batch]], failure: str | None) -> _Reading:
        """Add what was logged, and rows for steps whose loss was sick and that came to no update."""
        by_step: dict[int, dict[str, float]] = {}
        for step, metrics, row in list(self._logged):
            values = self._values_of(row)
            kept = {name: value for name, value in zip(metrics, values, strict=True) if role_of(name) in LOSSES}
            by_step.setdefault(step, {}).update(kept)
        there = {*record.steps}
        sick = [step for step, values in by_step.items() if step not in there and _any_sick(values)]
        order = list(range(len(record.steps) + len(sick)))
        if sick:
            order.sort(key=[*record.steps, *sick].__getitem__)
        nothing = np.full((len(sick), len(record.names)), -1.0)
        steps = [[*record.steps, *sick][index] for index in order]
        names = list(dict.fromkeys(name for step in steps for name in by_step.get(step, ())))
        full = Record(
            record.names,
            record.backward_order,
            steps,
            np.vstack([record.gradients, nothing])[order],
            np.vstack([record.weights, nothing])[order],
            [[*record.left_out, *[False] * len(sick)][index] for index in order],
            {name: [by_step.get(step, {}).get(name) for step in steps] for name in names},
        )
        all_batches: list[list[Batch]] = [*batches, *([] for _ in sick)]
        return _Reading(full, [all_batches[index] for index in order], failure)

    def _values_of(self, row: Any) -> list[float]:
        if not isinstance(row, Deferred):
            return list(row)
        try:
            return row.resolve()
        except RuntimeError:
            return [0.0 if math.isnan(value) else value for value in row.host()]  # NaN here: it never came

    def _write(self, reading: _Reading, about: dict[str, Any], folder: Path | None, step: int | None) -> Path | None:
        if folder is None:
            return None
        record = reading.record
        arrays: dict[str, Any] = {
            "steps": np.array(record.steps, dtype=np.int64),
            "left_out": np.array(record.left_out, dtype=bool),
            "grad_norm": record.gradients,
            "weight_norm": record.weights,
            "losses": _filled(record.losses, 0.0),
            "losses_logged": np.array([[v is not None for v in values] for values in record.losses.values()]),
        }
        batches = {}
        for at, given in zip(record.steps, reading.batches, strict=True):
            if given and not reading.failure:
                batches[str(at)] = {"ids": _ids_of(given), "count": sum(batch.count for batch in given),
                                    "fingerprint": _fingerprint_of(given)}  # fmt: skip
                copies = [batch.copy.reshape(-1) for batch in given if batch.copy is not None]
                for index, copy in enumerate(copies):
                    arrays[f"batch/{at}" + (f"/{index}" if index else "")] = copy.cpu().numpy()
        for at, state in self._rng_steps(record):
            arrays |= {f"rng/{at}/{name}": value for name, value in state.items()}
        full = about | {"layers": record.names, "losses": list(record.losses), "batches": batches}
        arrays["about"] = np.array(json.dumps(jsonable(full)))
        self._dumps += 1
        path = folder / f"step-{0 if step is None else step}-{self._dumps}.npz"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                path.with_suffix(".part").unlink()
            return None
        return path

    def _rng_steps(self, record: Record) -> list[tuple[int, dict[str, Any]]]:
        """The generators' states with the steps of the loop right before which they were taken."""
        by_number = {slot.number: slot.step for slot in self._slots if slot.step is not None}
        if not by_number:
            return [(record.steps[0] if record.steps else number, state) for number, state in list(self._rng)[-1:]]
        number, step = next(iter(by_number.items()))
        return [(by_number.get(taken, step - number + taken), state) for taken, state in self._rng]

    def _rng_data(self, reading: _Reading, first: First | None, path: Path) -> dict[str, Any] | None:
        """Which state lets the culprit be run again: the latest before it."""
        known = [step for step, _ in self._rng_steps(reading.record)]
        before = [step for step in known if first is None or step <= first.step]
        if not known:
            return None
        return {
            "step": max(before, default=known[0]),
            "file": f"{path.parent.parent.name}/{path.parent.name}/{path.name}",
        }


def _read(norms: Norms, count: int) -> FloatArray:
    """As (1, count), −1 where there is none. Waits for the device."""
    found = np.full((1, count), -1.0)
    if norms.each:
        found[0, norms.positions] = norms.stacked.cpu().double().numpy()
    return found


def _any_sick(values: Mapping[str, float]) -> bool:
    return not all(math.isfinite(value) for value in values.values())


def _ids_of(batches: list[Batch]) -> list[str]:
    found: list[str] = []
    for batch in batches:
        with contextlib.suppress(RuntimeError):
            found += batch.ids()
    return found[:IDS_MAX]


def _fingerprint_of(batches: list[Batch]) -> str | None:
    found = [batch.fingerprint() for batch in batches]
    return None if None in found else "-".join(map(str, found[:4]))


def _filled(losses: Mapping[str, list[float | None]], missing: float) -> FloatArray:
    return np.array([[missing if value is None else value for value in row] for row in losses.values()], dtype=float)


def _event_data(record: Record, first: First | None) -> dict[str, Any]:
    rows = slice(max(len(record.steps) - EVENT_STEPS_MAX, 0), None)
    if first is not None and first.row < (rows.start or 0):
        rows = slice(first.row, first.row + EVENT_STEPS_MAX)
    places = _layers_shown(record, first)
    return {
        "layers": [record.names[place] for place in places],
        "steps": record.steps[rows],
        "grad_norm": _listed(record.gradients[rows][:, places]),
        "weight_norm": _listed(record.weights[rows][:, places]),
        "losses": {name: values[rows] for name, values in list(record.losses.items())[:EVENT_LOSSES_MAX]},
    }


def _layers_shown(record: Record, first: First | None) -> list[int]:
    """All, or, of too many, the sickest and then the largest, in the model's order."""
    count = len(record.names)
    if count <= EVENT_LAYERS_MAX or not record.steps:
        return list(range(min(count, EVENT_LAYERS_MAX)))
    sick = (~np.isfinite(record.gradients) | ~np.isfinite(record.weights)).sum(axis=0)
    largest = np.where(np.isfinite(record.gradients), record.gradients, 0.0).max(axis=0)
    culprit = np.array([first is not None and name == first.name for name in record.names])
    order = np.lexsort((-largest, -sick, ~culprit))
    return sorted(int(place) for place in order[:EVENT_LAYERS_MAX])


def _listed(norms: FloatArray) -> list[list[float | None]]:
    """Six digits are enough to look at; the file has all. None: there was nothing to measure."""
    return [[None if value < 0 else float(f"{value:.6g}") for value in row] for row in norms.tolist()]


@dataclass(frozen=True)
class Flight:
    """A dump that was read back. Arrays as the module says; ``about`` is its JSON."""

    about: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def rng_steps(self) -> list[int]:
        """Steps before which the generators' states are known."""
        return sorted({int(name.split("/")[1]) for name in self.arrays if name.startswith("rng/")})

    def restore_rng(self, step: int) -> None:
        """Put Python's, numpy's and torch's generators into their state right before ``step``.

        Raises:
            KeyError: there is no state for that step; `rng_steps` says for which there is.
        """
        prefix = f"rng/{step}/"
        state = {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}
        if not state:
            raise KeyError(f"no state is recorded before step {step}; there are those of {self.rng_steps}")
        set_rng_state(state)


def load(path: str | os.PathLike[str]) -> Flight:
    """Read a dump.

    Raises:
        OSError, ValueError: the file can't be read, or is no dump.
    """
    with np.load(path, allow_pickle=False) as file:
        if "about" not in file:
            raise ValueError(f"{path} is no file of the flight recorder")
        arrays = {name: file[name] for name in file.files if name != "about"}
        return Flight(json.loads(str(file["about"])), arrays)
