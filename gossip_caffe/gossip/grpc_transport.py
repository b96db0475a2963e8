"""Peers reached over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, NotFound
from gossip_caffe.gossip.codec import largest_payload_bytes
from gossip_caffe.gossip.frames import Incoming, to_frames
from gossip_caffe.gossip.message import Message, Undelivered
from gossip_caffe.gossip.piece import Piece, parsed, serialized
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

SERVICE = "gossip_caffe.v1.Peer"
PULL_SILENCE_S = 20.0
"""A holder that sends nothing for so long has failed."""
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
            reason = f"{address}: {error.code().name.lower()} {error.details()}"
            if not outgoing.whole:
                raise Undelivered(reason) from error
            raise ExchangeFailed(reason) from error

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Message:
        """Ask for the newest weights; ``request.values`` says how many to expect."""
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Snapshot",
            request_serializer=wire.SnapshotRequest.SerializeToString,
            response_deserializer=parsed,
        )(
            wire.SnapshotRequest(peer=request.peer, job=request.job, fingerprint=request.fingerprint),
            timeout=deadline_s,
        )
        try:
            return await _whole(call, request.values)
        except grpc.aio.AioRpcError as error:
            raise ExchangeFailed(f"{address}: {error.code().name.lower()} {error.details()}") from error

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

    async def forget(self, living: Iterable[str]) -> None:
        """Close the channels to all but the given addresses."""
        for address in set(self._channels) - set(living):
            await self._channels.pop(address).close()

    async def close(self) -> None:
        """Close all channels."""
        await self.forget(())


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
