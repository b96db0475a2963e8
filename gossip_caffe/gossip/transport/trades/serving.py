"""The answering side of the connections that partners keep for their trades of rounds: one task for each connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from gossip_caffe.background import DetachedTasks
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.transport import Answerer, Prepare
from gossip_caffe.gossip.rounds.words import answerer_of
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.frame_codec import FrameUnreadable
from gossip_caffe.gossip.transport.listener import Listener
from gossip_caffe.gossip.transport.secure.callers import Callers, turn_away
from gossip_caffe.gossip.transport.secure.sealed import Offered, offered
from gossip_caffe.gossip.transport.trades.trade_wire import TradeWire
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

MOST_KEPT = 1024
"""The number of kept connections; a further one closes the oldest."""
DRAIN_S = 1.0
"""The time for which a refused caller's weights are read and dropped, so that the refusal reaches it."""
DRAIN_BYTES = 1 << 16
KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""A TCP connection to a machine that has fallen silent ends after so many seconds, and so many probes."""


class TradeServing:
    """Answers Keep, and the calls on the connections that follow. ``answerer`` returns the present answerer.

    ``callers`` checks who calls. ``is_secured``: this peer has a certificate, and connections by TCP are sealed.
    """

    def __init__(
        self,
        listener: Listener,
        answerer: Callable[[], Answerer],
        callers: Callers,
        threads: Executor,
        *,
        is_secured: bool,
    ) -> None:
        self._is_secured = is_secured
        self._listener = listener
        self._callers = callers
        self._answerer = answerer
        self._threads = threads
        self._connections = DetachedTasks()
        self._kept: dict[str, asyncio.Task[None]] = {}
        """The task of each peer's connection, the oldest first."""

    def stop(self) -> None:
        """End all connections."""
        self._connections.cancel()

    async def keep(self, request: Any, context: Any) -> Any:
        """Answer one call of Keep: the port and the ticket of a connection that is kept."""
        if isinstance(request, FrameUnreadable):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.why)
        if why := self._callers.objection_to_member("keep", context, request.peer, request.job):
            await turn_away(context, why)
        if answerer_of(self._answerer()) is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this peer takes part in no rounds now")
        here = offered(self._listener.port, is_secured=self._is_secured)
        told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        serving = self._serve(request, told, here)
        task = self._connections.begin(serving, f"the trades of {request.peer[:64]}")
        ticket = await told
        for older in (self._kept.pop(request.peer, None), *self._too_many()):
            if older is not None:
                older.cancel()
        self._kept[request.peer] = task
        return wire.Ready(port=here.port, ticket=ticket, nearby=self._listener.nearby, key=here.key)

    def _too_many(self) -> list[asyncio.Task[None]]:
        return [self._kept.pop(peer) for peer in list(self._kept)[: max(0, len(self._kept) - MOST_KEPT + 1)]]

    async def _serve(self, caller: Any, told: asyncio.Future[bytes], here: Offered) -> None:
        """Wait for the connection, and answer its calls until it ends."""
        with self._listener.expecting() as (ticket, meeting):
            told.set_result(ticket)
            try:
                async with asyncio.timeout(weights_socket.CONNECT_S):
                    connected = await here.met(meeting)
                _keep_alive(connected)
                kept = TradeWire(connected, here.seals())
                while await self._answer_one(caller, kept):
                    pass
            except (OSError, FramesCorrupt, TimeoutError):
                pass  # the caller has gone, or sends nonsense: it makes a new connection if it needs one
            finally:
                if self._kept.get(caller.peer) is asyncio.current_task():
                    del self._kept[caller.peer]

    async def _answer_one(self, caller: Any, kept: TradeWire) -> bool:
        """Answer the next call. Returns whether the connection may have another."""
        connected = kept.connected
        connected.setblocking(False)
        if (header := await kept.read_header()) is None:
            return False
        names = (caller.peer, caller.job, caller.fingerprint)
        if (header.peer, header.job, header.fingerprint) != names or not header.phase:
            raise FramesCorrupt(f"a call of another peer than {caller.peer[:64]}")
        carrying = _Carrying(kept, self._threads)
        answer = await self._answerer().receive_swap(header, carrying)
        connected.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(weights_socket.SILENCE_S):
            await loop.sock_sendall(connected, kept.header_bytes(answer))
        if carrying.is_whole:
            return not answer.refusal
        connected.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DRAIN_S):
            while await loop.sock_recv(connected, DRAIN_BYTES):
                pass
        return False


class _Carrying:
    """Carries the weights of one call both ways. ``is_whole``: they have been carried."""

    def __init__(self, kept: TradeWire, threads: Executor) -> None:
        self.is_whole = False
        self._kept = kept
        self._threads = threads

    async def __call__(self, prepare: Prepare) -> None:
        """Carry the weights. Raises SwapInterrupted, and the errors of the swap."""
        swap, loop = await prepare(), asyncio.get_running_loop()
        weights_socket.ready(self._kept.connected)
        sending = loop.run_in_executor(self._threads, self._kept.send, swap.leaving)
        receiving = loop.run_in_executor(self._threads, self._kept.receive, swap.arriving)
        await weights_socket.both(self._kept.connected, swap, sending, receiving)
        self.is_whole = True


def _keep_alive(connected: socket.socket) -> None:
    """Let the system ask a silent partner's machine whether it is still there."""
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
