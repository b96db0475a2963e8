"""``gossip-caffe device_query``: the GPUs of this machine, as ``caffe device_query`` shows them."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import dataclasses

import click

from gossip_caffe.cli.options.gpus import ALL
from gossip_caffe.cli.terminal.output import print_json, print_table

HEADINGS = ("GPU", "NAME", "COMPUTE CAPABILITY", "PCI ADDRESS", "MEMORY (MIB)", "FREE (MIB)")


@click.command("device_query")
@click.option(
    "--gpu",
    "--gpus",
    "gpus",
    default=ALL,
    show_default=True,
    metavar="N[,N…]|all",
    help="Show these GPUs, by CUDA's numbers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def device_query(gpus: str, as_json: bool) -> None:
    """Show the GPUs of this machine on which a peer can train. 'gossip-caffe doctor' checks all else.

    Exit code 6: no GPU can be used here; the line says why.

    \b
    gossip-caffe device_query --gpu 0
    """
    from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
    from gossip_caffe.solver.gpu.device import parse_gpus
    from gossip_caffe.solver.gpu.gpus import chosen, refusal

    numbers = () if gpus.strip().lower() in {ALL, ""} else parse_gpus(gpus, "--gpu")
    found = asyncio.run(look_at_gpus(numbers))
    if (problem := refusal(found)) is not None:
        raise problem
    shown = [chosen(found, number) for number in numbers] or list(found.gpus)
    if as_json:
        print_json([dataclasses.asdict(gpu) for gpu in shown])
        return
    rows = [
        (
            str(gpu.index),
            gpu.name,
            gpu.capability,
            gpu.bus,
            f"{gpu.memory_bytes >> 20:,}" if gpu.memory_bytes else "",
            f"{gpu.free_bytes >> 20:,}" if gpu.memory_bytes else "",
        )
        for gpu in shown
    ]
    print_table(HEADINGS, rows)
