"""Exchanges between peers with certificates: who may, who may not, and what each is told."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.addresses import place_of, with_name
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, UsageError
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES
from gossip_caffe.gossip.rounds.words import RoundLink, Word, WordKind
from gossip_caffe.gossip.transport import file_serving
from gossip_caffe.gossip.transport.file_transfer import FileSink, send_sealed_file
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.gossip.transport.reach import reach
from gossip_caffe.gossip.transport.secure.callers import TurnedAway
from gossip_caffe.security import sealing
from gossip_caffe.security.identity import Role, uri_of
from gossip_caffe.security.live import LiveTls
from gossip_caffe.security.sealing import Seals
from gossip_caffe.security.security import PLAIN, Security
from tests.exchange_net import ExchangingPeer, Weights
from tests.patience import PATIENCE_S
from tests.tls_files import Authority

SIZE = 3000


class Peer(ExchangingPeer):
    """A peer in its exchanges, with its identity. ``turned_away``: the calls that its server has turned away."""

    def __init__(self, name: str, folder: Path, security: Security, seed: int = 1) -> None:
        self.weights = Weights(seed, SIZE)
        self.server = PeerServer("127.0.0.1:0", CheckpointFolder(folder), security=security)
        self.transport = GrpcTransport(security=security)
        self.turned_away: list[TurnedAway] = []
        self.server.callers.told = self.turned_away.append
        super().__init__(name, self.weights, self.transport, codec="float32", seed=seed)
        self.name = name
        self.address = ""

    async def start(self) -> None:
        place = f"127.0.0.1:{await self.server.start()}"
        self.address = place if self.server.live is None else with_name(place, self.name)
        self.server.serve(self.answering)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()


class Town:
    """Peers of one CA, and callers with any certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.make()
        self._started: list[Peer | GrpcTransport] = []

    def identity(self, name: str, *uris: str, life_s: float = 3600.0) -> Security:
        return self.authority.issue(self.folder / "tls" / name, name, uris=uris, life_s=life_s)

    async def peer(self, name: str, security: Security | None = None, seed: int = 1) -> Peer:
        peer = Peer(name, self.folder / name, self.identity(name) if security is None else security, seed)
        self._started.append(peer)
        await peer.start()
        return peer

    def caller(self, security: Security) -> GrpcTransport:
        transport = GrpcTransport(security=security)
        self._started.append(transport)
        return transport

    async def stop(self) -> None:
        for started in self._started:
            await (started.stop() if isinstance(started, Peer) else started.close())


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    made = Town(tmp_path)
    yield made
    await made.stop()


def offer_of(peer: str, job: str = "job") -> Message:
    values = np.ones(SIZE, dtype=np.float32)
    return Message("x1", peer, job, "layout", 1, "float32", SIZE, values.view(np.uint8).data)


async def refused(transport: GrpcTransport, address: str, offer: Message) -> tuple[Refusal, str]:
    answer = await transport.exchange(address, offer, PATIENCE_S)
    return answer.refusal, answer.reason


async def test_two_peers_with_certificates_meet_in_the_middle_and_by_nothing_but_tls(town: Town) -> None:
    a, b = await town.peer("a"), await town.peer("b", seed=2)
    middle = (a.weights.values + b.weights.values) / 2
    outcome = await a.offering.offer_to("b", b.address)
    assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
    np.testing.assert_allclose(b.weights.values, middle, atol=1e-6)
    with pytest.raises(ExchangeFailed):
        await town.caller(PLAIN).exchange(place_of(b.address), offer_of("a"), PATIENCE_S)


async def test_each_fault_of_tls_is_told_apart_in_one_line(town: Town, tmp_path: Path) -> None:
    b = await town.peer("b")
    other = Authority.make("another CA")
    foreign = other.issue(tmp_path / "foreign", "a")
    assert foreign.tls is not None
    mixed = tmp_path / "mixed"
    shutil.copytree(tmp_path / "foreign", mixed)
    shutil.copy(tmp_path / "tls" / "b" / "ca.crt", mixed / "ca.crt")
    own = town.identity("a")
    cases = {
        "b asks for a certificate": (PLAIN, b.address),
        "comes from another CA than --cacert": (foreign, b.address),
        "is not that of c": (own, with_name(place_of(b.address), "c")),
        "the peer there has no certificate": (own, place_of(b.address)),
    }
    for said, (security, address) in cases.items():
        with pytest.raises(ExchangeFailed, match=said) as failed:
            await town.caller(security).exchange(address, offer_of("a"), PATIENCE_S)
        assert "\n" not in str(failed.value)
    plain = Peer("d", tmp_path / "d", PLAIN)
    await plain.start()
    try:
        with pytest.raises(ExchangeFailed, match="d speaks no TLS"):
            await town.caller(own).exchange(with_name(plain.address, "d"), offer_of("a"), PATIENCE_S)
    finally:
        await plain.stop()
    with pytest.raises(UsageError, match="has expired at"):
        town.caller(town.identity("late", life_s=-60))
    with pytest.raises(UsageError, match="comes from another CA than --cacert"):
        town.caller(Security(replace(foreign.tls, cacert=mixed / "ca.crt")))
    assert b.turned_away == []


async def test_a_certificate_that_b_does_not_trust_is_named_as_the_cause(town: Town, tmp_path: Path) -> None:
    """The caller trusts b's CA as well as its own; b trusts its own alone."""
    b = await town.peer("b")
    foreign = Authority.make("another CA").issue(tmp_path / "foreign", "a").tls
    assert foreign is not None
    both = tmp_path / "both.crt"
    both.write_bytes(foreign.cacert.read_bytes() + (tmp_path / "tls" / "b" / "ca.crt").read_bytes())
    caller = town.caller(Security(replace(foreign, cacert=both)))
    with pytest.raises(ExchangeFailed, match="b does not accept this side's certificate"):
        await caller.exchange(b.address, offer_of("a"), PATIENCE_S)


async def test_a_partner_whose_certificate_has_ended_is_not_called(town: Town) -> None:
    b = await town.peer("b", town.identity("b", life_s=1.5))
    a = town.caller(town.identity("a"))

    async def said() -> str:
        fresh = town.caller(town.identity("a"))
        try:
            await fresh.exchange(b.address, offer_of("a"), PATIENCE_S)
        except ExchangeFailed as error:
            return error.message
        return ""

    assert (await a.exchange(b.address, offer_of("a"), PATIENCE_S)).refusal is Refusal.NONE
    async with asyncio.timeout(PATIENCE_S):
        while "the certificate of b has expired" not in await said():
            await asyncio.sleep(0.1)


async def test_a_header_that_lies_is_unauthorized_and_nothing_is_applied(town: Town) -> None:
    b = await town.peer("b")
    before = b.weights.values.copy()
    caller = town.caller(town.identity("a"))
    refusal, reason = await refused(caller, b.address, offer_of("p1"))
    assert (refusal, reason) == (
        Refusal.UNAUTHORIZED,
        "the certificate is that of a, and the message says p1",
    )
    np.testing.assert_array_equal(b.weights.values, before)
    assert b.turned_away == [TurnedAway("exchange", "a", "p1", reason)]


async def test_a_word_of_rounds_that_lies_ends_the_stream(town: Town) -> None:
    b = await town.peer("b")
    heard: list[str] = []

    class Leads(Answering):
        async def attend(self, link: RoundLink) -> None:
            while True:
                heard.append((await link.receive()).peer)

    b.server.serve(Leads(b.local))
    link = await town.caller(town.identity("a")).attend(b.address)
    await link.send(Word(WordKind.ATTEND, peer="a", job="job", fingerprint="layout"))
    await link.send(Word(WordKind.ATTEND, peer="p1", job="job", fingerprint="layout"))
    with pytest.raises(ExchangeFailed, match="permission_denied the certificate is that of a"):
        await link.receive()
    link.close()
    assert heard == ["a"]
    assert [call.call for call in b.turned_away] == ["rounds"]


async def test_a_certificate_of_another_job_gets_nothing(town: Town) -> None:
    b = await town.peer("b")
    caller = town.caller(town.identity("a", uri_of(Role.PEER, "a", "other")))
    refusal, reason = await refused(caller, b.address, offer_of("a"))
    assert (refusal, reason) == (
        Refusal.UNAUTHORIZED,
        "the certificate of a is for job other, and not for job",
    )
    with pytest.raises(ExchangeFailed, match="permission_denied"):
        await caller.snapshot(b.address, offer_of("a"), PATIENCE_S)
    with pytest.raises(CheckpointRefused, match="permission_denied"):
        async for _ in caller.pull(b.address, "job", "c1", "manifest.json", 0):
            pass
    assert [call.call for call in b.turned_away] == ["exchange", "snapshot", "pull"]
    # Its own job's offer passes the door; b trains another one.
    assert (await refused(caller, b.address, offer_of("a", "other")))[0] is Refusal.LAYOUT_MISMATCH


async def test_a_viewer_may_look_and_never_exchange(town: Town) -> None:
    b = await town.peer("b")
    for viewer in (uri_of(Role.VIEWER, "eve", "job"), uri_of(Role.OWNER, "eve")):
        caller = town.caller(town.identity("eve", viewer))
        refusal, reason = await refused(caller, b.address, offer_of("eve"))
        assert refusal is Refusal.UNAUTHORIZED
        assert "may look and never exchange" in reason
        reader = await caller.snapshot(b.address, offer_of("eve"), PATIENCE_S)
        reader.close()


async def test_a_record_that_leads_elsewhere_moves_no_byte_of_weights(town: Town) -> None:
    a, c = await town.peer("a"), await town.peer("c")
    seen = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while more := await reader.read(1 << 16):
            seen.extend(more)
        writer.close()

    stranger = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    before = a.weights.values.copy()
    for place in (place_of(c.address), f"127.0.0.1:{port}"):
        outcome = await a.offering.offer_to("b", with_name(place, "b"))
        assert outcome.kind is OutcomeKind.FAILED, outcome
    stranger.close()
    np.testing.assert_array_equal(a.weights.values, before)
    assert sum(c.answering.answers.values()) == 0
    assert len(seen) < 4096  # the beginnings of handshakes, and nothing of an offer of 12,000 bytes
    assert b"layout" not in seen


async def test_certificates_change_while_peers_exchange_and_no_exchange_fails(town: Town) -> None:
    a, b = await town.peer("a"), await town.peer("b", seed=2)
    assert b.server.live is not None
    serials = set()
    for _ in range(4):
        outcome = await a.offering.offer_to("b", b.address)
        assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
        serials.add(b.server.live.now().certificate.serial)
        town.identity("a")
        town.identity("b")
    assert len(serials) == 4
    (town.folder / "tls" / "b" / "tls.crt").write_text("torn")
    (town.folder / "tls" / "a" / "tls.key").unlink()
    outcome = await a.offering.offer_to("b", b.address)
    assert outcome.kind is OutcomeKind.APPLIED, outcome.reason
    b.server.live.now()
    assert "is no certificate in PEM form" in b.server.live.fault


class OneFile:
    """Holds one file on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, checkpoint: str, file: str) -> Path:
        return self._path

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield self._path.read_bytes()[offset:]

        return self._path.stat().st_size, pieces()


@pytest.mark.parametrize("seals", [True, False])
async def test_files_go_in_sealed_pieces_or_over_grpc(
    town: Town, tmp_path: Path, seals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(1).bytes(3 * PIECE_BYTES + 77)
    (tmp_path / "file").write_bytes(content)
    server = PeerServer("127.0.0.1:0", OneFile(tmp_path / "file"), security=town.identity("b"))
    address = with_name(f"127.0.0.1:{await server.start()}", "b")
    server.hide_nearby()
    sealed, spoils = [], [False]
    send = send_sealed_file

    def seen(wire: Any, path: Path, offset: int, sent: Any, *, seals: Seals) -> None:
        sealed.append(path)
        send(wire, path, offset, sent, Seals(bytes(32), answers=True) if spoils[0] else seals)

    monkeypatch.setattr(file_serving, "send_sealed_file", seen)
    if not seals:
        monkeypatch.setattr(sealing, "can_seal", lambda: False)
    try:
        transport = town.caller(town.identity("a"))
        for most in (len(content), PIECE_BYTES + 5):
            with (tmp_path / "came").open("wb") as file:
                digest = hashlib.sha256()
                into = FileSink(file, digest, most, lambda _: None)
                await transport.fetch(address, "job", "c1", "file", 11, into)
            wanted = content[11:][:most]
            assert (tmp_path / "came").read_bytes() == wanted
            assert digest.digest() == hashlib.sha256(wanted).digest()
        assert len(sealed) == (2 if seals else 0)
        if seals:  # pieces under another key: not one of them is written, and the file comes over gRPC
            spoils[0] = True
            with (tmp_path / "came").open("wb") as file:
                into = FileSink(file, hashlib.sha256(), len(content), lambda _: None)
                await transport.fetch(address, "job", "c1", "file", 0, into)
            assert (tmp_path / "came").read_bytes() == content
    finally:
        await server.stop()


async def test_doctors_call_names_the_fault(town: Town, tmp_path: Path) -> None:
    b = await town.peer("b")
    own = town.identity("a").tls
    foreign = Authority.make("another CA").issue(tmp_path / "foreign", "a").tls
    assert own is not None
    assert foreign is not None
    clock = SystemClock()
    assert (await reach(b.address, "job", "", "", clock, LiveTls(own))).first == ""
    assert "another CA" in (await reach(b.address, "job", "", "", clock, LiveTls(foreign))).first
    assert "asks for a certificate" in (await reach(b.address, "job", "", "", clock)).first
    (tmp_path / "file").write_bytes(b"1")
    holder = PeerServer("127.0.0.1:0", OneFile(tmp_path / "file"), security=town.identity("c"))
    address = with_name(f"127.0.0.1:{await holder.start()}", "c")
    try:
        facts = await reach(address, "job", "c1", "file", clock, LiveTls(own))
        assert (facts.first, facts.second, facts.second_port) == ("", "", holder.weights_port)
    finally:
        await holder.stop()
