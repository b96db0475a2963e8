"""The outcome of an exchange that this peer offered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gossip_caffe.gossip.averaging.bound import UNMEASURED, Reach
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.solver.board import SnapshotInfo


class OutcomeKind(StrEnum):
    """The ways in which an offered exchange ends."""

    APPLIED = "applied"  # both sides have their halves: the chunks in the snapshot are shared
    REFUSED = "refused"  # neither side changed anything
    WITHDRAWN = "withdrawn"  # the partner's own offer stands instead (CROSSING)
    FAILED = "failed"  # no whole answer: nothing applied here; the partner may have applied its half
    REJECTED = "rejected"  # an answer came that must not be applied here; the partner has applied its half


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an offered exchange.

    ``snapshot`` is the snapshot that was offered. ``half_sum`` and ``half_norm`` are the sum and the length of the half
    that was applied. ``reach`` is the relative length of the half that was applied, or that was refused as too long.
    ``by`` is the carrier of the weights, if a log is to name it; ``share`` the part of the half that was added, if it
    was cut.
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
    reach: Reach = UNMEASURED
    by: str = ""
    share: float = 1.0


def kind_of(refusal: Refusal) -> OutcomeKind:
    """The outcome of an exchange whose offer got this refusal."""
    match refusal:
        case Refusal.CROSSING:
            return OutcomeKind.WITHDRAWN
        case Refusal.REPEATED:
            return OutcomeKind.REJECTED
        case _:
            return OutcomeKind.REFUSED
