"""The --gpu option of the commands that put peers on GPUs, and of those that compute on one GPU themselves."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

ALL = "all"

gpus_option: Callable[[Any], Any] = click.option(
    "--gpu",
    "--gpus",
    "gpus",
    default="",
    metavar="N[,N…]|all|auto",
    help="Train on these NVIDIA GPUs, one peer for each number; all: on every GPU of this machine; auto: one peer, on "
    "the GPU with the most free memory. A number that is given twice puts two peers on that GPU. More peers than "
    "numbers: the rest train on the CPU.",
)
one_gpu_option: Callable[[Any], Any] = click.option(
    "--gpu",
    "gpus",
    default="",
    metavar="N|auto",
    help="Compute on this NVIDIA GPU, by its number in 'gossip-caffe doctor'; auto: the GPU with the most free memory. "
    "Of several numbers, and of all, the first counts, as in Caffe. Default: the CPU.",
)


def gpus_of(gpus: str, peers: int | None, default_peers: int, engine: str) -> tuple[tuple[int, ...], int]:
    """Read ``--gpu`` and ``--peers``: ``gossip_caffe.api.starting.gpus.gpus_of``."""
    if not gpus:
        return (), default_peers if peers is None else peers
    from gossip_caffe.api.starting import gpus as of_api

    return of_api.gpus_of(gpus, peers, default_peers, engine)


def device_of(gpus: str) -> str:
    """Read ``--gpu`` of a command that computes itself: ``gossip_caffe.api.starting.gpus.device_of``."""
    from gossip_caffe.api.starting import gpus as of_api

    return of_api.device_of(gpus)
