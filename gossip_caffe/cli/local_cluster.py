"""What the commands that run a cluster on this machine have in common."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gossip_caffe.errors import UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.supervisor import Supervisor


def data_root_words(data_roots: Sequence[str]) -> tuple[str, ...]:
    """``--data-root`` as each peer is given it. Raises UsageError when one is not OLD=NEW."""
    from gossip_caffe.job.relocation import DataRoot

    for root in data_roots:
        DataRoot.parse(root)
    return tuple(word for root in data_roots for word in ("--data-root", root))


gpus_option = click.option(
    "--gpus",
    default="",
    metavar="N[,N…]",
    help="Train on these NVIDIA cards, one peer for each number; a number that comes again puts one more peer on that "
    "card. Peers beyond them train on the CPU.",
)


def cards_of(gpus: str, peers: int | None, default_peers: int, engine: str) -> tuple[tuple[int, ...], int]:
    """``--gpus`` and ``--peers``: the cards, and how many peers there are. Looks whether the cards can be used.

    Raises UsageError when the two do not fit, EnvironmentProblem when there is no such card.
    """
    from gossip_caffe.solver.card_trial import look_at_cards
    from gossip_caffe.solver.cards import chosen
    from gossip_caffe.solver.device import parse_cards

    if not gpus:
        return (), default_peers if peers is None else peers
    cards = parse_cards(gpus, "--gpus")
    if peers is not None and peers < len(cards):
        raise UsageError(
            f"--gpus {gpus} names a card for each of {len(cards)} peers, and --peers {peers} starts fewer",
            remedy="name fewer cards, or leave --peers out",
        )
    if engine == "pycaffe":
        found = asyncio.run(look_at_cards(cards))
        for index in cards:
            chosen(found, index)
    return cards, len(cards) if peers is None else peers


def go_down_on_signals(supervisor: Supervisor) -> None:
    """Ctrl-C and its like take the cluster down in good order; call it within the event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.go_down, number.name)
