"""The exchange: pairwise, symmetric, whole or not at all, and never waited for by a step (docs/protocol.md).

This is the protocol without a network: it offers through a ``Transport`` and answers as an ``Answerer``. Weights are
touched only between two awaits, in the event loop's thread; what is awaited in between works on copies.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.average import all_finite, distance, half
from gossip_caffe.gossip.codec import CODECS, fitting
from gossip_caffe.gossip.message import Message, Refusal, Transport
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]

CACHED_ANSWERS = 64
CACHED_BYTES = 64 << 20
DISTANCE_MEMORY = 0.9
"""Weight of the past in the running mean of the consensus distance."""


class Weights(Protocol):
    """The peer's weights, as the exchange needs them; the board is one."""

    @property
    def size(self) -> int:
        """How many float32 values."""
        ...

    def snapshot(self, out: Flat) -> SnapshotInfo:
        """The newest snapshot with everything that still waits to be added."""
        ...

    def add_correction(self, delta: Flat) -> None:
        """Let the solver add ``delta`` between two steps."""
        ...


class OutcomeKind(StrEnum):
    """How an exchange that this peer offered ended."""

    APPLIED = "applied"  # both sides have their halves: what the snapshot holds has left this peer
    REFUSED = "refused"  # neither side changed anything
    WITHDRAWN = "withdrawn"  # the partner's own offer stands instead (CROSSING)
    FAILED = "failed"  # no whole answer: nothing applied here; the partner may have applied its half
    REJECTED = "rejected"  # an answer came that must not be applied; the partner has applied its half


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an offered exchange. ``snapshot`` is what was offered."""

    kind: OutcomeKind
    exchange_id: str
    partner: str
    snapshot: SnapshotInfo
    distance: float = 0.0
    refusal: Refusal = Refusal.NONE
    reason: str = ""


@dataclass(slots=True)
class _Own:
    """The offer that this peer has in flight."""

    exchange_id: str
    partner: str


class Exchanger:
    """One peer's side of all its exchanges.

    ``accepting`` is None while offers are answered, else the refusal that they get. ``mean_distance`` is the running
    consensus distance, None before the first exchange; ``outcomes`` counts offered exchanges by kind, ``answers``
    answered ones by refusal.
    """

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
    ) -> None:
        self.accepting: Refusal | None = Refusal.NOT_TRAINING
        self.mean_distance: float | None = None
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.answers: Counter[Refusal] = Counter()
        self._peer = peer
        self._job = job
        self._fingerprint = fingerprint
        self._codec = codec
        self._weights = weights
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._own: _Own | None = None
        self._cache: OrderedDict[str, Message] = OrderedDict()
        self._cache_bytes = 0
        self._round_trip_s = 0.0

    @property
    def largest_payload_bytes(self) -> int:
        """The longest payload that an offer to us can have."""
        return max(codec.payload_bytes(self._weights.size) for codec in CODECS.values())

    @property
    def deadline_s(self) -> float:
        """How long to wait for an answer: four times what exchanges took lately, at least 2 s, at most 60 s."""
        return min(60.0, max(2.0, 4 * self._round_trip_s)) if self._round_trip_s else 10.0

    # ── offering ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def offer_to(self, partner: str, address: str) -> Outcome:
        """Exchange with a partner; changes this peer's weights only when the kind is APPLIED.

        The caller sees to it that there is one at a time.
        """
        size = self._weights.size
        mine = np.empty(size, dtype=np.float32)
        snapshot = self._weights.snapshot(mine)
        exchange_id = f"{self._peer}-{self._rng.getrandbits(48):012x}"
        if not all_finite(mine):
            return self._end(
                OutcomeKind.REFUSED, exchange_id, partner, snapshot, Refusal.NON_FINITE, "own weights"
            )
        offer = self._message(exchange_id, mine, snapshot)
        self._own = _Own(exchange_id, partner)
        started = self._clock.monotonic()
        try:
            answer = await self._transport.exchange(address, offer, self.deadline_s)
        except ExchangeFailed as error:
            return self._end(OutcomeKind.FAILED, exchange_id, partner, snapshot, Refusal.NONE, error.message)
        finally:
            self._own = None
        if answer.refusal is Refusal.CROSSING:
            return self._end(
                OutcomeKind.WITHDRAWN, exchange_id, partner, snapshot, Refusal.CROSSING, answer.reason
            )
        if answer.refusal is not Refusal.NONE:
            return self._end(
                OutcomeKind.REFUSED, exchange_id, partner, snapshot, answer.refusal, answer.reason
            )
        theirs = np.empty(size, dtype=np.float32)
        if (problem := self._problem(answer, theirs)) is not None:
            return self._end(OutcomeKind.REJECTED, exchange_id, partner, snapshot, *problem)
        self._note_round_trip(self._clock.monotonic() - started)
        apart = self._apply(offer, theirs, mine)
        return self._end(OutcomeKind.APPLIED, exchange_id, partner, snapshot, apart=apart)

    def _end(
        self,
        kind: OutcomeKind,
        exchange_id: str,
        partner: str,
        snapshot: SnapshotInfo,
        refusal: Refusal = Refusal.NONE,
        reason: str = "",
        *,
        apart: float = 0.0,
    ) -> Outcome:
        self.outcomes[kind] += 1
        return Outcome(kind, exchange_id, partner, snapshot, apart, refusal, reason)

    def _note_round_trip(self, seconds: float) -> None:
        self._round_trip_s = seconds if not self._round_trip_s else 0.8 * self._round_trip_s + 0.2 * seconds

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, offer: Message) -> Message:
        """Apply our half of an offer and return our snapshot; or refuse, and change nothing."""
        if (cached := self._cache.get(offer.exchange_id)) is not None:
            return cached
        refused = self._refusal_of(offer)
        theirs = np.empty(self._weights.size, dtype=np.float32)
        refused = refused or self._problem(offer, theirs)
        mine = np.empty(self._weights.size, dtype=np.float32)
        if refused is None:
            snapshot = self._weights.snapshot(mine)
            if not all_finite(mine):
                refused = (Refusal.NON_FINITE, "the partner's weights hold NaN or Inf")
        if refused is not None:
            self.answers[refused[0]] += 1
            return self._refuse(offer.exchange_id, *refused)
        answer = self._message(offer.exchange_id, mine, snapshot)
        self._apply(answer, theirs, mine)
        self.answers[Refusal.NONE] += 1
        self._remember(answer)
        return answer

    def _refusal_of(self, offer: Message) -> tuple[Refusal, str] | None:
        """Why an offer is not even looked into."""
        if self.accepting is not None:
            return self.accepting, "this peer does not exchange now"
        if offer.job != self._job or offer.fingerprint != self._fingerprint:
            return (
                Refusal.LAYOUT_MISMATCH,
                f"this peer trains job {self._job} with layout {self._fingerprint[:12]}",
            )
        # Of two offers that cross, the one of the lower id stands; it is our own exactly when our id is lower. When
        # ours is the higher one, the partner refuses it; should it have answered before it offered, its answer is
        # applied: the two exchanges then follow each other, and each conserves the sum.
        if self._own is not None and self._own.partner == offer.peer and self._peer < offer.peer:
            return Refusal.CROSSING, f"the offer of {self._peer} stands"
        return None

    async def show(self, request: Message) -> Message:
        """Our newest snapshot, for a consensus."""
        if request.job != self._job or request.fingerprint != self._fingerprint:
            return self._refuse(request.exchange_id, Refusal.LAYOUT_MISMATCH, "another job or another net")
        if self.accepting is not None:
            return self._refuse(request.exchange_id, self.accepting, "this peer does not exchange now")
        mine = np.empty(self._weights.size, dtype=np.float32)
        snapshot = self._weights.snapshot(mine)
        if not all_finite(mine):
            return self._refuse(request.exchange_id, Refusal.NON_FINITE, "the weights hold NaN or Inf")
        return self._message(request.exchange_id, mine, snapshot, codec="float32")

    def refuse_corrupt(self, exchange_id: str, reason: str) -> Message:
        """The refusal of an offer that did not arrive whole."""
        self.answers[Refusal.CORRUPT_FRAME] += 1
        return self._refuse(exchange_id, Refusal.CORRUPT_FRAME, reason)

    # ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _message(self, exchange_id: str, mine: Flat, snapshot: SnapshotInfo, codec: str = "") -> Message:
        encoder = fitting(codec or self._codec, mine)
        return Message(
            exchange_id=exchange_id,
            peer=self._peer,
            job=self._job,
            fingerprint=self._fingerprint,
            version=snapshot.version,
            codec=encoder.name,
            values=mine.size,
            payload=encoder.encode(mine),
        )

    def _refuse(self, exchange_id: str, refusal: Refusal, reason: str) -> Message:
        return Message(exchange_id, self._peer, self._job, self._fingerprint, refusal=refusal, reason=reason)

    def _problem(self, message: Message, out: Flat) -> tuple[Refusal, str] | None:
        """Decode a message into ``out``; why it must not be applied, or None."""
        codec = CODECS.get(message.codec)
        if message.fingerprint != self._fingerprint or message.values != out.size:
            return Refusal.LAYOUT_MISMATCH, f"{message.values} values of layout {message.fingerprint[:12]}"
        if codec is None:
            return Refusal.UNKNOWN_CODEC, f"no codec {message.codec!r} here"
        if len(message.payload) != codec.payload_bytes(out.size):
            return (
                Refusal.CORRUPT_FRAME,
                f"{len(message.payload)} bytes for {out.size} values of {codec.name}",
            )
        codec.decode(message.payload, out)
        if not all_finite(out):
            return Refusal.NON_FINITE, f"the weights of {message.peer} hold NaN or Inf"
        return None

    def _apply(self, sent: Message, theirs: Flat, mine: Flat) -> float:
        """Our half, from what was sent and what came, as a correction; returns how far apart they were."""
        CODECS[sent.codec].decode(sent.payload, mine)
        apart = distance(mine, theirs)
        half(mine, theirs, mine)
        self._weights.add_correction(mine)
        before = self.mean_distance
        self.mean_distance = (
            apart if before is None else DISTANCE_MEMORY * before + (1 - DISTANCE_MEMORY) * apart
        )
        return apart

    def _remember(self, answer: Message) -> None:
        """Keep an answer for a repeated offer, within bounds."""
        self._cache[answer.exchange_id] = answer
        self._cache_bytes += len(answer.payload)
        while len(self._cache) > CACHED_ANSWERS or (
            self._cache_bytes > CACHED_BYTES and len(self._cache) > 1
        ):
            _, old = self._cache.popitem(last=False)
            self._cache_bytes -= len(old.payload)
