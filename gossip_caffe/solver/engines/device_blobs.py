"""A net's blobs on the GPU, through CuPy: one copy for a snapshot, one copy and an addition for a correction.

CuPy's current stream is the default stream, in which Caffe computes, too. So each operation here runs after the
previous step and before the next one, and no other work waits for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.solver.engines.blob_access import Flat
from gossip_caffe.solver.engines.layout import BlobSpec, WeightLayout, view

Pointer = Callable[[Any], int]
"""A function that returns the address of a blob's values on the GPU. The call marks the GPU's copy as the newest."""
_PORTABLE = 1
"""cudaHostRegisterPortable: the pages are locked for all contexts of this process, Caffe's and CuPy's."""


class DeviceBlobs:
    """Access through device pointers. ``pointer`` returns a blob's; ``cupy``: the module; ``gpu``: the GPU's number."""

    def __init__(
        self, blobs: Sequence[Any], layout: WeightLayout, pointer: Pointer, cupy: Any, gpu: int
    ) -> None:
        self._blobs = blobs
        self._layout = layout
        self._pointer = pointer
        self._cupy = cupy
        self._gpu = gpu
        cupy.cuda.Device(gpu).use()
        self._arrays: dict[int, Any] = {}
        # The copy of a correction on the GPU. It is allocated now: a lack of memory must show before training begins.
        self._staged = cupy.empty(layout.exchanged, dtype=np.float32)
        cupy.add(self._staged[:1], self._staged[:1])  # compiles the kernel now, so that a failure shows now

    def read(self, out: Flat) -> None:
        """Copy the values to ``out``, shape (layout.size,). The GPU itself writes to locked pages."""
        for array, part in zip(self._all(), self._layout.split(out), strict=True):
            array.get(out=part, blocking=False)
        self._cupy.cuda.get_current_stream().synchronize()

    def write(self, values: Flat) -> None:
        """Replace the values by ``values``, shape (layout.size,)."""
        for array, part in zip(self._all(), self._layout.split(values), strict=True):
            array.set(part)
        self._cupy.cuda.get_current_stream().synchronize()

    def add(self, correction: Flat) -> None:
        """Add ``correction``, shape (layout.exchanged,). It is copied to the GPU first, so its memory is free."""
        self._staged.set(correction)
        self._cupy.cuda.get_current_stream().synchronize()
        exchanged = self._layout.blobs[: len(self._blobs) - self._layout.frozen]
        for blob, spec in zip(self._blobs, exchanged, strict=False):
            array = self._array(blob, spec)
            self._cupy.add(array, view(self._staged, spec), out=array)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Lock the memory's pages until this process ends. Copies are correct without locked pages, but slower."""
        runtime = self._cupy.cuda.runtime
        try:
            runtime.hostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE)
        except runtime.CUDARuntimeError:
            pass  # the pages are locked already, or exceed the limit on locked memory

    def _all(self) -> list[Any]:
        return [self._array(blob, spec) for blob, spec in zip(self._blobs, self._layout.blobs, strict=True)]

    def _array(self, blob: Any, spec: BlobSpec) -> Any:
        """Return one blob as a CuPy array. It calls ``pointer`` each time, to mark the GPU's copy as the newest."""
        address = self._pointer(blob)
        if (array := self._arrays.get(address)) is None:
            cuda = self._cupy.cuda
            memory = cuda.UnownedMemory(address, 4 * spec.size, blob, self._gpu)
            array = self._cupy.ndarray(spec.shape, dtype=np.float32, memptr=cuda.MemoryPointer(memory, 0))
            self._arrays[address] = array
        return array


def device_blobs(
    blobs: Sequence[Any], layout: WeightLayout, pointer: Pointer, gpu: int
) -> tuple[DeviceBlobs | None, str]:
    """Return the access through CuPy, or None and the reason why CuPy cannot be used."""
    try:
        cupy = importlib.import_module("cupy")
    except (ImportError, OSError) as error:
        return None, f"CuPy is not used ({error})"
    try:
        return DeviceBlobs(blobs, layout, pointer, cupy, gpu), ""
    except (RuntimeError, ImportError, OSError, cupy.cuda.compiler.CompileException) as error:
        told = " ".join(str(error).split())
        return None, f"CuPy cannot be used ({type(error).__name__}: {told[:200]})"
