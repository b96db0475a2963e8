"""The pycaffe that is installed, with GPUs: a folder to be put first in PYTHONPATH.

``FAKE_GPUS`` is their number. Caffe computes on the CPU all the same, and a blob's address on the GPU is that of its
values on the host. With ``FAKE_GPUS_ABORT`` building a solver ends the process as Caffe does, with that reason.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

GIB = 2**30


def abort(file: str, reason: str) -> NoReturn:
    """End the process as a CHECK does."""
    sys.stderr.write(f"F1126 12:00:00.000000    42 {file}] Check failed: error == cudaSuccess  {reason}\n")
    sys.stderr.flush()
    os.abort()


def with_gpus(caffe: Any, count: int) -> None:
    """Give a module GPUs."""

    def set_device(index: int) -> None:
        if index >= count:
            abort("common.cpp:146", "(101 vs. 0)  invalid device ordinal")

    def device(index: int) -> tuple[str, str, str, int, int]:
        return f"Fake {index}", "9.0", f"0000:0{index}:00.0", 80 * GIB, (70 + index) * GIB

    caffe.set_device = set_device
    caffe.set_mode_gpu = caffe.set_mode_cpu
    caffe._gossip.built_for_cuda = True
    caffe._gossip.missing_libraries = dict
    caffe._gossip.device_count = lambda: count
    caffe._gossip.device = device
    caffe._gossip.gpu_data_ptr = lambda blob: blob.data.ctypes.data
    if reason := os.environ.get("FAKE_GPUS_ABORT"):
        caffe.get_solver = lambda path: abort("syncedmem.cpp:64", f"(2 vs. 0)  {reason}")


_HERE = str(Path(__file__).parent.parent)
del sys.modules["caffe"]
sys.path.remove(_HERE)
_caffe = importlib.import_module("caffe")
importlib.import_module("caffe._gossip")
sys.path.insert(0, _HERE)
with_gpus(_caffe, int(os.environ.get("FAKE_GPUS", "1")))
