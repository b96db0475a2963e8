"""The child process that lists the GPUs, or tries a net on one of them. ``gpu_trial`` starts it.

It gets one message: {"look": [numbers; empty: all]}, or {"wanted": number or null, "build": EngineSpec, "tops":
[TopSpec]}. It answers {"found": Gpus}; or {"chosen": Gpu} and, after an iteration, {"tried": the engine's remark}.
Caffe ends the process on a mistake; the cause is on stderr then.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec.spec import TopSpec, read_fields
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.gpu.device import gpu_device
from gossip_caffe.solver.gpu.gpus import Gpu, Gpus, chosen
from gossip_caffe.system.control import Control, run_child


def serve(control: Control) -> None:
    """Answer the one request, and end."""
    received = control.receive(None)
    if received is None:
        return
    request = received[0]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Caffe's aborts are expected here
    if "look" in request:
        control.send({"found": look(request["look"]).to_record()})
        return
    wanted = request["wanted"]
    gpu = chosen(look([] if wanted is None else [wanted]), wanted)
    control.send({"chosen": dataclasses.asdict(gpu)})
    spec = read_fields(EngineSpec, request["build"], "engine")
    tops = tuple(read_fields(TopSpec, entry, "top") for entry in request["tops"])
    control.send({"tried": one_iteration(dataclasses.replace(spec, device=gpu_device(gpu.index)), tops)})


def look(wanted: Sequence[int]) -> Gpus:
    """List the GPUs; ``wanted``: only these, because listing a GPU takes some of its memory; empty: all."""
    import caffe  # noqa: PLC0415 - only this child may

    try:
        from caffe import _gossip  # noqa: PLC0415
    except ImportError:
        return _of_another_caffe(caffe, wanted)
    if not getattr(_gossip, "built_for_cuda", False):
        return Gpus(caffe=caffe.__file__)
    absent = dict(_gossip.missing_libraries())
    found = Gpus(
        caffe.__file__,
        built=True,
        missing=tuple(absent[name] for name in ("cuBLAS", "cuRAND") if name in absent),
        no_cudnn=absent.get("cuDNN", ""),
    )
    try:
        count = _gossip.device_count()
    except RuntimeError as error:
        return dataclasses.replace(found, reason=str(error))
    gpus, reason = [], ""
    for index in sorted(set(range(count)).intersection(wanted or range(count))):
        try:
            gpus.append(Gpu(index, *_gossip.device(index)))
        except RuntimeError as error:
            reason = f"GPU {index}: {error}"
    return dataclasses.replace(found, reason="" if gpus else reason, count=count, gpus=tuple(gpus))


def _of_another_caffe(caffe: Any, wanted: Sequence[int]) -> Gpus:
    """List the wanted GPUs with a Caffe that has no function for it.

    Such a Caffe ends the process, with the reason on stderr, when a GPU cannot be used.
    """
    gpus = tuple(map(Gpu, sorted(set(wanted or [0]))))
    for gpu in gpus:
        caffe.set_device(gpu.index)
    return Gpus(caffe.__file__, built=True, count=gpus[-1].index + 1, gpus=gpus)


def one_iteration(spec: EngineSpec, tops: Iterable[TopSpec]) -> str:
    """Train one iteration on records of zeros, read and correct the weights. Returns the engine's remark."""
    from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

    ring = BatchRing.create(tuple(tops), spec.batch_records, spec.iter_size)
    for sequence in range(spec.iter_size):
        for top, array in zip(ring.tops, ring.reserve(0.0) or (), strict=False):
            array[:] = 0
            if top.boxes:
                array[0, 0] = -1  # no picture has a box
        rows = [1 if top.boxes else top.batch_records or spec.batch_records for top in ring.tops]
        ring.commit(sequence, spec.batch_records, rows)
    engine = PycaffeEngine(spec, ring)
    engine.step(ring, spec.iter_size, 0.0)
    weights = np.empty(engine.layout.size, dtype=np.float32)
    engine.read_weights(weights)
    engine.add_to_weights(np.zeros(engine.layout.exchanged, dtype=np.float32))
    engine.history()
    return engine.remark


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
