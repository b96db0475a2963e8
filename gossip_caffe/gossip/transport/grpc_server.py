"""A peer's gRPC server: it answers exchanges, snapshot requests and pulls of checkpoints."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gossip_caffe.addresses import split_address
from gossip_caffe.errors import Conflict, EnvironmentProblem, GossipCaffeError, UsageError
from gossip_caffe.gossip.codecs.codec import largest_payload_bytes
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, PartUnreadable, Refusal
from gossip_caffe.gossip.policy.deadline import whole_deadline_s
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.protocol.places import connection
from gossip_caffe.gossip.protocol.transport import Answerer, Carry, Prepare
from gossip_caffe.gossip.rounds.grpc_words import ServedLink
from gossip_caffe.gossip.rounds.words import answerer_of
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.calls import SERVICE
from gossip_caffe.gossip.transport.file_serving import FileHolder, FileServing
from gossip_caffe.gossip.transport.frame_codec import FrameUnreadable, parsed, readable, serialized
from gossip_caffe.gossip.transport.frames import Incoming, to_frames, wire_rank
from gossip_caffe.gossip.transport.listener import Listener
from gossip_caffe.gossip.transport.mpi.communicator import Rank
from gossip_caffe.gossip.transport.mpi.ranks import NoRanks, Ranks
from gossip_caffe.gossip.transport.replies import unless_gone
from gossip_caffe.gossip.transport.secure.callers import Callers, Unauthorized, turn_away
from gossip_caffe.gossip.transport.secure.sealed import offered
from gossip_caffe.gossip.transport.snapshot_serving import SnapshotServing
from gossip_caffe.gossip.transport.trades.serving import TradeServing
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.grpc_credentials import server_credentials
from gossip_caffe.security.live import live_of
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import grpc_target, socket_path, unix_address
from gossip_caffe.wire import gossip_pb2 as wire

RECEIPT_SILENCE_S = 10.0
"""An offer of which nothing comes for this time is refused."""
MOST_CALLS = 512
"""The number of calls of all kinds at one time. gRPC answers further calls with RESOURCE_EXHAUSTED; peers ask again."""
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # Partners ping every 10 s to detect a dead connection. gRPC's default limit would close such a connection as abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
    # A silent connection is closed, new or old. A peer closes its idle connections earlier by itself (channels.py).
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 180_000),
]


class PeerServer:
    """The server of one peer. Before ``serve`` gives it an answerer, it refuses offers as NOT_TRAINING.

    ``ranks``: the peers with which weights are swapped by MPI. ``security``: this peer's identity; with certificate
    files every caller by TCP must show a certificate, too, and ``live`` is this peer's; None: there is none.
    ``callers`` checks the callers.
    """

    def __init__(
        self, listen: str, files: FileHolder, ranks: Ranks | None = None, security: Security = PLAIN
    ) -> None:
        self._ranks: Ranks = ranks if ranks is not None else NoRanks()
        self._socket = socket_path(listen)
        self._host, self._port = split_address(listen, "--listen") if self._socket is None else ("", 0)
        self.live = live_of(security, serves=True) if self._socket is None else None
        self.callers = Callers()
        self._answerer: Answerer = _NotYet()
        self._server: Any = None
        self._listener = Listener(self._host)
        self._threads = ThreadPoolExecutor(2 * MOST_IN_FLIGHT, "answering")
        self._file_serving = FileServing(files, self._listener, is_secured=self.live is not None)
        self._snapshot_serving = SnapshotServing()
        self._trade_serving = TradeServing(
            self._listener,
            lambda: self._answerer,
            self.callers,
            self._threads,
            is_secured=self.live is not None,
        )

    def serve(self, answerer: Answerer) -> None:
        """Let ``answerer`` answer from now on."""
        self._answerer = answerer

    @property
    def weights_port(self) -> int:
        """The port on which the weights of large models are swapped; 0 before ``start``."""
        return self._listener.port

    def hide_nearby(self) -> None:
        """Let peers on this machine connect by TCP, as peers on other machines do."""
        self._listener.nearby = ""

    async def start(self) -> int:
        """Bind and serve; returns the port, 0 for a Unix socket. Raises Conflict if the port is in use."""
        if self._socket is None:
            self._check_free()
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
        handlers = {
            "Exchange": grpc.stream_stream_rpc_method_handler(
                unless_gone(self._exchange), readable(parsed), serialized
            ),
            "Snapshot": grpc.unary_stream_rpc_method_handler(
                unless_gone(self._snapshot), readable(wire.SnapshotRequest.FromString), serialized
            ),
            "Rounds": grpc.stream_stream_rpc_method_handler(
                unless_gone(self._rounds),
                readable(wire.RoundWord.FromString),
                wire.RoundWord.SerializeToString,
            ),
            "Keep": grpc.unary_unary_rpc_method_handler(
                self._trade_serving.keep,
                readable(wire.KeepRequest.FromString),
                wire.Ready.SerializeToString,
            ),
            "Pull": grpc.unary_stream_rpc_method_handler(
                unless_gone(self._pull),
                readable(wire.PullRequest.FromString),
                wire.PullMessage.SerializeToString,
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = self._bound()
        except RuntimeError:
            port = 0
        if not port:
            raise self._taken()
        if self._socket is not None:
            self._socket.chmod(0o600)
        self._listener.start()
        await self._server.start()
        return 0 if self._socket is not None else port

    def _bound(self) -> int:
        if self.live is None:
            return int(self._server.add_insecure_port(self._target))
        return int(self._server.add_secure_port(self._target, server_credentials(self.live)))

    @property
    def _target(self) -> str:
        return (
            f"{self._host}:{self._port}" if self._socket is None else grpc_target(unix_address(self._socket))
        )

    def _taken(self) -> GossipCaffeError:
        if self._socket is not None:
            return EnvironmentProblem(
                f"cannot listen on the Unix socket {self._socket}",
                remedy="check that its folder exists and can be written",
            )
        return Conflict(
            f"cannot listen on {self._host}:{self._port}: the port is in use",
            remedy="choose another with --listen, or port 0 for any free one",
        )

    def _check_free(self) -> None:
        """Bind once with a plain socket, because gRPC's error does not name the cause."""
        with socket.socket(weights_socket.family_of(self._host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host.strip("[]"), self._port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise self._taken() from None
                raise UsageError(
                    f"cannot listen on {self._host}:{self._port} ({error.strerror})",
                    remedy="give --listen an address of this machine",
                ) from None

    async def stop(self) -> None:
        """Let the running calls finish, for up to two seconds, and close."""
        if self._server is not None:
            await self._server.stop(2.0)
            if self._socket is not None:
                self._socket.unlink(missing_ok=True)
        self._trade_serving.stop()
        await self._listener.stop()
        self._threads.shutdown(wait=False)
        self._file_serving.stop()

    async def _exchange(self, stream: AsyncIterator[Any], context: Any) -> None:
        incoming = Incoming(stream, _soon)
        try:
            header = await incoming.header()
        except FramesCorrupt as error:
            await _forget_rest(incoming)  # for the reason at the end of this method
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            return
        allowed_s = context.time_remaining() or 0.0
        if why := self.callers.objection_to_member("exchange", context, header.peer, header.job):
            answer = _refused(header, Refusal.UNAUTHORIZED, why)
        elif incoming.swaps:
            carry = partial(self._carry, context, incoming.rank)
            carrying = _Carrying(carry, allowed_s, connection(context.peer()))
            answer = await self._answerer.receive_swap(header, carrying)
        else:
            reading = _Reading(incoming, header.values, allowed_s, connection(context.peer()))
            answer = await self._answerer.receive(header, incoming.payload_bytes, reading)
        if answer.refusal is Refusal.NONE:
            self._snapshot_serving.prove(header.peer, context.peer())
        try:
            async with asyncio.timeout(whole_deadline_s(2 * len(answer.payload), allowed_s)):
                for part in to_frames(answer):
                    await context.write(part)
        except TimeoutError:
            raise asyncio.CancelledError from None  # an error status would wait until the caller reads (file_serving)
        if answer.refusal is not Refusal.NONE:
            # A call that ends before its offer is read may lose the refusal. The offerer ends the call once it has it.
            await _forget_rest(incoming)

    async def _carry(self, context: Any, offerer: Rank | None, prepare: Prepare) -> None:
        """Swap weights with the offerer: by MPI if it is a rank with which that works, else over a connection."""
        if offerer is not None and self._ranks.serves(offerer):
            await self._carry_by_mpi(context, offerer, prepare)
        else:
            await self._carry_over_connection(context, prepare)

    async def _carry_by_mpi(self, context: Any, offerer: Rank, prepare: Prepare) -> None:
        """Send the offerer a tag and a ticket, and swap weights with it by MPI."""
        tag, ticket = self._ranks.tag(), secrets.token_bytes(weights_socket.TICKET_BYTES)
        ready = wire.Ready(ticket=ticket, rank=wire_rank(self._ranks.own), tag=tag)
        await context.write(wire.ExchangeMessage(ready=ready))
        await self._ranks.swap(offerer, tag, ticket, prepare, answers=True)

    async def _carry_over_connection(self, context: Any, prepare: Prepare) -> None:
        """Send the offerer the port and a ticket, and swap weights with it on the connection that it makes."""
        here = offered(self._listener.port, is_secured=self.live is not None)
        with self._listener.expecting() as (ticket, connection):
            ready = wire.Ready(port=here.port, ticket=ticket, nearby=self._listener.nearby, key=here.key)
            await context.write(wire.ExchangeMessage(ready=ready))
            await weights_socket.swap_over(here.met(connection), prepare, self._threads, here.seals())

    async def _rounds(self, stream: AsyncIterator[Any], context: Any) -> None:
        if (answerer := answerer_of(self._answerer)) is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this peer takes part in no rounds now")
            return
        try:
            await answerer.attend(ServedLink(self.callers.words(stream, context), context))
        except Unauthorized as error:
            await turn_away(context, error.message)
        except FramesCorrupt as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    async def _snapshot(self, request: Any, context: Any) -> None:
        if why := self.callers.objection_to_viewer("snapshot", context, getattr(request, "job", "")):
            await turn_away(context, why)
            return
        await self._snapshot_serving.show(self._answerer, request, context)

    async def _pull(self, request: Any, context: Any) -> None:
        if why := self.callers.objection_to_viewer("pull", context, getattr(request, "job", "")):
            await turn_away(context, why)
            return
        await self._file_serving.pull(request, context)


class _Reading:
    """Reads a whole offer; a ``places.Measured``."""

    def __init__(self, incoming: Incoming, values: int, allowed_s: float, source: str) -> None:
        self.allowed_s = allowed_s
        self.source = source
        self._incoming = incoming
        self._values = values

    @property
    def moved_bytes(self) -> int:
        """The number of payload bytes received so far."""
        return self._incoming.came_bytes

    async def __call__(self) -> Message:
        """The whole offer. Raises FramesCorrupt."""
        return await self._incoming.whole(largest_payload_bytes(self._values))


class _Carrying:
    """Carries weights both ways; a ``places.Measured``. The swap itself knows its progress, so ``moved_bytes`` is 0."""

    moved_bytes = 0

    def __init__(self, carry: Carry, allowed_s: float, source: str) -> None:
        self.allowed_s = allowed_s
        self.source = source
        self._carry = carry

    async def __call__(self, prepare: Prepare) -> None:
        """Carry the weights. Raises the errors of the given ``carry``."""
        await self._carry(prepare)


class _NotYet:
    """The answerer of a peer that has not loaded the consensus yet: it refuses everything as NOT_TRAINING."""

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Refuse the offer without reading it."""
        del payload_bytes, read
        return _not_yet(header)

    async def answer(self, offer: Message) -> Message:
        """Refuse the offer."""
        return _not_yet(offer)

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Refuse the offer without carrying weights."""
        del carry
        return _not_yet(header)

    async def show(self, request: Message) -> Message:
        """Refuse the request."""
        return _not_yet(request)


async def _forget_rest(incoming: Incoming) -> None:
    """Read and drop the rest of a stream, but not for long. An endless sender then occupies only its own call."""
    try:
        async with asyncio.timeout(RECEIPT_SILENCE_S):
            await incoming.forget_rest()
    except TimeoutError:
        pass


def _refused(asked: Message, refusal: Refusal, reason: str) -> Message:
    """A refusal that says nothing of this peer: the caller is a stranger, or this peer has no weights yet."""
    return Message(asked.exchange_id, "", asked.job, "", refusal=refusal, reason=reason)


def _not_yet(asked: Message) -> Message:
    return _refused(asked, Refusal.NOT_TRAINING, "this peer has not loaded the consensus yet")


async def _soon(stream: AsyncIterator[Any]) -> Any:
    """The next part of an offer. Raises FramesCorrupt if none comes in time: no offer may hold a place for ever."""
    try:
        async with asyncio.timeout(RECEIPT_SILENCE_S):
            part = await anext(stream)
    except TimeoutError:
        raise FramesCorrupt(f"nothing came for {RECEIPT_SILENCE_S:g} s") from None
    if isinstance(part, FrameUnreadable):
        raise PartUnreadable(part.why)
    return part
