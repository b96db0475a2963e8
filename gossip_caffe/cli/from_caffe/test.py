"""``gossip-caffe test``: score a net on weight files, as ``caffe test`` does."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from gossip_caffe.cli.from_caffe.net_options import NetOptions, net_options
from gossip_caffe.cli.options.gpus import device_of, one_gpu_option
from gossip_caffe.cli.terminal.output import print_json, print_table


@click.command()
@click.option("--model", required=True, metavar="FILE", help="The net's prototxt; its TEST phase is run.")
@click.option(
    "--weights",
    required=True,
    metavar="FILE[,FILE…]",
    help="The .caffemodel files, loaded one after the other.",
)
@click.option(
    "--iterations", default=50, show_default=True, type=click.IntRange(1), help="The number of batches."
)
@one_gpu_option
@net_options
@click.option("--json", "as_json", is_flag=True, help="Print the means as JSON.")
def test(model: str, weights: str, iterations: int, gpus: str, net: NetOptions, as_json: bool) -> None:
    """Run the TEST phase of a net on weight files: the values of each batch, and their means.

    The lines that 'caffe test' prints go to stderr, the table of means (or the JSON) to stdout. Of a solver file's
    nets, or of a job that trains, 'gossip-caffe evaluate' prints the means.

    \b
    gossip-caffe test --model lenet_train_test.prototxt --weights lenet_iter_10000.caffemodel --iterations 100
    """
    import numpy as np

    from gossip_caffe.api.evaluating import files_of, output_rows
    from gossip_caffe.data.sources.source import measure
    from gossip_caffe.job.net_file import read_net_file
    from gossip_caffe.observe.export.caffe_tool_lines import batch_lines, mean_lines
    from gossip_caffe.observe.log.tested import TEST_LOSS
    from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator

    files = files_of(weights)
    device = device_of(gpus)
    read = read_net_file(
        Path(model), measure, level=net.level, stages=net.stages, iterations=iterations, phase="TEST"
    )
    sums: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    with net.log() as say:

        def take(index: int, values: Mapping[str, Sequence[float]]) -> None:
            for name, entries in values.items():
                # Caffe adds the values of the batches in single precision.
                added = np.array(entries, dtype=np.float32)
                sums[name] = added if name not in sums else sums[name] + added
            for line in batch_lines(index, values):
                say(line)

        say("Use CPU." if device == "cpu" else f"Use GPU with device ID {device.removeprefix('gpu:')}")
        say(f"Running for {iterations} iterations.")
        outputs = asyncio.run(CaffeEvaluator(threads=0, device=device).score(read, files, take))
        losses = [output for output in outputs if output.name == TEST_LOSS]
        loss = losses[0].means[0] if losses else None
        means = {name: (total / np.float32(iterations)).tolist() for name, total in sums.items()}
        of_loss = {output.name: output.loss_weight for output in outputs}
        for line in mean_lines(float("nan") if loss is None else loss, means, of_loss):
            say(line)
    if as_json:
        record = {"model": model, "weights": weights, "iterations": iterations, "loss": loss}
        rest = [dataclasses.asdict(output) for output in outputs if output.name != TEST_LOSS]
        print_json({**record, "outputs": rest})
        return
    rows = [row[1:] for row in output_rows(outputs)]
    print_table(("OUTPUT", "MEAN", "LOSS"), rows, f"{model}, {weights}, {iterations} iterations")
