"""The child process that runs the TEST phase of nets on given weights.

Caffe's own data layers read the data, except for data that not every Caffe can read (``data.test_phase``).

The first message to it is {"nets": [NetTest], "device": name, "debug_info": the solver's}. Then comes, for each model,
{"model": path, or "" for the descriptor of the message; "number": the number of the test; "under": the paths of
models that are loaded before it; "each": true for the values of each pass}. It answers, for each net, {"pass": n} from
time to time, or after each pass {"pass": n, "values": {output: its values}}, and {"outputs": [Output]}. Caffe ends the
process on a mistake; the cause is on stderr then.
"""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gossip_caffe.job.prototxts.nets import brings_data
from gossip_caffe.job.spec.spec import NetTest, read_fields
from gossip_caffe.observe.log.tested import MAX_VALUES, TEST_LOSS, Output, finite
from gossip_caffe.solver.evaluation.phase_net import built
from gossip_caffe.solver.evaluation.tested_labels import TestedLabels
from gossip_caffe.system.control import Control, run_child

TELL_EVERY_S = 0.2


def serve(control: Control) -> None:
    """Test one model after the other, until the parent has ended."""
    message, _ = control.receive(None) or ({"nets": []}, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a test that Caffe aborts leaves no core
    tests = [read_fields(NetTest, entry, "net") for entry in message["nets"]]
    nets: list[TestedNet] = []
    number = 0
    while (received := control.receive(None)) is not None:
        asked, fds = received
        if asked["number"] != number:  # the first test, or a test that does not follow the last one
            number = asked["number"]
            while nets:
                nets.pop().close()  # closed before the next is built: Caffe cannot open one database twice
            nets = [
                TestedNet(test, message["device"], number - 1, debug_info=message["debug_info"])
                for test in tests
            ]
        number += 1
        path = asked["model"] or f"/proc/self/fd/{fds[0]}"
        for index in range(len(nets)):
            outputs = nets[index].tested([*asked["under"], path], index, control.send, each=asked["each"])
            control.send({"outputs": [dataclasses.asdict(output) for output in outputs]})
        for fd in fds:
            os.close(fd)


class TestedNet:
    """One net in the TEST phase. Its data continues from test to test, as in Caffe.

    ``before``: the number of earlier tests. ``debug_info``: print each layer's values, as the nets of Caffe's
    Solver::InitTestNets do.
    """

    __test__ = False  # pytest must not collect it for its name

    def __init__(self, test: NetTest, device: str, before: int, *, debug_info: bool = False) -> None:
        whole = built(test, device, debug_info=debug_info)
        from gossip_caffe.solver.engines.pycaffe_engine import keep_quiet, speak_again  # noqa: PLC0415 - as in built

        keep_quiet()
        self._test, self._net, self._readers = test, whole.net, whole.readers
        self._labels = TestedLabels(self._net, whole.layers, test.fed)
        fed_names = {source.layer for _, source in whole.readers}
        known = {layer.source.layer for layer in test.fed}
        sources = [layer.name for layer in whole.layers if brings_data(layer)]
        by_caffe = [name for name in sources if name not in fed_names]
        passes = before * test.iterations
        for reader, _ in self._readers:
            reader.skip(passes)
        if known.issuperset(
            sources
        ):  # then the number of passes after which all sources begin again is known
            passes %= math.lcm(*(layer.passes_around for layer in test.fed))
        for _ in range(passes if by_caffe else 0):
            for name in by_caffe:
                self._net.forward(start=name, end=name)
        self._labels.watch(by_caffe, passes)
        if debug_info:
            speak_again()

    def tested(
        self,
        models: Sequence[str],
        number: int,
        tell: Callable[[Mapping[str, object]], None],
        *,
        each: bool = False,
    ) -> list[Output]:
        """Return the mean of each output over the passes, summed as in Caffe's Solver::TestClassification.

        ``models``: loaded one after the other. ``tell`` is called with the progress; ``each``: after each pass, with
        its values.
        """
        net, passes = self._net, self._test.iterations
        for model in models:
            net.copy_from(model)
        weights = dict(zip(net._blob_names, net._blob_loss_weights, strict=True))
        sums: dict[str, Any] = {}
        loss = np.float32(0)
        told_at = time.monotonic()
        for index in range(passes):
            for reader, source in self._readers:
                reader.fill([net.blobs[top.name].data for top in source.tops], self._labels.of(source.layer))
            loss += self._labels.forward()
            for name in net.outputs:
                values = net.blobs[name].data.reshape(-1)
                if name in sums:
                    sums[name] += values
                else:
                    sums[name] = values.copy()
            if each:
                values_of = {name: net.blobs[name].data.reshape(-1).tolist() for name in net.outputs}
                tell({"pass": index + 1, "values": values_of})
            elif time.monotonic() - told_at >= TELL_EVERY_S:
                told_at = time.monotonic()
                tell({"pass": index + 1})
        outputs = [
            Output(
                name=name,
                means=tuple(finite(float(value)) for value in total[:MAX_VALUES] / np.float32(passes)),
                values=int(total.size),
                loss_weight=float(weights[name]),
                net=number,
            )
            for name, total in sums.items()
        ]
        if self._test.compute_loss:
            outputs.insert(0, Output(TEST_LOSS, (finite(float(loss / np.float32(passes))),), net=number))
        return outputs

    def close(self) -> None:
        """Close the data's files."""
        for reader, _ in self._readers:
            reader.close()


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
