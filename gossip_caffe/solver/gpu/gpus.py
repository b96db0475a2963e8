"""The GPUs of this machine as CUDA sees them, and the choice of one for a peer, with the reason of a refusal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec.spec import read_fields

GUIDE = "docs/gpu.md"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``index``: CUDA's number; ``bus``: its PCI address, for NVML; ``memory_bytes`` 0: unknown."""

    index: int
    name: str = "a GPU"
    capability: str = ""
    bus: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0

    def words(self) -> str:
        """Describe the GPU for a user: its number, name and memory."""
        if not self.memory_bytes:
            return f"GPU {self.index} ({self.name})"
        memory = f"{self.free_bytes / GIB:.1f} of {self.memory_bytes / GIB:.1f} GiB free"
        return f"GPU {self.index} ({self.name}, {memory})"


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that were found. ``count``: the number of GPUs; ``gpus``: those of them that were listed.

    ``caffe``: the file of pycaffe; ``built``: it was built for CUDA; ``reason``: the reason why CUDA finds no GPU.
    ``missing``: for each needed library that cannot be opened, the reason and the remedy; ``no_cudnn``: the same for
    cuDNN, which is optional.
    """

    caffe: str = ""
    built: bool = False
    reason: str = ""
    missing: tuple[str, ...] = ()
    no_cudnn: str = ""
    count: int = 0
    gpus: tuple[Gpu, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Gpus:
        """Read the result of ``to_record``. Raises ValueError when ``record`` is not one."""
        return read_fields(cls, record, "gpus")


def refusal(found: Gpus) -> EnvironmentProblem | None:
    """Return the reason why no peer can train on a GPU of this machine, with the remedy; None if a peer can."""
    if not found.built:
        return EnvironmentProblem(
            f"the pycaffe at {found.caffe} was built for the CPU only",
            remedy=f"build one for GPUs with 'make setup CUDA=1' ({GUIDE}), or train without --gpu",
        )
    if found.missing:
        return EnvironmentProblem(found.missing[0], remedy=f"see {GUIDE}")
    if found.reason or not found.count:
        reason = found.reason or "there is no GPU"
        return EnvironmentProblem(
            f"CUDA finds no GPU on this machine: {reason}",
            remedy=f"see whether 'nvidia-smi' shows one, and whether its driver is new enough ({GUIDE}), "
            "or train without --gpu",
        )
    return None


def chosen(found: Gpus, wanted: int | None) -> Gpu:
    """Choose the GPU with the number ``wanted``; None: the GPU with the most free memory, the first of equal ones.

    Raises EnvironmentProblem when there is no such GPU, or no GPU can be used.
    """
    if (problem := refusal(found)) is not None:
        raise problem
    if wanted is None:
        return max(found.gpus, key=lambda gpu: (gpu.free_bytes, -gpu.index))
    for gpu in found.gpus:
        if gpu.index == wanted:
            return gpu
    raise no_such_gpu(wanted, found.count)


def no_such_gpu(wanted: int, count: int) -> EnvironmentProblem:
    """Make the error for a number that no GPU has."""
    there = "the only one is GPU 0" if count == 1 else f"there are {count}, numbered from 0"
    return EnvironmentProblem(
        f"there is no GPU {wanted} on this machine: {there}",
        remedy="give one of those, or 'auto'; 'gossip-caffe doctor' lists them; CUDA_VISIBLE_DEVICES may hide some",
    )
