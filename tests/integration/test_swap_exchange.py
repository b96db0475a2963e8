"""A large model's exchange over real sockets: both ways at once, whole or not at all, however a connection fares.

All of it holds for plain connections, and for those between peers with certificates, which are sealed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from gossip_caffe.addresses import with_name
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.gossip.averaging.bound import Reach
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol import offering
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, PIECE_VALUES
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.security import sealing
from gossip_caffe.security.security import PLAIN
from tests.descriptors import open_descriptors
from tests.exchange_net import ExchangingPeer, Weights
from tests.patience import be_patient

SIZE = 12 * PIECE_VALUES + 77  # 6 MB as float32: more than a socket takes on before somebody reads


@pytest.fixture(autouse=True, params=["plain", "sealed"])
def authority(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA of the peers' certificates; None where they have none."""
    if request.param == "plain":
        return
    from tests.tls_files import Authority  # noqa: PLC0415 - it needs cryptography, and plain connections do not

    monkeypatch.setattr(Peer, "authority", Authority.make())


class Peer(ExchangingPeer):
    """A peer in its exchanges with its server and its transport, and what its watcher was told."""

    authority: Any = None

    def __init__(self, name: str, folder: Path, seed: int, codec: str) -> None:
        self.weights = Weights(seed, SIZE)
        self.name = name
        security = PLAIN if self.authority is None else self.authority.issue(folder / f"tls-{name}", name)
        self.server = PeerServer("127.0.0.1:0", CheckpointFolder(folder / name), security=security)
        self.transport = GrpcTransport(security=security)
        self.refusals: list[tuple[Refusal, str]] = []
        super().__init__(
            name, self.weights, self.transport, codec=codec, seed=seed, offload=asyncio.to_thread
        )
        self.answering.watcher = self
        self.address = ""

    def applied(self, half: AppliedHalf) -> None: ...

    def alone(self, half: AppliedHalf) -> None: ...

    def too_far(self, offer: Message, reach: Reach) -> None: ...

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        self.refusals.append((refusal, reason))

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start()}"
        self.nearby = self.server._listener.nearby
        if self.authority is not None:
            self.address = with_name(self.address, self.name)
            self.server.hide_nearby()  # what does not leave the machine is not sealed
        self.server.serve(self.answering)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()

    async def offer(self, partner: Peer) -> Outcome:
        async with asyncio.timeout(60):
            return await self.offering.offer_to("b", partner.address)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


@asynccontextmanager
async def two(folder: Path, codec: str = "float32") -> AsyncIterator[tuple[Peer, Peer]]:
    a, b = Peer("a", folder, 1, codec), Peer("b", folder, 2, codec)
    await a.start()
    await b.start()
    try:
        yield a, b
    finally:
        await a.stop()
        await b.stop()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    async with two(tmp_path) as peers:
        yield peers


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("codec", CODECS)
async def test_two_peers_meet_in_the_middle(tmp_path: Path, codec: str) -> None:
    async with two(tmp_path, codec) as (a, b):
        total = a.weights.values.astype(np.float64) + b.weights.values
        outcome = await a.offer(b)
        assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
        np.testing.assert_allclose(a.weights.values.astype(np.float64) + b.weights.values, total, atol=2e-6)
        apart = np.linalg.norm(a.weights.values - b.weights.values) / np.linalg.norm(total)
        assert apart < {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2, "int8": 0.02, "int4": 0.3}[codec]
        # Of weights this far apart the noise of rounding that is taken off is a little too much.
        assert a.local.mean_distance == pytest.approx(0.5, abs=0.02 if codec == "int4" else 0.01)


@pytest.mark.parametrize("nearby", [True, False])
async def test_who_is_not_on_this_machine_connects_by_tcp(pair: tuple[Peer, Peer], nearby: bool) -> None:
    a, b = pair
    families = []

    def ready(wire: socket.socket) -> None:
        families.append(wire.family)
        settled(wire)

    settled = weights_socket.ready
    name = b.nearby if nearby else "gossip-caffe-of-another-machine"
    with patch.object(b.server._listener, "nearby", name), patch.object(weights_socket, "ready", ready):
        assert (await a.offer(b)).kind is OutcomeKind.APPLIED
    assert families == [socket.AF_UNIX if nearby else socket.AF_INET] * 2


async def test_blobs_that_float16_cannot_hold_travel_as_float32(tmp_path: Path) -> None:
    async with two(tmp_path, "float16") as (a, b):
        a.weights.values[7] = 1e6
        total = a.weights.values.astype(np.float64) + b.weights.values
        assert (await a.offer(b)).kind is OutcomeKind.APPLIED
        np.testing.assert_allclose(a.weights.values.astype(np.float64) + b.weights.values, total, atol=0.07)
        assert b.weights.values[7] == pytest.approx(5e5, rel=1e-4)


async def test_four_peers_that_offer_to_one_at_once_are_all_answered(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        others = [Peer(f"x{number}", tmp_path, number, "float32") for number in range(3)]
        outcomes = await asyncio.gather(
            a.offer(b), *(other.offering.offer_to("b", b.address) for other in others)
        )
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.APPLIED}
        assert b.weights.applied == 4
        for other in others:
            await other.stop()


async def test_crossing_offers_end_in_one_exchange(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    total = a.weights.values.astype(np.float64) + b.weights.values
    outcomes = await asyncio.gather(a.offer(b), b.offering.offer_to("a", a.address))
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count(OutcomeKind.APPLIED) >= 1
    assert {OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN} >= set(kinds)
    np.testing.assert_allclose(a.weights.values, total / 2, atol=1e-6)
    np.testing.assert_allclose(b.weights.values, total / 2, atol=1e-6)


async def test_a_refusal_comes_before_any_weights_are_read_or_sent(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    b.local.accepting = Refusal.SHUTTING_DOWN
    with patch.object(weights_socket, "connect", side_effect=AssertionError("nothing to connect for")):
        outcome = await a.offer(b)
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.SHUTTING_DOWN)
    assert a.offering.unanswered == 0


@pytest.mark.parametrize("who", [0, 1], ids=["offerer", "answerer"])
async def test_a_side_with_nan_refuses_by_name_and_neither_changes(pair: tuple[Peer, Peer], who: int) -> None:
    pair[who].weights.values[5] = np.nan
    outcome = await pair[0].offer(pair[1])
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.NON_FINITE)
    assert "ab"[who] in outcome.reason
    assert [peer.weights.applied for peer in pair] == [0, 0]


async def test_where_the_second_connection_cannot_be_made_the_next_offers_carry_their_weights(
    pair: tuple[Peer, Peer],
) -> None:
    a, b = pair
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen: whoever connects is refused
        by_tcp, by_name = (
            patch.object(b.server._listener, "port", closed.getsockname()[1]),
            patch.object(b.server._listener, "nearby", ""),
        )
        with by_tcp, by_name:
            first = await a.offer(b)
    assert first.kind is OutcomeKind.FAILED
    assert "for the weights" in first.reason
    assert (a.weights.applied, b.weights.applied, a.offering.unanswered) == (0, 0, 0)
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED


async def test_strangers_on_the_second_port_are_hung_up_on_and_hold_nobody_up(
    pair: tuple[Peer, Peer],
) -> None:
    a, b = pair
    silent = []
    for _ in range(2 * weights_socket.MOST_STRANGERS):
        reader, writer = await asyncio.open_connection("127.0.0.1", b.server.weights_port)
        silent.append(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", b.server.weights_port)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    for stranger in (*silent, writer):
        stranger.close()
    guess, guessing = await asyncio.open_connection("127.0.0.1", b.server.weights_port)
    guessing.write(bytes(16))
    assert await asyncio.wait_for(guess.read(), 30) == b""
    guessing.close()
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED


# ── what may happen to the connection of weights ──────────────────────────────────────────────────────────────────────

Spoil = Callable[[bytes, int], bytes | None]
"""Bytes on their way and how many went before; None cuts the connection."""


class Between:
    """A connection of weights that leads through here."""

    def __init__(self, to_answerer: Spoil, to_offerer: Spoil) -> None:
        self._spoils = to_answerer, to_offerer
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []

    async def connect(self, host: str, port: int, ticket: bytes, nearby: str) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
        onward = socket.create_connection((host, port))
        onward.sendall(ticket)
        self._sockets += [ours, theirs, onward]
        theirs.setblocking(False)
        onward.setblocking(False)
        self._tasks += [
            asyncio.ensure_future(self._pass(theirs, onward, self._spoils[0])),
            asyncio.ensure_future(self._pass(onward, theirs, self._spoils[1])),
        ]
        return ours

    async def _pass(self, there: socket.socket, here: socket.socket, spoil: Spoil) -> None:
        loop, passed = asyncio.get_running_loop(), 0
        try:
            while data := await loop.sock_recv(there, 1 << 16):
                if (spoilt := spoil(data, passed)) is None:
                    there.shutdown(socket.SHUT_RDWR)
                    break
                await loop.sock_sendall(here, spoilt)
                passed += len(data)
            here.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two hung up

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for mine in self._sockets:
            mine.close()


def unspoilt(data: bytes, before: int) -> bytes:
    return data


def cut_after(count: int) -> Spoil:
    return lambda data, before: data if before + len(data) < count else None


def flip_at(place: int) -> Spoil:
    def flip(data: bytes, before: int) -> bytes:
        if before <= place < before + len(data):
            spoilt = bytearray(data)
            spoilt[place - before] ^= 0x10
            return bytes(spoilt)
        return data

    return flip


HALFWAY, LAST = 2 * SIZE, 4 * SIZE - 100
FAULTS = {
    "cut before the first frame": cut_after(1),
    "cut halfway": cut_after(HALFWAY),
    "cut before the end": cut_after(LAST),
    "a length flipped": flip_at(3),
    "a checksum flipped": flip_at(5),
    "a weight flipped": flip_at(HALFWAY),
}


async def through(between: Between, offer: Callable[[], Awaitable[Outcome]]) -> Outcome:
    try:
        with patch.object(weights_socket, "connect", between.connect):
            return await offer()
    finally:
        await between.stop()


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_offer_that_does_not_come_whole_is_refused_and_neither_side_changes(
    pair: tuple[Peer, Peer], fault: str
) -> None:
    a, b = pair
    outcome = await through(Between(FAULTS[fault], unspoilt), lambda: a.offer(b))
    assert outcome.kind in {OutcomeKind.REFUSED, OutcomeKind.FAILED}
    assert [peer.weights.applied for peer in pair] == [0, 0]
    await until(lambda: bool(b.refusals))
    assert b.refusals[0][0] is Refusal.CORRUPT_FRAME
    assert b.refusals[0][1]
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED


@pytest.mark.parametrize("fault", FAULTS)
async def test_weights_that_do_not_come_back_whole_are_not_applied(
    pair: tuple[Peer, Peer], fault: str
) -> None:
    a, b = pair
    before = b.weights.values.astype(np.float64)
    outcome = await through(Between(unspoilt, FAULTS[fault]), lambda: a.offer(b))
    assert outcome.kind in {OutcomeKind.REFUSED, OutcomeKind.FAILED, OutcomeKind.REJECTED}
    assert outcome.reason
    assert a.weights.applied == 0
    await until(lambda: bool(b.refusals) or b.weights.applied == 1)
    one_sided = b.weights.applied
    moved = (b.weights.values - before).sum()
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED
    # Whatever b applied alone it knows now, exactly.
    assert b.answering.one_sided.count == one_sided
    assert b.answering.one_sided.mass_error == pytest.approx(moved if one_sided else 0.0, abs=1e-2)


async def test_silence_is_given_up_by_both_and_holds_no_place(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    stuck = asyncio.Event()

    class Silent(Between):
        async def _pass(self, there: socket.socket, here: socket.socket, spoil: Spoil) -> None:
            await stuck.wait()

    with patch.object(weights_socket, "SILENCE_S", 0.3):
        outcome = await through(Silent(unspoilt, unspoilt), lambda: a.offer(b))
    assert outcome.kind in {OutcomeKind.FAILED, OutcomeKind.REFUSED}
    await until(lambda: bool(b.refusals))
    assert [peer.weights.applied for peer in pair] == [0, 0]
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED


async def test_an_offerer_that_gives_up_midway_leaves_nothing_behind(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED
    descriptors = len(open_descriptors())
    reached = asyncio.Event()

    def halfway(data: bytes, before: int) -> bytes:
        if before > PIECE_BYTES:
            reached.set()
        return data

    between = Between(halfway, unspoilt)
    with patch.object(weights_socket, "connect", between.connect):
        offer = asyncio.ensure_future(a.offer(b))
        await reached.wait()
        offer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await offer
    await between.stop()
    await until(lambda: bool(b.refusals) or b.weights.applied == 2)
    assert a.weights.applied == 1
    del between, offer
    await until(lambda: len(open_descriptors()) <= descriptors)
    assert (await a.offer(b)).kind is OutcomeKind.APPLIED


async def test_nothing_of_sealed_weights_can_be_read_or_played_again(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        a.weights.values[:] = 1.25
        b.weights.values[:] = 1.25
        seen = bytearray()

        def note(data: bytes, before: int) -> bytes:
            seen.extend(data)
            return data

        outcome = await through(Between(note, note), lambda: a.offer(b))
        assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
        pattern = np.full(4, 1.25, dtype=np.float32).tobytes()
        assert (pattern in seen) is (Peer.authority is None)

        def twice(data: bytes, before: int) -> bytes:
            return data if before else data + data

        assert (await through(Between(twice, unspoilt), lambda: a.offer(b))).kind is not OutcomeKind.APPLIED


async def test_where_nothing_can_be_sealed_weights_go_over_grpc(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    monkeypatch.setattr(sealing, "can_seal", lambda: False)
    first = await a.offer(b)
    if Peer.authority is not None:
        assert "for the weights" in first.reason
        assert (a.weights.applied, b.weights.applied) == (0, 0)
        assert (await a.offer(b)).kind is OutcomeKind.APPLIED


async def test_these_weights_are_many_enough_to_go_both_ways_at_once() -> None:
    assert SIZE >= offering.SWAP_FROM_VALUES
