"""Peers reached over gRPC."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, NotFound
from gossip_caffe.gossip import bulk
from gossip_caffe.gossip.codec import largest_payload_bytes
from gossip_caffe.gossip.file_transfer import PULL_SILENCE_S, Into, receive_file
from gossip_caffe.gossip.frames import Incoming, header_of, to_frames
from gossip_caffe.gossip.message import FramesCorrupt, Message, Payload, Undelivered
from gossip_caffe.gossip.piece import Piece, parsed, serialized
from gossip_caffe.gossip.shown import Shown, Stream
from gossip_caffe.gossip.transport import Prepare
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

SERVICE = "gossip_caffe.v1.Peer"
BULK, BULK_PORT, BULK_TICKET = "gossip-bulk", "gossip-bulk-port", "gossip-bulk-ticket-bin"
"""Metadata of a call of Pull: the caller can connect elsewhere for the file; where, and with which ticket."""
SHOW_S = 5.0
"""A peer that is asked for its weights and does not begin to send them for so long is left out."""
UNSWAPPABLE_FOR = 64
"""Offers that carry their weights themselves after the connection for them could not be made."""
LAST_WORD_S = 1.0
"""How long to wait for a partner's refusal when weights did not come through."""
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
]


class _Outgoing:
    """The frames of an offer; ``whole`` once the last of them was taken."""

    def __init__(self, offer: Message) -> None:
        self._frames = to_frames(offer)
        self._left = len(offer.payload)
        self.whole = False

    def __iter__(self) -> Iterator[Any]:
        for part in self._frames:
            self._left -= len(part.data) if isinstance(part, Piece) else 0
            self.whole = self._left <= 0
            yield part


class GrpcTransport:
    """One channel to each peer, closed when the peer has left (``forget``)."""

    def __init__(self) -> None:
        self._channels: dict[str, Any] = {}
        self._unswappable: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(2, "offering")

    def _channel(self, address: str) -> Any:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return self._channels[address]

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Stream the offer up and the answer down."""
        outgoing = _Outgoing(offer)
        call = self._channel(address).stream_stream(
            f"/{SERVICE}/Exchange",
            request_serializer=serialized,
            response_deserializer=parsed,
        )(iter(outgoing), timeout=deadline_s)
        try:
            return await _whole(call, offer.values)
        except grpc.aio.AioRpcError as error:
            failed = _failed(address, error)
            raise (failed if outgoing.whole else Undelivered(failed.message)) from error

    def swaps(self, address: str) -> bool:
        """Yes, unless the connection for the weights could not be made lately."""
        if (left := self._unswappable.get(address, 0)) == 0:
            return True
        self._unswappable[address] = left - 1
        return False

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """The header goes over gRPC, and the answer comes over it; the weights have a connection of their own."""
        call = self._channel(address).stream_stream(
            f"/{SERVICE}/Exchange",
            request_serializer=serialized,
            response_deserializer=parsed,
        )(iter((header_of(offer, swaps=True),)), timeout=deadline_s)
        incoming = Incoming(call)
        try:
            async with asyncio.timeout(deadline_s):
                if isinstance(first := await incoming.header_or_ready(), Message):
                    return first
                host = address.rpartition(":")[0]
                connecting = bulk.connect(host, first.port, first.ticket, first.nearby)
                carrying = bulk.swap_over(connecting, prepare, self._threads)
                return await _both(carrying, incoming.header())
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
        except bulk.NoWayThrough as error:
            self._unswappable[address] = UNSWAPPABLE_FOR
            raise Undelivered(f"{error.message}; the next offers carry them") from error
        except grpc.aio.AioRpcError as error:
            raise _failed(address, error) from error
        finally:
            call.cancel()  # nothing, once the call is over

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Shown:
        """Ask for the newest weights, which come while they are read."""
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Snapshot",
            request_serializer=wire.SnapshotRequest.SerializeToString,
            response_deserializer=parsed,
        )(
            wire.SnapshotRequest(peer=request.peer, job=request.job, fingerprint=request.fingerprint),
            timeout=SHOW_S + deadline_s,
        )
        incoming = Incoming(call)

        async def pieces() -> AsyncIterator[Payload]:
            try:
                async for piece in incoming.pieces():
                    yield piece
            except grpc.aio.AioRpcError as error:
                raise _failed(address, error) from error

        try:
            async with asyncio.timeout(SHOW_S):
                header = await incoming.header()
        except grpc.aio.AioRpcError as error:
            raise _failed(address, error) from error
        except TimeoutError:
            call.cancel()
            raise ExchangeFailed(f"{address}: shows nothing for {SHOW_S:g} s") from None
        except (FramesCorrupt, asyncio.CancelledError):
            call.cancel()
            raise
        return Stream(header, incoming.payload_bytes, pieces(), call.cancel)

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """A checkpoint's file from an offset on. Raises NotFound, or CheckpointRefused when the holder fails."""
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=offset)
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Pull",
            request_serializer=wire.PullRequest.SerializeToString,
            response_deserializer=wire.PullMessage.FromString,
        )(request)
        try:
            while (message := await _soon(call, address)) is not grpc.aio.EOF:
                yield message.data
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound(
                    f"{address} does not hold {file} of {checkpoint}", remedy="ask another"
                ) from error
            raise CheckpointRefused(f"{address} failed: {error.code().name} {error.details()}") from error
        finally:
            call.cancel()

    async def fetch(
        self,
        address: str,
        job: str,
        checkpoint: str,
        file: str,
        offset: int,
        into: Into,
    ) -> None:
        """As ``pull``, but over a connection of its own where one can be made, and straight ``into`` a file.

        Raises NotFound, CheckpointRefused when the holder fails, and OSError when it cannot be written. A connection
        that breaks only ends it.
        """
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=offset)
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Pull",
            request_serializer=wire.PullRequest.SerializeToString,
            response_deserializer=wire.PullMessage.FromString,
        )(request, metadata=((BULK, "1"),))
        try:
            async with asyncio.timeout(PULL_SILENCE_S):
                told = dict(await call.initial_metadata() or ())
            if BULK_PORT in told:
                host, port = address.rpartition(":")[0], int(told[BULK_PORT])
                await _received(await bulk.connect(host, port, bytes(told[BULK_TICKET])), into)
                return
        except TimeoutError:
            raise CheckpointRefused(f"{address} sent nothing for {PULL_SILENCE_S:g} s") from None
        except bulk.NoWayThrough:
            pass  # only the gRPC port is open to us
        finally:
            call.cancel()
        async for piece in self.pull(address, job, checkpoint, file, offset):
            into.take(piece)

    async def forget(self, living: Iterable[str]) -> None:
        """Close the channels to all but the given addresses."""
        for address in set(self._channels) - set(living):
            await self._channels.pop(address).close()
            self._unswappable.pop(address, None)

    async def close(self) -> None:
        """Close all channels."""
        await self.forget(())
        self._threads.shutdown(wait=False)


def _failed(address: str, error: Any) -> ExchangeFailed:
    return ExchangeFailed(f"{address}: {error.code().name.lower()} {error.details()}")


async def _both(carrying: Coroutine[Any, Any, None], answering: Coroutine[Any, Any, Message]) -> Message:
    """The answer, once the weights have come through; or a refusal, as soon as it comes."""
    weights, answer = asyncio.ensure_future(carrying), asyncio.ensure_future(answering)
    try:
        await asyncio.wait((weights, answer), return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and (refused := answer.result()).refusal:
            return refused
        try:
            await weights
        except bulk.Broken as error:
            return await _last_word(answer, error)
        return await answer
    finally:
        weights.cancel()
        answer.cancel()
        await asyncio.wait((weights, answer))
        for ended in (weights, answer):
            if not ended.cancelled():
                ended.exception()  # looked at, lest it be reported as forgotten


async def _received(connected: socket.socket, into: Into) -> None:
    """Receive in a thread; cancelled, the connection ends first, and then the thread."""
    loop = asyncio.get_running_loop()

    def told(size: int) -> None:
        loop.call_soon_threadsafe(into.told, size)

    try:
        bulk.ready(connected)
        receiving = loop.run_in_executor(
            None, receive_file, connected, into.most_bytes, into.file, into.digest, told
        )
        try:
            await asyncio.shield(receiving)
        finally:
            if not receiving.done():
                bulk.hang_up(connected)
                await asyncio.wait((receiving,))
    finally:
        connected.close()


async def _last_word(answering: asyncio.Future[Message], broken: bulk.Broken) -> Message:
    """Weights did not come through: the partner's refusal, which may say why; else raises ExchangeFailed."""
    await asyncio.wait((answering,), timeout=LAST_WORD_S)
    if answering.done() and answering.exception() is None and (answer := answering.result()).refusal:
        return answer
    if not broken.all_sent:
        raise Undelivered(broken.message)
    if broken.is_cut:
        raise ExchangeFailed(broken.message)
    raise broken


async def _whole(call: Any, values: int) -> Message:
    """Read the answer to a call; leave no call behind."""
    incoming = Incoming(call)
    try:
        if (header := await incoming.header()).refusal:
            return header
        return await incoming.whole(largest_payload_bytes(values))
    finally:
        call.cancel()  # nothing, once the call is over


async def _soon(call: Any, address: str) -> Any:
    try:
        async with asyncio.timeout(PULL_SILENCE_S):
            return await call.read()
    except TimeoutError:
        raise CheckpointRefused(f"{address} sent nothing for {PULL_SILENCE_S:g} s") from None
