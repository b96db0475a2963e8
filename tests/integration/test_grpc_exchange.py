"""The exchange over a real network: frames, deadlines, refusals, and a partner that stops in the middle."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import CheckpointRefused, Conflict, ExchangeFailed, NotFound, UsageError
from gossip_caffe.gossip.collect import consensus
from gossip_caffe.gossip.exchange import Exchanger, OutcomeKind
from gossip_caffe.gossip.frames import FRAME_BYTES
from gossip_caffe.gossip.grpc_server import PeerServer, split_address
from gossip_caffe.gossip.grpc_transport import GrpcTransport
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.solver.board import SnapshotInfo
from gossip_caffe.solver.layout import WeightLayout

SIZE = FRAME_BYTES // 2 * 3 + 11  # several frames, the last one short


class Weights:
    def __init__(self, seed: int) -> None:
        self.values = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)

    @property
    def size(self) -> int:
        return self.values.size

    def snapshot(self, out: np.ndarray) -> SnapshotInfo:
        np.copyto(out, self.values)
        return SnapshotInfo(1, 0, 0, 0, 0)

    def add_correction(self, delta: np.ndarray) -> None:
        self.values = self.values + delta


class Peer:
    """A server with its exchanger and its transport."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.weights = Weights(seed)
        self.folder = CheckpointFolder(folder)
        self.server = PeerServer("127.0.0.1:0", self.folder)
        self.transport = GrpcTransport()
        self.exchanger = Exchanger(
            peer=name,
            job="job",
            fingerprint="layout",
            codec="float16",
            weights=self.weights,
            transport=self.transport,
            clock=SystemClock(),
            rng=random.Random(seed),
        )
        self.exchanger.accepting = None
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start()}"
        self.server.serve(self.exchanger)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()


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
    outcome = await a.exchanger.offer_to("b", b.address)
    assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
    np.testing.assert_allclose(a.weights.values, middle, atol=3e-3)
    np.testing.assert_allclose(b.weights.values, middle, atol=3e-3)


async def test_a_consensus_is_the_mean_of_all_who_answer(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    request = Message("", "a", "job", "layout")
    others = {"b": b.address, "gone": "127.0.0.1:1"}
    agreed = await consensus(request, a.weights.values, others, a.transport, random.Random(1))
    assert agreed.contributors == ("a", "b")
    np.testing.assert_allclose(agreed.weights, (a.weights.values + b.weights.values) / 2, atol=1e-6)


async def test_a_partner_that_stops_in_mid_answer_costs_a_deadline_and_changes_nothing(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    hanging = asyncio.Event()

    async def hang(offer: Message) -> Message:
        await hanging.wait()
        raise ExchangeFailed("never answered")

    monkeypatch.setattr(b.exchanger, "answer", hang)
    monkeypatch.setattr(Exchanger, "deadline_s", 0.3)
    before = a.weights.values
    outcome = await a.exchanger.offer_to("b", b.address)
    hanging.set()
    assert outcome.kind is OutcomeKind.FAILED
    assert "deadline" in outcome.reason
    assert a.weights.values is before


async def test_a_peer_that_is_gone_is_a_failed_exchange(pair: tuple[Peer, Peer]) -> None:
    a, _ = pair
    outcome = await a.exchanger.offer_to("gone", "127.0.0.1:1")
    assert outcome.kind is OutcomeKind.FAILED


async def test_an_offer_of_absurd_size_is_refused_before_it_is_read(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    huge = Message("x", "a", "job", "layout", codec="float32", values=1 << 40, payload=b"\0" * (8 * SIZE))
    answer = await a.transport.exchange(b.address, huge, 10.0)
    assert answer.refusal is Refusal.CORRUPT_FRAME
    assert "the most" in answer.reason


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
        layout=tuple((blob.layer, blob.index, blob.shape) for blob in layout.blobs),
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


async def test_a_file_that_no_checkpoint_has_is_not_found(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    checkpoint_of(a)
    for checkpoint, file in (("00000000000100-a", "other"), ("nothing", "manifest.json"), ("..", "a")):
        with pytest.raises(NotFound):
            async for _ in b.transport.pull(a.address, "job", checkpoint, file, 0):
                pass
