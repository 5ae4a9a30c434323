"""The states of the random number generators, so that a step can be run again as it was."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

__all__ = ["rng_state", "set_rng_state"]


def rng_state() -> dict[str, Any]:
    """Of Python, numpy's global generator, torch on the CPU and on each CUDA device that is in use, as arrays.

    CUDA keeps its seed and offset on the host; reading them asks nothing of a device.
    """
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": np.array(numbers, dtype=np.uint64),
        "python_gauss": np.array([version, np.nan if gauss is None else gauss]),
        "numpy": np.asarray(keys),
        "numpy_position": np.array([position, has_gauss, cached], dtype=np.float64),
        "numpy_kind": np.array(kind),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_initialized():
            for index in range(torch.cuda.device_count()):
                state[f"cuda{index}"] = torch.cuda.get_rng_state(index).numpy()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators into a state that `rng_state` has given. CUDA devices that are not here are left out."""
    version, gauss = state["python_gauss"]
    numbers = tuple(int(number) for number in state["python"])
    random.setstate((int(version), numbers, None if np.isnan(gauss) else float(gauss)))
    position, has_gauss, cached = state["numpy_position"]
    np.random.set_state((str(state["numpy_kind"]), state["numpy"], int(position), int(has_gauss), float(cached)))
    torch: Any = sys.modules.get("torch")
    if torch is None or "torch" not in state:
        return
    torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in state:
            torch.cuda.set_rng_state(torch.from_numpy(state[f"cuda{index}"].copy()), index)
