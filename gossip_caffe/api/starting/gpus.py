"""The GPUs of the peers of a local cluster."""

from __future__ import annotations

import asyncio

from gossip_caffe.errors import UsageError
from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
from gossip_caffe.solver.gpu.device import parse_gpus
from gossip_caffe.solver.gpu.gpus import chosen


def gpus_of(gpus: str, peers: int | None, default_peers: int, engine: str) -> tuple[tuple[int, ...], int]:
    """Read ``--gpus`` and ``--peers``, and check that the GPUs can be used.

    Returns the GPUs' numbers, one for each peer on a GPU, and the number of all peers. Raises UsageError when the
    two do not fit, EnvironmentProblem when there is no such GPU.
    """
    if not gpus:
        return (), default_peers if peers is None else peers
    gpu_numbers = parse_gpus(gpus, "--gpus")
    if peers is not None and peers < len(gpu_numbers):
        raise UsageError(
            f"--gpus {gpus} names a GPU for each of {len(gpu_numbers)} peers, and --peers {peers} starts fewer",
            remedy="name fewer GPUs, or leave --peers out",
        )
    if engine == "pycaffe":
        found = asyncio.run(look_at_gpus(gpu_numbers))
        for index in gpu_numbers:
            chosen(found, index)
    return gpu_numbers, len(gpu_numbers) if peers is None else peers
