"""The cards of this machine as CUDA sees them, and which of them a peer takes: a decision, and its refusals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec import read_fields

GUIDE = "docs/gpu.md"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """One card. ``index``: CUDA's number; ``bus``: its address, by which NVML knows it; ``memory_bytes`` 0: unknown."""

    index: int
    name: str = "a card"
    capability: str = ""
    bus: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0

    def words(self) -> str:
        """For people: number, name and memory."""
        if not self.memory_bytes:
            return f"card {self.index} ({self.name})"
        memory = f"{self.free_bytes / GIB:.1f} of {self.memory_bytes / GIB:.1f} GiB free"
        return f"card {self.index} ({self.name}, {memory})"


@dataclass(frozen=True, slots=True)
class Cards:
    """What was found. ``caffe``: where pycaffe is; ``built``: it was built for CUDA; ``reason``: why CUDA sees nothing.

    ``missing``: why libraries that are needed cannot be opened, each with what to do; ``no_cudnn``: the same of cuDNN,
    which can be done without. ``count``: how many cards there are, of which ``cards`` were looked at.
    """

    caffe: str = ""
    built: bool = False
    reason: str = ""
    missing: tuple[str, ...] = ()
    no_cudnn: str = ""
    count: int = 0
    cards: tuple[Card, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Cards:
        """Read ``to_record``, after a way through JSON."""
        return read_fields(cls, record, "cards")


def refusal(found: Cards) -> EnvironmentProblem | None:
    """Why no peer can train on any card here, with what to do; None when one can."""
    if not found.built:
        return EnvironmentProblem(
            f"the pycaffe at {found.caffe} was built for the CPU only",
            remedy=f"make the other one with 'make setup CUDA=1' ({GUIDE}), or train without --gpu",
        )
    if found.missing:
        return EnvironmentProblem(found.missing[0], remedy=f"see {GUIDE}")
    if found.reason or not found.count:
        reason = found.reason or "there is no card"
        return EnvironmentProblem(
            f"CUDA finds no card on this machine: {reason}",
            remedy=f"see whether 'nvidia-smi' shows one, and whether its driver is new enough ({GUIDE}), "
            "or train without --gpu",
        )
    return None


def chosen(found: Cards, wanted: int | None) -> Card:
    """The card of that number; None: the one with the most free memory, of equal ones the first.

    Raises EnvironmentProblem when there is none to be had.
    """
    if (problem := refusal(found)) is not None:
        raise problem
    if wanted is None:
        return max(found.cards, key=lambda card: (card.free_bytes, -card.index))
    for card in found.cards:
        if card.index == wanted:
            return card
    raise no_such_card(wanted, found.count)


def no_such_card(wanted: int, count: int) -> EnvironmentProblem:
    """The refusal of a number that no card has."""
    there = "the only one is card 0" if count == 1 else f"there are {count}, numbered from 0"
    return EnvironmentProblem(
        f"there is no card {wanted} on this machine: {there}",
        remedy="give one of those, or 'auto'; 'gossip-caffe doctor' shows them, and CUDA_VISIBLE_DEVICES hides some",
    )
