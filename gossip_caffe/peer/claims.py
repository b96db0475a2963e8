"""What one peer owns: claimed a little ahead of the solver, settled when its learning has left the peer.

Every chunk that this peer claims goes one way: owned → fed → trained → shared → settled. The store may be away at any
of these steps; then the step waits here and the solver goes on with what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.shards.choice import Chooser, Claim, List, Nothing
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import Ledger


class Claims:
    """The chunks of one peer and the ledger that they stand in.

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
        self._clock = clock
        self._log = log
        self._shared: dict[ChunkId, str] = {}

    @property
    def unsettled_shared(self) -> int:
        """Chunks that others have learned and the store does not know of yet."""
        return len(self._shared)

    async def claim(self, want: int) -> float:
        """Try to own up to ``want`` more chunks and feed them; returns the seconds to wait before the next try.

        Raises StoreError when the store is away, LeaseLost when this peer owns nothing any more.
        """
        choice = self.chooser.choose(self._ledger.folded, want, self._clock.monotonic())
        match choice:
            case Nothing():
                return max(0.05, choice.again_at - self._clock.monotonic())
            case List():
                state = await self._ledger.state(choice.epoch)
                self.chooser.listed(choice.epoch, state.owned, state.done, self._clock.monotonic())
                return 0.0
            case Claim():
                result = await self._ledger.claim(choice.epoch, choice.chunks, self._lease)
                self.chooser.tried(choice.epoch, choice.chunks, self._clock.monotonic())
                self._take(choice.epoch, result.owned)
                return 0.0

    def _take(self, epoch: int, owned: Mapping[int, int]) -> None:
        if not owned:
            return
        self._log.emit(Event.CLAIMED, epoch=epoch, chunks=list(owned))
        for chunk, revision in owned.items():
            identity = ChunkId(epoch, chunk)
            self.owned[identity] = revision
            self._feed(identity, *self._epochs.extent(identity))

    def shared(self, chunks: Iterable[ChunkId], via: str) -> None:
        """The learning of these chunks has left the peer, by exchange or checkpoint ``via``: settle them next."""
        self._shared.update(dict.fromkeys((chunk for chunk in chunks if chunk in self.owned), via))

    async def settle(self) -> None:
        """Mark in the store what is shared. Whatever fails to be written stays for the next call."""
        by_reason: dict[str, dict[ChunkId, int]] = {}
        for chunk, via in self._shared.items():
            by_reason.setdefault(via, {})[chunk] = self.owned[chunk]
        for via, chunks in by_reason.items():
            done, lost = await self._ledger.settle(chunks, via)
            for chunk in (*done, *lost):
                self._shared.pop(chunk, None)
                self.owned.pop(chunk, None)
            for epoch in sorted({chunk.epoch for chunk in done}):
                numbers = [chunk.chunk for chunk in done if chunk.epoch == epoch]
                self._log.emit(Event.DONE, epoch=epoch, chunks=numbers, via=via)
            self.done_chunks += len(done)
            self.done_samples += sum(stop - start for start, stop in map(self._epochs.extent, done))

    async def release(self, chunks: Iterable[ChunkId]) -> None:
        """Hand back chunks of which nothing was trained."""
        handed = {chunk: self.owned[chunk] for chunk in chunks if chunk in self.owned}
        await self._ledger.release(handed)
        for epoch in sorted({chunk.epoch for chunk in handed}):
            numbers = [chunk.chunk for chunk in handed if chunk.epoch == epoch]
            self._log.emit(Event.RELEASED, epoch=epoch, chunks=numbers)
        for chunk in handed:
            del self.owned[chunk]

    async def renew_ownership(self, ledger: Ledger, lease: int) -> int:
        """After a lost lease: own again what nobody has taken meanwhile; returns how many chunks were lost.

        What was lost is being trained by somebody else; what this peer trained of it counts as trained twice.
        """
        self._ledger, self._lease = ledger, lease
        await ledger.refresh()
        before, self.owned = self.owned, {}
        try:
            for epoch in sorted({chunk.epoch for chunk in before}):
                result = await ledger.claim(
                    epoch, [item.chunk for item in before if item.epoch == epoch], lease
                )
                self.owned.update(
                    {ChunkId(epoch, chunk): revision for chunk, revision in result.owned.items()}
                )
        except StoreError:
            self.owned = before
            raise
        self._shared = {chunk: via for chunk, via in self._shared.items() if chunk in self.owned}
        self.chooser.members_changed()
        return len(before) - len(self.owned)
