"""The exchange: pairwise, symmetric, whole or not at all, and never waited for by a step (docs/protocol.md).

This is the protocol without a network: it offers through a ``Transport`` (offering.py) and answers as an ``Answerer``
(answering.py). The weights are asked and changed in the event loop's thread only; arithmetic on a large model goes
through ``offload`` or the transport's threads, on vectors that belong to one exchange. So whatever may have changed
during an ``await`` is looked at again before a half is added.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.answering import MOST_IN_FLIGHT, Answering
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.gossip.offering import Offering
from gossip_caffe.gossip.one_sided import OneSided
from gossip_caffe.gossip.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.party import Party
from gossip_caffe.gossip.seams import Offload, Watcher, Weights
from gossip_caffe.gossip.transport import Carry, Transport

__all__ = ["MOST_IN_FLIGHT", "Exchanger", "Outcome", "OutcomeKind", "Weights"]


class Exchanger:
    """One peer's side of all its exchanges. What each figure means: Party, Offering, Answering."""

    def __init__(
        self,
        *,
        peer: str,
        job: str,
        fingerprint: str,
        codec: str,
        weights: Weights,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        offload: Offload | None = None,
        blobs: Sequence[int] = (),
    ) -> None:
        self._party = Party(
            peer=peer,
            job=job,
            fingerprint=fingerprint,
            weights=weights,
            clock=clock,
            rng=rng,
            offload=offload,
            blobs=blobs,
        )
        self._offering = Offering(self._party, transport, codec)
        self._answering = Answering(self._party)

    @property
    def accepting(self) -> Refusal | None:
        """None while offers are answered, else the refusal that they get."""
        return self._party.accepting

    @accepting.setter
    def accepting(self, refusal: Refusal | None) -> None:
        self._party.accepting = refusal

    @property
    def mean_distance(self) -> float | None:
        """The running consensus distance; None before the first exchange."""
        return self._party.mean_distance

    @property
    def outcomes(self) -> Counter[OutcomeKind]:
        """Offered exchanges by kind."""
        return self._offering.outcomes

    @property
    def unanswered(self) -> int:
        """Own offers after which perhaps only the partner changed its weights."""
        return self._offering.unanswered

    @property
    def answers(self) -> Counter[Refusal]:
        """Answered exchanges by refusal."""
        return self._answering.answers

    @property
    def one_sided(self) -> OneSided:
        """Halves that only this peer applied."""
        return self._answering.one_sided

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` from now on what was answered."""
        self._answering.watcher = watcher

    def deadline_s(self, partner: str) -> float:
        """How long the next offer to a partner will wait for its answer."""
        return self._offering.deadline_s(partner)

    def new_id(self) -> str:
        """An id for the next own offer."""
        return self._offering.new_id()

    async def offer_to(self, partner: str, address: str, exchange_id: str = "") -> Outcome:
        """Exchange with a partner; see ``Offering``."""
        return await self._offering.offer_to(partner, address, exchange_id)

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer an offer of which only the header has come."""
        return await self._answering.receive(header, payload_bytes, read)

    async def answer(self, offer: Message) -> Message:
        """Answer a whole offer."""
        return await self._answering.answer(offer)

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer an offer by header alone."""
        return await self._answering.receive_swap(header, carry)

    async def show(self, request: Message) -> Message:
        """Our newest snapshot."""
        return await self._answering.show(request)
