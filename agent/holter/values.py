"""From whatever a training loop has at hand to float64: the seam where device tensors will stay on their device.

Host values are converted at once and exactly (a float32 becomes the float64 of the same value; NaN, ±Inf and -0.0
stay what they are). Tensors on a device are snapshotted there by one ``stack`` and one copy to pinned memory that
doesn't wait; `Deferred.resolve`, which does wait, runs on the journal's thread.
"""

from __future__ import annotations

import hashlib
import math
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from holter.wire import METRIC_NAME_MAX

__all__ = ["Deferred", "NotANumber", "Row", "clean_text", "metric_name", "scalar", "snapshot", "unique_names", "whole"]

INT64_MAX = 2**63 - 1
TEXT_MAX = 10_000  # characters; longer texts are cut and say so


class NotANumber(ValueError):
    """A logged value is not one number. The message says what it is and what to log instead."""


class Deferred:
    """A row of values of which some are still on a device. Shapes: ``row`` (m,), ``tensor`` (k,) with k positions."""

    __slots__ = ("_event", "_positions", "_row", "_tensor")

    def __init__(self, row: list[float], positions: list[int], tensor: Any, event: Any) -> None:
        self._row, self._positions, self._tensor, self._event = row, positions, tensor, event

    def ready(self) -> bool:
        """Whether the device has the values. Never waits."""
        return self._event is None or bool(self._event.query())

    def resolve(self) -> list[float]:
        """Wait for the device, and fill its values in. Never called on the training thread."""
        if self._event is not None:
            self._event.synchronize()
        for position, value in zip(self._positions, self._tensor.tolist(), strict=True):
            self._row[position] = value
        return self._row


Row = list[float] | Deferred


def scalar(value: Any) -> float | Any:
    """``value`` as a float, or, for a tensor on a device, the detached tensor.

    Raises:
        NotANumber: it is no single real number. A size of one in any shape counts as a single number.
    """
    if isinstance(value, float | int | np.number | np.bool_):
        return _as_float(value)
    if isinstance(value, np.ndarray):
        return _as_float(_only(value, value.size).reshape(())[()])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(value)
    if value is None or isinstance(value, str | bytes):
        raise NotANumber("is no number")
    return _as_float(value)


def _as_float(value: Any) -> float:
    if isinstance(value, complex | np.complexfloating):
        raise NotANumber("is complex: log its real part, or its absolute value")
    try:
        return float(value)
    except OverflowError:
        raise NotANumber("is too large for a float") from None
    except (TypeError, ValueError):
        raise NotANumber("is no number") from None


def _only(value: Any, size: int) -> Any:
    if size != 1:
        raise NotANumber(f"has the shape {tuple(value.shape)}: log one number, for example its mean")
    return value


def _tensor(tensor: Any) -> Any:
    tensor = _only(tensor, tensor.numel()).detach()
    if tensor.is_complex():
        raise NotANumber("is complex: log its real part, or its absolute value")
    return tensor.item() * 1.0 if tensor.device.type == "cpu" else tensor


def snapshot(row: list[Any], positions: list[int]) -> Deferred:
    """Take the tensors at ``positions`` out of ``row`` as they are now, without waiting for their device.

    The copy is enqueued behind the work that makes the values, and before whatever changes them in place afterwards.
    """
    torch: Any = sys.modules["torch"]
    tensors = [row[position].reshape(()).to(torch.float64) for position in positions]
    stacked = torch.stack([tensor.to(tensors[0].device, non_blocking=True) for tensor in tensors])
    for position in positions:
        row[position] = math.nan
    if stacked.device.type != "cuda":
        return Deferred(row, positions, stacked, None)
    host = torch.empty(stacked.shape, dtype=torch.float64, pin_memory=True)
    host.copy_(stacked, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(stacked.device))
    return Deferred(row, positions, host, event)


def whole(step: Any) -> int:
    """A step as an int64: integers as they are, numbers with a fraction cut.

    Raises:
        NotANumber: it is no finite number, does not fit, or lies on a device (reading it there would wait).
    """
    if isinstance(step, int):
        number = int(step)
    else:
        value = scalar(step)
        if not isinstance(value, float):
            raise NotANumber("lies on a device: keep the step as a Python integer")
        if not math.isfinite(value):
            raise NotANumber("is not finite")
        number = operator.index(step) if hasattr(step, "__index__") and not hasattr(step, "numel") else int(value)
    if not -INT64_MAX <= number <= INT64_MAX:
        raise NotANumber("does not fit into 64 bits")
    return number


def clean_text(value: Any) -> str:
    """``value`` as text that can be encoded, stored and shown, of at most 10,000 characters."""
    try:
        text = value if type(value) is str else str(value)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        text = f"<{type(value).__name__}>"
    text = text.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def metric_name(name: Any) -> str:
    """A name that the service can keep. A name that is too long ends in a hash of the whole, so that two stay two.

    >>> metric_name("loss\\nprecursor")
    'loss precursor'
    """
    text = " ".join(clean_text(name).split("\n"))
    if not text:
        return "unnamed"
    return text if len(text) <= METRIC_NAME_MAX else _with_hash(text, name)


def _with_hash(text: str, name: Any) -> str:
    whole_name = name if isinstance(name, str) else text
    digest = hashlib.sha256(whole_name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{text[: METRIC_NAME_MAX - 11]}~{digest}"


def unique_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Cleaned names, in order, with a number behind those that cleaning has made equal."""
    seen: dict[str, None] = {}
    for name in names:
        text = metric_name(name)
        number = 2
        while text in seen:
            text = f"{metric_name(name)[: METRIC_NAME_MAX - 8]}~{number}"
            number += 1
        seen[text] = None
    return tuple(seen)


def flatten(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """``{"loss": {"ce": 1}}`` as ``{"loss/ce": 1}``; at most 8 levels, deeper ones stay as they are."""
    flat: dict[str, Any] = {}
    for (key, value), name in zip(values.items(), unique_names(values), strict=True):
        del key
        if isinstance(value, Mapping) and depth < 8:
            flat |= flatten(value, f"{prefix}{name}/", depth + 1)
        else:
            flat[prefix + name] = value
    return flat
