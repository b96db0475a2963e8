"""The trial of a net on a GPU, before a peer registers: a child process chooses the GPU and trains one iteration on it.

Caffe ends its process when there is no driver, no GPU of that number, or too little memory, and it takes memory only
when it first computes. So the trial runs in a child process, and a failure becomes one line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError, ModelError
from gossip_caffe.job.spec.spec import TopSpec, read_fields
from gossip_caffe.solver.checks.caffe_errors import abort_of
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.gpu.gpus import Gpu, Gpus
from gossip_caffe.system.children import Child, ChildEnd

DEADLINE_S = 600.0
"""The first use of a GPU may take this long, because it may compile the kernels for that GPU."""
MODULE = "gossip_caffe.solver.checks.gpu_child"


@dataclass(frozen=True, slots=True)
class TriedGpu:
    """A GPU on which the net has made an iteration. ``remark``: why copies are slow; empty if not."""

    gpu: Gpu
    remark: str = ""


async def look_at_gpus(wanted: Sequence[int] = ()) -> Gpus:
    """List the GPUs here; ``wanted``: only these. Raises EnvironmentProblem when pycaffe cannot list them."""
    messages, end = await _heard({"look": list(wanted)})
    found = next((message["found"] for message in messages if "found" in message), None)
    if found is None:
        raise _failed(messages, end, None)
    return Gpus.from_record(found)


async def try_on_gpu(wanted: int | None, spec: EngineSpec, tops: tuple[TopSpec, ...]) -> TriedGpu:
    """Try the net on a GPU; ``wanted``: its number; None: the GPU with the most free memory.

    Raises EnvironmentProblem when there is no such GPU or it has too little memory, ModelError when Caffe refuses the
    net.
    """
    request = {
        "wanted": wanted,
        "build": dataclasses.asdict(spec),
        "tops": [dataclasses.asdict(top) for top in tops],
    }
    messages, end = await _heard(request)
    said = {kind: message[kind] for message in messages for kind in message}
    gpu = read_fields(Gpu, said["chosen"], "gpu") if "chosen" in said else None
    if gpu is None or "tried" not in said:
        raise _failed(messages, end, gpu)
    return TriedGpu(gpu, said["tried"])


async def _heard(request: dict[str, Any]) -> tuple[list[dict[str, Any]], ChildEnd]:
    messages: list[dict[str, Any]] = []
    child = Child(MODULE, messages.append)
    child.start({"OPENBLAS_NUM_THREADS": "1"})
    try:
        child.send(request)
        async with asyncio.timeout(DEADLINE_S):
            return messages, await child.wait()
    except TimeoutError:
        raise EnvironmentProblem(
            f"the GPU does not answer within {DEADLINE_S:.0f} s", remedy="see the output of 'nvidia-smi'"
        ) from None
    finally:
        child.signal(signal.SIGKILL)
        await child.wait()


def _failed(messages: list[dict[str, Any]], end: ChildEnd, gpu: Gpu | None) -> GossipCaffeError:
    """Make the error for a child that ended without its answer."""
    for message in messages:
        if "failed" in message:
            return EnvironmentProblem(message["failed"], remedy=message["remedy"])
    abort = abort_of(end.stderr)
    if gpu is None:
        last = next((line.strip() for line in reversed(end.stderr) if line.strip()), end.how)
        return EnvironmentProblem(
            f"the GPUs cannot be listed: {abort.reason if abort else last}",
            remedy="run 'gossip-caffe doctor', or train without --gpu",
        )
    if abort is None:
        return EnvironmentProblem(
            f"the net cannot be tried on {gpu.words()}: the process ended ({end.how}) without a reason"
        )
    if "out of memory" in abort.reason or "ALLOC_FAILED" in abort.reason:
        return EnvironmentProblem(
            f"{gpu.words()} has too little memory for this net: {abort.reason}",
            remedy="use a smaller batch_size, another GPU, or fewer peers on this one",
        )
    if not abort.refused:
        return ModelError(abort.reason, remedy=abort.remedy)
    refused = f"layer {abort.layer!r}" if abort.layer else "the net"
    return ModelError(f"Caffe refused {refused} on {gpu.words()}: {abort.reason}", remedy=abort.remedy)
