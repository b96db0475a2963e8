"""A net's blobs on the card, through CuPy: one copy for a snapshot, one copy and an addition for a correction.

CuPy's current stream is the default one, in which Caffe computes as well: what is asked here runs after the step before
it and before the next one, and nothing else waits for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.solver.blob_access import Flat
from gossip_caffe.solver.layout import BlobSpec, WeightLayout, view

Pointer = Callable[[Any], int]
"""The address of a blob's values on the card; from the call on the card's side of the blob counts."""
_PORTABLE = 1
"""cudaHostRegisterPortable: locked for every context of this process, Caffe's and CuPy's."""


class DeviceBlobs:
    """Through device pointers. ``pointer`` gives a blob's, ``cupy`` is that module; ``card``: the card's number."""

    def __init__(
        self, blobs: Sequence[Any], layout: WeightLayout, pointer: Pointer, cupy: Any, card: int
    ) -> None:
        self._blobs = blobs
        self._layout = layout
        self._pointer = pointer
        self._cupy = cupy
        self._card = card
        cupy.cuda.Device(card).use()
        self._arrays: dict[int, Any] = {}
        # The correction, once it is on the card. Made at once: what is short of memory shall fail before it trains.
        self._staged = cupy.empty(layout.exchanged, dtype=np.float32)
        cupy.add(self._staged[:1], self._staged[:1])  # compiles the kernel: whether that works shows now

    def read(self, out: Flat) -> None:
        """Copy the values out; into pages that are locked the card writes by itself."""
        for array, part in zip(self._all(), self._layout.split(out), strict=True):
            array.get(out=part, blocking=False)
        self._cupy.cuda.get_current_stream().synchronize()

    def write(self, values: Flat) -> None:
        """Replace them."""
        for array, part in zip(self._all(), self._layout.split(values), strict=True):
            array.set(part)
        self._cupy.cuda.get_current_stream().synchronize()

    def add(self, correction: Flat) -> None:
        """Add to them: the correction is copied to the card whole, and its memory is free when this returns."""
        self._staged.set(correction)
        self._cupy.cuda.get_current_stream().synchronize()
        exchanged = self._layout.blobs[: len(self._blobs) - self._layout.frozen]
        for blob, spec in zip(self._blobs, exchanged, strict=False):
            array = self._array(blob, spec)
            self._cupy.add(array, view(self._staged, spec), out=array)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Lock the pages for as long as this process lives; without it copies are right, and slower."""
        runtime = self._cupy.cuda.runtime
        try:
            runtime.hostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE)
        except runtime.CUDARuntimeError:
            pass  # locked already, or more than this machine lets a process lock

    def _all(self) -> list[Any]:
        return [self._array(blob, spec) for blob, spec in zip(self._blobs, self._layout.blobs, strict=True)]

    def _array(self, blob: Any, spec: BlobSpec) -> Any:
        """One blob as CuPy sees it. The pointer is asked for each time: that is what makes the card's side count."""
        address = self._pointer(blob)
        if (array := self._arrays.get(address)) is None:
            cuda = self._cupy.cuda
            memory = cuda.UnownedMemory(address, 4 * spec.size, blob, self._card)
            array = self._cupy.ndarray(spec.shape, dtype=np.float32, memptr=cuda.MemoryPointer(memory, 0))
            self._arrays[address] = array
        return array


def device_blobs(
    blobs: Sequence[Any], layout: WeightLayout, pointer: Pointer, card: int
) -> tuple[DeviceBlobs | None, str]:
    """The access through CuPy, and why there is none when there is none."""
    try:
        cupy = importlib.import_module("cupy")
    except (ImportError, OSError) as error:
        return None, f"CuPy is not used ({error})"
    try:
        return DeviceBlobs(blobs, layout, pointer, cupy, card), ""
    except (RuntimeError, ImportError, OSError, cupy.cuda.compiler.CompileException) as error:
        told = " ".join(str(error).split())
        return None, f"CuPy cannot be used ({type(error).__name__}: {told[:200]})"
