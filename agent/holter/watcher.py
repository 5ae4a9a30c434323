"""`Run.watch`: the gradient norm and the learning rate of every optimizer step, without a line in the loop."""

from __future__ import annotations

from collections import deque
from typing import Any

from holter.notices import Notices

__all__ = ["Watcher"]

WAITING_MAX = 10_000  # optimizer steps between two `log` calls; beyond, the oldest are let go


class Watcher:
    """Takes values in a hook before each optimizer step, and keeps them until `log` says which step it was.

    ``watch/grad_norm`` is the 2-norm over all gradients as the optimizer sees them, that is, after clipping. It is
    computed where the gradients are (one foreach call per device) and not waited for.
    """

    def __init__(self, model: Any, optimizer: Any, every: int, prefix: str, notices: Notices) -> None:
        """Raises AttributeError or TypeError if these are no module and no optimizer."""
        self._parameters = list(model.parameters())
        self._optimizer = optimizer
        self._every = max(1, int(every))
        self._prefix, self._notices = prefix, notices
        self._steps = 0
        self._waiting: deque[dict[str, Any]] = deque(maxlen=WAITING_MAX)
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    def take(self) -> list[dict[str, Any]]:
        """What has been seen since the last call: one mapping per optimizer step, empty where it was left out."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        self._hook.remove()

    def _before_step(self, *_: Any) -> None:
        due = self._steps % self._every == 0
        self._steps += 1
        try:
            self._waiting.append(self._values() if due else {})
        except Exception as error:  # noqa: BLE001 - a hook that raises would end the training
            self._notices.warn("watch", f"watch has stopped: {type(error).__name__}: {error}")
            self._hook.remove()

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if gradients:
            values[f"{self._prefix}grad_norm"] = _total_norm(gradients)
        groups = self._optimizer.param_groups
        for index, group in enumerate(groups):
            name = "lr" if len(groups) == 1 else f"lr/group{index}"
            values[self._prefix + name] = group["lr"] if isinstance(group["lr"], float) else group["lr"] * 1.0
        return values


def _total_norm(gradients: list[Any]) -> Any:
    """A tensor of shape (), float32 or wider, on the first gradient's device."""
    import torch  # noqa: PLC0415 - the training has imported it; `import holter` must not

    with torch.no_grad():
        dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
        by_place: dict[Any, list[Any]] = {}
        for gradient in dense:
            by_place.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        norms: list[Any] = []
        for (_, dtype), group in by_place.items():
            wide = torch.float64 if dtype == torch.float64 else torch.float32  # a sum of float16 squares overflows
            norms += [norm.to(wide) for norm in torch._foreach_norm(group, 2.0, dtype=wide)]
        first = norms[0]
        return torch.linalg.vector_norm(torch.stack([norm.to(first.device, first.dtype) for norm in norms]))
