"""The lines that ``caffe test`` and ``caffe time`` print, as texts without glog's head.

Follows tools/caffe.cpp. Numbers have six significant digits, as a C++ stream writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def batch_lines(index: int, values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The values of one pass, output by output. ``index``: from 0 on."""
    for name, entries in values.items():
        for value in entries:
            yield f"Batch {index}, {name} = {value:.6g}"


def mean_lines(
    loss: float, means: Mapping[str, Sequence[float]], loss_weights: Mapping[str, float]
) -> Iterator[str]:
    """The mean loss, and the mean of each value. ``loss_weights``: 0 for an output that is no loss."""
    yield f"Loss: {loss:.6g}"
    for name, entries in means.items():
        weight = loss_weights[name]
        for mean in entries:
            part = f" (* {weight:.6g} = {weight * mean:.6g} loss)" if weight else ""
            yield f"{name} = {mean:.6g}{part}"


def time_lines(
    layers: Sequence[tuple[str, float, float]],
    forward_ms: float,
    backward_ms: float,
    total_ms: float,
    count: int,
) -> Iterator[str]:
    """The mean times. ``layers``: name, forward and backward time in ms. ``count``: the number of iterations."""
    yield "Average time per layer: "
    for name, forward, backward in layers:
        yield f"{name:>10}\tforward: {forward:.6g} ms."
        yield f"{name:>10}\tbackward: {backward:.6g} ms."
    yield f"Average Forward pass: {forward_ms:.6g} ms."
    yield f"Average Backward pass: {backward_ms:.6g} ms."
    yield f"Average Forward-Backward: {total_ms:.6g} ms."
    yield f"Total Time: {total_ms * count:.6g} ms."
    yield "*** Benchmark ends ***"
