"""The chunks of one peer: claimed a little ahead of the solver, settled when their learning has left the peer.

Every chunk goes one way here: claimed → trained → shared → settled. The store may be away at any of these steps; then
the step waits here, and the solver goes on with the claimed chunks, and after them with unclaimed ones. An unclaimed
chunk is planned for this peer, and trained before it is claimed; the claim is made up for when the store answers. Peers
whose views agreed when the store went away have plans that do not overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from gossip_caffe.clock import Clock
from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.peer.work.claim_states import ClaimEvent
from gossip_caffe.shards.choice import Chooser, Claim, NeedListing, Wait
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import CHUNKS_PER_TRANSACTION, Claimed, Ledger, Settlement

T = TypeVar("T")

UNCLAIMED = 0
"""Stands for the revision of a chunk that is trained and not claimed yet."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one attempt to claim, and its reason.

    ``event``: CHUNKS_CLAIMED, NONE_CLAIMED or NONE_FREE; ``rest_s``: with NONE_FREE the pause until the next attempt.
    """

    event: ClaimEvent
    reason: str
    rest_s: float = 0.0


class Claims:
    """The chunks of one peer, by the ledger that holds them.

    ``owned``: chunk → the revision of its claim, or UNCLAIMED. ``feed`` queues a chunk's records for training,
    ``withdraw`` takes chunks out of the queue of which no record is in a batch. ``renew_ownership`` replaces ``ledger``
    and ``lease`` when the peer has registered again after a lost lease.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        lease: int,
        epochs: Epochs,
        chooser: Chooser,
        feed: Callable[[ChunkId, int, int], None],
        withdraw: Callable[[Set[ChunkId]], object],
        clock: Clock,
        log: EventLog,
    ) -> None:
        self.owned: dict[ChunkId, int] = {}
        self.done_chunks = 0
        self.done_samples = 0
        self.chooser = chooser
        self._ledger = ledger
        self._lease = lease
        self._epochs = epochs
        self._feed = feed
        self._withdraw = withdraw
        self._clock = clock
        self._log = log
        self._shared: dict[ChunkId, str] = {}
        self._unknown: set[ChunkId] = set()
        self._asked: frozenset[ChunkId] = frozenset()
        self._had: set[ChunkId] = set()
        """Every chunk of an open epoch that was fed here, also those that are lost or settled."""
        # One request at a time: the chunks that a claim, a settlement or a new lease finds in ``owned`` stay there
        # until that request is done.
        self._one_at_a_time = asyncio.Lock()

    @property
    def unsettled_shared(self) -> int:
        """The number of chunks that are shared and not settled yet."""
        return len(self._shared)

    async def claim(self, want: int) -> Attempt:
        """Try to own up to ``want`` more chunks, and feed them.

        Raises StoreError when the store is away, LeaseLost when this peer owns nothing any more.
        """
        async with self._one_at_a_time:
            await self._claim_unclaimed()
            choice = self.chooser.choose(self._ledger.folded, want, self._clock.monotonic())
            match choice:
                case Wait():
                    rest_s = max(0.05, choice.again_at - self._clock.monotonic())
                    return Attempt(ClaimEvent.NONE_FREE, choice.reason, rest_s)
                case NeedListing():
                    states = await self._ledger.states()
                    self.chooser.listed(states, self._clock.monotonic())
                    return Attempt(ClaimEvent.NONE_CLAIMED, choice.reason)
                case Claim():
                    claimed = await self._claim_chosen(choice.chunks)
                    event = ClaimEvent.CHUNKS_CLAIMED if claimed else ClaimEvent.NONE_CLAIMED
                    return Attempt(event, choice.reason)

    async def _claim_chosen(self, chosen: Sequence[ChunkId]) -> int:
        """Try to own these chunks; returns how many were claimed."""
        claimed = 0
        self._asked = frozenset(chosen)  # none of them is trained unclaimed meanwhile
        try:
            # One transaction at a time: the chunks of the first are ours even if the store is away for the next.
            for chunks in _lots(chosen):
                result = await self._ledger.claim(chunks, self._lease)
                self._take(chunks, result)
                claimed += len(result.owned)
        finally:
            self._asked = frozenset()
        return claimed

    def _take(self, tried: Sequence[ChunkId], result: Claimed) -> None:
        self.chooser.tried(tried)
        self._note_owned(result.owned)
        self._had.update(result.owned)
        for chunk, revision in result.owned.items():
            self.owned[chunk] = revision
            self._feed(chunk, *self._epochs.extent(chunk))

    def train_unclaimed(self, want: int) -> int:
        """While the store is away: feed up to ``want`` planned chunks unclaimed; returns how many. Waits for nothing.

        No chunk is fed that was fed here before: a new plan contains such chunks until it is compared with the ledger.
        """
        self._had = {chunk for chunk in self._had if chunk.epoch >= self._ledger.folded}
        chunks = self.chooser.planned(self._ledger.folded, want, self._asked | self._had)
        self.chooser.tried(chunks)
        self._had.update(chunks)
        self._note(Event.BORROWED, chunks)
        for chunk in chunks:
            self.owned[chunk] = UNCLAIMED
            self._feed(chunk, *self._epochs.extent(chunk))
        return len(chunks)

    async def _claim_unclaimed(self) -> None:
        """Claim the unclaimed chunks now. A chunk that another peer has claimed or settled counts as trained twice."""
        for chunks in _lots([chunk for chunk, revision in self.owned.items() if revision == UNCLAIMED]):
            result = await self._ledger.claim(chunks, self._lease)
            self.owned.update(result.owned)
            self._note_owned(result.owned)
            denied = set(chunks) - result.owned.keys()
            self._withdraw(denied)
            for chunk in denied:
                del self.owned[chunk]
                self._shared.pop(chunk, None)

    def _note(
        self,
        event: Event,
        chunks: Iterable[ChunkId],
        revisions: Mapping[ChunkId, int] | None = None,
        **fields: object,
    ) -> None:
        """Log one event for each epoch of ``chunks``; ``revisions``: those of their claims."""
        by_epoch: dict[int, list[int]] = {}
        for chunk in chunks:
            by_epoch.setdefault(chunk.epoch, []).append(chunk.chunk)
        for epoch, numbers in sorted(by_epoch.items()):
            if revisions is not None:
                fields["revisions"] = [revisions[ChunkId(epoch, number)] for number in numbers]
            self._log.emit(event, epoch=epoch, chunks=numbers, **fields)

    def _note_owned(self, owned: Mapping[ChunkId, int], lease: int | None = None) -> None:
        self._note(Event.CLAIMED, owned, revisions=owned, lease=self._lease if lease is None else lease)

    def shared(self, chunks: Iterable[ChunkId], via: str) -> None:
        """Take in that the learning of these chunks has left the peer, by the exchange or checkpoint ``via``."""
        self._shared.update(dict.fromkeys((chunk for chunk in chunks if chunk in self.owned), via))

    async def settle(self) -> None:
        """Settle the shared chunks in the store. A chunk whose settlement is not written stays for the next call.

        Raises StoreError or LeaseLost.
        """
        async with self._one_at_a_time:
            await self._settle()

    async def _settle(self) -> None:
        await self._claim_unclaimed()
        pending = [Settlement(chunk, self.owned[chunk], via) for chunk, via in self._shared.items()]
        pending = [entry for entry in pending if entry.revision != UNCLAIMED]
        for settlements in _lots(pending):
            try:
                done, lost = await self._ledger.settle(settlements)
            except BaseException as error:
                # Only a refusal shows that the store has not written it and never will; any other error does not.
                if not isinstance(error, StoreError) or isinstance(error, LeaseLost):
                    self._note_unknown(settlements)
                raise
            for chunk in (*done, *lost):
                self._shared.pop(chunk, None)
                self.owned.pop(chunk, None)
            self._note_settled(Event.DONE, [entry for entry in settlements if entry.chunk in done])
            self.done_chunks += len(done)
            self.done_samples += sum(stop - start for start, stop in map(self._epochs.extent, done))

    def _note_unknown(self, settlements: Sequence[Settlement]) -> None:
        """Log the settlements whose reply did not come: the store may have written them or not."""
        new = [entry for entry in settlements if entry.chunk not in self._unknown]
        self._unknown.update(entry.chunk for entry in new)
        self._note_settled(Event.UNKNOWN, new)

    def _note_settled(self, event: Event, settlements: Sequence[Settlement]) -> None:
        for via in dict.fromkeys(entry.via for entry in settlements):
            revisions = {entry.chunk: entry.revision for entry in settlements if entry.via == via}
            self._note(event, revisions, revisions, via=via)

    async def release(self, chunks: Iterable[ChunkId]) -> None:
        """Hand back chunks of which no record was trained. Raises StoreError or LeaseLost."""
        async with self._one_at_a_time:
            handed = {chunk: self.owned[chunk] for chunk in chunks if chunk in self.owned}
            await self._ledger.release({chunk: at for chunk, at in handed.items() if at != UNCLAIMED})
            self._note(Event.RELEASED, handed)
            for chunk in handed:
                del self.owned[chunk]
                self._shared.pop(chunk, None)  # another peer settles it

    async def renew_ownership(self, ledger: Ledger, lease: int) -> int:
        """After a lost lease: claim the own chunks again; returns how many were lost to other peers.

        Another peer trains a lost chunk; the records of it that this peer has trained count as trained twice. Raises
        StoreError or LeaseLost.
        """
        async with self._one_at_a_time:
            await ledger.refresh()
            asked = list(self.owned)
            result = await ledger.claim(asked, lease)
            self._note_owned(result.owned, lease)
            self._withdraw(set(asked) - result.owned.keys())
            meanwhile = dict.fromkeys(self.owned.keys() - set(asked), UNCLAIMED)
            before, self.owned = len(asked), {**result.owned, **meanwhile}
            self._ledger, self._lease = ledger, lease
            self._shared = {chunk: via for chunk, via in self._shared.items() if chunk in self.owned}
            self._unknown.clear()
            self.chooser.members_changed(self._clock.monotonic())
            return before - len(result.owned)


def _lots(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into lots that one transaction takes."""
    for first in range(0, len(items), CHUNKS_PER_TRANSACTION):
        yield items[first : first + CHUNKS_PER_TRANSACTION]
