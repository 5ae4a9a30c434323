"""What `Run.watch` listens to in torch itself: gradient clipping, and the gradient scaler of mixed precision.

Each patch is a wrapper around one of torch's functions that tells the watchers concerned, and then calls the
original with what it was given. They stand only while something is watched, for the whole process; for parameters
and optimizers that nobody watches they cost a look into a list. What goes wrong in them stays in them.

``clip_grad_norm_`` looks its two halves up in its module whenever it is called, so wrapping those reaches callers
that imported it by name long before (torch 2.6 and newer; before, the norm is the one after clipping).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

__all__ = ["Listener", "listen", "stop_listening"]


class Listener(Protocol):
    """What a watcher wants to be told. None of it may raise."""

    optimizer: Any

    def clips(self, parameters: list[Any], total: Any) -> Any: ...
    def clipped(self, parameters: list[Any], total: Any) -> None: ...
    def scaler_steps(self, scaler: Any) -> None: ...
    def scaler_stepped(self) -> None: ...


class _Patch:
    def __init__(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        self._owner, self._name = owner, name
        self._original = getattr(owner, name)
        self._wrapper = functools.wraps(self._original)(wrap(self._original))
        setattr(owner, name, self._wrapper)

    def undo(self) -> None:
        # Somebody else may have wrapped it in between; then ours stays below theirs, and passes everything on.
        if getattr(self._owner, self._name, None) is self._wrapper:
            setattr(self._owner, self._name, self._original)


_listeners: list[Listener] = []
_patches: dict[tuple[int, str], _Patch] = {}
_lock = threading.Lock()
_thread = threading.local()  # .order: of the norm that this thread has computed last


def listen(listener: Listener) -> None:
    """Tell ``listener`` from now on, and put the patches in place that are not there yet."""
    with _lock:
        _listeners.append(listener)
        for owner, name, wrap in _targets():
            if hasattr(owner, name) and (id(owner), name) not in _patches:
                _patches[id(owner), name] = _Patch(owner, name, wrap)


def stop_listening(listener: Listener) -> None:
    """Tell it nothing any more; with the last one the patches go, the latest first."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if not _listeners:
            for patch in reversed(_patches.values()):
                patch.undo()
            _patches.clear()


def _targets() -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
    torch: Any = sys.modules["torch"]
    module = sys.modules.get("torch.nn.utils.clip_grad")
    yield module, "_get_total_norm", _wrap_norm
    yield torch.nn.utils, "get_total_norm", _wrap_norm
    yield module, "_clip_grads_with_norm_", _wrap_clip
    yield torch.nn.utils, "clip_grads_with_norm_", _wrap_clip
    yield sys.modules.get("torch.amp.grad_scaler") and torch.amp.GradScaler, "step", _wrap_scaler_step
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        yield fsdp.FullyShardedDataParallel, "clip_grad_norm_", _wrap_fsdp_clip


def _idle() -> bool:
    torch: Any = sys.modules["torch"]
    return not _listeners or torch.compiler.is_compiling()


def _wrap_norm(original: Any) -> Any:
    def get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Any:
        if not _idle():
            with contextlib.suppress(TypeError, ValueError):
                _thread.order = float(norm_type)
        return original(tensors, norm_type, *args, **kwargs)

    return get_total_norm


def _wrap_clip(original: Any) -> Any:
    def clip_grads_with_norm(parameters: Any, max_norm: float, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
        if not _idle():
            torch: Any = sys.modules["torch"]
            parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            euclidean = getattr(_thread, "order", 2.0) == 2.0
            for listener in _listeners:
                replaced = listener.clips(parameters, total_norm if euclidean else None)
                total_norm = total_norm if replaced is None else replaced
        return original(parameters, max_norm, total_norm, *args, **kwargs)

    return clip_grads_with_norm


def _wrap_fsdp_clip(original: Any) -> Any:
    def clip_grad_norm_(self: Any, max_norm: float, norm_type: float = 2.0) -> Any:
        concerned = [] if _idle() else list(_listeners)
        parameters = list(self.parameters()) if concerned else []
        for listener in concerned:
            listener.clips(parameters, None)
        total = original(self, max_norm, norm_type)
        for listener in concerned:
            listener.clipped(parameters, total if norm_type == 2.0 else None)
        return total

    return clip_grad_norm_


def _wrap_scaler_step(original: Any) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        concerned = [listener for listener in _listeners if listener.optimizer is optimizer]
        for listener in concerned:
            listener.scaler_steps(self)
        result = original(self, optimizer, *args, **kwargs)
        for listener in concerned:
            listener.scaler_stepped()
        return result

    return step
