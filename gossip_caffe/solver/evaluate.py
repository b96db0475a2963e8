"""A net's TEST phase on given weights, by plain Caffe, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gossip_caffe.solver.errand import run_errand, serve_errand


async def evaluate(
    test_net_text: str,
    weights: Sequence[Path],
    iterations: int,
    on_each: Callable[[int], None] = lambda _: None,
) -> list[dict[str, float]]:
    """The mean of every output over the iterations, by name, for each .caffemodel in order.

    The data goes on from one file to the next: with ``iterations`` that cover the test set exactly, each sees all of
    it. ``on_each`` gets how many are done. Raises SolverDied with Caffe's reason.
    """
    results: list[dict[str, float]] = []

    def note(result: dict[str, Any]) -> None:
        results.append(result["means"])
        on_each(len(results))

    request = {"net": test_net_text, "weights": [str(path) for path in weights], "iterations": iterations}
    await run_errand(__name__, request, note)
    return results


def _work(request: dict[str, Any]) -> Iterator[dict[str, object]]:
    import caffe  # noqa: PLC0415 - only this process may import it

    caffe.set_mode_cpu()
    fd = os.memfd_create("gossip-caffe-net.prototxt", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(request["net"].encode())
        file.flush()
        net = caffe.Net(f"/proc/self/fd/{fd}", caffe.TEST)
    iterations = request["iterations"]
    for weights in request["weights"]:
        net.copy_from(weights)
        sums = dict.fromkeys(net.outputs, 0.0)
        for _ in range(iterations):
            net.forward()
            for name in net.outputs:
                sums[name] += float(net.blobs[name].data.mean(dtype="float64"))
        yield {"means": {name: total / iterations for name, total in sums.items()}}


if __name__ == "__main__":
    serve_errand(_work)
