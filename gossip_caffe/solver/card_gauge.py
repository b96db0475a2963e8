"""How much of a card's memory is in use, as NVML tells: for the live figures of a peer, never for a decision."""

from __future__ import annotations

import importlib
from typing import Any, Protocol


class CardGauge(Protocol):
    """One card, looked at now and then."""

    def used_bytes(self) -> int | None:
        """Memory in use on it, by all processes; None when that cannot be told now."""
        ...


class NvmlGauge:
    """Through nvidia-ml-py. ``nvml`` is its module, ``bus`` the card's address there."""

    def __init__(self, nvml: Any, bus: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._card = nvml.nvmlDeviceGetHandleByPciBusId(bus)

    def used_bytes(self) -> int | None:
        """As ``nvidia-smi`` shows it."""
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._card).used)
        except self._nvml.NVMLError:
            return None


def open_gauge(bus: str) -> CardGauge | None:
    """The gauge of a card; None without nvidia-ml-py (extra ``gpu``), or where NVML does not know the card."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return NvmlGauge(nvml, bus) if bus else None
    except nvml.NVMLError:
        return None
