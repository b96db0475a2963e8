"""Some peers that exchange on one network in memory, without solvers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from gossip_caffe.clock import Clock, SystemClock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging.average import distance
from gossip_caffe.gossip.codecs.message import Message, Undelivered
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.transport import Transport
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork
from gossip_caffe.solver.board import SnapshotInfo

SIZE = 33


class Weights:
    """A peer's weights without a solver: a correction is in the next snapshot."""

    def __init__(self, seed: int, size: int = SIZE, frozen: int = 0) -> None:
        self.values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
        self.applied = 0
        self.last = np.zeros(size - frozen, dtype=np.float32)
        self.exchanged = size - frozen

    @property
    def size(self) -> int:
        return self.values.size

    def snapshot(self, out: np.ndarray) -> SnapshotInfo:
        np.copyto(out, self.values[: out.size])
        return SnapshotInfo(self.applied, 0, 0, 0, 0)

    def add_correction(self, delta: np.ndarray) -> None:
        self.values = self.values.copy()
        self.values[: self.exchanged] += delta
        self.last = delta.copy()
        self.applied += 1


class ExchangingPeer:
    """One peer in its exchanges: its state, its own offers, and its answers."""

    def __init__(
        self,
        name: str,
        weights: Any,
        transport: Transport,
        *,
        codec: str = "float32",
        job: str = "job",
        fingerprint: str = "layout",
        clock: Clock | None = None,
        seed: int | str | None = None,
        accepts: bool = True,
        **more: Any,
    ) -> None:
        self.local = LocalPeer(
            name=name,
            job=job,
            fingerprint=fingerprint,
            weights=weights,
            clock=clock or SystemClock(),
            rng=random.Random(name if seed is None else seed),
            **more,
        )
        self.offering = Offering(self.local, transport, codec)
        self.answering = Answering(self.local)
        if accepts:
            self.local.accepting = None


class Net:
    """Some peers on one network."""

    def __init__(
        self, count: int, codec: str = "float32", offload: Any = None, blobs: tuple[int, ...] = ()
    ) -> None:
        self.blobs = blobs
        self.network = MemoryNetwork()
        self.offload = offload
        self.weights = {f"p{index}": Weights(index) for index in range(count)}
        self.peers: dict[str, ExchangingPeer] = {}
        for name, weights in self.weights.items():
            self.put(name, self.peer(name, weights, codec))

    def peer(
        self, name: str, weights: Weights, codec: str, fingerprint: str = "layout", offload: Any = None
    ) -> ExchangingPeer:
        return ExchangingPeer(
            name,
            weights,
            self.network,
            codec=codec,
            fingerprint=fingerprint,
            offload=offload or self.offload,
            blobs=self.blobs,
        )

    def put(self, name: str, peer: ExchangingPeer) -> None:
        """This peer answers under this name from now on."""
        self.peers[name] = peer
        self.network.peers[name] = peer.answering

    @property
    def total(self) -> np.ndarray:
        total: np.ndarray = sum(weights.values.astype(np.float64) for weights in self.weights.values())  # type: ignore[assignment]
        return total

    def spread(self) -> float:
        values = [weights.values for weights in self.weights.values()]
        return max(distance(a, b) for a in values for b in values)


def slow(turns: Callable[[], int]) -> Callable[..., Awaitable[Any]]:
    """Delays each message, and each computation, by so many turns of the loop."""

    async def hold(what: Any, *arguments: Any) -> Any:
        for _ in range(turns()):
            await asyncio.sleep(0)
        return what(*arguments) if callable(what) else what

    return hold


def spoilt_answer(error: ExchangeFailed) -> Callable[[Message], Awaitable[Message]]:
    async def fail(message: Message) -> Message:
        raise error

    return fail


async def offered_by_p0(net: Net) -> Message:
    """An offer of p0 as it goes out, and nothing else."""
    caught: list[Message] = []

    async def catch(offer: Message) -> Message:
        caught.append(offer)
        raise Undelivered("caught")

    before, net.network.before_offer = net.network.before_offer, catch
    await net.peers["p0"].offering.offer_to("p1", "p1")
    net.network.before_offer = before
    return caught[0]
