"""The exchange over a real network: frames, deadlines, refusals, and a partner that stops in the middle."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.addresses import split_address
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.errors import (
    CheckpointRefused,
    Conflict,
    EnvironmentProblem,
    ExchangeFailed,
    NotFound,
    UsageError,
)
from gossip_caffe.gossip.codecs.message import Message, Refusal, Undelivered
from gossip_caffe.gossip.consensus import consensus, mean_of
from gossip_caffe.gossip.policy.partners import AvoidedPartners, choose
from gossip_caffe.gossip.protocol import offering
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.protocol.local_peer import OFFLOAD_FROM_VALUES
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.transport import grpc_server, grpc_transport, weights_socket
from gossip_caffe.gossip.transport.frame_codec import serialized
from gossip_caffe.gossip.transport.frames import FRAME_BYTES, to_frames
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import SERVICE, GrpcTransport
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.solver.board import SnapshotInfo
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.wire import gossip_pb2 as wire
from tests.exchange_net import ExchangingPeer
from tests.patience import PATIENCE_S, be_patient

SIZE = FRAME_BYTES // 2 * 3 + 11  # several frames, the last one short


class Weights:
    def __init__(self, seed: int) -> None:
        self.values = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def exchanged(self) -> int:
        return self.values.size

    def snapshot(self, out: np.ndarray) -> SnapshotInfo:
        np.copyto(out, self.values)
        return SnapshotInfo(1, 0, 0, 0, 0)

    def add_correction(self, delta: np.ndarray) -> None:
        self.values = self.values + delta


class Peer(ExchangingPeer):
    """A peer in its exchanges with its server and its transport."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.weights = Weights(seed)
        self.folder = CheckpointFolder(folder)
        self.server = PeerServer("127.0.0.1:0", self.folder)
        self.transport = GrpcTransport()
        super().__init__(
            name, self.weights, self.transport, codec="float16", seed=seed, offload=asyncio.to_thread
        )
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start()}"
        self.server.serve(self.answering)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()


@pytest.fixture(autouse=True)
def carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights travel in the messages, although there are many; and nobody is in a hurry."""
    monkeypatch.setattr(offering, "SWAP_FROM_VALUES", SIZE + 1)
    be_patient(monkeypatch)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    a, b = Peer("a", tmp_path / "a", 1), Peer("b", tmp_path / "b", 2)
    await a.start()
    await b.start()
    yield a, b
    await a.stop()
    await b.stop()


async def test_two_peers_meet_in_the_middle(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    middle = (a.weights.values + b.weights.values) / 2
    outcome = await a.offering.offer_to("b", b.address)
    assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
    np.testing.assert_allclose(a.weights.values, middle, atol=3e-3)
    np.testing.assert_allclose(b.weights.values, middle, atol=3e-3)


async def test_a_consensus_is_the_mean_of_all_who_answer(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    request = Message("", "a", "job", "layout")
    others = {"b": b.address, "gone": "127.0.0.1:1"}
    _, agreed = await consensus(
        request, SIZE, a.weights.snapshot, others, a.transport, random.Random(1), most=8
    )
    assert agreed.contributors == ("a", "b")
    np.testing.assert_allclose(agreed.weights, (a.weights.values + b.weights.values) / 2, atol=1e-6)


async def test_a_peer_that_shows_nothing_is_left_out_of_a_consensus_and_nobody_else_is(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    silent = Peer("c", tmp_path / "c", 3)
    await silent.start()
    hanging = asyncio.Event()

    async def hang(*_: Any) -> Message:
        await hanging.wait()
        raise ExchangeFailed("never shown")

    ask = a.transport.snapshot

    def snapshot(address: str, *rest: Any) -> Any:
        monkeypatch.setattr(grpc_transport, "SHOW_S", 0.5 if address == silent.address else PATIENCE_S)
        return ask(address, *rest)

    monkeypatch.setattr(silent.answering, "show", hang)
    monkeypatch.setattr(a.transport, "snapshot", snapshot)
    request, others = Message("", "a", "job", "layout"), {"b": b.address, "c": silent.address}
    for seed in range(4):  # whoever is asked first
        asked: dict[str, Any] = {"most": 8, "deadline_s": PATIENCE_S}
        rng = random.Random(seed)
        _, agreed = await consensus(request, SIZE, a.weights.snapshot, others, a.transport, rng, **asked)
        assert agreed.contributors == ("a", "b")
        mean = await mean_of(request, SIZE, others, a.transport, random.Random(seed), **asked)
        assert mean is not None
        assert mean.contributors == ("b",)
    hanging.set()
    await silent.stop()


async def test_a_partner_that_stops_in_mid_answer_costs_a_deadline_and_changes_nothing(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    hanging = asyncio.Event()

    async def hang(*_: Any) -> Message:
        await hanging.wait()
        raise ExchangeFailed("never answered")

    monkeypatch.setattr(b.answering, "receive", hang)
    monkeypatch.setattr(Offering, "deadline_s", lambda _, partner: 1.5)
    before = a.weights.values
    outcome = await a.offering.offer_to("b", b.address)
    hanging.set()
    assert outcome.kind is OutcomeKind.FAILED
    assert "deadline" in outcome.reason
    assert a.weights.values is before


async def test_after_a_partner_that_hangs_the_next_exchange_goes_to_another(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    hanging = asyncio.Event()

    async def hang(*_: Any) -> Message:
        await hanging.wait()
        raise ExchangeFailed("never answered")

    monkeypatch.setattr(b.answering, "receive", hang)
    c = Peer("c", tmp_path / "c", 3)
    await c.start()
    addresses, suspects, rng = {"b": b.address, "c": c.address}, AvoidedPartners(), random.Random(0)
    with monkeypatch.context() as patch:
        patch.setattr(Offering, "deadline_s", lambda _, partner: 0.3)
        assert (await a.offering.offer_to("b", b.address)).kind is OutcomeKind.FAILED
    suspects.failed("b", 0.0)
    for _ in range(5):
        partner = choose(addresses, suspects, 0.5, rng).partner
        assert partner == "c"
        assert (await a.offering.offer_to(partner, addresses[partner])).kind is OutcomeKind.APPLIED
    hanging.set()
    await c.stop()


async def test_a_peer_that_is_gone_is_a_failed_exchange_that_surely_reached_nobody(
    pair: tuple[Peer, Peer],
) -> None:
    a, _ = pair
    outcome = await a.offering.offer_to("gone", "127.0.0.1:1")
    assert outcome.kind is OutcomeKind.FAILED
    assert a.offering.unanswered == 0


async def test_arithmetic_on_these_weights_runs_in_threads() -> None:
    assert SIZE >= OFFLOAD_FROM_VALUES


async def test_a_peer_that_is_still_joining_says_so(tmp_path: Path, pair: tuple[Peer, Peer]) -> None:
    a, _ = pair
    joiner = PeerServer("127.0.0.1:0", CheckpointFolder(tmp_path / "joiner"))
    address = f"127.0.0.1:{await joiner.start()}"
    outcome = await a.offering.offer_to("joiner", address)
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.NOT_TRAINING)
    request = Message("", "a", "job", "layout")
    assert await mean_of(request, SIZE, {"joiner": address}, a.transport, random.Random(1), most=8) is None
    await joiner.stop()


def frames_of(offer: Message) -> list[Any]:
    return [wire.ExchangeMessage.FromString(serialized(part)) for part in to_frames(offer)]


def whole_offer(name: str) -> Message:
    payload = np.zeros(SIZE, "<f4").tobytes()
    return Message(name, "raw", "job", "layout", codec="float32", values=SIZE, payload=payload)


async def raw_exchange(address: str, parts: AsyncIterator[Any], timeout_s: float = 20.0) -> Message:
    """Send any parts, and read the header of the answer."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/{SERVICE}/Exchange",
            request_serializer=wire.ExchangeMessage.SerializeToString,
            response_deserializer=wire.ExchangeMessage.FromString,
        )(parts, timeout=timeout_s)
        header = (await call.read()).header
        call.cancel()
    return Message(header.exchange_id, "", "", "", refusal=Refusal(header.refusal), reason=header.reason)


def flip(parts: list[Any]) -> list[Any]:
    data = bytearray(parts[2].frame.data)
    data[100] ^= 1
    parts[2].frame.data = bytes(data)
    return parts


@pytest.mark.parametrize(
    "spoil",
    [
        flip,
        lambda parts: parts[:-1],
        lambda parts: [parts[0], *parts[2:]],
        lambda parts: [parts[0], parts[1], *parts[1:]],
        lambda parts: [parts[0], *parts],
        lambda parts: [parts[0], parts[2], parts[1], *parts[3:]],
        lambda parts: [*parts, parts[-1]],
        lambda parts: [parts[0], wire.ExchangeMessage(frame=wire.Frame()), *parts[1:]],
    ],
    ids=["bit flipped", "cut", "gap", "twice", "two headers", "swapped", "too long", "empty frame"],
)
async def test_what_does_not_come_as_it_was_sent_is_refused_by_name_and_changes_nothing(
    pair: tuple[Peer, Peer], spoil: Callable[[list[Any]], list[Any]]
) -> None:
    _, b = pair
    before = b.weights.values

    async def parts() -> AsyncIterator[Any]:
        for part in spoil(frames_of(whole_offer("spoilt"))):
            yield part

    answer = await raw_exchange(b.address, parts())
    assert (answer.exchange_id, answer.refusal) == ("spoilt", Refusal.CORRUPT_FRAME)
    assert b.weights.values is before


async def test_an_offerer_that_stops_in_the_middle_is_given_up_and_holds_no_place(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    stopped = asyncio.Event()

    async def half_open(name: str) -> Message:
        async def parts() -> AsyncIterator[Any]:
            for part in frames_of(whole_offer(name))[:3]:
                yield part
            await stopped.wait()

        return await raw_exchange(b.address, parts())

    with monkeypatch.context() as short:
        short.setattr(grpc_server, "RECEIPT_SILENCE_S", 2.0)
        answers = await asyncio.gather(*(half_open(str(number)) for number in range(MOST_IN_FLIGHT)))
    assert {answer.refusal for answer in answers} == {Refusal.CORRUPT_FRAME}
    assert "nothing came" in answers[0].reason
    stopped.set()
    assert (await a.offering.offer_to("b", b.address)).kind is OutcomeKind.APPLIED


class BrokenPartner:
    """A server that reads an offer and answers with the given parts."""

    def __init__(self, parts: Callable[[Any], list[Any]]) -> None:
        self._parts = parts
        self._server = grpc.aio.server()

    async def start(self) -> str:
        handler = grpc.stream_stream_rpc_method_handler(
            self._exchange, wire.ExchangeMessage.FromString, wire.ExchangeMessage.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Exchange": handler}),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(0.1)

    async def _exchange(self, stream: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        header = (await anext(stream)).header
        async for _ in stream:
            pass
        for part in self._parts(header):
            if part is None:
                await context.abort(grpc.StatusCode.INTERNAL, "the partner died")
            yield part


def good_answer(header: Any) -> list[Any]:
    payload = np.zeros(SIZE, "<f4").tobytes()
    return frames_of(
        Message(header.exchange_id, "x", "job", "layout", codec="float32", values=SIZE, payload=payload)
    )


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        (good_answer, OutcomeKind.APPLIED),
        (lambda header: [*good_answer(header)[:2], None], OutcomeKind.FAILED),
        (lambda header: good_answer(header)[:2], OutcomeKind.REJECTED),
        (lambda header: [], OutcomeKind.REJECTED),
        (lambda header: flip(good_answer(header)), OutcomeKind.REJECTED),
        (lambda header: [*good_answer(header), good_answer(header)[-1]], OutcomeKind.REJECTED),
        (lambda header: good_answer(wire.ExchangeHeader(exchange_id="another")), OutcomeKind.REJECTED),
    ],
    ids=["good", "dies in mid answer", "cut", "empty", "bit flipped", "too long", "to another offer"],
)
async def test_only_a_whole_answer_is_applied(
    pair: tuple[Peer, Peer], parts: Callable[[Any], list[Any]], kind: OutcomeKind
) -> None:
    a, _ = pair
    partner = BrokenPartner(parts)
    address = await partner.start()
    before = a.weights.values
    outcome = await a.offering.offer_to("x", address)
    await partner.stop()
    assert outcome.kind is kind, outcome.reason
    assert (a.weights.values is before) == (kind is not OutcomeKind.APPLIED)
    assert a.offering.unanswered == (kind is not OutcomeKind.APPLIED)


async def test_a_refusal_arrives_before_the_offer_is_sent_to_its_end(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    stranger = Message("s", "a", "job", "another", codec="float32", values=1, payload=bytes(4 * SIZE))
    for _ in range(5):
        answer = await a.transport.exchange(b.address, stranger, 10.0)
        assert answer.refusal is Refusal.LAYOUT_MISMATCH


async def test_channels_to_peers_that_left_are_closed_and_opened_again_when_needed(
    pair: tuple[Peer, Peer],
) -> None:
    a, b = pair
    assert (await a.offering.offer_to("b", b.address)).kind is OutcomeKind.APPLIED
    assert len(a.transport._channels) == 1
    await a.transport.forget([])
    assert len(a.transport._channels) == 0
    assert (await a.offering.offer_to("b", b.address)).kind is OutcomeKind.APPLIED


async def test_an_offer_that_is_not_sent_to_its_end_by_the_deadline_surely_changed_nothing(
    pair: tuple[Peer, Peer],
) -> None:
    a, _ = pair
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(Undelivered):
            await a.transport.exchange(address, whole_offer("never"), 0.3)


async def test_an_offer_of_absurd_size_is_refused_before_it_is_read(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    huge = Message("x", "a", "job", "layout", codec="float32", values=1 << 40, payload=b"\0" * (8 * SIZE))
    answer = await a.transport.exchange(b.address, huge, 10.0)
    assert answer.refusal is Refusal.CORRUPT_FRAME
    assert "the limit is" in answer.reason


async def test_a_port_in_use_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict) as caught:
            await PeerServer(f"127.0.0.1:{port}", CheckpointFolder(tmp_path)).start()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "--listen" in str(caught.value)


@pytest.mark.parametrize("address", ["", "7100", "host:", ":7100", "host:http", "host:99999"])
def test_a_malformed_address_names_its_option(address: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        split_address(address, "--listen")


def checkpoint_of(peer: Peer, name: str = "00000000000100-a") -> tuple[Manifest, Announcement]:
    layout = WeightLayout.of([("ip", 0, (SIZE,))])
    manifest = Manifest(
        checkpoint=name,
        job="job",
        job_fingerprint="fingerprint",
        layout=layout.entries,
        progress_samples=100,
        folded=0,
        done=(),
        maker="a",
        contributors=("a",),
        made_at=1.0,
    )
    manifest = peer.folder.write(manifest, peer.weights.values)
    return manifest, Announcement(name, manifest.digest, 100, 1.0, {"a": peer.address})


async def test_a_checkpoint_is_pulled_whole_and_verified(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    manifest, announcement = checkpoint_of(a)
    seen: list[tuple[int, int]] = []
    pulled = await pull(
        announcement,
        job="job",
        client=b.transport,
        folder=b.folder,
        rng=random.Random(1),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert pulled == manifest
    assert seen[-1][0] == seen[-1][1] == manifest.files[0].size_bytes
    layout = manifest.weight_layout()
    _, weights = b.folder.load(
        manifest.checkpoint, job_fingerprint="fingerprint", layout_fingerprint=layout.fingerprint
    )
    assert np.array_equal(weights, a.weights.values)


async def test_a_holder_that_is_gone_or_torn_is_followed_by_the_next(
    pair: tuple[Peer, Peer], tmp_path: Path
) -> None:
    a, b = pair
    manifest, announcement = checkpoint_of(a)
    torn = Peer("torn", tmp_path / "torn", 3)
    await torn.start()
    checkpoint_of(torn)  # another content under the same name
    announcement.holders.update(torn=torn.address, gone="127.0.0.1:1")
    for seed in range(4):  # any order of the holders
        pulled = await pull(
            announcement, job="job", client=b.transport, folder=b.folder, rng=random.Random(seed)
        )
        assert pulled == manifest
    await torn.stop()


async def test_when_no_holder_has_it_whole_each_reason_is_named(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    _, announcement = checkpoint_of(a)
    model = a.folder.path(announcement.checkpoint, "model.caffemodel")
    content = bytearray(model.read_bytes())
    content[1000] ^= 1
    model.write_bytes(content)
    with pytest.raises(CheckpointRefused, match=r"a: model\.caffemodel is not what was announced"):
        await pull(announcement, job="job", client=b.transport, folder=b.folder, rng=random.Random(1))
    assert b.folder.ids() == []


@pytest.mark.parametrize("bulk_bytes", [0, 1 << 62])
async def test_a_holder_that_breaks_off_is_continued_at_the_next_one_over_either_way(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bulk_bytes: int
) -> None:
    monkeypatch.setattr("gossip_caffe.checkpoint.pull.BULK_BYTES", bulk_bytes)
    a, b = pair
    manifest, announcement = checkpoint_of(a)
    size = manifest.files[0].size_bytes
    half = Peer("half", tmp_path / "half", 3)
    await half.start()
    shutil.copytree(a.folder.path(manifest.checkpoint), half.folder.path(manifest.checkpoint))
    os.truncate(half.folder.path(manifest.checkpoint, manifest.files[0].name), size // 2)
    asked: list[tuple[str, int]] = []
    for name in ("pull", "fetch"):
        original = getattr(b.transport, name)

        def noted(*args: Any, original: Any = original) -> Any:
            if args[3] != "manifest.json":
                asked.append((args[0], args[4]))
            return original(*args)

        monkeypatch.setattr(b.transport, name, noted)
    announcement.holders.clear()
    announcement.holders.update(half=half.address, whole=a.address)

    class InOrder(random.Random):
        def shuffle(self, x: Any) -> None:
            pass

    pulled = await pull(announcement, job="job", client=b.transport, folder=b.folder, rng=InOrder())
    assert pulled == manifest
    assert asked == [(half.address, 0), (a.address, size // 2)]
    await half.stop()


async def test_a_large_file_comes_through_the_port_of_grpc_when_no_other_is_open(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossip_caffe.checkpoint.pull.BULK_BYTES", 0)
    a, b = pair
    manifest, announcement = checkpoint_of(a)

    async def closed(host: str, port: int, ticket: bytes) -> socket.socket:
        raise weights_socket.CannotConnect(f"cannot connect to {host}:{port}")

    monkeypatch.setattr(weights_socket, "connect", closed)
    pulled = await pull(announcement, job="job", client=b.transport, folder=b.folder, rng=random.Random(1))
    assert pulled == manifest


async def test_a_disk_that_is_full_ends_a_pull_with_one_line_and_leaves_nothing(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossip_caffe.checkpoint.pull.BULK_BYTES", 0)
    a, b = pair
    _, announcement = checkpoint_of(a)

    def full(file: Any, piece: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gossip_caffe.gossip.transport.file_transfer._write", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        await pull(announcement, job="job", client=b.transport, folder=b.folder, rng=random.Random(1))
    assert b.folder.ids() == []
    assert list(b.folder.root.iterdir()) == []


async def test_a_file_that_no_checkpoint_has_is_not_found(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    checkpoint_of(a)
    for checkpoint, file in (("00000000000100-a", "other"), ("nothing", "manifest.json"), ("..", "a")):
        with pytest.raises(NotFound):
            async for _ in b.transport.pull(a.address, "job", checkpoint, file, 0):
                pass
