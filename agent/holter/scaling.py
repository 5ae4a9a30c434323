"""Automatic mixed precision, as a watcher sees it: the loss's scale, and the steps that were left out for it."""

from __future__ import annotations

from typing import Any

__all__ = ["Scaling"]


class Scaling:
    """Follows the gradient scaler of one optimizer, if it has one. Never asks the device for anything.

    A scaler either looks at ``found_inf`` itself, and then doesn't call ``optimizer.step()`` at all, or gives a fused
    optimizer ``grad_scale`` and ``found_inf``, and the kernel leaves the step out.
    """

    def __init__(self, optimizer: Any) -> None:
        self.skipped = 0  # steps that the host has seen left out
        self._optimizer = optimizer
        self._scaler: Any = None
        self._scaled = False  # the gradients were still scaled when `scaler.step` was called
        self._began = -1
        self._on_device: Any = None  # steps that fused kernels have left out

    def begin(self, scaler: Any, step: int) -> None:
        """``scaler.step`` was called, before optimizer step number ``step``."""
        self._scaler = scaler if scaler.is_enabled() else None
        if self._scaler is None:
            return
        self._began = step
        state = scaler._per_optimizer_states.get(id(self._optimizer), {})
        self._scaled = getattr(state.get("stage"), "name", "READY") == "READY"

    def end(self) -> int:
        """The step with which it began, or −1: then there was no scaler at work."""
        began, self._began = self._began, -1
        return began

    def divisor(self, *, clipped: bool) -> Any | None:
        """What the norms must be divided by: those taken when the gradients were clipped, or those of right now."""
        now = getattr(self._optimizer, "grad_scale", None)
        if clipped and self._began >= 0:
            return self._scale() if self._scaled else None
        return now

    def note(self, *, skipped: bool) -> Any:
        """Count this step. Returns whether it changes nothing: True, False, or a tensor that is not 0 if so."""
        if skipped:
            self.skipped += 1
            return True
        found = getattr(self._optimizer, "found_inf", None)
        if found is None:
            return False
        flag = (found > 0).float()
        self._on_device = flag if self._on_device is None else self._on_device + flag
        return flag

    def values(self) -> dict[str, Any]:
        """``amp_scale`` and ``amp_skipped``, the steps left out so far; nothing without a scaler."""
        if self._scaler is None:
            return {}
        scale = self._scale()
        skipped = float(self.skipped) if self._on_device is None else self._on_device + self.skipped
        return ({} if scale is None else {"amp_scale": scale}) | {"amp_skipped": skipped}

    def _scale(self) -> Any | None:
        scale = getattr(self._scaler, "_scale", None)
        return None if scale is None else scale.detach().clone()  # the scaler changes it in place
