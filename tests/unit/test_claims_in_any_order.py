"""Peers that follow the state table of the claims, under joins, deaths and outages in any order.

The store is a dictionary. The choosers, the plans and the decisions are those of the product.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.peer.work.claim_states import (
    Action,
    ClaimEvent,
    ClaimState,
    Poll,
    decide,
    membership_event,
    step,
)
from gossip_caffe.shards.choice import Chooser, Claim, NeedListing, PlanAge
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import EpochState
from gossip_caffe.shards.plan import shard

EPOCHS = Epochs(records=120, chunk_records=10, budget_samples=250, seed=5)
ALL = {ChunkId(epoch, chunk) for epoch in range(EPOCHS.count) for chunk in EPOCHS.order(epoch)}
AHEAD = 4
TTL_S = 2.0
MOST_PEERS = 5


@dataclass
class Peer:
    """One peer. ``queue``: fed and not trained; ``trained``: not settled; ``unclaimed``: of both, without a claim."""

    name: str
    chooser: Chooser
    seen: set[str]
    state: ClaimState = ClaimState.SUPPLIED
    rests_until: float = float("-inf")
    registered_again_at: float = float("-inf")
    queue: list[ChunkId] = field(default_factory=list)
    trained: list[ChunkId] = field(default_factory=list)
    unclaimed: set[ChunkId] = field(default_factory=set)
    had: set[ChunkId] = field(default_factory=set)

    @property
    def lacking(self) -> int:
        return 0 if 2 * len(self.queue) > AHEAD else AHEAD - len(self.queue)

    def enter(self, event: ClaimEvent) -> Action:
        found = step(self.state, event)
        self.state = found.state
        return found.action


class Job:
    """Some peers, and the ledger that they share."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.away = False
        self.names = 0
        self.peers: dict[str, Peer] = {}
        self.owner: dict[ChunkId, str] = {}
        self.done: set[ChunkId] = set()
        self.fed: Counter[ChunkId] = Counter()

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def join(self) -> None:
        if self.away or len(self.peers) >= MOST_PEERS:
            return
        name = f"p{self.names}"
        self.names += 1
        seen = {*self.peers, name}

        def mine() -> list[int]:
            return [int(chunk) for chunk in shard(name, dict.fromkeys(seen, 1.0), EPOCHS.chunks, 1)]

        chooser = Chooser(EPOCHS, mine, self.rng, lambda: len(seen))
        self.peers[name] = Peer(name, chooser, seen)
        self.show()

    def leave(self, name: str) -> None:
        """It settles what it trained, says that it leaves, and hands the rest back: others may look before that."""
        peer = self.peers[name]
        peer.enter(ClaimEvent.END)
        before = set(self.owner)
        self.poll(peer)
        assert set(self.owner) == before, "a peer that has ended claims no more"
        self.settle(peer)
        del self.peers[name]
        self.show()
        for other in self.peers.values():
            for _ in range(self.rng.randrange(6)):
                self.poll(other)
        self.free(name)

    def remove(self, name: str) -> None:
        """It is gone, and its lease with it."""
        del self.peers[name]
        self.free(name)
        self.show()

    def free(self, name: str) -> None:
        self.owner = {chunk: owner for chunk, owner in self.owner.items() if owner != name}

    def lapse(self, name: str) -> None:
        """Its lease ends, it registers again, and claims again what nobody has taken."""
        if self.away:
            return
        peer = self.peers[name]
        self.free(name)
        peer.enter(ClaimEvent.LEASE_LOST)
        self.show(but=name)
        for other in self.peers.values():
            if other is not peer and self.rng.random() < 0.5:
                self.poll(other)
        peer.registered_again_at = self.now
        self.claim(peer, [*peer.queue, *peer.trained])
        peer.chooser.members_changed(self.now)
        self.show()

    def show(self, but: str = "") -> None:
        """Every peer sees who trains; nobody sees anything while the store is away."""
        if self.away:
            return
        living = self.peers.keys() - {but}
        for peer in self.peers.values():
            if peer.name == but:
                continue
            settled_in = self.now - peer.registered_again_at > TTL_S
            for other in sorted(peer.seen ^ living):
                was, now = (1.0 if other in peer.seen else None), (1.0 if other in living else None)
                event = membership_event(was, now, settled_in=settled_in)
                assert event is not None
                if peer.enter(event) is Action.PLAN_AGAIN:
                    peer.chooser.members_changed(self.now)
            peer.seen.clear()
            peer.seen.update(living)

    # ── what a peer does ──────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, peer: Peer) -> int:
        """One look of one peer; returns how many chunks it wanted."""
        if self.away:
            self.poll_without_store(peer)
            return 0
        plan = peer.chooser.plan_age(self.now)
        behind = 0 if plan is PlanAge.DUE else peer.chooser.behind()
        found = decide(peer.state, Poll(peer.lacking, self.now < peer.rests_until, plan, behind))
        assert found.reason
        assert found.want <= peer.lacking + max(1, behind)
        peer.state = found.state
        if found.want:
            self.attempt(peer, found.want)
        return found.want

    def attempt(self, peer: Peer, want: int) -> None:
        self.claim_unclaimed(peer)
        queued = len(peer.queue)
        choice = peer.chooser.choose(0, want, self.now)
        if isinstance(choice, Claim):
            peer.chooser.tried(choice.chunks)
            claimed = self.claim(peer, choice.chunks)
            for chunk in claimed:
                self.feed(peer, chunk)
            peer.enter(ClaimEvent.CHUNKS_CLAIMED if claimed else ClaimEvent.NONE_CLAIMED)
        elif isinstance(choice, NeedListing):
            peer.chooser.listed(self.listing(), self.now)
            peer.enter(ClaimEvent.NONE_CLAIMED)
        elif peer.enter(ClaimEvent.NONE_FREE) is Action.REST:
            peer.rests_until = max(self.now + 0.05, choice.again_at)
        assert len(peer.queue) <= queued + want, "no more is claimed than wanted"

    def poll_without_store(self, peer: Peer) -> None:
        if self.rng.random() < 0.5:
            peer.enter(ClaimEvent.STORE_FAILED)
        if peer.lacking and peer.enter(ClaimEvent.HUNGRY_WITHOUT_STORE) is Action.TRAIN_UNCLAIMED:
            lacking = peer.lacking
            chunks = peer.chooser.planned(0, lacking, peer.had)
            assert len(chunks) <= lacking
            peer.chooser.tried(chunks)
            peer.unclaimed.update(chunks)
            for chunk in chunks:
                self.feed(peer, chunk)
            peer.enter(ClaimEvent.UNCLAIMED_FED if chunks else ClaimEvent.NONE_PLANNED)

    def feed(self, peer: Peer, chunk: ChunkId) -> None:
        peer.queue.append(chunk)
        peer.had.add(chunk)
        self.fed[chunk] += 1

    def train(self, peer: Peer) -> None:
        if peer.queue:
            peer.trained.append(peer.queue.pop(0))
        self.settle(peer)

    def settle(self, peer: Peer) -> None:
        if self.away:
            return
        self.claim_unclaimed(peer)
        for chunk in peer.trained:
            if self.owner.get(chunk) == peer.name:
                del self.owner[chunk]
                self.done.add(chunk)
        peer.trained.clear()

    def claim(self, peer: Peer, chunks: list[ChunkId] | tuple[ChunkId, ...]) -> list[ChunkId]:
        claimed = [chunk for chunk in chunks if chunk not in self.owner and chunk not in self.done]
        self.owner.update(dict.fromkeys(claimed, peer.name))
        lost = {chunk for chunk in chunks if self.owner.get(chunk) != peer.name}
        peer.queue = [chunk for chunk in peer.queue if chunk not in lost]
        return claimed

    def claim_unclaimed(self, peer: Peer) -> None:
        self.claim(peer, sorted(peer.unclaimed, key=lambda chunk: (chunk.epoch, chunk.chunk)))
        peer.unclaimed.clear()

    def listing(self) -> dict[int, EpochState]:
        return {
            epoch: EpochState(
                frozenset(chunk.chunk for chunk in self.owner if chunk.epoch == epoch),
                frozenset(chunk.chunk for chunk in self.done if chunk.epoch == epoch),
            )
            for epoch in range(EPOCHS.count)
        }

    # ── what must be true ─────────────────────────────────────────────────────────────────────────────────────────

    def kill(self, name: str) -> None:
        """After a death each survivor polls until it wants nothing more: then the dead peer's chunks have owners."""
        left = {chunk for chunk, owner in self.owner.items() if owner == name}
        sure = all(self.now - peer.registered_again_at > TTL_S for peer in self.peers.values())
        self.remove(name)
        if self.away or not sure:
            return
        before = self.fed.copy()
        for _ in range(30):
            if not sum(self.poll(peer) for peer in self.peers.values()):
                break
        for peer in self.peers.values():
            assert not peer.state.takes_over
            assert peer.chooser.behind() == 0
            for chunk in left & self.planned_behind(peer):
                assert chunk in self.owner, (
                    "a chunk of a dead peer waits although its new peer has come past it"
                )
                assert self.fed[chunk] == before[chunk] + 1, "one peer takes it over"

    def planned_behind(self, peer: Peer) -> set[ChunkId]:
        """The chunks of its new shard that lie before its place in the order of their epoch."""
        mine = [int(chunk) for chunk in peer.chooser.shard()]
        return {
            ChunkId(epoch, chunk)
            for epoch, known in peer.chooser.known.items()
            for chunk in EPOCHS.in_order(epoch, mine)
            if EPOCHS.places(epoch)[chunk] < known.reached
        }

    def finish(self) -> None:
        """The store answers, and one peer survives, whatever its state: it claims, trains and settles every chunk."""
        self.away = False
        self.show()
        if not self.peers:
            self.join()
        survivor = self.rng.choice(sorted(self.peers))
        for name in sorted(self.peers.keys() - {survivor}):
            self.rng.choice([self.kill, self.leave])(name)
        for _ in range(1000):
            if self.done == ALL:
                return
            self.now += 0.1
            for peer in list(self.peers.values()):
                self.poll(peer)
                self.train(peer)
        raise AssertionError(f"{len(ALL - self.done)} chunks are free and claimed by nobody")


EVENTS = st.tuples(
    st.sampled_from(
        ["join", "kill", "leave", "lapse", "away", "back", *4 * ["poll"], *4 * ["train"], *2 * ["time"]]
    ),
    st.integers(0, MOST_PEERS - 1),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.lists(EVENTS, max_size=120))
def test_peers_that_follow_the_table_claim_every_chunk_and_take_over_at_once_whatever_happens(
    seed: int, events: list[tuple[str, int]]
) -> None:
    job = Job(seed)
    for _ in range(3):
        job.join()
    for event, number in events:
        names = sorted(job.peers)
        name = names[number % len(names)] if names else ""
        match event:
            case "join":
                job.join()
            case "away" | "back":
                job.away = event == "away"
                job.show()
            case "time":
                job.now += 0.4 * (number + 1)
            case _ if not name:
                continue
            case "kill":
                job.kill(name)
            case "leave":
                job.leave(name)
            case "lapse":
                job.lapse(name)
            case "poll":
                job.poll(job.peers[name])
            case "train":
                job.train(job.peers[name])
        assert not job.done & job.owner.keys()
    job.finish()
