"""Exchanges whose weights go by MPI, over real gRPC and a launch in memory: applied whole, or by neither side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.gossip.averaging.bound import Reach
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.swap import PIECE_VALUES
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.gossip.transport.mpi import ranks as ranks_of_mpi
from gossip_caffe.gossip.transport.mpi import transfer
from gossip_caffe.gossip.transport.mpi.mpi_thread import MpiThread
from gossip_caffe.gossip.transport.mpi.ranks import BY_MPI, MpiRanks
from gossip_caffe.membership.members import PeerRecord
from tests import fake_mpi
from tests.exchange_net import ExchangingPeer, Weights
from tests.fake_mpi import Launch
from tests.patience import be_patient

SIZE = 6 * PIECE_VALUES + 77


class Peer(ExchangingPeer):
    """A rank: a peer in its exchanges, with its server, its transport and MPI."""

    def __init__(self, launch: Launch, rank: int, folder: Path, codec: str, size: int) -> None:
        name = "abc"[rank]
        self.ends: list[str] = []
        self.halves: list[AppliedHalf] = []
        self.refusals: list[tuple[Refusal, str]] = []
        self.communicator = launch.ranks[rank]
        self.ranks = MpiRanks(self.ends.append, random.Random(rank))
        self.thread = MpiThread(lambda: self.communicator, lambda: None)
        self.thread.start()
        self.ranks.use(self.thread, self.communicator)
        self.weights = Weights(rank, size)
        self.server = PeerServer("127.0.0.1:0", CheckpointFolder(folder / name), self.ranks)
        self.transport = GrpcTransport(ranks=self.ranks)
        super().__init__(
            name, self.weights, self.transport, codec=codec, seed=rank, offload=asyncio.to_thread
        )
        self.answering.watcher = self
        self.address = ""

    def applied(self, half: AppliedHalf) -> None:
        self.halves.append(half)

    def alone(self, half: AppliedHalf) -> None: ...

    def too_far(self, offer: Message, reach: Reach) -> None: ...

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        self.refusals.append((refusal, reason))

    @property
    def record(self) -> PeerRecord:
        rank = str(self.communicator.own)
        return PeerRecord(self.local.name, "1", self.address, "host", 1, "training", mpi=rank)

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start()}"
        self.server.serve(self.answering)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()
        await asyncio.to_thread(self.thread.close, 30.0)

    async def offer(self, partner: Peer) -> Outcome:
        async with asyncio.timeout(60):
            return await self.offering.offer_to(partner.local.name, partner.address)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


@asynccontextmanager
async def ranks(
    folder: Path, codec: str = "float32", size: int = SIZE, count: int = 2, *, one_machine: bool = False
) -> AsyncIterator[tuple[Launch, list[Peer]]]:
    launch = Launch(count, one_machine=one_machine)
    peers = [Peer(launch, rank, folder, codec, size) for rank in range(count)]
    for peer in peers:
        await peer.start()
    for peer in peers:
        for other in peers:
            peer.ranks.changed(None, other.record)
    try:
        yield launch, peers
    finally:
        for peer in peers:
            await peer.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


no_socket = patch.object(
    weights_socket, "connect", side_effect=AssertionError("the weights went by a socket")
)


near_or_apart = pytest.mark.parametrize("one_machine", [False, True], ids=["apart", "near"])


@near_or_apart
@pytest.mark.parametrize("codec", CODECS)
async def test_weights_go_by_mpi_and_both_sides_come_to_the_mean(
    tmp_path: Path, codec: str, one_machine: bool
) -> None:
    async with ranks(tmp_path, codec, one_machine=one_machine) as (_, (a, b)):
        total = a.weights.values.astype(np.float64) + b.weights.values
        with no_socket:
            outcome = await a.offer(b)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, BY_MPI)
        assert [half.by for half in b.halves] == [BY_MPI]
        np.testing.assert_allclose(a.weights.values.astype(np.float64) + b.weights.values, total, atol=1e-6)
        apart = 1e-6 if codec == "float32" else 1.2 if codec == "int4" else 0.1
        np.testing.assert_allclose(a.weights.values, b.weights.values, atol=apart)


async def test_weights_of_a_small_model_go_by_mpi_too(tmp_path: Path) -> None:
    async with ranks(tmp_path, size=33) as (_, (a, b)):
        assert (await a.offer(b)).by == BY_MPI


@near_or_apart
async def test_all_ranks_exchange_with_each_other_at_once(tmp_path: Path, one_machine: bool) -> None:
    async with ranks(tmp_path, count=3, one_machine=one_machine) as (_, peers):
        total = sum(peer.weights.values.astype(np.float64) for peer in peers)
        kinds = set()
        for _ in range(3):
            outcomes = await asyncio.gather(
                *(peer.offer(peers[(index + 1) % 3]) for index, peer in enumerate(peers))
            )
            kinds |= {outcome.kind for outcome in outcomes}
        assert kinds <= {OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN}
        after = sum(peer.weights.values.astype(np.float64) for peer in peers)
        np.testing.assert_allclose(after, total, atol=1e-5)


async def test_crossing_offers_end_in_one_exchange(tmp_path: Path) -> None:
    async with ranks(tmp_path) as (_, (a, b)):
        total = a.weights.values.astype(np.float64) + b.weights.values
        kinds = [outcome.kind for outcome in await asyncio.gather(a.offer(b), b.offer(a))]
        assert kinds.count(OutcomeKind.APPLIED) >= 1
        assert {OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN} >= set(kinds)
        np.testing.assert_allclose(a.weights.values, total / 2, atol=1e-6)
        np.testing.assert_allclose(b.weights.values, total / 2, atol=1e-6)


async def test_who_is_no_rank_of_this_launch_gets_the_weights_as_before(tmp_path: Path) -> None:
    async with ranks(tmp_path) as (_, (a, b)):
        b.ranks.give_up("of its own")
        outcome = await a.offer(b)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, "")
        a.ranks.give_up("of its own")
        outcome = await b.offer(a)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, "")


@pytest.mark.parametrize("who", [0, 1], ids=["offerer", "answerer"])
@near_or_apart
async def test_a_side_with_nan_refuses_by_name_and_neither_changes(
    tmp_path: Path, who: int, one_machine: bool
) -> None:
    async with ranks(tmp_path, one_machine=one_machine) as (_, peers):
        peers[who].weights.values[5] = np.nan
        outcome = await peers[0].offer(peers[1])
        assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.NON_FINITE)
        assert "ab"[who] in outcome.reason
        assert [peer.weights.applied for peer in peers] == [0, 0]
        peers[who].weights.values[5] = 0.0
        assert (await peers[0].offer(peers[1])).by == BY_MPI


# ── every phase, met by every fault ───────────────────────────────────────────────────────────────────────────────────

PHASES = {"the first message": 0, "halfway": 8, "the end": 14}
"""Phase → the number of the struck message among those of one sender: heads and pieces, by turns, then the end."""
NEAR = {"the place": 0, "the end of reading": 1}
"""The same where each side reads the other's memory."""


def flipped(data: bytes) -> list[bytes]:
    return [data[:-1] + bytes([data[-1] ^ 0x10])]


FAULTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "corrupted": flipped,
    "lost": lambda data: [],
    "duplicated": lambda data: [data, data],
}


@pytest.mark.parametrize("sender", [0, 1], ids=["offer", "answer"])
@pytest.mark.parametrize("phase", [*PHASES, *NEAR])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_leaves_each_side_with_its_old_or_its_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, phase: str, sender: int
) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    number = {**PHASES, **NEAR}[phase]
    async with ranks(tmp_path, one_machine=phase in NEAR) as (launch, peers):
        old = [peer.weights.values.copy() for peer in peers]
        mean = (old[0].astype(np.float64) + old[1]) / 2

        def on_the_way(message: fake_mpi.Message) -> list[bytes]:
            struck = message.source == sender and message.number == number
            return FAULTS[fault](message.data) if struck else [message.data]

        launch.on_the_way = on_the_way
        outcome = await peers[0].offer(peers[1])
        await until(lambda: bool(peers[1].refusals or peers[1].halves))
        applied = [peer.weights.applied for peer in peers]
        for peer, before, times in zip(peers, old, applied, strict=True):
            new = mean if times else before
            np.testing.assert_allclose(peer.weights.values, new, atol=1e-6)
        assert (outcome.kind is OutcomeKind.APPLIED) == bool(applied[0])
        if fault == "lost" or (fault == "corrupted" and phase != "the end"):
            assert applied[0] == 0
            assert outcome.reason
        launch.on_the_way = lambda message: [message.data]
        again = await peers[0].offer(peers[1])
        assert again.kind is OutcomeKind.APPLIED
        # The answering side knows of every half that it applied alone.
        assert peers[1].answering.one_sided.count == applied[1] - applied[0]


async def test_a_rank_that_takes_part_no_more_costs_an_exchange_and_then_weights_go_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    monkeypatch.setattr(ranks_of_mpi, "STUCK_S", 0.05)
    async with ranks(tmp_path) as (launch, (a, b)):
        launch.dead.add(1)
        assert (await a.offer(b)).kind is not OutcomeKind.APPLIED
        await until(lambda: bool(b.refusals))
        assert (a.weights.applied, b.weights.applied) == (0, 0)
        outcome = await a.offer(b)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, "")
        assert a.ends == b.ends == []


async def test_an_error_of_mpi_costs_an_exchange_and_then_mpi_is_used_no_more(tmp_path: Path) -> None:
    async with ranks(tmp_path) as (launch, (a, b)):
        launch.broken = "process failed"
        assert (await a.offer(b)).kind is not OutcomeKind.APPLIED
        await until(lambda: bool(b.refusals and (a.ends or b.ends)))
        assert set(a.ends + b.ends) == {"MPI reports: process failed"}
        launch.broken = ""
        outcome = await a.offer(b)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, "")


@pytest.mark.parametrize("stops", [0, 1], ids=["offerer", "answerer"])
async def test_a_side_that_ends_midway_leaves_the_other_with_its_old_weights(
    tmp_path: Path, stops: int
) -> None:
    async with ranks(tmp_path) as (launch, peers):
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_the_way(message: fake_mpi.Message) -> list[bytes]:
            if message.number == PHASES["halfway"]:
                loop.call_soon_threadsafe(reached.set)
            return [message.data] if message.number < PHASES["halfway"] else []

        launch.on_the_way = on_the_way
        offering = asyncio.ensure_future(peers[0].offer(peers[1]))
        await reached.wait()
        if stops == 0:
            offering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await offering
            await until(lambda: bool(peers[1].refusals))
        else:
            await peers[1].server.stop()
            outcome = await offering
            assert outcome.kind is not OutcomeKind.APPLIED
            assert peers[0].ends  # no process answers there: it counts as dead
        assert [peer.weights.applied for peer in peers] == [0, 0]


async def test_another_process_of_a_dead_rank_is_no_rank(tmp_path: Path) -> None:
    async with ranks(tmp_path, count=3) as (_, (a, b, c)):
        for peer in (a, b):
            peer.ranks.changed(c.record, None)
        assert a.ends == b.ends == ["rank 2 (c) has died"]
        outcome = await a.offer(b)
        assert (outcome.kind, outcome.by) == (OutcomeKind.APPLIED, "")
