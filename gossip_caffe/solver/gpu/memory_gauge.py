"""The used memory of a GPU, read from NVML: for the live figures of a peer, never for a decision."""

from __future__ import annotations

import importlib
from typing import Any, Protocol


class GpuGauge(Protocol):
    """A gauge of one GPU's memory."""

    def used_bytes(self) -> int | None:
        """Return the GPU's memory in use by all processes, in bytes; None when it cannot be read now."""
        ...


class NvmlGauge:
    """A gauge that uses nvidia-ml-py. ``nvml``: its module; ``bus``: the GPU's PCI address."""

    def __init__(self, nvml: Any, bus: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._gpu = nvml.nvmlDeviceGetHandleByPciBusId(bus)

    def used_bytes(self) -> int | None:
        """Return the memory in use, as ``nvidia-smi`` shows it, in bytes; None when it cannot be read now."""
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).used)
        except self._nvml.NVMLError:
            return None


def open_gauge(bus: str) -> GpuGauge | None:
    """Open the gauge of a GPU; None without nvidia-ml-py (extra ``gpu``), or if NVML does not know the GPU."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return NvmlGauge(nvml, bus) if bus else None
    except nvml.NVMLError:
        return None
