"""What elastic training needs of a Caffe solver and pycaffe does not offer; takes pycaffe's own objects."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

built_for_cuda: bool
"""Whether it can train on a card, where there is one."""

def step(solver: Any, iterations: int) -> None:
    """Run iterations with Python's lock released; what a Python layer raises comes out as it is."""

def apply_update(solver: Any) -> None:
    """Apply one update from the gradients as they stand."""

def set_learning_rate(solver: Any, rate: float) -> None:
    """Set the rate that every further step uses: lr_policy becomes 'fixed', base_lr the rate."""

def learning_rate(solver: Any) -> float:
    """Return the rate that the next step uses. Raises ValueError for an lr_policy unknown to Caffe."""

def set_iteration(solver: Any, iteration: int) -> None:
    """Set the number of the next iteration."""

def history(solver: Any) -> list[NDArray[np.float32]]:
    """Return the momentum history: one writable view per blob, in the order of the learnable parameters.

    AdaDelta and Adam keep a second round of the same shapes. A view keeps its solver alive. On a card it is of the
    host's copy, made now, which the next step takes over: ask again after a step. Raises TypeError for a solver
    without history.
    """

def gpu_data_ptr(blob: Any) -> int:
    """Return the address of a blob's data on the device. Raises RuntimeError on a build for the CPU.

    What is on the device counts from then on: views of the host's copy are stale.
    """

def gpu_diff_ptr(blob: Any) -> int:
    """Return the address of a blob's gradient on the device. Raises RuntimeError on a build for the CPU."""

def device_count() -> int:
    """Return how many cards CUDA sees. Raises RuntimeError with its reason, or on a build for the CPU."""

def device(index: int) -> tuple[str, str, str, int, int]:
    """Return a card's name, capability ("9.0"), bus ("0000:41:00.0"), memory and free memory in bytes.

    It takes some of that memory, for as long as the process lives. Raises RuntimeError with CUDA's reason.
    """

def missing_libraries() -> dict[str, str]:
    """Return those of cuBLAS, cuRAND and cuDNN that cannot be opened, by name, each with why and what to do.

    Only cuDNN can be done without. Raises RuntimeError on a build for the CPU.
    """

def set_log_level(level: int) -> None:
    """Set the least level that Caffe logs: 0 info, 1 warning, 2 error, 3 fatal."""
