"""A twin of the little of CuPy that the product uses, over NumPy, and of Caffe's blobs with two sides.

Device memory is NumPy memory that only this module reads; addresses are real ones. ``Blob`` keeps its values on the
host, on the GPU or on both, with Caffe's rules (``SyncedMemory`` in syncedmem.cpp): whoever writes to one side without
saying so is overwritten by the other, here as there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


class Head(Enum):
    """Which side holds the newest values."""

    UNINITIALIZED = auto()
    AT_CPU = auto()
    AT_GPU = auto()
    SYNCED = auto()


class Blob:
    """A blob of pycaffe in GPU mode. ``copied``: values that went to the GPU and from it, by Caffe itself."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.head = Head.UNINITIALIZED
        self.copied = {"to GPU": 0, "to host": 0}
        self._host = np.full(shape, np.nan, dtype=np.float32)
        self._gpu = np.full(shape, np.nan, dtype=np.float32)

    @property
    def data(self) -> Values:
        """The host's side, which counts from now on (mutable_cpu_data)."""
        if self.head is Head.UNINITIALIZED:
            self._host[...] = 0
        elif self.head is Head.AT_GPU:
            self._host[...] = self._gpu
            self.copied["to host"] += self._gpu.size
        self.head = Head.AT_CPU
        return self._host

    def gpu_data_ptr(self) -> int:
        """The GPU's side, which counts from now on (mutable_gpu_data)."""
        if self.head is Head.UNINITIALIZED:
            self._gpu[...] = 0
        elif self.head is Head.AT_CPU:
            self._gpu[...] = self._host
            self.copied["to GPU"] += self._gpu.size
        self.head = Head.AT_GPU
        return self._gpu.ctypes.data

    def kernel(self, factor: float, term: float) -> None:
        """What a step does: the GPU computes on its side."""
        self.gpu_data_ptr()
        self._gpu *= np.float32(factor)
        self._gpu += np.float32(term)


class CUDARuntimeError(RuntimeError):
    """As cupy_backends has it."""


class CompileException(Exception):
    """As cupy.cuda.compiler has it."""


class UnownedMemory:
    """Memory that somebody else owns."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    """A place in it."""

    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


class ndarray:  # noqa: N801 - as CuPy calls it
    """An array on the GPU. What is asked for without blocking is done when the stream is synchronized."""

    def __init__(
        self, shape: Any, dtype: Any = np.float32, memptr: MemoryPointer | None = None, *, of: Any = None
    ) -> None:
        assert dtype is np.float32
        if of is not None:
            self.values: Values = of
        elif memptr is None:
            self.values = np.full(shape, np.nan, dtype=np.float32)
        else:
            assert memptr.mem.size == 4 * int(np.prod(shape))
            memory: Any = (ctypes.c_byte * memptr.mem.size).from_address(memptr.ptr)
            self.values = np.frombuffer(memory, dtype=np.float32).reshape(shape)

    def __getitem__(self, index: Any) -> ndarray:
        return ndarray((), of=self.values[index])

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray((), of=self.values.reshape(*shape))

    def set(self, arr: Values) -> None:
        assert arr.shape == self.values.shape
        _GPU.to_gpu += arr.size
        np.copyto(self.values, arr)

    def get(self, *, out: Values, blocking: bool = True) -> None:
        assert out.shape == self.values.shape
        assert out.flags.c_contiguous
        _GPU.to_host += out.size
        source = self.values.copy()  # in the order of the stream: what is written later is not seen
        if blocking:
            np.copyto(out, source)
        else:
            _GPU.waiting.append((out, source))


class FakeGpu:
    """What the fake has done: values copied each way, pages locked, and copies that are still to be waited for."""

    def __init__(self) -> None:
        self.to_gpu = self.to_host = 0
        self.locked: list[tuple[int, int]] = []
        self.used = -1
        self.waiting: list[tuple[Values, Values]] = []

    def synchronize(self) -> None:
        for out, source in self.waiting:
            np.copyto(out, source)
        self.waiting.clear()


_GPU = FakeGpu()


def make_cupy(*, compiles: bool = True, locks: bool = True) -> tuple[Any, FakeGpu]:
    """The module, and what it did. ``compiles``: it finds NVRTC; ``locks``: pages can be locked."""
    global _GPU  # noqa: PLW0603 - one GPU at a time, as one process has
    _GPU = gpu = FakeGpu()

    def add(one: ndarray, other: ndarray, out: ndarray | None = None) -> ndarray:
        if not compiles:
            raise CompileException("nvrtc: error: failed to open libnvrtc-builtins")
        target = out if out is not None else ndarray(one.values.shape)
        np.add(one.values, other.values, out=target.values)
        return target

    def register(ptr: int, size: int, flags: int) -> None:
        if not locks:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        assert flags == 1
        gpu.locked.append((ptr, size))

    def device(index: int) -> Any:
        return SimpleNamespace(use=lambda: setattr(gpu, "used", index))

    runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, hostRegister=register)
    cuda = SimpleNamespace(
        Device=device,
        MemoryPointer=MemoryPointer,
        UnownedMemory=UnownedMemory,
        compiler=SimpleNamespace(CompileException=CompileException),
        get_current_stream=lambda: SimpleNamespace(synchronize=gpu.synchronize),
        runtime=runtime,
    )
    module = SimpleNamespace(add=add, cuda=cuda, empty=ndarray, ndarray=ndarray)
    return module, gpu


def blobs_of(shapes: Sequence[tuple[int, ...]]) -> list[Blob]:
    """Blobs of these shapes, on the GPU, counting up from 1."""
    counted: Iterator[int] = iter(range(1, 1 << 30))
    blobs = [Blob(shape) for shape in shapes]
    for blob in blobs:
        data = blob.data
        data[...] = np.array([next(counted) for _ in range(data.size)], dtype=np.float32).reshape(blob.shape)
        blob.gpu_data_ptr()
    return blobs
