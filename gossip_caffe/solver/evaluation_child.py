"""A process that runs the TEST phase of nets on given weights.

Caffe's own data layers read the data, except what not every Caffe can read (``data.test_phase``).

One message to it: {"nets": [NetTest], "models": [path, "" for a descriptor that came along], "niceness": n}. From it,
for each model and each net of it: {"pass": n} now and then, and {"outputs": [Output]}. Caffe ends the process on a
mistake; the cause is on stderr then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from gossip_caffe.children import Control, run_child
from gossip_caffe.data.test_phase import TestReader, is_to_be_fed
from gossip_caffe.job.nets import NetState, present
from gossip_caffe.job.prototxt import Document
from gossip_caffe.job.rewriting import net_to_feed
from gossip_caffe.job.spec import NetTest, read_fields
from gossip_caffe.observe.tested import MAX_VALUES, Output, finite

TELL_EVERY_S = 0.2


def serve(control: Control) -> None:
    """Do what is asked, and end. A net is built anew for each model: all are tested on the same records."""
    received = control.receive(None)
    if received is None:
        return
    message, fds = received
    os.nice(message["niceness"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a test that Caffe aborts leaves no core
    nets = [read_fields(NetTest, entry, "net") for entry in message["nets"]]
    descriptors = iter(fds)
    for model in message["models"]:
        path = model or f"/proc/self/fd/{next(descriptors)}"
        for number, net in enumerate(nets):
            outputs = tested(control, net, path, number)
            control.send({"outputs": [dataclasses.asdict(output) for output in outputs]})


def tested(control: Control, test: NetTest, model: str, number: int) -> list[Output]:
    """The mean of each output over the passes, as Caffe's Solver::TestClassification makes it."""
    import caffe  # noqa: PLC0415 - after the niceness is set: importing it is much of the work

    from gossip_caffe.solver.pycaffe_engine import as_file, keep_quiet  # noqa: PLC0415

    caffe.set_mode_cpu()
    fed = [layer for layer in test.fed if is_to_be_fed(layer)]
    with contextlib.ExitStack() as files:
        document = Document(test.text, "the TEST net")
        layers = present(document.root, NetState("TEST", test.level, frozenset(test.stages)))
        path = as_file(net_to_feed(document, layers, fed), "net", files)
        net = caffe.Net(path, caffe.TEST, level=test.level, stages=list(test.stages))
    keep_quiet()
    net.copy_from(model)
    readers = [(TestReader(layer), [top.name for top in layer.source.tops]) for layer in fed]
    weights = dict(zip(net._blob_names, net._blob_loss_weights, strict=True))
    sums: dict[str, Any] = {name: np.zeros(net.blobs[name].data.size) for name in net.outputs}
    told_at = time.monotonic()
    for index in range(test.iterations):
        for reader, tops in readers:
            reader.fill([net.blobs[top].data for top in tops])
        net.forward()
        for name, total in sums.items():
            np.add(total, net.blobs[name].data.reshape(-1), out=total)
        if time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            control.send({"pass": index + 1})
    for reader, _ in readers:
        reader.close()
    return [
        Output(
            name=name,
            means=tuple(finite(float(value)) for value in total[:MAX_VALUES] / test.iterations),
            values=int(total.size),
            loss_weight=float(weights[name]),
            net=number,
        )
        for name, total in sums.items()
    ]


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
