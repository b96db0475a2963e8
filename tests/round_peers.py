"""Peers that share in synchronous rounds over real connections, with real solvers and without agents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.clock import SystemClock
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.protocol.outcome import Outcome
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.peer.core.strategy import StrategyContext
from gossip_caffe.peer.sharing.synchronous import SynchronousStrategy
from gossip_caffe.solver.board import WeightBoard


class NoFiles:
    """Nothing to pull."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        raise NotFound(f"there is no {file} of {checkpoint} from {offset} on")


class RoundPeers:
    """The view that some peers have of each other; a test changes it."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.peers: dict[str, RoundPeer] = {}


class RoundPeer:
    """One peer: its board, its transport, its server and its strategy."""

    def __init__(self, view: RoundPeers, name: str, board: WeightBoard, settings: JobSettings) -> None:
        self.name = name
        self.board = board
        self.log = MemoryLog()
        self.exhausted = False
        self.shared: list[Outcome] = []
        self.transport = GrpcTransport()
        self.server = PeerServer("127.0.0.1:0", NoFiles())
        self.strategy = SynchronousStrategy(
            StrategyContext(
                peer=name,
                job="job",
                fingerprint="layout",
                blobs=(),
                board=board,
                settings=settings,
                own=lambda: (name, ""),
                partners=lambda: {other: at for other, at in view.addresses.items() if other != name},
                zones=dict,
                members=lambda: view.addresses,
                shared=self.shared.append,
                urgent=lambda: False,
                transport=self.transport,
                offload=asyncio.to_thread,
                clock=SystemClock(),
                rng=random.Random(name),
                log=self.log,
                address=lambda: view.addresses[name],
                address_of=view.addresses.get,
                serve=self.server.serve,
                exhausted=lambda: self.exhausted,
            )
        )

    def rounds(self, outcome: str = "applied") -> list[dict[str, Any]]:
        return [e for e in self.log.events if e["event"] == "round" and e["outcome"] == outcome]

    def weights(self) -> NDArray[np.float32]:
        out = np.empty(self.board.size, dtype=np.float32)
        self.board.snapshot(out)
        return out


@asynccontextmanager
async def sharing(boards: dict[str, WeightBoard], **settings: Any) -> AsyncIterator[RoundPeers]:
    """All of these boards' peers take part in rounds within the block."""
    view = RoundPeers()
    for name, board in boards.items():
        set_to = replace(JobSettings(), strategy="sync", sync_start_peers=len(boards), **settings)
        view.peers[name] = RoundPeer(view, name, board, set_to)
    try:
        for name, peer in view.peers.items():
            view.addresses[name] = f"127.0.0.1:{await peer.server.start()}"
            peer.server.serve(peer.strategy.answerer)
            peer.strategy.accept()
        async with within(*(peer.strategy.run() for peer in view.peers.values())):
            yield view
    finally:
        for peer in view.peers.values():
            peer.strategy.refuse(Refusal.SHUTTING_DOWN)
            await peer.server.stop()
            await peer.transport.close()


def feed(ring: BatchRing, data: NDArray[np.float32], labels: NDArray[np.float32], batches: list[int]) -> None:
    """Put these batches of consecutive records into a ring: batch k begins at record k times the batch size."""
    size = ring.batch_records
    for batch in batches:
        arrays = ring.reserve(0.0)
        assert arrays is not None
        which = np.arange(batch * size, (batch + 1) * size) % len(data)
        arrays[0][:], arrays[1][:] = data[which], labels[which]
        ring.commit(ring.head, size)
