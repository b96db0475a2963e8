"""Ranks of peers whose nets make their own data: none is shared by two that live, and a freed one is taken again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.ranks import Hold, Ranks, choose_number
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.solver.engines.place import LayerRank
from tests.fake_clock import FakeClock

KEYS = JobKeys("job")
TTL_S = 5.0
PATIENCE_S = 1.5 * TTL_S


@dataclass
class Peer:
    store: MemoryStore
    session: LeaseSession
    number: int = -1


class Job:
    """Peers of one job on one in-memory store and one virtual clock."""

    def __init__(self, count: int) -> None:
        self.clock = FakeClock(automatic=True)
        self.server = MemoryEtcd(self.clock)
        self.count = count
        self.rng = random.Random(3)
        self.told: list[str] = []
        self.waited: list[str] = []

    async def join(
        self, name: str, wanted: int | None = None, *, lost: int = 0, patience_s: float = 0.0
    ) -> Peer:
        store = MemoryStore(self.server)
        session = LeaseSession(store, self.clock, TTL_S)
        await session.start()
        writer = FencedWriter(store, session, KEYS.fence(name), self.clock)
        await writer.open()
        store.lose_replies = lost
        peer = Peer(store, session)
        ranks = Ranks(
            store,
            KEYS,
            self.count,
            self.clock,
            self.rng.choice,
            lambda key, _revision, _why: self.told.append(key),
        )
        hold = Hold(name, session.id)
        choice = await ranks.take(writer, hold, patience_s, wanted, lambda: self.waited.append(name))
        peer.number = choice.number
        return peer

    async def kill(self, peer: Peer) -> None:
        """It renews its lease no more; what it holds is free when the lease ends."""
        await peer.session.close(revoke=False)


@given(st.sets(st.integers(0, 9)), st.integers(1, 6), st.none() | st.integers(0, 9))
def test_the_number_is_free_and_a_rank_of_its_own_while_there_is_one(
    taken: set[int], count: int, wanted: int | None
) -> None:
    choice = choose_number(taken, count, wanted)
    assert choice.number not in taken
    if wanted is not None and wanted not in taken:
        assert choice.number == wanted
    elif not taken.issuperset(range(count)):
        assert choice.number == min(set(range(count)) - taken)
    else:
        assert LayerRank(choice.number, count).is_shared
    assert choice.reason


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(("join", "kill", "leave")), st.integers(0, 5)), max_size=14),
)
def test_no_two_living_peers_have_one_number_whoever_comes_and_goes(
    count: int, course: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        job, living = Job(count), dict[str, Peer]()
        for step, (what, which) in enumerate(course):
            if what == "join":
                free = set(range(count)) - {peer.number for peer in living.values()}
                peer = await job.join(f"p{step}", lost=which % 2, patience_s=PATIENCE_S)
                assert peer.number not in {other.number for other in living.values()}
                assert not free or peer.number in free, "the dead are waited for"
                living[f"p{step}"] = peer
            elif living:
                name = sorted(living)[which % len(living)]
                if what == "kill":
                    await job.kill(living.pop(name))
                else:
                    await living.pop(name).session.close()
        for peer in living.values():
            await peer.session.close()

    asyncio.run(run())


async def test_the_rank_of_a_killed_peer_is_the_next_joiners() -> None:
    job = Job(4)
    peers = [await job.join(f"p{index}") for index in range(4)]
    assert [peer.number for peer in peers] == [0, 1, 2, 3]
    await job.kill(peers[2])
    assert (await job.join("next", patience_s=PATIENCE_S)).number == 2
    assert (await job.join("more", patience_s=PATIENCE_S)).number == 4
    assert job.waited == ["next", "more"], "each once"


async def test_a_peer_that_registers_again_has_its_rank_again_unless_another_has_it() -> None:
    job = Job(3)
    first, second = await job.join("p0"), await job.join("p1")
    await second.session.close()
    again = await job.join("p1", wanted=1)
    assert again.number == 1
    await again.session.close()
    assert (await job.join("p2")).number == 1
    assert (await job.join("p1", wanted=1)).number == 2
    assert first.number == 0


async def test_many_that_come_at_once_have_a_rank_each() -> None:
    job = Job(12)
    peers = await asyncio.gather(*(job.join(f"p{index}") for index in range(12)))
    assert sorted(peer.number for peer in peers) == list(range(12))


async def test_a_rank_that_hangs_on_no_lease_is_nobodys_and_that_is_told() -> None:
    job = Job(2)
    foreign = MemoryStore(job.server)
    for key in (KEYS.rank(0), f"{KEYS.ranks}x", f"{KEYS.ranks}²²²²²²²²"):
        await foreign.transact([], [Put(key, b"somebody")])
    assert (await job.join("p0")).number == 0
    assert job.told == [KEYS.rank(0)]
