"""The GPUs of the peers of a local cluster, and the GPU of a command that computes itself."""

from __future__ import annotations

import asyncio

from gossip_caffe.errors import UsageError
from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
from gossip_caffe.solver.gpu.device import AUTO, CPU, gpu_device, parse_gpus
from gossip_caffe.solver.gpu.gpus import Gpus, chosen, refusal

ALL = "all"


def gpus_of(gpus: str, peers: int | None, default_peers: int, engine: str) -> tuple[tuple[int, ...], int]:
    """Read ``--gpu`` and ``--peers``, and check that the GPUs can be used.

    ``gpus``: numbers with commas between them, "all", "auto" for the GPU with the most free memory, or "".

    Returns the GPUs' numbers, one for each peer on a GPU, and the number of all peers. Raises UsageError when the
    two do not fit, EnvironmentProblem when there is no such GPU.
    """
    if not gpus:
        return (), default_peers if peers is None else peers
    numbers, found = _read(gpus, looks=engine == "pycaffe")
    if peers is not None and peers < len(numbers):
        raise UsageError(
            f"--gpu {gpus} names a GPU for each of {len(numbers)} peers, and --peers {peers} starts fewer",
            remedy="name fewer GPUs, or leave --peers out",
        )
    if found is not None:
        for index in numbers:
            chosen(found, index)
    return numbers, len(numbers) if peers is None else peers


def gpu_of_rank(gpus: str, local: int, engine: str) -> int | None:
    """The GPU of one of several ranks of MPI: rank after rank of this machine gets the next GPU of ``--gpu``.

    ``local``: the rank among those of this machine. None: it trains on the CPU. Raises as ``gpus_of``.
    """
    numbers, _ = gpus_of(gpus, None, 1, engine)
    return numbers[local % len(numbers)] if numbers else None


def device_of(gpus: str) -> str:
    """Read ``--gpu`` of a command that computes itself; of several GPUs the first counts, as in Caffe.

    Returns the device's name. Raises as ``gpus_of``.
    """
    if not gpus:
        return CPU
    numbers, found = _read(gpus, looks=True)
    if found is not None:
        chosen(found, numbers[0])
    return gpu_device(numbers[0])


def _read(gpus: str, *, looks: bool) -> tuple[tuple[int, ...], Gpus | None]:
    """Return the numbers that ``gpus`` names, and the GPUs that were found; None: they were not looked for."""
    word = gpus.strip().lower()
    if word not in {ALL, AUTO}:
        numbers = parse_gpus(gpus, "--gpu")
        return numbers, asyncio.run(look_at_gpus(numbers)) if looks else None
    found = asyncio.run(look_at_gpus())
    if word == AUTO:
        return (chosen(found, None).index,), found
    if (problem := refusal(found)) is not None:
        raise problem
    return tuple(gpu.index for gpu in found.gpus), found
