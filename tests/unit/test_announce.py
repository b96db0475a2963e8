"""What is announced of a checkpoint: who holds it, and no more holders than joiners need."""

from __future__ import annotations

import asyncio

import pytest

from gossip_caffe.checkpoint.announce import (
    HOLDERS_ENOUGH,
    Announcement,
    add_holder,
    announce,
    announced,
)
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.errors import NotFound
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.joining.resuming import chosen
from tests.fake_clock import FakeClock

KEYS = JobKeys("j")
MANIFEST = Manifest(
    checkpoint="00000000000000-p0",
    job="j",
    job_fingerprint="f",
    layout=(("ip", 0, (2, 2)),),
    progress_samples=0,
    folded=0,
    done=(),
    maker="p0",
    contributors=("p0",),
    made_at=0.0,
)


async def test_a_crowd_of_joiners_writes_down_as_many_holders_as_are_enough_and_a_dead_one_is_replaced() -> (
    None
):
    clock = FakeClock(automatic=True)
    store = MemoryStore(MemoryEtcd(clock))
    session = LeaseSession(store, clock, 60.0)
    await session.start()
    names = [f"p{number}" for number in range(100)]
    writers = {name: FencedWriter(store, session, KEYS.fence(name), clock) for name in names}
    for writer in writers.values():
        await writer.open()
    await announce(writers["p0"], KEYS, MANIFEST, "p0:1")
    living = set(names)

    async def hold(name: str) -> None:
        await add_holder(store, writers[name], KEYS, MANIFEST.checkpoint, name, f"{name}:1", living)

    await asyncio.gather(*map(hold, names))
    (found,) = await announced(store, KEYS)
    assert len(found.holders) == HOLDERS_ENOUGH
    living.discard("p0")
    (late,) = sorted(living - set(found.holders))[:1]
    await hold(late)
    (found,) = await announced(store, KEYS)
    assert late in found.holders


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("00000000000000-p1", "00000000000000-p1"),  # although a newer one's name begins so
        ("00000000000000-p1-", "00000000000000-p1-5781"),
        ("0000", "00000000004096-p0-11aa"),
    ],
)
def test_a_checkpoint_is_chosen_by_its_name_or_else_the_newest_by_its_beginning(
    wanted: str, found: str
) -> None:
    names = ("00000000004096-p0-11aa", "00000000000000-p1-5781", "00000000000000-p1")
    listed = [Announcement(name, "", 0, 0.0, {}) for name in names]
    assert chosen(listed, wanted, "job").checkpoint == found
    with pytest.raises(NotFound, match="no checkpoint 'nine'"):
        chosen(listed, "nine", "job")
