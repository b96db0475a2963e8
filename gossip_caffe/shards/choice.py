"""Which chunks a peer should try to own next: a pure decision with its reason.

The planned shards of the open epochs go first, the oldest epoch before the others: there is no barrier between epochs.
A peer whose shard is used up lists the free chunks of all open epochs now and then, and claims those before any newer
chunk. This balances the load, and takes up the chunks of a dead peer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice, takewhile

from gossip_caffe.membership.etcd.polling import poll_interval_s
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import EpochState

LOOKS_AHEAD_CHUNKS = 4096
"""A peer looks through the epochs of so many chunks from the oldest open one on, not through the whole budget …"""
AHEAD_OF_EACH = 64
"""… or through those of so many chunks for each training peer: more than all of them own at one time.

A peer with next to no shard, because it is slow or another is said to be fast, has to look far. The bound is there
because each listing goes through all that the peer knows.
"""


@dataclass(slots=True)
class EpochKnowledge:
    """The knowledge of one peer about one open epoch.

    ``planned``: the chunks of its shard that it has not tried yet, in training order; ``left``: the chunks that the
    last listing showed as free; ``reached``: the place in the training order of the last chunk of its shard that it
    has tried, -1 before the first.
    """

    planned: list[int]
    left: list[int] = field(default_factory=list)
    finished: bool = False
    reached: int = -1

    @property
    def used_up(self) -> bool:
        """True if no chunk is known that could be claimed, and the epoch is not finished."""
        return not (self.planned or self.left or self.finished)


@dataclass(frozen=True, slots=True)
class Claim:
    """Try to own these chunks, of one or several epochs."""

    chunks: tuple[ChunkId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NeedListing:
    """List the open epochs first: their free chunks are not known."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """All chunks of the budget are owned or done, as far as is known; look again at ``again_at`` (monotonic s)."""

    again_at: float
    reason: str


Choice = Claim | NeedListing | Wait


class PlanAge(StrEnum):
    """How the plan of a peer stands to the members that it sees."""

    CURRENT = "current"  # the plan follows from the members
    OUTDATED = "outdated"  # the members have changed; the new plan is made later
    DUE = "due"  # the members have changed; the next choice makes the new plan first


@dataclass(slots=True)
class Chooser:
    """The knowledge of one peer about all open epochs, and the next choice that follows from it.

    ``shard`` computes the peer's shard from the present members, ``living`` counts the training peers. The chooser
    lists at the start; when members have changed; at most every ``relist_after_s`` while its shard is used up; and
    every ``relist_dry_s`` while it knows of no chunk to claim. Among many peers it lists less often, so that the
    listings of all peers together do not grow with their number; and it does not list for a change of members, for
    each list is as long as the peers are many.
    """

    epochs: Epochs
    shard: Callable[[], Sequence[int]]
    rng: random.Random
    living: Callable[[], int] = lambda: 1
    relist_after_s: float = 1.0
    relist_dry_s: float = 0.25
    known: dict[int, EpochKnowledge] = field(default_factory=dict)
    listed_at: float = float("-inf")
    _mine: frozenset[int] = frozenset()
    _plan_at: float | None = float("-inf")
    _listed_keys: int = 0

    def choose(self, folded: int, want: int, now: float) -> Choice:
        """The next step towards ``want`` more chunks, when the epochs before ``folded`` are finished."""
        for epoch in [epoch for epoch in self.known if epoch < folded]:
            del self.known[epoch]
        if self.plan_age(now) is PlanAge.DUE:
            if not self._many:
                self._plan()
                return NeedListing("the members have changed")
            self._plan_what_changed()
        chunks: list[ChunkId] = []
        used_up = False
        for epoch in self._within_reach(folded):
            knowledge = self._knowledge(epoch)
            used_up = used_up or knowledge.used_up
            wanted = islice(chain(knowledge.left, knowledge.planned), want - len(chunks))
            chunks += [ChunkId(epoch, chunk) for chunk in wanted]
            if len(chunks) >= want:
                break
        if used_up and now >= self.listed_at + self._pause_s(self.relist_after_s):
            return NeedListing("a shard is used up")
        if chunks:
            return Claim(tuple(chunks), "planned, or left by others")
        again_at = self.listed_at + self._pause_s(self.relist_dry_s)
        if used_up and now >= again_at:
            return NeedListing("nothing is known to be free")
        if folded < self.epochs.count and now >= self.listed_at + self._pause_s(self.relist_after_s):
            return NeedListing("every chunk is said to be done, and the budget is not")
        if self._plan_at is not None:
            again_at = min(again_at, self._plan_at)
        return Wait(again_at, "every chunk within reach is owned or done")

    @property
    def shard_records(self) -> int:
        """The records of this peer's shard in a whole epoch, by the newest plan."""
        return self.epochs.records_of(self._mine)

    def planned(self, folded: int, want: int, but: Container[ChunkId]) -> list[ChunkId]:
        """The next chunks of this peer's own shards, oldest epoch first; other peers may own some of them."""
        mine = (
            ChunkId(epoch, chunk)
            for epoch in self._within_reach(folded)
            for chunk in self._knowledge(epoch).planned
        )
        return list(islice((chunk for chunk in mine if chunk not in but), want))

    def _within_reach(self, folded: int) -> range:
        """The open epochs that are looked through: at least two, for there is no barrier between epochs."""
        chunks = max(LOOKS_AHEAD_CHUNKS, AHEAD_OF_EACH * self.living())
        return range(folded, min(self.epochs.count, folded + 2 + chunks // self.epochs.chunks))

    def plan_age(self, now: float) -> PlanAge:
        """How the plan stands to the members, at ``now`` (monotonic s)."""
        if self._plan_at is None:
            return PlanAge.CURRENT
        return PlanAge.DUE if now >= self._plan_at else PlanAge.OUTDATED

    def behind(self) -> int:
        """The number of chunks of the plan that lie before this peer's place in the epoch's order.

        They were another peer's, and are not trained yet: all peers go through an epoch in one order, each through its
        shard. So the chunks that a dead peer had begun lie before this place, and those that it would have reached
        later lie after it.
        """
        return sum(
            sum(1 for _ in takewhile(self._is_behind(epoch), knowledge.planned))
            for epoch, knowledge in self.known.items()
        )

    def _is_behind(self, epoch: int) -> Callable[[int], bool]:
        places, reached = self.epochs.places(epoch), self.known[epoch].reached
        return lambda chunk: places[chunk] < reached

    def tried(self, chunks: Sequence[ChunkId]) -> None:
        """Take in that these chunks were claimed, or found taken: none is worth another try until the next listing."""
        for epoch in {chunk.epoch for chunk in chunks}:
            knowledge = self._knowledge(epoch)
            gone = {chunk.chunk for chunk in chunks if chunk.epoch == epoch}
            places = self.epochs.places(epoch)
            mine = (places[chunk] for chunk in gone if chunk in self._mine and chunk in places)
            knowledge.reached = max(knowledge.reached, max(mine, default=-1))
            _take_out(knowledge.planned, gone)
            _take_out(knowledge.left, gone)

    def listed(self, states: Mapping[int, EpochState], now: float) -> None:
        """Take in a listing of all open epochs.

        The free chunks are shuffled, so that peers whose shards are used up together do not race for one chunk.
        """
        self.listed_at = now
        self._listed_keys = sum(len(state.owned) + len(state.done) for state in states.values())
        for epoch in states:
            self._knowledge(epoch)
        for epoch, knowledge in self.known.items():
            state = states.get(epoch, EpochState(frozenset(), frozenset()))
            gone = state.owned | state.done
            knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in gone]
            knowledge.left = []
            if not knowledge.planned:
                knowledge.left = [chunk for chunk in self.epochs.order(epoch) if chunk not in gone]
                self.rng.shuffle(knowledge.left)
            knowledge.finished = len(state.done) == len(self.epochs.order(epoch))

    def members_changed(self, now: float) -> None:
        """Take in that the members have changed: the shards move, and chunks may be free.

        Among few peers the next choice plans and lists. Among many it plans at a random time within the pause between
        two listings: not all peers plan at once, and each plans once for all changes within the pause.
        """
        if self._plan_at is None:
            later_s = self._pause_s(self.relist_after_s) - self.relist_after_s
            self._plan_at = now + self.rng.random() * later_s

    @property
    def _many(self) -> bool:
        """True if the peers are so many that not all of them should list for one event."""
        return self.listed_at > float("-inf") and self._pause_s(self.relist_after_s) > self.relist_after_s

    def _plan_what_changed(self) -> None:
        """Plan, and try the chunks that are new in the shard; a few tries in vain are cheaper than a listing."""
        before = self._mine
        tried_too = {epoch: before - set(knowledge.planned) for epoch, knowledge in self.known.items()}
        self._plan()
        for epoch, tried in tried_too.items():
            knowledge = self.known[epoch]
            knowledge.planned = [chunk for chunk in knowledge.planned if chunk not in tried]

    def _plan(self) -> None:
        self._plan_at = None
        self._mine = frozenset(self.shard())
        for epoch, knowledge in self.known.items():
            if not knowledge.finished:
                knowledge.planned = self.epochs.in_order(epoch, self._mine)
                knowledge.left = []

    def _pause_s(self, shortest_s: float) -> float:
        return poll_interval_s(shortest_s, self.living(), self._listed_keys)

    def _knowledge(self, epoch: int) -> EpochKnowledge:
        if epoch not in self.known:
            self.known[epoch] = EpochKnowledge(self.epochs.in_order(epoch, self._mine))
        return self.known[epoch]


def _take_out(chunks: list[int], gone: set[int]) -> None:
    """Remove ``gone``. They are nearly always the first ones: the rest of a long list is not looked at then."""
    first = sum(1 for _ in takewhile(gone.__contains__, chunks))
    del chunks[:first]
    if first < len(gone):
        chunks[:] = [chunk for chunk in chunks if chunk not in gone]
