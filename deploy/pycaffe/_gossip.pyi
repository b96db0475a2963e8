"""What elastic training needs of a Caffe solver and pycaffe does not offer; takes pycaffe's own objects."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    AdaDelta and Adam keep a second round of the same shapes. A view keeps its solver alive. Raises TypeError
    for a solver without history.
    """

def gpu_data_ptr(blob: Any) -> int:
    """Return the address of a blob's data on the device. Raises RuntimeError on a build for the CPU."""

def gpu_diff_ptr(blob: Any) -> int:
    """Return the address of a blob's gradient on the device. Raises RuntimeError on a build for the CPU."""

def set_log_level(level: int) -> None:
    """Set the least level that Caffe logs: 0 info, 1 warning, 2 error, 3 fatal."""
