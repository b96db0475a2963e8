"""What one peer owns, while its lease comes and goes: nothing is trained and forgotten."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.memory_store import MemoryEtcd, MemoryStore
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.events import JsonLinesLog
from gossip_caffe.peer.claims import Claims
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import Ledger
from tests.fake_clock import FakeClock

EPOCHS = Epochs(records=2000, chunk_records=10, budget_samples=4000, seed=1)
KEYS = JobKeys("j")


async def incarnation(server: MemoryEtcd, clock: FakeClock) -> tuple[LeaseSession, Ledger]:
    store = MemoryStore(server)
    session = LeaseSession(store, clock, 5.0)
    await session.start()
    writer = FencedWriter(store, session, KEYS.fence("a"), clock)
    await writer.open()
    return session, Ledger(store, writer, KEYS, EPOCHS, "a")


async def test_chunks_that_become_shared_and_owned_while_the_peer_registers_again_are_settled(
    tmp_path: Path,
) -> None:
    """The store was away, so everything is due at once: what is owned is claimed anew, settled and added to."""
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    session, ledger = await incarnation(server, clock)
    fed: list[ChunkId] = []
    claims = Claims(
        ledger=ledger,
        lease=session.id,
        epochs=EPOCHS,
        chooser=Chooser(EPOCHS, lambda: list(range(EPOCHS.chunks)), random.Random(1)),
        feed=lambda chunk, start, stop: fed.append(chunk),
        clock=clock,
        log=JsonLinesLog(tmp_path / "a.jsonl", "a", clock),
    )
    await claims.claim(150)
    claims.shared(fed[:100], "x1")

    server.revoke(session.id)
    await session.close()
    session, ledger = await incarnation(server, clock)
    renewing = asyncio.create_task(claims.renew_ownership(ledger, session.id))
    await asyncio.sleep(0)
    await claims.settle()
    while len(fed) == 150:
        await claims.claim(40)
    assert await renewing == 0

    claims.shared(fed, "x2")
    await claims.settle()
    assert claims.owned == {}
    assert claims.done_chunks == len(fed) > 150
    states = await ledger.states()
    assert not any(state.owned for state in states.values())
    await session.close()
