"""The child process that times the layers of a net; ``timing`` starts it.

It gets one message, {"net": NetTest, "phase": TRAIN or TEST, "device": name}. After a pass that is not counted it sends
{"layers": [[name, type]], "loss": x}, then for each counted pass {"pass": [forward µs of each layer, backward µs of
each, µs of the whole forward pass, of the whole backward pass, of both]}. Caffe ends the process on a mistake; the
cause is on stderr then.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from gossip_caffe.job.spec.spec import NetTest, read_fields
from gossip_caffe.solver.evaluation.phase_net import built
from gossip_caffe.solver.gpu.device import CPU
from gossip_caffe.system.control import Control, run_child


def serve(control: Control) -> None:
    """Time the net of the one request, and end."""
    received = control.receive(None)
    if received is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a net that Caffe refuses leaves no core
    asked = received[0]
    test = read_fields(NetTest, asked["net"], "net")
    whole = built(test, asked["device"], asked["phase"])
    from gossip_caffe.solver.engines.pycaffe_engine import keep_quiet  # noqa: PLC0415 - Caffe is imported by now

    keep_quiet()
    net = whole.net
    names = list(net._layer_names)
    fills = {
        names.index(source.layer): _filling(net, reader, [top.name for top in source.tops])
        for reader, source in whole.readers
    }
    wait = _nothing if asked["device"] == CPU else _gpu_is_done()
    for fill in fills.values():
        fill()
    loss = float(net._forward(0, len(names) - 1))
    net._backward(len(names) - 1, 0)
    wait()
    control.send({"layers": [[*pair] for pair in zip(names, _types(net), strict=True)], "loss": loss})
    for _ in range(test.iterations):
        control.send({"pass": timed(net, len(names), fills, wait)})


def timed(
    net: Any, layers: int, fills: dict[int, Callable[[], None]], wait: Callable[[], None]
) -> list[object]:
    """Time one forward and backward pass, layer by layer, as tools/caffe.cpp does. Returns the message's "pass".

    ``fills``: layer's number → reads its data. ``wait``: returns when the device has computed.
    """
    forward, backward = [0.0] * layers, [0.0] * layers
    begun = perf_counter_ns()
    for index in range(layers):
        at = perf_counter_ns()
        if index in fills:
            fills[index]()
        net._forward(index, index)
        wait()
        forward[index] = (perf_counter_ns() - at) / 1000
    turned = perf_counter_ns()
    for index in range(layers - 1, -1, -1):
        at = perf_counter_ns()
        net._backward(index, index)
        wait()
        backward[index] = (perf_counter_ns() - at) / 1000
    ended = perf_counter_ns()
    return [forward, backward, (turned - begun) / 1000, (ended - turned) / 1000, (ended - begun) / 1000]


def _filling(net: Any, reader: Any, tops: list[str]) -> Callable[[], None]:
    return lambda: reader.fill([net.blobs[top].data for top in tops])


def _types(net: Any) -> list[str]:
    return [str(layer.type) for layer in net.layers]


def _nothing() -> None:
    """On the CPU a layer has computed when its call returns."""


def _gpu_is_done() -> Callable[[], None]:
    """Return a function that waits for the GPU of this thread's context, by CUDA's driver."""
    synchronize = ctypes.CDLL("libcuda.so.1").cuCtxSynchronize

    def wait() -> None:
        synchronize()

    return wait


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
