"""What `scale` has to do: a pure decision with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many peers to start, which to stop, and why."""

    start: int
    stop: tuple[str, ...]
    reason: str


def card_for(cards: Sequence[int], taken: Sequence[int]) -> int | None:
    """The card of the next peer; None: it trains on the CPU.

    ``cards``: one for each peer that is to be on one, in their order; ``taken``: those of the peers that run.
    """
    left = list(taken)
    for card in cards:
        if card not in left:
            return card
        left.remove(card)
    return None


def scaling(running: Sequence[str], wanted: int) -> Scaling:
    """From the running peers (oldest first) to ``wanted`` of them: the newest leave first."""
    missing = wanted - len(running)
    if missing > 0:
        return Scaling(missing, (), f"{len(running)} run, {wanted} are wanted")
    if missing < 0:
        return Scaling(
            0, tuple(running[missing:]), f"{len(running)} run, {wanted} are wanted: the newest leave"
        )
    return Scaling(0, (), f"{wanted} run already")
