"""A model's parameters as rows of the flight recorder: their names, and the order in which backward reaches them."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from holter.norms import Norms, is_sharded

__all__ = ["Layers"]

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class Layers:
    """The trainable parameters of ``model``, in the model's order.

    They are read at the first optimizer step, since wrapping a model (DDP, FSDP) after `watch` may replace them.
    Until then hooks note in which order gradients arrive: models don't always define layers in the order of use.
    """

    def __init__(self, model: Any) -> None:
        """Raises AttributeError or TypeError if it is no module."""
        self._model = model
        self._settled = False
        self._arrived: list[int] = []
        self._hooks: list[Any] = []
        self._groups: tuple[int, list[list[int]]] = (-1, [])
        self._read()
        self._note_arrivals()

    def _read(self) -> None:
        named = [(name, tensor) for name, tensor in self._model.named_parameters() if tensor.requires_grad]
        self.names = [_clean(name) for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.ids = {id(parameter) for parameter in self.parameters}
        self.sharded = is_sharded(self.parameters, self._model)
        self.spread = len({parameter.device for parameter in self.parameters}) > 1
        self.device = getattr(self.parameters[0], "device", None) if self.parameters else None

    def settle(self) -> None:
        """At the first optimizer step: these are the parameters from now on."""
        if self._settled:
            return
        self._settled = True
        self._read()
        self.close()

    def refresh(self) -> bool:
        """Whether other parameters are trained than before (a curriculum unfreezes some): then they are read anew."""
        if sum(1 for each in self._model.parameters() if each.requires_grad) == len(self.parameters):
            return False
        self._read()
        self._groups = (-1, [])
        return True

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def norms(self, tensors: list[Any], out: Any = None, absent: Any = None) -> Norms:
        """Of one tensor for each parameter, or None: see `Norms.of`."""
        return Norms.of(tensors, sharded=self.sharded, spread=self.spread, out=out, absent=absent)

    def backward_order(self) -> list[int]:
        """For each parameter when its gradient is made, (n,): the least comes first.

        As it was seen in the first backward pass, and where it was not (compiled or sharded models), the reverse of
        the model's order.
        """
        count = len(self.parameters)
        if {*self._arrived} != {id(parameter) for parameter in self.parameters}:
            return list(range(count - 1, -1, -1))
        at = {parameter: place for place, parameter in reversed([*enumerate(self._arrived)])}
        return [at[id(parameter)] for parameter in self.parameters]

    def places_of_groups(self, groups: list[Any]) -> list[list[int]]:
        """For each of the optimizer's groups, the places of its parameters."""
        size = sum(len(group["params"]) for group in groups)
        if self._groups[0] != size:
            place = {id(parameter): index for index, parameter in enumerate(self.parameters)}
            found = [[place[id(each)] for each in group["params"] if id(each) in place] for group in groups]
            self._groups = (size, found)
        return self._groups[1]

    def _note_arrivals(self) -> None:
        if _is_compiled(self._model) or self.sharded:
            return  # all gradients of a compiled graph arrive together
        for parameter in self.parameters:
            if not parameter.is_leaf:
                continue
            with contextlib.suppress(RuntimeError, AttributeError):
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._note_arrival))

    def _note_arrival(self, parameter: Any) -> None:
        if len(self._arrived) < len(self.parameters):
            self._arrived.append(id(parameter))


def _clean(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def _is_compiled(model: Any) -> bool:
    dynamo: Any = sys.modules.get("torch._dynamo")
    optimized = getattr(dynamo, "OptimizedModule", None)
    return any(
        getattr(module, "_compiled_call_impl", None) is not None
        or (optimized is not None and isinstance(module, optimized))
        for module in model.modules()
    )
