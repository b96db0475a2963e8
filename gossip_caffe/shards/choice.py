"""Which chunks a peer should try to own next: a pure decision with its reason.

The planned shard of the oldest open epoch goes first. When that is empty the peer needs to know what is left of the
epoch at all (one listing), and takes that: it balances the load, and it picks up what a dead peer left. Then comes the
next epoch; there is no barrier between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gossip_caffe.shards.epochs import Epochs


@dataclass(slots=True)
class EpochKnowledge:
    """What one peer knows of one open epoch. ``planned``: its shard, in training order, not tried yet.

    ``left`` is what the last listing showed as free; None when it has to be listed (again).
    """

    planned: list[int]
    left: list[int] | None = None
    listed_at: float = float("-inf")
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Try to own these chunks of the epoch."""

    epoch: int
    chunks: tuple[int, ...]
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
        again_at = now + self.relist_after_s
        for epoch in range(folded, self.epochs.count):
            knowledge = self._knowledge(epoch)
            if knowledge.finished:
                continue
            if knowledge.planned:
                return Claim(epoch, tuple(knowledge.planned[:want]), "planned shard")
            if knowledge.left:
                return Claim(epoch, tuple(knowledge.left[:want]), "left by others")
            if knowledge.left is None:
                return List(epoch, "shard used up")
            if now >= knowledge.listed_at + self.relist_after_s:
                return List(epoch, "owned by others when last listed")
            again_at = min(again_at, knowledge.listed_at + self.relist_after_s)
        return Nothing(again_at, "every chunk of the budget is owned or done")

    def tried(self, epoch: int, chunks: Sequence[int]) -> None:
        """These chunks were claimed, or found taken: neither is worth another try until the next listing."""
        knowledge = self._knowledge(epoch)
        gone = set(chunks)
        knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in gone]
        if knowledge.left is not None:
            knowledge.left = [chunk for chunk in knowledge.left if chunk not in gone]

    def listed(self, epoch: int, owned: frozenset[int], done: frozenset[int], now: float) -> None:
        """Take in a listing. What is left is shuffled, so that peers who run dry together do not race for one chunk."""
        knowledge = self._knowledge(epoch)
        order = self.epochs.order(epoch)
        knowledge.left = [chunk for chunk in order if chunk not in owned and chunk not in done]
        self.rng.shuffle(knowledge.left)
        knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in owned and chunk not in done]
        knowledge.listed_at = now
        knowledge.finished = len(done) == len(order)

    def members_changed(self) -> None:
        """The plan moved, and somebody's chunks may be free: plan and list the open epochs again."""
        for knowledge in self.known.values():
            if not knowledge.finished:
                knowledge.left = None
                knowledge.listed_at = float("-inf")
        mine = set(self.shard())
        for epoch, knowledge in self.known.items():
            if not knowledge.finished:
                knowledge.planned = [chunk for chunk in self.epochs.order(epoch) if chunk in mine]

    def _knowledge(self, epoch: int) -> EpochKnowledge:
        if epoch not in self.known:
            mine = set(self.shard())
            self.known[epoch] = EpochKnowledge([chunk for chunk in self.epochs.order(epoch) if chunk in mine])
        return self.known[epoch]
