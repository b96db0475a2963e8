"""A stranger, which is no member of the job, that offers corrupted weights to a living peer.

It learns the fingerprint of the net from the peer's refusal of its first offer.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.transport import Transport
from gossip_caffe.sim.faults.poisoning import Poison, poisoned

NAME = "stranger"
EVERY_S = 0.4
DEADLINE_S = 10.0
POISONS = (
    Poison.HUGE,
    Poison.FLIP,
    Poison.ZEROS,
    Poison.NOISE,
    Poison.BIT,
    Poison.NAN,
    Poison.SCALED,
    Poison.STALE,
)


class Stranger:
    """Offers corrupted weights. ``answers`` counts the answers by their refusal; "": no answer."""

    def __init__(self, transport: Transport, job: str, rng: random.Random) -> None:
        self.answers: Counter[str] = Counter()
        self._transport = transport
        self._job = job
        self._rng = rng
        self._oldest: NDArray[np.float32] | None = None

    async def offer(self, address: str, poison: Poison) -> Refusal | None:
        """Offer a peer its own weights, corrupted. Returns its refusal (NONE: it applied them); None: no answer."""
        try:
            refusal = await self._offered(address, poison)
        except ExchangeFailed:
            self.answers[""] += 1
            return None
        self.answers[refusal.name] += 1
        return refusal

    async def offer_for(self, address: str, for_s: float, ways: tuple[Poison, ...] = POISONS) -> None:
        """Offer for ``for_s`` seconds, in each of the ``ways`` by turns."""
        loop = asyncio.get_running_loop()
        until, turn = loop.time() + for_s, 0
        while loop.time() < until:
            await self.offer(address, ways[turn % len(ways)])
            turn += 1
            await asyncio.sleep(EVERY_S)

    async def _offered(self, address: str, poison: Poison) -> Refusal:
        nothing = Message(self._new_id(), NAME, self._job, "?", codec="float32")
        told = await self._transport.exchange(address, nothing, DEADLINE_S)
        request = replace(nothing, exchange_id="", fingerprint=told.fingerprint)
        weights = await self._weights(address, request)
        if self._oldest is None or self._oldest.size != weights.size:
            self._oldest = weights
        spoilt = poisoned(poison, weights, self._rng, self._oldest)
        offer = replace(
            request, exchange_id=self._new_id(), values=weights.size, payload=spoilt.astype("<f4").tobytes()
        )
        return (await self._transport.exchange(address, offer, DEADLINE_S)).refusal

    async def _weights(self, address: str, request: Message) -> NDArray[np.float32]:
        shown = await self._transport.snapshot(address, request, DEADLINE_S)
        try:
            if shown.header.refusal is not Refusal.NONE:
                raise ExchangeFailed(f"{address} shows nothing: {shown.header.reason}")
            return np.frombuffer(bytes(await shown.read(shown.payload_bytes)), dtype="<f4").copy()
        finally:
            shown.close()

    def _new_id(self) -> str:
        return f"{NAME}-{self._rng.getrandbits(48):012x}"
