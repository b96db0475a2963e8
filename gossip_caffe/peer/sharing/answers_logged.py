"""The log of exchanges: this peer's answers to offers, and the fate of each half."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.gossip.averaging.bound import UNMEASURED, Reach
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.observe.log.events import Event, EventLog, rounded
from gossip_caffe.peer.core.complaints import Complaints

SUM_DIGITS = 10
"""The digits of a half's sum. For n weights it may be √n times as long as the half, and two sums are compared to
``APART`` of that length (``checker/exchanges``): with 10 digits this holds for any net that fits a machine."""


class AnswersLogged:
    """Logs this peer's answers to offers, so that a history can pair both sides of an exchange by its id.

    ``complaints`` names a partner whose offer would move this peer too far. ``half_added`` is called with the partner
    and the exchange id of each half that is applied.
    """

    def __init__(
        self, log: EventLog, complaints: Complaints, peer: str, half_added: Callable[[str, str], None]
    ) -> None:
        self._half_added = half_added
        self._log = log
        self._complaints = complaints
        self._peer = peer
        self._too_far: tuple[str, Reach] = "", UNMEASURED

    def applied(self, half: AppliedHalf) -> None:
        """Log that this peer has applied its half of an offered exchange."""
        self._log.emit(
            Event.EXCHANGED,
            exchange=half.exchange_id,
            partner=half.partner,
            side="answered",
            outcome=OutcomeKind.APPLIED.value,
            distance=rounded(half.distance),
            half_sum=rounded(half.total, SUM_DIGITS),
            half_norm=rounded(half.norm),
            ratio=rounded(half.reach.ratio),
            limit=rounded(half.reach.limit),
            **carrier_of(half.by),
            **share_of(half.share),
        )
        self._half_added(half.partner, half.exchange_id)

    def too_far(self, offer: Message, reach: Reach) -> None:
        """Note that an offer is too far away; the log of its refusal, which follows, says by how much."""
        self._too_far = offer.exchange_id, reach
        peer = self._peer
        line = f"{peer}: an offer of NAME was refused: it would move {peer} by {reach.words}"
        self._complaints.about(offer.peer, line)

    def alone(self, half: AppliedHalf) -> None:
        """Log that this peer has applied its half, and the partner has not."""
        self._log.emit(
            Event.HALF_APPLIED,
            exchange=half.exchange_id,
            partner=half.partner,
            half_sum=rounded(half.total, SUM_DIGITS),
            half_norm=rounded(half.norm),
        )

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        """Log that this peer has refused an offer: neither side applies anything."""
        told, reach = self._too_far
        self._log.emit(
            Event.EXCHANGED,
            exchange=offer.exchange_id,
            partner=offer.peer,
            side="answered",
            outcome=OutcomeKind.REFUSED.value,
            refusal=refusal.name,
            reason=reason,
            **(_reached(reach) if told == offer.exchange_id else {}),
        )


def carrier_of(by: str) -> dict[str, object]:
    """The field that names the carrier of the weights; none for the default one."""
    return {"by": by} if by else {}


def share_of(share: float) -> dict[str, object]:
    """The field that says how much of a half was added; none if all was."""
    return {"share": rounded(share)} if share < 1.0 else {}


def half_of(outcome: Outcome) -> dict[str, object]:
    """The fields that the log holds of this peer's half.

    For an applied half: its sum and norm, its length beside the limit, and the number of batches that are shared now.
    For any other: the refusal, and the length beside the limit if the half was too long.
    """
    reach = _reached(outcome.reach)
    if outcome.kind is OutcomeKind.APPLIED:
        return {
            "half_sum": rounded(outcome.half_sum, SUM_DIGITS),
            "half_norm": rounded(outcome.half_norm),
            "batches": outcome.snapshot.batches,
            **carrier_of(outcome.by),
            **share_of(outcome.share),
            **reach,
        }
    said: dict[str, object] = {}
    if outcome.refusal is not Refusal.NONE:
        said["refusal"] = outcome.refusal.name
    return said | reach if outcome.reach.too_far else said


def _reached(reach: Reach) -> dict[str, object]:
    """The length of a half beside its limit."""
    return {"ratio": rounded(reach.ratio), "limit": rounded(reach.limit)}
