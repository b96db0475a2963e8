"""How an exchange that this peer offered ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gossip_caffe.gossip.message import Refusal
from gossip_caffe.solver.board import SnapshotInfo


class OutcomeKind(StrEnum):
    """How an exchange that this peer offered ended."""

    APPLIED = "applied"  # both sides have their halves: what the snapshot holds has left this peer
    REFUSED = "refused"  # neither side changed anything
    WITHDRAWN = "withdrawn"  # the partner's own offer stands instead (CROSSING)
    FAILED = "failed"  # no whole answer: nothing applied here; the partner may have applied its half
    REJECTED = "rejected"  # an answer came that must not be applied; the partner has applied its half


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an offered exchange.

    ``snapshot`` is what was offered; ``half_sum`` and ``half_norm``: sum and length of the half that was applied.
    """

    kind: OutcomeKind
    exchange_id: str
    partner: str
    snapshot: SnapshotInfo
    distance: float = 0.0
    refusal: Refusal = Refusal.NONE
    reason: str = ""
    half_sum: float = 0.0
    half_norm: float = 0.0


def kind_of(refusal: Refusal) -> OutcomeKind:
    """What the refusal of an offer means for its exchange."""
    match refusal:
        case Refusal.CROSSING:
            return OutcomeKind.WITHDRAWN
        case Refusal.REPEATED:
            return OutcomeKind.REJECTED
        case _:
            return OutcomeKind.REFUSED
