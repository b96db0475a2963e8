"""The connections that this peer keeps for the trades that it calls, one to each partner, from round to round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from concurrent.futures import Executor
from typing import Any

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.swap import Arriving, BothWays
from gossip_caffe.gossip.protocol.transport import Prepare
from gossip_caffe.gossip.transport import calls, weights_socket
from gossip_caffe.gossip.transport.secure.sealed import way_to
from gossip_caffe.gossip.transport.trades.trade_wire import TradeWire
from gossip_caffe.wire import gossip_pb2 as wire

Open = Callable[[], Awaitable[TradeWire]]
"""Makes a new connection. Raises CannotConnect, ExchangeFailed and AioRpcError."""


KEEP_S = 5.0
"""A partner that does not answer the call for a new connection within this time is called again later."""


async def open_kept(channel: Any, host: str, offer: Message, *, is_secured: bool) -> TradeWire:
    """Make a new connection for the trades with a partner. ``host``: its TCP host, "" if it has none.

    ``is_secured``: the partner has a certificate, so that a connection by TCP is sealed, or not made at all. Raises
    CannotConnect and AioRpcError.
    """
    asked = wire.KeepRequest(peer=offer.peer, job=offer.job, fingerprint=offer.fingerprint)
    ready = await calls.keep(channel, asked, KEEP_S)
    host, seals = way_to(host, ready.key, is_secured=is_secured)
    connected = await weights_socket.connect(host, ready.port, ready.ticket, ready.nearby)
    weights_socket.ready(connected)
    return TradeWire(connected, seals)


class KeptConnections:
    """The connections, by address. A trade takes one out, and puts it back if nothing of the trade is left in it."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._idle: dict[str, TradeWire] = {}

    async def trade(self, address: str, offer: Message, prepare: Prepare, opened: Open) -> Message:
        """Make one trade over the kept connection, or a new one. Returns the answer, without weights, or a refusal.

        Raises the errors of ``prepare`` and ``opened``, FramesCorrupt, and SwapInterrupted if the connection breaks.
        """
        swap = await prepare()
        if (kept := self._idle.pop(address, None)) is not None:
            try:
                return await self._over(kept, address, offer, swap)
            except weights_socket.SwapInterrupted as error:
                if not error.is_refused or swap.arriving.came_bytes:
                    raise
            # The partner has ended the connection since the last trade: it may have been started again.
        return await self._over(await opened(), address, offer, swap)

    async def _over(self, kept: TradeWire, address: str, offer: Message, swap: BothWays) -> Message:
        loop, is_whole = asyncio.get_running_loop(), False
        try:
            sending = loop.run_in_executor(
                self._threads, kept.send_call, kept.header_bytes(offer), swap.leaving
            )
            receiving = loop.run_in_executor(self._threads, _answer, kept, swap.arriving)
            try:
                await weights_socket.both(kept.connected, swap, sending, receiving)
            except ExchangeFailed:
                if receiving.cancelled() or receiving.exception() is not None:
                    raise
                return receiving.result()
            answer = receiving.result()
            is_whole = not answer.refusal
            return answer
        finally:
            older = self._idle.pop(address, None)
            if is_whole:
                self._idle[address] = kept
            for ended in (older, None if is_whole else kept):
                if ended is not None:
                    ended.connected.close()

    def forget(self, living: Container[str]) -> None:
        """Close the connections to all addresses that are not among ``living``."""
        for address in [address for address in self._idle if address not in living]:
            self._idle.pop(address).connected.close()

    def close(self) -> None:
        """Close all connections that no trade uses."""
        self.forget(())


def _answer(kept: TradeWire, arriving: Arriving) -> Message:
    """Receive the answer. A refusal ends the connection, so that the own sending ends, too."""
    answer = kept.receive_answer(arriving)
    if answer.refusal:
        weights_socket.hang_up(kept.connected)
    return answer
