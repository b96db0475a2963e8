"""Crowds and slow callers at a living peer's two ports: places, copies and connections are counted, not seconds."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.background import within
from gossip_caffe.chaos import slow_streams
from gossip_caffe.checkpoint import pull as checkpoint_pull
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats import digest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol import offering
from gossip_caffe.gossip.protocol.admission import Patience
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.protocol.places import TransferPlace
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader
from gossip_caffe.gossip.transport import (
    file_serving,
    file_transfer,
    grpc_server,
    grpc_transport,
    weights_socket,
)
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.solver.board import SnapshotInfo
from tests.integration.test_grpc_exchange import SIZE, Peer, checkpoint_of

JOINERS = 200
STRANGERS = 500


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    a, b = Peer("a", tmp_path / "a", 1), Peer("b", tmp_path / "b", 2)
    await a.start()
    await b.start()
    yield a, b
    await a.stop()
    await b.stop()


async def pulled_by_all(a: Peer, folder: Path, count: int) -> list[bytes]:
    """What so many joiners, all at once and each with its own channel, get of a checkpoint's model."""
    manifest, announcement = checkpoint_of(a)

    async def join(number: int) -> bytes:
        transport, mine = GrpcTransport(), CheckpointFolder(folder / f"joiner-{number}")
        try:
            got = await pull(
                announcement, job="job", client=transport, folder=mine, rng=random.Random(number)
            )
            assert got == manifest
            return (mine.path(got.checkpoint, got.files[0].name)).read_bytes()
        finally:
            await transport.close()

    return list(await asyncio.gather(*map(join, range(count))))


@pytest.mark.parametrize("way", ["connections of their own", "calls"])
async def test_two_hundred_joiners_that_pull_at_once_all_get_it_whole(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", 0 if way == "connections of their own" else 1 << 60)
    whole = await pulled_by_all(pair[0], tmp_path, JOINERS)
    assert len(whole) == JOINERS
    assert len(set(whole)) == 1


async def test_joiners_that_are_sent_away_for_others_come_again_and_get_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody is behind here after a moment, and gives way to whoever waits."""
    monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", 0)
    monkeypatch.setattr(file_serving, "MOST_FILES", 1)
    monkeypatch.setattr(file_serving, "PATIENCE", Patience(lambda _: 0.0, grace_s=0.3, still_s=9.0))
    monkeypatch.setattr(file_transfer, "SEND_BYTES", 1 << 18)
    sendfile = os.sendfile

    def slow_sendfile(*where: int) -> int:
        time.sleep(0.02)
        return sendfile(*where)

    monkeypatch.setattr(os, "sendfile", slow_sendfile)
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    holder = Peer("few", tmp_path / "few", 3)
    await holder.start()
    given_way = 0
    give_way = TransferPlace.give_way

    def counted(place: TransferPlace, reason: str) -> None:
        nonlocal given_way
        given_way += 1
        give_way(place, reason)

    monkeypatch.setattr(TransferPlace, "give_way", counted)
    assert len(set(await pulled_by_all(holder, tmp_path, 8))) == 1
    assert given_way
    await holder.stop()
    gc.collect()
    assert not lost


def test_a_joiner_waits_for_longer_than_a_holder_lets_it_wait_for_a_place() -> None:
    assert file_serving.PLACE_WAIT_S <= grpc_transport.FIRST_WORD_S / 2


async def test_strangers_on_the_second_port_keep_nobody_from_pulling_or_exchanging(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", 0)
    monkeypatch.setattr(offering, "SWAP_FROM_VALUES", 0)
    a, b = pair
    for peer in pair:
        peer.server.hide_nearby()
    async with AsyncExitStack() as strangers:
        for _ in range(STRANGERS):
            _, writer = await asyncio.open_connection("127.0.0.1", a.server.weights_port)
            strangers.callback(writer.close)
        assert len(a.server._listener._strangers) <= weights_socket.MOST_STRANGERS
        assert len(set(await pulled_by_all(a, tmp_path, 20))) == 1
        assert (await b.offering.offer_to("a", a.address)).kind is OutcomeKind.APPLIED


async def test_a_connection_that_ends_before_its_first_byte_is_no_way_and_grpc_brings_the_file(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", 0)
    a, b = pair
    manifest, announcement = checkpoint_of(a)

    async def ended(*_: Any, **__: Any) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    monkeypatch.setattr(weights_socket, "connect", ended)
    got = await pull(announcement, job="job", client=b.transport, folder=b.folder, rng=random.Random(1))
    assert got == manifest


async def test_weights_whose_connection_ends_before_its_first_byte_are_carried_next_time(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering, "SWAP_FROM_VALUES", 0)
    a, b = pair

    async def ended(*_: Any, **__: Any) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    with monkeypatch.context() as patch:
        patch.setattr(weights_socket, "connect", ended)
        first = await a.offering.offer_to("b", b.address)
        assert first.kind is not OutcomeKind.APPLIED
        assert not a.transport.swaps(b.address, is_large=True)
        assert (await a.offering.offer_to("b", b.address)).kind is OutcomeKind.APPLIED


async def test_another_users_connection_to_the_unix_socket_is_ended_at_once(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, b = pair
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    reader, writer = await asyncio.open_unix_connection(f"\0{b.server._listener.nearby}")
    writer.write(bytes(weights_socket.TICKET_BYTES - 1))  # never a whole ticket
    try:
        assert await asyncio.wait_for(reader.read(), 60) == b""
    except ConnectionResetError:
        pass  # the same, where something was sent already
    assert not b.server._listener._strangers
    writer.close()


class Counting:
    """Weights of which every copy is counted; ``revision`` changes when the test says so."""

    def __init__(self) -> None:
        self.revision, self.copies = 0, 0
        self.size = self.exchanged = SIZE

    def snapshot(self, out: np.ndarray) -> SnapshotInfo:
        self.copies += 1
        out[:] = self.revision
        return SnapshotInfo(self.revision, 0, 0, 0, 0)

    def add_correction(self, delta: np.ndarray) -> None: ...


async def test_all_who_are_shown_one_revision_share_one_copy_and_two_are_shown_at_a_time(
    tmp_path: Path,
) -> None:
    peer = Peer("a", tmp_path, 1)
    counting = Counting()
    peer.local.weights = peer.answering._shown._weights = counting
    await peer.start()
    places, most = peer.server._snapshot_serving._places, 0
    transports = [GrpcTransport() for _ in range(JOINERS)]
    begun: list[SnapshotReader] = []

    async def ask(transport: GrpcTransport) -> None:
        try:
            begun.append(await transport.snapshot(peer.address, Message("", "x", "job", "layout"), 60.0))
        except Exception:
            pass  # told to come again, again and again: what counts is what the peer held

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, len(places._taken))
            await asyncio.sleep(0)

    async with within(look()):
        await asyncio.gather(*map(ask, transports))
    assert begun
    assert 1 <= most <= 2
    assert counting.copies < len(begun) + 2
    for shown in begun:
        shown.close()
    counting.revision = 7
    fresh = await transports[0].snapshot(peer.address, Message("", "x", "job", "layout"), 60.0)
    assert np.frombuffer(await fresh.read(4), "<f4")[0] == 7
    fresh.close()
    for transport in transports:
        await transport.close()
    await peer.stop()


async def test_of_weights_that_change_all_the_time_there_are_two_copies_for_those_who_read_nothing(
    tmp_path: Path,
) -> None:
    """Who gives way is gone with its copy before the next one is made."""

    class Changing(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.alive: list[weakref.ref[np.ndarray]] = []
            self.most_alive = 0

        def snapshot(self, out: np.ndarray) -> SnapshotInfo:
            self.revision += 1
            self.alive = [*(copy for copy in self.alive if copy() is not None), weakref.ref(out)]
            self.most_alive = max(self.most_alive, len(self.alive))
            return super().snapshot(out)

    peer = Peer("a", tmp_path, 1)
    changing = Changing()
    peer.local.weights = peer.answering._shown._weights = changing
    await peer.start()
    unread = slow_streams.Crowd(offers=0, silent=0, unread=8)
    assert await slow_streams.slow_streams(peer.address, "job", 8.0, unread) >= 8
    assert changing.copies > 4
    assert changing.most_alive == 2
    await peer.stop()


async def test_a_partner_sees_the_weights_beside_a_crowd_that_reads_nothing(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    assert (await b.offering.offer_to("a", a.address)).kind is OutcomeKind.APPLIED
    unread = slow_streams.Crowd(offers=0, silent=0, unread=1)
    crowd = (slow_streams.slow_streams(a.address, "job", 60.0, unread) for _ in range(40))
    async with within(*crowd):
        await asyncio.sleep(2.0)
        for _ in range(3):
            shown = await b.transport.snapshot(a.address, Message("", "b", "job", "layout"), 60.0)
            assert len(await shown.read(shown.payload_bytes)) == 4 * SIZE
            shown.close()


async def test_exchanges_go_on_beside_slow_streams_of_every_kind(
    pair: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering, "SWAP_FROM_VALUES", SIZE + 1)
    a, b = pair
    outcomes, most = [], 0
    async with within(slow_streams.slow_streams(b.address, "job", 12.0)) as (slow,):
        await asyncio.sleep(1.5)
        while not slow.done():
            most = max(most, len(b.answering._receiving._taken))
            outcomes.append((await a.offering.offer_to("b", b.address)).kind)
            await asyncio.sleep(0.2)
        assert slow.result() > 4 * slow_streams.STREAMS, "they came again whenever they were refused"
    assert most == MOST_IN_FLIGHT, "they had every place"
    applied = outcomes.count(OutcomeKind.APPLIED)
    assert applied >= 0.8 * len(outcomes), outcomes


async def test_idle_connections_on_both_ports_keep_no_joiner_out(
    pair: tuple[Peer, Peer], tmp_path: Path
) -> None:
    a, _ = pair
    ports = (int(a.address.rpartition(":")[2]), a.server.weights_port)
    async with AsyncExitStack() as idle:
        for port in ports:
            for _ in range(STRANGERS):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                idle.callback(writer.close)
        assert len(set(await pulled_by_all(a, tmp_path, 3))) == 1


async def test_more_calls_than_the_cap_are_told_to_come_again_and_a_pull_does(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "MOST_CALLS", 2)
    monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", 1 << 60)
    few = Peer("few", tmp_path / "few", 3)
    await few.start()
    assert len(set(await pulled_by_all(few, tmp_path, 12))) == 1
    await few.stop()


async def test_the_disk_is_read_and_hashed_by_threads_alone(
    pair: tuple[Peer, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops_own, by = threading.get_ident(), set[int]()

    def seen(work: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            by.add(threading.get_ident())
            return work(*args, **kwargs)

        return run

    monkeypatch.setattr(file_transfer, "_write", seen(file_transfer._write))
    monkeypatch.setattr(checkpoint_pull, "read_into_digest", seen(digest.read_into_digest))
    monkeypatch.setattr(CheckpointFolder, "open_file", seen(CheckpointFolder.open_file))
    a, b = pair
    for limit in (0, 1 << 60):
        monkeypatch.setattr(checkpoint_pull, "BULK_BYTES", limit)
        await pulled_by_all(a, tmp_path / str(limit), 2)
    manifest, announcement = checkpoint_of(b)
    assert isinstance(announcement, Announcement)
    unfinished = tmp_path / "part"
    unfinished.mkdir()
    entry = manifest.files[0]
    content = b.folder.path(manifest.checkpoint, entry.name).read_bytes()
    (unfinished / entry.name).write_bytes(content[: len(content) // 2])
    source = checkpoint_pull._Source(b.transport, b.address, "job", manifest.checkpoint)
    await checkpoint_pull._rest(source, entry, unfinished / entry.name, lambda _: None)
    assert (unfinished / entry.name).read_bytes() == content
    assert by
    assert loops_own not in by
