"""What one peer owns: claimed a little ahead of the solver, settled when its learning has left the peer.

Every chunk that this peer claims goes one way: owned → fed → trained → shared → settled. The store may be away at any
of these steps; then the step waits here, and the solver goes on with what it has, and after that with chunks on
credit: planned for this peer, not claimed yet. Peers whose views agreed when the store went away have plans that do
not overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeVar

from gossip_caffe.clock import Clock
from gossip_caffe.errors import LeaseLost
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.shards.choice import Chooser, Claim, List, Nothing
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import CHUNKS_PER_TRANSACTION, Claimed, Ledger, Settlement

T = TypeVar("T")

ON_CREDIT = 0
"""In place of the revision of a chunk that is trained and not claimed yet."""


class Claims:
    """The chunks of one peer and the ledger that they stand in.

    ``feed`` queues a chunk's records for training, ``withdraw`` takes those chunks out again of which none was begun.
    ``ledger`` and ``lease`` are replaced by ``renew_ownership`` when the peer registers again after a lost lease.
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
        """Every chunk of an open epoch that was fed here, whatever became of it."""
        # One thing at a time: what a claim, a settlement or a new lease finds in ``owned`` stands until it is done.
        self._one_at_a_time = asyncio.Lock()

    @property
    def unsettled_shared(self) -> int:
        """Chunks that others have learned and the store does not know of yet."""
        return len(self._shared)

    async def claim(self, want: int) -> float:
        """Try to own up to ``want`` more chunks and feed them; returns the seconds to wait before the next try.

        Raises StoreError when the store is away, LeaseLost when this peer owns nothing any more.
        """
        async with self._one_at_a_time:
            await self._claim_what_is_on_credit()
            choice = self.chooser.choose(self._ledger.folded, want, self._clock.monotonic())
            match choice:
                case Nothing():
                    return max(0.05, choice.again_at - self._clock.monotonic())
                case List():
                    states = await self._ledger.states()
                    self.chooser.listed(states, self._clock.monotonic())
                    return 0.0
                case Claim():
                    self._asked = frozenset(choice.chunks)  # none of them is borrowed meanwhile
                    try:
                        # One transaction at a time: what it brought is ours even if the store is away for the next.
                        for chunks in _lots(choice.chunks):
                            self._take(chunks, await self._ledger.claim(chunks, self._lease))
                    finally:
                        self._asked = frozenset()
                    return 0.0

    def _take(self, tried: Sequence[ChunkId], result: Claimed) -> None:
        self.chooser.tried(tried)
        self._note_owned(result.owned)
        self._had.update(result.owned)
        for chunk, revision in result.owned.items():
            self.owned[chunk] = revision
            self._feed(chunk, *self._epochs.extent(chunk))

    def borrow(self, want: int) -> int:
        """The store is away: feed up to ``want`` planned chunks on credit; returns how many. Waits for nothing.

        Nothing that was fed here before: a new plan knows nothing of that until it can be compared with the ledger.
        """
        self._had = {chunk for chunk in self._had if chunk.epoch >= self._ledger.folded}
        chunks = self.chooser.planned(self._ledger.folded, want, self._asked | self._had)
        self.chooser.tried(chunks)
        self._had.update(chunks)
        self._note(Event.BORROWED, chunks)
        for chunk in chunks:
            self.owned[chunk] = ON_CREDIT
            self._feed(chunk, *self._epochs.extent(chunk))
        return len(chunks)

    async def _claim_what_is_on_credit(self) -> None:
        """Own it now; what somebody else has or has done is theirs, and counts as trained twice."""
        for chunks in _lots([chunk for chunk, revision in self.owned.items() if revision == ON_CREDIT]):
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
        """One event for each epoch that the chunks are of; ``revisions``: since when each is owned."""
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
        """The learning of these chunks has left the peer, by exchange or checkpoint ``via``: settle them next."""
        self._shared.update(dict.fromkeys((chunk for chunk in chunks if chunk in self.owned), via))

    async def settle(self) -> None:
        """Mark in the store what is shared. Whatever fails to be written stays for the next call."""
        async with self._one_at_a_time:
            await self._settle()

    async def _settle(self) -> None:
        await self._claim_what_is_on_credit()
        pending = [Settlement(chunk, self.owned[chunk], via) for chunk, via in self._shared.items()]
        pending = [entry for entry in pending if entry.revision != ON_CREDIT]
        for settlements in _lots(pending):
            try:
                done, lost = await self._ledger.settle(settlements)
            except (LeaseLost, asyncio.CancelledError):
                self._note_unknown(settlements)
                raise
            for chunk in (*done, *lost):
                self._shared.pop(chunk, None)
                self.owned.pop(chunk, None)
            self._note_settled(Event.DONE, [entry for entry in settlements if entry.chunk in done])
            self.done_chunks += len(done)
            self.done_samples += sum(stop - start for start, stop in map(self._epochs.extent, done))

    def _note_unknown(self, settlements: Sequence[Settlement]) -> None:
        """The store's reply was not awaited to its end: what it did with these settlements is not known here."""
        new = [entry for entry in settlements if entry.chunk not in self._unknown]
        self._unknown.update(entry.chunk for entry in new)
        self._note_settled(Event.UNKNOWN, new)

    def _note_settled(self, event: Event, settlements: Sequence[Settlement]) -> None:
        for via in dict.fromkeys(entry.via for entry in settlements):
            revisions = {entry.chunk: entry.revision for entry in settlements if entry.via == via}
            self._note(event, revisions, revisions, via=via)

    async def release(self, chunks: Iterable[ChunkId]) -> None:
        """Hand back chunks of which nothing was trained."""
        async with self._one_at_a_time:
            handed = {chunk: self.owned[chunk] for chunk in chunks if chunk in self.owned}
            await self._ledger.release({chunk: at for chunk, at in handed.items() if at != ON_CREDIT})
            self._note(Event.RELEASED, handed)
            for chunk in handed:
                del self.owned[chunk]

    async def renew_ownership(self, ledger: Ledger, lease: int) -> int:
        """After a lost lease: own again what nobody has taken meanwhile; returns how many chunks were lost.

        What was lost is being trained by somebody else; what this peer trained of it counts as trained twice.
        """
        async with self._one_at_a_time:
            await ledger.refresh()
            asked = list(self.owned)
            result = await ledger.claim(asked, lease)
            self._note_owned(result.owned, lease)
            self._withdraw(set(asked) - result.owned.keys())
            meanwhile = dict.fromkeys(self.owned.keys() - set(asked), ON_CREDIT)
            before, self.owned = len(asked), {**result.owned, **meanwhile}
            self._ledger, self._lease = ledger, lease
            self._shared = {chunk: via for chunk, via in self._shared.items() if chunk in self.owned}
            self._unknown.clear()
            self.chooser.members_changed(self._clock.monotonic())
            return before - len(result.owned)


def _lots(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into what one transaction takes."""
    for first in range(0, len(items), CHUNKS_PER_TRANSACTION):
        yield items[first : first + CHUNKS_PER_TRANSACTION]
