"""The machine under the training: processor, memory, GPUs. Sampled by the shipper, never on the training's thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["SystemSampler"]

GB = 1e9


class SystemSampler:
    """Metrics ``system/…``: percent, gigabytes (10⁹ bytes), degrees Celsius, watts. Of a GPU also whether it slows
    itself down (``throttled``, 0 or 1) and how many memory errors were not corrected. What can't be read is left out.
    """

    def __init__(self, pid: int | None = None, *, whole_host: bool = True) -> None:
        """``pid``: whose memory and processor time it samples. Without ``whole_host`` it samples nothing else: of the
        ranks on one machine, one is enough for what they share.
        """
        self._process = _process(pid)
        self._whole_host = whole_host
        self._gpus = _gpus() if whole_host else []

    def sample(self) -> dict[str, float]:
        """All that can be read now; empty where nothing can. Takes about a millisecond."""
        values = self._host()
        for index, handle in self._gpus:
            values |= _gpu(index, handle)
        return values

    def _host(self) -> dict[str, float]:
        if self._process is None:
            return {}
        import psutil  # noqa: PLC0415 - 10 ms that `import holter` doesn't pay

        try:
            own = {
                "system/process_cpu_percent": self._process.cpu_percent(),
                "system/process_rss_gb": self._process.memory_info().rss / GB,
            }
            if not self._whole_host:
                return own
            return {
                "system/cpu_percent": psutil.cpu_percent(),
                "system/memory_percent": psutil.virtual_memory().percent,
                **own,
            }
        except (psutil.Error, OSError):
            return {}


def _process(pid: int | None) -> Any:
    try:
        import psutil  # noqa: PLC0415

        process = psutil.Process(pid)
        # The first reading of a percentage is 0: it has no earlier one to be compared with.
        psutil.cpu_percent()
        process.cpu_percent()
    except (ImportError, OSError, psutil.Error):
        return None
    return process


def _gpus() -> list[tuple[int, Any]]:
    try:
        import pynvml  # noqa: PLC0415
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in _visible(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _visible(count: int) -> list[int]:
    """The devices of ``CUDA_VISIBLE_DEVICES`` where it lists numbers, else all."""
    parts = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        return list(range(count))
    return [int(part) for part in parts if int(part) < count]


def _gpu(index: int, handle: Any) -> dict[str, float]:
    import pynvml  # noqa: PLC0415

    def memory() -> dict[str, float]:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return {"memory_used_gb": info.used / GB, "memory_total_gb": info.total / GB}

    readings: list[Callable[[], dict[str, float]]] = [
        memory,
        lambda: {"utilization": float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)},
        lambda: {"temperature": float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))},
        lambda: {"power_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000},
        lambda: {"throttled": float(bool(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) & _throttling(pynvml)))},
        lambda: {"ecc_uncorrected": float(_uncorrected_errors(pynvml, handle))},
    ]
    values: dict[str, float] = {}
    for read in readings:
        try:
            values |= {f"system/gpu{index}/{name}": value for name, value in read().items()}
        except pynvml.NVMLError:
            continue  # a partition of a GPU, for example, has no temperature
    return values


def _throttling(pynvml: Any) -> int:
    """The reasons that are a fault of cooling or supply. A power cap is none: at full load it is the normal state."""
    return int(
        pynvml.nvmlClocksThrottleReasonHwSlowdown
        | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
        | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    )


def _uncorrected_errors(pynvml: Any, handle: Any) -> int:
    """Since the driver was loaded; of a GPU without ECC, NVML says that it is not supported."""
    kind, since = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))
