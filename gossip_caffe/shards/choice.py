"""Which chunks a peer should try to own next: a pure decision with its reason.

The planned shards of the open epochs go first, oldest first: there is no barrier between epochs. Once a shard is used
up the peer lists now and then what is left of all open epochs, and takes that before anything newer: it balances the
load, and it picks up what a dead peer left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile

from gossip_caffe.membership.load import asks_after_s
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import EpochState


@dataclass(slots=True)
class EpochKnowledge:
    """What one peer knows of one open epoch.

    ``planned``: its shard, in training order, not tried yet; ``left``: what the last listing showed as free;
    ``reached``: how far it has come: the place in the training order of the last chunk of its shard that it has tried.
    """

    planned: list[int]
    left: list[int] = field(default_factory=list)
    finished: bool = False
    reached: int = -1

    @property
    def used_up(self) -> bool:
        """Nothing is known that could be claimed, and it is not finished."""
        return not (self.planned or self.left or self.finished)


@dataclass(frozen=True, slots=True)
class Claim:
    """Try to own these chunks, of one or several epochs."""

    chunks: tuple[ChunkId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class List:
    """List the open epochs first: what is left of them is not known."""

    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """All chunks of the budget are owned or done, as far as is known; look again at ``again_at`` (monotonic s)."""

    again_at: float
    reason: str


Choice = Claim | List | Nothing


@dataclass(slots=True)
class Chooser:
    """What one peer knows of all open epochs, and the next choice that follows from it.

    ``shard`` plans anew, ``living`` says how many peers train. It lists first of all, when members have changed, at
    most every ``relist_after_s`` while its shard is used up, and every ``relist_dry_s`` when it knows of nothing to
    claim; among many peers less often, so that what all of them list together does not grow with their number. Among
    many it does not list for a change of members either: each list is as long as the peers are many.
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
        """The next thing to do to own ``want`` more chunks, when epochs before ``folded`` are finished."""
        for epoch in [epoch for epoch in self.known if epoch < folded]:
            del self.known[epoch]
        if self.plans_next(now):
            if not self._many:
                self._plan()
                return List("the members have changed")
            self._plan_what_changed()
        chunks: list[ChunkId] = []
        used_up = False
        for epoch in range(folded, self.epochs.count):
            knowledge = self._knowledge(epoch)
            used_up = used_up or knowledge.used_up
            wanted = islice(chain(knowledge.left, knowledge.planned), want - len(chunks))
            chunks += [ChunkId(epoch, chunk) for chunk in wanted]
            if len(chunks) >= want:
                break
        if used_up and now >= self.listed_at + self._pause_s(self.relist_after_s):
            return List("a shard is used up")
        if chunks:
            return Claim(tuple(chunks), "planned, or left by others")
        again_at = self.listed_at + self._pause_s(self.relist_dry_s)
        if used_up and now >= again_at:
            return List("nothing is known to be free")
        if folded < self.epochs.count and now >= self.listed_at + self._pause_s(self.relist_after_s):
            return List("every chunk is said to be done, and the budget is not")
        if self._plan_at is not None:
            again_at = min(again_at, self._plan_at)
        return Nothing(again_at, "every chunk of the budget is owned or done")

    def planned(self, folded: int, want: int, but: Container[ChunkId]) -> list[ChunkId]:
        """The next chunks of this peer's own shards, oldest epoch first, without asking who has them."""
        mine = (
            ChunkId(epoch, chunk)
            for epoch in range(folded, self.epochs.count)
            for chunk in self._knowledge(epoch).planned
        )
        return list(islice((chunk for chunk in mine if chunk not in but), want))

    @property
    def plans_later(self) -> bool:
        """Whether members have changed, and what is planned is not yet what follows from that."""
        return self._plan_at is not None

    def plans_next(self, now: float) -> bool:
        """Whether the next choice plans anew first: members have changed."""
        return self._plan_at is not None and now >= self._plan_at

    def behind(self) -> int:
        """How many chunks of this peer's shards lie before where it has come to: others had them, and left them.

        All go through an epoch in one order, each through its shard; so a new plan brings what a dead peer had begun
        here, and what it would have come to later does not.
        """
        return sum(
            sum(1 for _ in takewhile(self._is_behind(epoch), knowledge.planned))
            for epoch, knowledge in self.known.items()
        )

    def _is_behind(self, epoch: int) -> Callable[[int], bool]:
        places, reached = self.epochs.places(epoch), self.known[epoch].reached
        return lambda chunk: places[chunk] < reached

    def tried(self, chunks: Sequence[ChunkId]) -> None:
        """These chunks were claimed, or found taken: neither is worth another try until the next listing."""
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

        What is left is shuffled, so that peers who run dry together do not race for one chunk.
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
        """The plan moved, and somebody's chunks may be free: plan and list again, at once among few peers.

        Among many it is done some time within the pause between two listings: not by all of them at once, and once
        for all changes that come meanwhile.
        """
        if self._plan_at is None:
            later_s = self._pause_s(self.relist_after_s) - self.relist_after_s
            self._plan_at = now + self.rng.random() * later_s

    @property
    def _many(self) -> bool:
        """Whether there are so many peers that not all of them should list for one event."""
        return self.listed_at > float("-inf") and self._pause_s(self.relist_after_s) > self.relist_after_s

    def _plan_what_changed(self) -> None:
        """Plan anew, and try what is new in the shard: that few are done or owned already is cheaper than a listing."""
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
        return asks_after_s(shortest_s, self.living(), self._listed_keys)

    def _knowledge(self, epoch: int) -> EpochKnowledge:
        if epoch not in self.known:
            self.known[epoch] = EpochKnowledge(self.epochs.in_order(epoch, self._mine))
        return self.known[epoch]


def _take_out(chunks: list[int], gone: set[int]) -> None:
    """Nearly always these are the first ones: of a long list nothing else is looked at then."""
    first = sum(1 for _ in takewhile(gone.__contains__, chunks))
    del chunks[:first]
    if first < len(gone):
        chunks[:] = [chunk for chunk in chunks if chunk not in gone]
