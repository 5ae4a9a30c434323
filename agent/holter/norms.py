"""2-norms of many tensors where they lie: one foreach call and one stack, and nothing waits for the device.

A tensor that is sharded over ranks (FSDP's DTensors) is measured by its local shard: to sum over ranks takes a
collective, and a hook must not start one that other ranks may not join.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

__all__ = ["Norms", "Sample", "is_sharded", "total_of"]

SAMPLE_MAX = 65_536  # elements of a parameter that its sample has at most


class Norms(NamedTuple):
    """The norms of those tensors that are there: ``stacked`` (k,), and where each stands among all (k,)."""

    each: list[Any]  # of shape (), all on one device
    positions: list[int]
    stacked: Any

    @classmethod
    def of(
        cls, tensors: list[Any], *, sharded: bool, spread: bool = False, out: Any = None, absent: Any = None
    ) -> Norms:
        """Measure ``tensors`` (n,), of which some may be None. ``spread``: over several devices.

        ``out`` (n,) receives the norms, and the scalar ``absent`` where there is no tensor.
        """
        torch: Any = sys.modules["torch"]
        positions = [index for index, tensor in enumerate(tensors) if tensor is not None]
        there = tensors if len(positions) == len(tensors) else [tensors[index] for index in positions]
        if sharded:
            there = [getattr(tensor, "_local_tensor", tensor) for tensor in there]
        with torch.no_grad():
            if not there:
                return cls([], [], torch.zeros(0) if out is None else out.copy_(absent)[:0])
            each = _measure(torch, there, spread=spread)
            if len(each) < len(tensors) and out is not None:
                padded = [absent] * len(tensors)
                for index, norm in zip(positions, each, strict=True):
                    padded[index] = _as(norm, out)
                torch.stack(padded, out=out)
            elif out is not None:
                first = each[0]
                alike = first.dtype == out.dtype and first.device == out.device
                return cls(each, positions, torch.stack(each if alike else [_as(norm, out) for norm in each], out=out))
            return cls(each, positions, torch.stack(each))

    def total(self) -> Any:
        return total_of(self.stacked)

    def total_at(self, places: list[int]) -> Any | None:
        """Over those of the tensors ``places`` that are there; None if none is."""
        among = set(places)
        found = [norm for norm, position in zip(self.each, self.positions, strict=True) if position in among]
        return total_of(sys.modules["torch"].stack(found)) if found else None


def total_of(norms: Any) -> Any:
    """The 2-norm of all, as a tensor of shape (), from the norms of the parts (k,)."""
    torch: Any = sys.modules["torch"]
    with torch.no_grad():
        return torch.linalg.vector_norm(norms)


def _as(norm: Any, like: Any) -> Any:
    return norm.to(like.device, like.dtype, non_blocking=True)


def _measure(torch: Any, tensors: list[Any], *, spread: bool) -> list[Any]:
    first = tensors[0]
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32  # a sum of float16 squares overflows
    if not spread:
        try:
            return list(torch._foreach_norm(tensors, 2.0, dtype=wide))
        except (RuntimeError, NotImplementedError, TypeError):
            pass  # sparse, complex, or of several widths: one after the other
    return _measure_each_kind(torch, tensors, wide)


def _measure_each_kind(torch: Any, tensors: list[Any], wide: Any) -> list[Any]:
    device = tensors[0].device
    norms: list[Any] = []
    for tensor in tensors:
        dense = tensor.coalesce().values() if tensor.is_sparse else tensor
        dense = torch.view_as_real(dense) if dense.is_complex() else dense
        width = torch.float64 if dense.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(dense, dtype=width)
        norms.append(norm.to(device, wide, non_blocking=True))
    return norms


def is_sharded(parameters: list[Any], model: Any) -> bool:
    """Whether this process holds only a part of some parameter (FSDP, tensor parallelism)."""
    for parameter in parameters:
        placements = getattr(parameter, "placements", None)
        if placements is not None and not all(placement.is_replicate() for placement in placements):
            return True
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if fsdp is None:
        return False
    return any(isinstance(module, fsdp) and module.world_size > 1 for module in model.modules())


class Sample:
    """How far an optimizer step moves the weights, on at most 65,536 elements of each parameter, evenly spread.

    Parameters up to that size are looked at whole. The memory is that of the sample, and only within the step.
    """

    def __init__(self, parameters: list[Any]) -> None:
        self._parameters = parameters
        self._views: list[Any] = []
        self._places: list[int] = []  # of the storage of each view, to notice when a parameter gets another one
        self._before: list[Any] = []

    def take(self) -> None:
        """Copy the sample as it is before the step: one kernel per kind of parameter."""
        torch: Any = sys.modules["torch"]
        here = [getattr(parameter, "_local_tensor", parameter) for parameter in self._parameters]
        places = [tensor.data_ptr() for tensor in here]
        with torch.no_grad():
            if places != self._places:
                self._places = places
                self._views = _by_kind([_sampled(tensor) for tensor in here if tensor.numel()])
            self._before = [torch.cat(views) for views in self._views]

    def ratio(self) -> Any | None:
        """‖Δw‖ / ‖w‖ since `take`, a tensor of shape (); w is the weights before the step."""
        torch: Any = sys.modules["torch"]
        before, self._before = self._before, []
        if not before:
            return None
        with torch.no_grad():
            moved = [torch.cat(views).sub_(old) for views, old in zip(self._views, before, strict=True)]
            return _total(torch, moved) / _total(torch, before)


def _sampled(parameter: Any) -> Any:
    """A view of shape (k,), k ≤ 65,536, in the order of the memory; of what has holes there, an empty one."""
    tensor = parameter.detach()
    if not tensor.is_contiguous():  # channels last, transposed
        tensor = tensor.permute(sorted(range(tensor.dim()), key=lambda dim: -tensor.stride(dim)))
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.new_empty(0)
    stride = -(-flat.numel() // SAMPLE_MAX)
    return flat[::stride] if stride > 1 else flat


def _by_kind(views: list[Any]) -> list[list[Any]]:
    kinds: dict[Any, list[Any]] = {}
    for view in views:
        kinds.setdefault((view.device, view.dtype), []).append(view)
    return list(kinds.values())


def _total(torch: Any, parts: list[Any]) -> Any:
    norms = _measure(torch, parts, spread=len(parts) > 1)
    return norms[0] if len(norms) == 1 else total_of(torch.stack([norm.to(norms[0].dtype) for norm in norms]))
