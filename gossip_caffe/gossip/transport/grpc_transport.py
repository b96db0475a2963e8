"""The transport over gRPC: this peer's calls to other peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gossip_caffe.addresses import name_in, place_of
from gossip_caffe.background import within
from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, NotFound
from gossip_caffe.gossip.codecs.codec import largest_payload_bytes
from gossip_caffe.gossip.codecs.message import Message, Payload, Undelivered
from gossip_caffe.gossip.policy.remembering import forget_departed, remember
from gossip_caffe.gossip.protocol.snapshot_stream import PiecewiseReader, SnapshotReader
from gossip_caffe.gossip.protocol.transport import Prepare
from gossip_caffe.gossip.rounds.grpc_words import CalledLink
from gossip_caffe.gossip.rounds.words import RoundLink
from gossip_caffe.gossip.transport import calls, weights_socket
from gossip_caffe.gossip.transport.calls import BULK, BULK_KEY, BULK_NEARBY, BULK_PORT, BULK_TICKET, SERVICE
from gossip_caffe.gossip.transport.channels import Channels, Parts
from gossip_caffe.gossip.transport.file_transfer import PULL_SILENCE_S, FileSink, receive_from
from gossip_caffe.gossip.transport.frame_codec import RawFrame
from gossip_caffe.gossip.transport.frames import Incoming, header_of, rank_of, to_frames
from gossip_caffe.gossip.transport.mpi.ranks import NoRanks, Ranks
from gossip_caffe.gossip.transport.secure.sealed import way_to
from gossip_caffe.gossip.transport.trades.calling import KeptConnections, open_kept
from gossip_caffe.gossip.transport.trades.trade_wire import TradeWire
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.live import live_of
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import is_socket_in, socket_path
from gossip_caffe.wire import gossip_pb2 as wire

__all__ = ["SERVICE", "GrpcTransport"]

SHOW_S = 5.0
"""A peer that does not begin to send its weights within this time is left out."""
UNSWAPPABLE_FOR = 64
"""The number of offers that carry their weights themselves after the connection for weights could not be made."""
BUSY_PAUSE_S = 0.25
"""The pause before a peer that has too many calls is asked again."""
BUSY_S = 30.0
"""The time for which a busy holder of files is asked again."""
FIRST_WORD_S = 60.0
"""The time that a holder with many joiners may take before its first word. A lost connection is noticed sooner."""
AT_ONCE = 2
"""The number of swaps that this peer makes at one time: one as an exchange, two in a round (rounds/trades.py)."""
LAST_WORD_S = 1.0
"""The time to wait for a partner's refusal after a swap was interrupted."""


class _Outgoing:
    """The frames of an offer. ``whole``: gRPC has taken the last of them."""

    def __init__(self, offer: Message) -> None:
        self._frames = to_frames(offer)
        self._left = len(offer.payload)
        self.whole = False

    def __iter__(self) -> Iterator[Any]:
        for part in self._frames:
            self._left -= len(part.data) if isinstance(part, RawFrame) else 0
            self.whole = self._left <= 0
            yield part


class GrpcTransport:
    """Carries this peer's calls to other peers. ``forget`` drops the state of departed peers.

    ``sockets``: the folder of the cluster's Unix sockets (``folder_of_sockets``). An address that names a Unix socket
    outside this folder, or any Unix socket if there is no such folder, is not connected to. ``ranks``: the peers to
    which weights go by MPI. ``security``: this peer's identity.
    """

    def __init__(
        self, sockets: Path | None = None, ranks: Ranks | None = None, security: Security = PLAIN
    ) -> None:
        self._sockets = sockets
        self._ranks: Ranks = ranks if ranks is not None else NoRanks()
        self._live = live_of(security)
        self._channels = Channels(self._live)
        self._unswappable: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(2 * AT_ONCE, "offering")
        self._kept = KeptConnections(self._threads)

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Stream the offer to the partner, and the answer back."""
        outgoing = _Outgoing(offer)
        with self._to(address) as channel:
            call = calls.exchange(channel, iter(outgoing), deadline_s)
            try:
                return await _whole(call, offer.values)
            except grpc.aio.AioRpcError as error:
                failed = calls.failed(address, error)
                raise (failed if outgoing.whole else Undelivered(failed.message)) from error

    @contextmanager
    def _to(self, address: str) -> Iterator[Any]:
        """The channel to an address, for one call. Raises Undelivered if no peer of the job can be at that address."""
        if socket_path(address) is not None and not is_socket_in(self._sockets, address):
            raise Undelivered(f"{address}: this is no Unix socket of this cluster")
        with self._channels.to(address) as channel:
            yield channel

    @contextmanager
    def _to_holder(self, address: str) -> Iterator[Any]:
        """As ``_to``, but raises CheckpointRefused instead of Undelivered."""
        try:
            with self._to(address) as channel:
                yield channel
        except Undelivered as error:
            raise CheckpointRefused(error.message) from None

    def swaps(self, address: str, *, is_large: bool) -> bool:
        """Whether weights go by MPI, or are many enough for a separate connection that can be used.

        Such a connection cannot be used for a while after it could not be made.
        """
        if self._ranks.is_at(address):
            return True
        if not is_large:
            return False
        if (left := self._unswappable.get(address, 0)) == 0:
            return True
        self._unswappable[address] = left - 1
        return False

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Send the header and receive the answer over gRPC; swap the weights by MPI or over a separate connection.

        A trade of a round goes over a connection that is kept, with no call over gRPC, unless its partner is a rank of
        another machine.
        """
        if offer.phase and not self._ranks.is_apart(address):
            return await self._trade(address, offer, prepare, deadline_s)
        with self._to(address) as channel:
            header = header_of(offer, swaps=True, rank=self._ranks.own)
            call = calls.exchange(channel, iter((header,)), deadline_s)
            incoming = Incoming(Parts(call))
            try:
                async with asyncio.timeout(deadline_s):
                    if isinstance(first := await incoming.header_or_ready(), Message):
                        return first
                    carrying = self._carrying(address, first, prepare)
                    return await self._both(address, carrying, incoming.header())
            except TimeoutError:
                raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
            except weights_socket.CannotConnect as error:
                remember(self._unswappable, address, UNSWAPPABLE_FOR)
                raise Undelivered(f"{error.message}; the next offers carry them") from error
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._ranks.unreachable(address)
                raise calls.failed(address, error) from error
            finally:
                call.cancel()  # has no effect once the call is over

    async def _trade(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        async def opened() -> TradeWire:
            with self._to(address) as channel:
                return await open_kept(channel, _host(address), offer, is_secured=bool(name_in(address)))

        try:
            async with asyncio.timeout(deadline_s):
                return await self._kept.trade(address, offer, prepare, opened)
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
        except weights_socket.CannotConnect as error:
            remember(self._unswappable, address, UNSWAPPABLE_FOR)
            raise Undelivered(f"{error.message}; the next trades go over gRPC") from error
        except grpc.aio.AioRpcError as error:
            raise calls.failed(address, error) from error

    def _carrying(self, address: str, ready: Any, prepare: Prepare) -> Coroutine[Any, Any, None]:
        """The swap of weights with a partner that is ready: by MPI if it says so, else over a connection."""
        if (partner := rank_of(ready)) is not None:
            return self._ranks.swap(partner, ready.tag, ready.ticket, prepare, answers=False)
        host, seals = way_to(_host(address), ready.key, is_secured=bool(name_in(address)))
        connecting = weights_socket.connect(host, ready.port, ready.ticket, ready.nearby)
        return weights_socket.swap_over(connecting, prepare, self._threads, seals)

    async def _both(
        self, address: str, carrying: Coroutine[Any, Any, None], answering: Coroutine[Any, Any, Message]
    ) -> Message:
        """The answer, after the weights were swapped; or a refusal, as soon as it comes."""
        foreseen = (OSError, grpc.aio.AioRpcError)
        answer: asyncio.Task[Message]
        async with within(carrying, answering, foreseen=foreseen) as (weights, answer):
            await asyncio.wait((weights, answer), return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and (refused := answer.result()).refusal:
                return refused
            try:
                await weights
            except weights_socket.SwapInterrupted as error:
                if error.is_refused:
                    remember(self._unswappable, address, UNSWAPPABLE_FOR)
                return await _last_word(answer, error)
            return await answer

    async def attend(self, address: str) -> RoundLink:
        """Open a stream of the words of rounds to the peer at ``address``. It breaks at once when that peer ends."""
        with ExitStack() as opened:
            channel = opened.enter_context(self._to(address))
            call = calls.rounds(channel)
            try:
                async with asyncio.timeout(SHOW_S):
                    await call.wait_for_connection()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                call.cancel()
                if isinstance(error, TimeoutError):
                    raise ExchangeFailed(f"{address}: no answer within {SHOW_S:g} s") from None
                raise calls.failed(address, error) from error
            return CalledLink(address, call, opened.pop_all().close)

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        """Ask a peer for its newest weights; they are received while the reader reads them."""
        asked = wire.SnapshotRequest(peer=request.peer, job=request.job, fingerprint=request.fingerprint)
        loop = asyncio.get_running_loop()
        given_up_at = loop.time() + SHOW_S
        while True:
            try:
                return await self._shown(address, asked, deadline_s, given_up_at)
            except calls.Busy as error:
                if loop.time() + BUSY_PAUSE_S >= given_up_at:
                    raise ExchangeFailed(error.message) from None
            await asyncio.sleep(BUSY_PAUSE_S)

    async def _shown(self, address: str, asked: Any, deadline_s: float, given_up_at: float) -> SnapshotReader:
        with ExitStack() as opened:
            channel = opened.enter_context(self._to(address))
            call = calls.snapshot(channel, asked, SHOW_S + deadline_s)
            opened.callback(call.cancel)
            incoming = Incoming(Parts(call))
            try:
                async with asyncio.timeout_at(given_up_at):
                    header = await incoming.header()
            except grpc.aio.AioRpcError as error:
                raise calls.failed(address, error) from error
            except TimeoutError:
                raise ExchangeFailed(f"{address}: shows nothing for {SHOW_S:g} s") from None
            return PiecewiseReader(
                header, incoming.payload_bytes, _shown_pieces(incoming, address), opened.pop_all().close
            )

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """The pieces of a checkpoint's file from ``offset`` (bytes) on, over gRPC.

        A holder that has too many calls is asked again for BUSY_S. Raises NotFound, and CheckpointRefused if the holder
        fails.
        """
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=offset)
        loop = asyncio.get_running_loop()
        given_up_at = loop.time() + BUSY_S
        with self._to_holder(address) as channel:
            while True:
                call, has_come = calls.pull(channel, request), False
                try:
                    while (message := await _soon(call, address)) is not grpc.aio.EOF:
                        has_come = True
                        yield message.data
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND:
                        raise NotFound(
                            f"{address} does not hold {file} of {checkpoint}", remedy="ask another holder"
                        ) from error
                    busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not has_come
                    if not busy or loop.time() >= given_up_at:
                        raise CheckpointRefused(f"{address} failed: {calls.said(address, error)}") from error
                finally:
                    call.cancel()
                await asyncio.sleep(BUSY_PAUSE_S)

    async def fetch(
        self,
        address: str,
        job: str,
        checkpoint: str,
        file: str,
        offset: int,
        into: FileSink,
    ) -> None:
        """Receive a file as ``pull`` does, but ``into`` a file and over a separate connection if one can be made.

        Raises NotFound, CheckpointRefused if the holder fails, and OSError if the file cannot be written. A broken
        connection raises nothing: the file is then shorter.
        """
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=offset)
        with self._to_holder(address) as channel:
            call = calls.pull(channel, request, ((BULK, "1"),))
            try:
                async with asyncio.timeout(FIRST_WORD_S):
                    told = dict(await call.initial_metadata() or ())
                if BULK_PORT in told:
                    key = bytes(told.get(BULK_KEY, b""))
                    host, seals = way_to(_host(address), key, is_secured=bool(name_in(address)))
                    by_name = {} if host else {"nearby": str(told.get(BULK_NEARBY, ""))}
                    ticket = bytes(told[BULK_TICKET])
                    connected = await weights_socket.connect(host, int(told[BULK_PORT]), ticket, **by_name)
                    if await receive_from(connected, into, seals):
                        return
            except TimeoutError:
                raise CheckpointRefused(f"{address} sent nothing for {FIRST_WORD_S:g} s") from None
            except weights_socket.CannotConnect:
                pass  # only the gRPC port can be reached
            finally:
                call.cancel()
        async for piece in self.pull(address, job, checkpoint, file, offset):
            await into.take(piece)

    async def forget(self, living: Container[str]) -> None:
        """Close the channels to all addresses that are not among ``living``, each once its calls are over."""
        self._channels.forget(living)
        self._kept.forget(living)
        forget_departed(self._unswappable, living)

    async def close(self) -> None:
        """Close all channels and connections."""
        self._kept.close()
        await self._channels.close()
        self._threads.shutdown(wait=False)


async def _shown_pieces(incoming: Incoming, address: str) -> AsyncIterator[Payload]:
    try:
        async for piece in incoming.pieces():
            yield piece
    except grpc.aio.AioRpcError as error:
        raise calls.failed(address, error) from error


def _host(address: str) -> str:
    """The TCP host of a peer's address; "" if the address is a Unix socket."""
    return "" if socket_path(address) is not None else place_of(address).rpartition(":")[0]


async def _last_word(answering: asyncio.Future[Message], broken: weights_socket.SwapInterrupted) -> Message:
    """The partner's refusal of an interrupted swap, which may name the cause; else raises ExchangeFailed."""
    await asyncio.wait((answering,), timeout=LAST_WORD_S)
    if answering.done() and answering.exception() is None and (answer := answering.result()).refusal:
        return answer
    if not broken.all_sent:
        raise Undelivered(broken.message)
    if broken.is_cut:
        raise ExchangeFailed(broken.message)
    raise broken


async def _whole(call: Any, values: int) -> Message:
    """Read the whole answer of a call, and end the call in any case."""
    incoming = Incoming(Parts(call))
    try:
        if (header := await incoming.header()).refusal:
            return header
        return await incoming.whole(largest_payload_bytes(values))
    finally:
        call.cancel()  # has no effect once the call is over


async def _soon(call: Any, address: str) -> Any:
    try:
        async with asyncio.timeout(PULL_SILENCE_S):
            return await call.read()
    except TimeoutError:
        raise CheckpointRefused(f"{address} sent nothing for {PULL_SILENCE_S:g} s") from None
