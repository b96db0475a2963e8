"""What a trained chunk costs in etcd: revisions and bytes, counted by a real server, whatever the time."""

from __future__ import annotations

import asyncio
import random
import urllib.request
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import CHUNKS_PER_TRANSACTION, Ledger, Settlement

CHUNKS = 10 * CHUNKS_PER_TRANSACTION
MOST_BYTES_A_CHUNK = 450
"""Claim, settlement and fold; two keys of 55 bytes come in them seven times, and what carried the chunk once."""
LEASE_TTL_S = 60.0


def counter(endpoint: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


async def train(endpoint: str, epochs: Epochs) -> None:
    """Claim all, settle all, fold."""
    clock = SystemClock()
    store = EtcdStore([endpoint], clock, random.Random(1))
    session = LeaseSession(store, clock, LEASE_TTL_S)
    await session.start()
    keys = JobKeys("job")
    writer = FencedWriter(store, session, keys.fence("p0"), clock)
    await writer.open()
    ledger = Ledger(store, writer, keys, epochs, "p0")
    await ledger.refresh()
    chunks = [ChunkId(0, chunk) for chunk in epochs.order(0)]
    owned = (await ledger.claim(chunks, session.id)).owned
    assert len(owned) == len(chunks)
    done, lost = await ledger.settle([Settlement(chunk, owned[chunk], "p0-0123456789ab") for chunk in chunks])
    assert (len(done), lost) == (len(chunks), [])
    assert await ledger.fold() == 1
    await session.close()
    await store.close()


def test_a_chunk_is_a_thirtieth_of_a_revision_and_some_hundred_bytes(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    try:
        names = ("etcd_debugging_mvcc_current_revision", "etcd_network_client_grpc_received_bytes_total")
        before = [counter(etcd.endpoint, name) for name in names]
        epochs = Epochs(records=CHUNKS * 16, chunk_records=16, budget_samples=CHUNKS * 16, seed=1)
        asyncio.run(train(etcd.endpoint, epochs))
        revisions, asked = (
            counter(etcd.endpoint, name) - was for name, was in zip(names, before, strict=True)
        )
    finally:
        etcd.stop()
    print(f"{revisions / CHUNKS:.4f} revisions and {asked / CHUNKS:.0f} bytes a chunk")
    lots = CHUNKS / CHUNKS_PER_TRANSACTION
    assert revisions <= 2 * lots + 4  # beside them: the fence is put, the epoch is folded, the lease goes
    assert asked <= MOST_BYTES_A_CHUNK * CHUNKS
