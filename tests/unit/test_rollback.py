"""A job that nobody trains any more goes on from a checkpoint: the account then says what the weights hold."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.announce import announce, announced
from gossip_caffe.checkpoint.manifest import Manifest, ranges_of
from gossip_caffe.errors import Conflict, LeaseLost, NotFound
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Exists
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord, Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.joining import resuming
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import Ledger, Settlement
from gossip_caffe.shards.rollback import (
    OPERATIONS_PER_TRANSACTION,
    AccountState,
    Target,
    read_account,
    rollback,
    take_back,
)
from tests.fake_clock import FakeClock

KEYS = JobKeys("j")
EPOCHS = Epochs(records=60, chunk_records=10, budget_samples=180, seed=1)
CHUNKS = st.builds(ChunkId, st.integers(0, 2), st.integers(0, 5))


def manifest_of(name: str, folded: int = 0, done: tuple[ChunkId, ...] = ()) -> Manifest:
    numbers: dict[int, set[int]] = {}
    for chunk in done:
        numbers.setdefault(chunk.epoch, set()).add(chunk.chunk)
    return Manifest(
        checkpoint=name,
        job="j",
        job_fingerprint="f",
        layout=(("ip", 0, (2, 2)),),
        progress_samples=10 * len(done) + 60 * folded,
        folded=folded,
        done=tuple((epoch, ranges_of(chunks)) for epoch, chunks in sorted(numbers.items())),
        maker="p0",
        contributors=("p0",),
        made_at=0.0,
    )


class Peer:
    """One incarnation of a peer at an etcd in memory."""

    def __init__(self, name: str, server: MemoryEtcd, clock: FakeClock, epochs: Epochs = EPOCHS) -> None:
        self.name = name
        self.store = MemoryStore(server)
        self.session = LeaseSession(self.store, clock, 5.0)
        self.writer = FencedWriter(self.store, self.session, KEYS.fence(name), clock)
        self.ledger = Ledger(self.store, self.writer, KEYS, epochs, name)
        self.record = PeerRecord(name, "", "127.0.0.1:1", "here", 1, "syncing")

    async def begin(self) -> Peer:
        await self.session.start()
        await self.writer.open()
        await self.ledger.refresh()
        return self

    async def train(self, *chunks: ChunkId, via: str = "x1") -> None:
        owned = (await self.ledger.claim(chunks, self.session.id)).owned
        done, lost = await self.ledger.settle([Settlement(chunk, owned[chunk], via) for chunk in chunks])
        assert (set(done), lost) == (set(chunks), [])
        await self.ledger.fold()

    async def right(self) -> int | None:
        return await resuming.take_right(self.store, self.writer, KEYS, self.name, self.session.id)

    async def publish(self, state: str) -> None:
        await Registration(self.writer, self.session, KEYS, self.record).publish(state=state)


async def peers(*names: str) -> list[Peer]:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    return [await Peer(name, server, clock).begin() for name in names]


def epoch(number: int) -> tuple[ChunkId, ...]:
    return tuple(ChunkId(number, chunk) for chunk in range(6))


async def test_what_was_learned_after_the_checkpoint_is_free_again_and_progress_is_that_of_the_checkpoint() -> (
    None
):
    a, b = await peers("a", "b")
    await a.train(*epoch(0))
    await a.train(*epoch(1)[:2])
    made = manifest_of("00000000000080-a", 1, epoch(1)[:2])
    await announce(a.writer, KEYS, made, "a:1")
    await a.train(*epoch(1)[2:])
    await a.train(*epoch(2)[:3])
    assert await a.ledger.done_samples() == 150
    right = await b.right()
    assert right is not None
    done = await resuming.take_job_back(b.store, b.writer, KEYS, EPOCHS, made, right)
    assert done.freed_samples == 70
    assert await b.ledger.done_samples() == 80
    assert (await b.ledger.states())[1].done == {0, 1}
    await b.train(*epoch(1)[2:], *epoch(2))
    assert await b.ledger.done_samples() == 180


async def test_what_the_checkpoint_itself_settled_stays_done() -> None:
    a, b = await peers("a", "b")
    await a.train(ChunkId(0, 0))
    made = manifest_of("00000000000010-a", 0, (ChunkId(0, 0),))
    await a.train(ChunkId(0, 1), via=made.checkpoint)
    await a.train(ChunkId(0, 2))
    right = await b.right()
    assert right is not None
    await resuming.take_job_back(b.store, b.writer, KEYS, EPOCHS, made, right)
    assert (await b.ledger.states())[0].done == {0, 1}


async def test_newer_checkpoints_are_of_another_history_and_are_withdrawn() -> None:
    a, b = await peers("a", "b")
    old, new = manifest_of("00000000000010-a"), manifest_of("00000000000020-a")
    for manifest in (old, new):
        await announce(a.writer, KEYS, manifest, "a:1")
    right = await b.right()
    assert right is not None
    await resuming.take_job_back(b.store, b.writer, KEYS, EPOCHS, old, right)
    assert [entry.checkpoint for entry in await announced(b.store, KEYS)] == [old.checkpoint]


async def test_a_peer_that_takes_a_job_back_and_dies_on_the_way_leaves_it_to_the_next_who_comes_to_the_same() -> (
    None
):
    for allowed in range(1, 4):
        clock = FakeClock(automatic=True)
        server = MemoryEtcd(clock)
        many = Epochs(records=900, chunk_records=1, budget_samples=1800, seed=1)
        a, b, c = [await Peer(name, server, clock, many).begin() for name in "abc"]
        for first in range(0, 900, 30):
            await a.train(*(ChunkId(0, chunk) for chunk in range(first, first + 30)))
        await a.train(*(ChunkId(1, chunk) for chunk in range(30)))
        made = manifest_of("00000000000400-a", 0, tuple(ChunkId(0, chunk) for chunk in range(400)))
        right = await b.right()
        assert right is not None
        left, write = allowed, b.writer._store.transact

        async def dies(guards: object, operations: object) -> object:
            nonlocal left
            if not left:
                raise LeaseLost("killed")
            left -= 1
            return await write(guards, operations)  # type: ignore[arg-type]  # noqa: B023

        b.writer._store.transact = dies  # type: ignore[assignment, method-assign]
        with pytest.raises(LeaseLost):
            await resuming.take_job_back(b.store, b.writer, KEYS, many, made, right)
        await b.session.close()
        again = await c.right()
        assert again is not None
        await resuming.take_job_back(c.store, c.writer, KEYS, many, made, again)
        assert await c.ledger.done_samples() == 400
        assert (await c.ledger.states())[0].done == frozenset(range(400))


async def test_only_one_peer_takes_a_job_back_and_who_has_lost_the_right_writes_nothing() -> None:
    a, b = await peers("a", "b")
    await a.train(*epoch(0)[:3])
    right = await a.right()
    assert right is not None
    assert await a.right() == right
    assert await b.right() is None
    was = await read_account(b.store, KEYS)
    planned = rollback(was, Target("c", 0, frozenset()), EPOCHS)
    with pytest.raises(Conflict):
        await take_back(b.writer, KEYS, planned, was, "c", Exists(KEYS.duty("nobody's")))
    assert (await b.ledger.states())[0].done == {0, 1, 2}


async def test_going_back_on_purpose_makes_a_checkpoint_the_newest_one_while_nobody_lives() -> None:
    a, b = await peers("a", "b")
    for progress in (10, 20, 30):
        await announce(a.writer, KEYS, manifest_of(f"{progress:014d}-a"), "a:1")
    await a.publish("training")
    with pytest.raises(Conflict, match="a"):
        await resuming.go_back(b.store, b.writer, KEYS, b.session.id, "00000000000020")
    await a.session.close()
    with pytest.raises(NotFound, match="00000000000030-a"):
        await resuming.go_back(b.store, b.writer, KEYS, b.session.id, "77")
    back_to = await resuming.go_back(b.store, b.writer, KEYS, b.session.id, "00000000000020")
    assert back_to.checkpoint == "00000000000020-a"
    assert (await announced(b.store, KEYS))[0] == back_to


async def test_going_back_waits_for_nobody_who_is_just_starting() -> None:
    a, b = await peers("a", "b")
    await announce(a.writer, KEYS, manifest_of("00000000000010-a"), "a:1")
    assert await a.right() is not None
    with pytest.raises(Conflict, match="is starting"):
        await resuming.go_back(b.store, b.writer, KEYS, b.session.id, "00000000000010")


def test_only_the_newest_checkpoint_will_do_until_its_holders_had_time_to_start() -> None:
    class Entry:
        def __init__(self, checkpoint: str) -> None:
            self.checkpoint = checkpoint

    listed = [Entry("2"), Entry("1")]
    assert [entry.checkpoint for entry in resuming.candidates(listed, 0.0).checkpoints] == ["2"]  # type: ignore[arg-type]
    later = resuming.candidates(listed, resuming.NEWEST_ONLY_S)  # type: ignore[arg-type]
    assert [entry.checkpoint for entry in later.checkpoints] == ["2", "1"]
    assert resuming.candidates([], 99.0).checkpoints == ()


@given(
    folded=st.integers(0, 2),
    marks=st.dictionaries(CHUNKS, st.sampled_from(["c", "x1", "x2"])),
    target_folded=st.integers(0, 2),
    held=st.frozensets(CHUNKS),
)
def test_after_a_rollback_the_account_is_what_the_checkpoint_holds(
    folded: int, marks: dict[ChunkId, str], target_folded: int, held: frozenset[ChunkId]
) -> None:
    was = AccountState(folded, {chunk: via for chunk, via in marks.items() if chunk.epoch >= folded})
    planned = rollback(was, Target("c", target_folded, held), EPOCHS)
    now = (set(was.done) - planned.free) | planned.mark
    carried = {chunk for chunk, via in was.done.items() if via == "c"}
    assert now == planned.done == {chunk for chunk in held | carried if chunk.epoch >= target_folded}
    assert planned.folded == target_folded
    assert not planned.free & planned.mark
    now_is = dataclasses.replace(was, folded=target_folded, done=dict.fromkeys(now, "c"))
    again = rollback(now_is, Target("c", target_folded, held), EPOCHS)
    assert (again.free, again.mark, again.freed_samples) == (frozenset(), frozenset(), 0)


def test_a_rollback_fits_into_the_transactions_of_etcd() -> None:
    assert OPERATIONS_PER_TRANSACTION + 2 <= 128
