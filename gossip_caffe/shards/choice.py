"""Which chunks a peer should try to own next: a pure decision with its reason.

The planned shard of the oldest open epoch goes first, then that of the next: there is no barrier between epochs. A
while after its shard of an epoch is used up, the peer lists what is left of that epoch at all, and takes it before
anything newer: it balances the load, and it picks up what a dead peer left. The wait keeps listings rare where epochs
are short; at the budget's end there is none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gossip_caffe.shards.epochs import ChunkId, Epochs


@dataclass(slots=True)
class EpochKnowledge:
    """What one peer knows of one open epoch. ``planned``: its shard, in training order, not tried yet.

    ``left`` is what the last listing showed as free, empty before the first; the next is due at ``list_at``
    (monotonic s), and ``was_listed`` says whether there was one since the members changed.
    """

    planned: list[int]
    left: list[int] = field(default_factory=list)
    list_at: float = float("-inf")
    was_listed: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Try to own these chunks; those of the planned shard may be of several epochs."""

    chunks: tuple[ChunkId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class List:
    """List the epoch first: the shard is used up, and what is left is not known."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """All chunks of the budget are owned or done, as far as is known; look again at ``again_at`` (monotonic s)."""

    again_at: float
    reason: str


Choice = Claim | List | Nothing


@dataclass(slots=True)
class Chooser:
    """What one peer knows of all open epochs, and the next choice that follows from it."""

    epochs: Epochs
    shard: Callable[[], Sequence[int]]
    rng: random.Random
    relist_after_s: float = 1.0
    known: dict[int, EpochKnowledge] = field(default_factory=dict)

    def choose(self, folded: int, want: int, now: float) -> Choice:
        """The next thing to do to own ``want`` more chunks, when epochs before ``folded`` are finished."""
        for epoch in [epoch for epoch in self.known if epoch < folded]:
            del self.known[epoch]
        unlisted: int | None = None
        planned: list[ChunkId] = []
        again_at = now + self.relist_after_s
        for epoch in range(folded, self.epochs.count):
            knowledge = self._knowledge(epoch)
            if knowledge.finished:
                continue
            if knowledge.planned:
                planned += [ChunkId(epoch, chunk) for chunk in knowledge.planned[: want - len(planned)]]
                if len(planned) >= want:
                    break
                continue
            if planned:
                continue  # what is left of newer epochs can wait
            if knowledge.left:
                return Claim(
                    tuple(ChunkId(epoch, chunk) for chunk in knowledge.left[:want]), "left by others"
                )
            if now >= knowledge.list_at:
                return List(epoch, "shard used up a while ago")
            if not knowledge.was_listed and unlisted is None:
                unlisted = epoch
            again_at = min(again_at, knowledge.list_at)
        if planned:
            return Claim(tuple(planned), "planned shard")
        if unlisted is not None:
            return List(unlisted, "no planned shard is left in any epoch")
        return Nothing(again_at, "every chunk of the budget is owned or done")

    def tried(self, chunks: Sequence[ChunkId], now: float) -> None:
        """These chunks were claimed, or found taken: neither is worth another try until the next listing."""
        for epoch in {chunk.epoch for chunk in chunks}:
            knowledge = self._knowledge(epoch)
            gone = {chunk.chunk for chunk in chunks if chunk.epoch == epoch}
            knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in gone]
            knowledge.left = [chunk for chunk in knowledge.left if chunk not in gone]
            if not knowledge.planned and not knowledge.was_listed:
                knowledge.list_at = now + self.relist_after_s

    def listed(self, epoch: int, owned: frozenset[int], done: frozenset[int], now: float) -> None:
        """Take in a listing. What is left is shuffled, so that peers who run dry together do not race for one chunk."""
        knowledge = self._knowledge(epoch)
        order = self.epochs.order(epoch)
        knowledge.left = [chunk for chunk in order if chunk not in owned and chunk not in done]
        self.rng.shuffle(knowledge.left)
        knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in owned and chunk not in done]
        knowledge.list_at = now + self.relist_after_s
        knowledge.was_listed = True
        knowledge.finished = len(done) == len(order)

    def members_changed(self) -> None:
        """The plan moved, and somebody's chunks may be free: plan and list the open epochs again."""
        mine = set(self.shard())
        for epoch, knowledge in self.known.items():
            if not knowledge.finished:
                knowledge.planned = [chunk for chunk in self.epochs.order(epoch) if chunk in mine]
                knowledge.was_listed = False
                knowledge.list_at = float("-inf")

    def _knowledge(self, epoch: int) -> EpochKnowledge:
        if epoch not in self.known:
            mine = set(self.shard())
            self.known[epoch] = EpochKnowledge([chunk for chunk in self.epochs.order(epoch) if chunk in mine])
        return self.known[epoch]
