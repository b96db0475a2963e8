"""A peer that does not train, for benchmarks of exchanges: plain weights behind the product's own exchange."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.ports import Weights
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]


class PlainWeights:
    """Weights that nobody trains, of standard deviation ``scale``; a correction is added at once."""

    def __init__(self, size: int, seed: int, scale: float = 1.0) -> None:
        self.values: Flat = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
        self.values *= np.float32(scale)

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def exchanged(self) -> int:
        return self.values.size

    def snapshot(self, out: Flat) -> SnapshotInfo:
        np.copyto(out, self.values)
        return SnapshotInfo(version=1, iteration=0, batches=0, samples=0, applied=0)

    def add_correction(self, delta: Flat) -> None:
        self.values += delta


class NoFiles:
    """Nothing to pull."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        raise NotFound(f"there is no {file} of {checkpoint} from {offset} on")


class PlainPeer:
    """One peer in its exchanges, which answers from its construction on."""

    def __init__(self, name: str, weights: Weights, codec: str, transport: GrpcTransport) -> None:
        local = LocalPeer(
            name=name,
            job="bench",
            fingerprint="bench",
            weights=weights,
            clock=SystemClock(),
            rng=random.Random(name),
            offload=asyncio.to_thread,
        )
        local.accepting = None
        self.offering = Offering(local, transport, codec)
        self.answering = Answering(local)
