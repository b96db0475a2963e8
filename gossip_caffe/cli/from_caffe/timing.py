"""``gossip-caffe time``: the time of each layer of a net, as ``caffe time`` measures it."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.from_caffe.net_options import NetOptions, net_options
from gossip_caffe.cli.options.gpus import device_of, one_gpu_option
from gossip_caffe.cli.terminal.output import print_json, print_table

if TYPE_CHECKING:
    from gossip_caffe.solver.timing.timing import NetTimes, Pass

HEADINGS = ("LAYER", "TYPE", "FORWARD (MS)", "BACKWARD (MS)", "SHARE")


@click.command("time")
@click.option("--model", required=True, metavar="FILE", help="The net's prototxt.")
@click.option(
    "--iterations",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="The number of forward and backward passes whose times are averaged.",
)
@click.option(
    "--phase",
    default="TRAIN",
    show_default=True,
    type=click.Choice(["TRAIN", "TEST"]),
    help="The phase of the net.",
)
@one_gpu_option
@net_options
@click.option("--json", "as_json", is_flag=True, help="Print the times as JSON.")
def time_(model: str, iterations: int, phase: str, gpus: str, net: NetOptions, as_json: bool) -> None:
    """Measure how long each layer of a net takes for its forward and its backward pass.

    The net begins with fresh weights. The lines that 'caffe time' prints go to stderr, the table (or the JSON) to
    stdout. SHARE is a layer's part of the time of all layers, both passes together. A data layer's time is the wait
    for its batch.

    \b
    gossip-caffe time --model lenet_train_test.prototxt --iterations 20
    gossip-caffe time --model deploy.prototxt --gpu 0 --json
    """
    from gossip_caffe.data.sources.source import measure
    from gossip_caffe.job.net_file import read_net_file
    from gossip_caffe.observe.export.caffe_tool_lines import time_lines
    from gossip_caffe.solver.timing.timing import time_layers

    device = device_of(gpus)
    read = read_net_file(
        Path(model), measure, phase=phase, level=net.level, stages=net.stages, iterations=iterations
    )
    with net.log() as say:
        say("Use CPU." if device == "cpu" else f"Use GPU with device ID {device.removeprefix('gpu:')}")

        def begins(loss: float) -> None:
            say(f"Initial loss: {loss:.6g}")
            say("*** Benchmark begins ***")
            say(f"Testing for {iterations} iterations.")

        def made(number: int, one: Pass) -> None:
            say(f"Iteration: {number} forward-backward time: {one.total_us / 1000:.6g} ms.")

        times = asyncio.run(time_layers(read, phase, device, begins, made))
        layers = [(layer.name, layer.forward_ms, layer.backward_ms) for layer in times.layers]
        for line in time_lines(layers, times.forward_ms, times.backward_ms, times.total_ms, iterations):
            say(line)
    if as_json:
        print_json(_record(times, phase, device))
        return
    title = f"{model}, {phase} phase, {device}, mean of {iterations} iterations"
    print_table(HEADINGS, _rows(times), title)


def _rows(times: NetTimes) -> list[tuple[str, ...]]:
    rows = [
        (
            layer.name,
            layer.type,
            f"{layer.forward_ms:.3f}",
            f"{layer.backward_ms:.3f}",
            f"{times.share(layer):.1%}",
        )
        for layer in times.layers
    ]
    return [*rows, ("all", "", f"{times.forward_ms:.3f}", f"{times.backward_ms:.3f}", "")]


def _record(times: NetTimes, phase: str, device: str) -> dict[str, Any]:
    layers = [{**dataclasses.asdict(layer), "share": times.share(layer)} for layer in times.layers]
    whole = {"forward_ms": times.forward_ms, "backward_ms": times.backward_ms, "total_ms": times.total_ms}
    return {"phase": phase, "device": device, "iterations": times.iterations, "layers": layers, **whole}
