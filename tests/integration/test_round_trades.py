"""Trades of rounds over kept connections: one call of gRPC for many trades, and one more where a connection ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from gossip_caffe.addresses import with_name
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.swap import PIECE_VALUES, BothWays
from gossip_caffe.gossip.protocol.transport import Carry
from gossip_caffe.gossip.rounds.room import RoundMemory
from gossip_caffe.gossip.rounds.rows import LeavingRow, Row, RowSwap
from gossip_caffe.gossip.rounds.words import RoundLink
from gossip_caffe.gossip.transport import calls
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.security.security import PLAIN, Security
from tests.descriptors import open_descriptors

VALUES = 3 * PIECE_VALUES + 7
DEADLINE_S = 30.0


class Trader:
    """A peer that trades its whole snapshot with each peer that asks."""

    def __init__(
        self, name: str, folder: Path, seed: int, *, nearby: bool, security: Security = PLAIN
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.nearby = nearby
        self.refuses = False
        self.memory = RoundMemory(VALUES)
        self.memory.snapshot[:] = np.random.default_rng(seed).standard_normal(VALUES)
        self.security = security
        self.transport = GrpcTransport(security=security)
        self.rows: list[Row] = []
        self.address = ""

    async def start(self, listen: str = "127.0.0.1:0") -> None:
        self.server = PeerServer(listen, CheckpointFolder(self.folder), security=self.security)
        place = f"127.0.0.1:{await self.server.start()}"
        self.address = place if self.server.live is None else with_name(place, self.name)
        if not self.nearby:
            self.server.hide_nearby()
        self.server.serve(self)

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop()

    def swap(self) -> RowSwap:
        row = Row(np.empty(VALUES, np.float32), is_summed=True)
        leaving = LeavingRow(self.memory.snapshot, self.memory.own_mean(8), self.memory.rows)
        return RowSwap(leaving, row)

    async def ask(self, other: Trader, round_id: str = "r1", **changed: object) -> tuple[Message, Row]:
        """Trade with another; returns its answer and the row that came."""
        mine = self.swap()

        async def prepare() -> BothWays:
            return mine

        header = Message(
            round_id, self.name, "job", "layout", codec="float32", values=VALUES, phase="scatter"
        )
        header = replace(header, **changed)  # type: ignore[arg-type]
        return await self.transport.swap(other.address, header, prepare, DEADLINE_S), mine.arriving

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer a trade."""
        answer = Message(header.exchange_id, self.name, header.job, header.fingerprint, phase=header.phase)
        if self.refuses:
            return replace(answer, refusal=Refusal.OTHER_ROUND, reason="another round")
        mine = self.swap()

        async def prepare() -> BothWays:
            return mine

        await carry(prepare)
        self.rows.append(mine.arriving)
        return answer

    async def attend(self, link: RoundLink) -> None:
        raise NotImplementedError

    async def receive(self, *_: object) -> Message:
        raise NotImplementedError

    async def answer(self, offer: Message) -> Message:
        raise NotImplementedError

    async def show(self, request: Message) -> Message:
        raise NotImplementedError


@asynccontextmanager
async def two(folder: Path, *, way: str = "unix") -> AsyncIterator[tuple[Trader, Trader]]:
    """Two peers that meet by a Unix socket ("unix"), by TCP ("tcp"), or by TCP with certificates ("tls")."""
    security = dict.fromkeys("ab", PLAIN)
    if way == "tls":
        from tests.tls_files import Authority  # noqa: PLC0415 - cryptography may be missing

        authority = Authority.make()
        security = {name: authority.issue(folder / "tls" / name, name) for name in "ab"}
    a, b = (
        Trader(name, folder, seed, nearby=way == "unix", security=security[name])
        for seed, name in enumerate("ab")
    )
    await a.start()
    await b.start()
    try:
        yield a, b
    finally:
        await a.stop()
        await b.stop()


@pytest.mark.parametrize("way", ["unix", "tcp", "tls"])
async def test_many_trades_take_one_call_and_bring_both_rows_whole(tmp_path: Path, way: str) -> None:
    async with two(tmp_path, way=way) as (a, b):
        with patch.object(calls, "keep", wraps=calls.keep) as keep:
            for number in range(5):
                a.memory.begin()
                a.memory.snapshot[:] = number
                answer, row = await a.ask(b, f"r{number}")
                assert answer.refusal is Refusal.NONE
                assert (answer.exchange_id, answer.phase) == (f"r{number}", "scatter")
                np.testing.assert_array_equal(row.values, b.memory.snapshot)
                np.testing.assert_array_equal(b.rows[-1].values, np.full(VALUES, number, np.float32))
                assert b.rows[-1].is_still
                assert b.rows[-1].is_pointed is row.is_pointed is (way == "unix")
        assert keep.call_count == 1


async def test_a_partner_that_was_started_again_is_called_anew_at_once(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        await a.ask(b)
        address = b.address
        await b.server.stop()
        await b.start(address)
        answer, row = await a.ask(b, "r2")
        assert answer.exchange_id == "r2"
        np.testing.assert_array_equal(row.values, b.memory.snapshot)


@pytest.mark.parametrize("way", ["unix", "tcp", "tls"])
async def test_a_refusal_reaches_the_caller_and_the_next_trade_goes_on(tmp_path: Path, way: str) -> None:
    async with two(tmp_path, way=way) as (a, b):
        await a.ask(b)
        b.refuses = True
        answer, _ = await a.ask(b, "r2")
        assert (answer.refusal, answer.reason) == (Refusal.OTHER_ROUND, "another round")
        b.refuses = False
        answer, row = await a.ask(b, "r3")
        assert answer.exchange_id == "r3"
        assert row.is_whole


async def test_a_call_in_the_name_of_another_ends_the_connection(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        await a.ask(b)
        kept = a.transport._kept._idle[b.address]
        with (
            patch.object(a.transport._kept, "_idle", {b.address: kept}),
            patch.object(calls, "keep", side_effect=ExchangeFailed("no new connection")),
            pytest.raises(ExchangeFailed, match="no new connection"),
        ):
            await a.ask(b, "r2", peer="c")
        assert len(b.rows) == 1


async def test_a_row_in_a_partners_memory_is_void_once_the_partner_has_begun_another_round(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (a, b):
        _, row = await a.ask(b)
        assert row.is_still
        b.memory.begin()
        assert not row.is_still


async def test_departed_partners_leave_no_connection_behind(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        await a.ask(b)
        with_connection = len(open_descriptors())
        await a.transport.forget(())
        async with asyncio.timeout(DEADLINE_S):
            while len(open_descriptors()) > with_connection - 2 or b.server._trade_serving._kept:
                await asyncio.sleep(0.01)
        answer, _ = await a.ask(b, "r2")
        assert answer.refusal is Refusal.NONE


async def test_who_has_another_certificate_gets_no_connection_for_trades(tmp_path: Path) -> None:
    async with two(tmp_path, way="tls") as (a, b):
        with pytest.raises(ExchangeFailed, match="certificate"):
            await a.ask(b, peer="c")
        assert not b.rows
