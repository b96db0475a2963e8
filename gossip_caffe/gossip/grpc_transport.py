"""Peers reached over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, NotFound
from gossip_caffe.gossip.frames import from_frames, to_frames
from gossip_caffe.gossip.message import Message
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

SERVICE = "gossip_caffe.v1.Peer"
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
]


class GrpcTransport:
    """One channel to each peer, closed when the peer has left (``forget``)."""

    def __init__(self, largest_payload_bytes: int = 1 << 40) -> None:
        self.largest_payload_bytes = largest_payload_bytes
        self._channels: dict[str, Any] = {}

    def _channel(self, address: str) -> Any:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return self._channels[address]

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Stream the offer up and the answer down."""
        call = self._channel(address).stream_stream(
            f"/{SERVICE}/Exchange",
            request_serializer=wire.ExchangeMessage.SerializeToString,
            response_deserializer=wire.ExchangeMessage.FromString,
        )(to_frames(offer), timeout=deadline_s)
        return await self._whole(call, address)

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Message:
        """Ask for the newest weights."""
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Snapshot",
            request_serializer=wire.SnapshotRequest.SerializeToString,
            response_deserializer=wire.ExchangeMessage.FromString,
        )(
            wire.SnapshotRequest(peer=request.peer, job=request.job, fingerprint=request.fingerprint),
            timeout=deadline_s,
        )
        return await self._whole(call, address)

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int, deadline_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """A checkpoint's file from an offset on. Raises NotFound, or CheckpointRefused when the holder fails."""
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=offset)
        call = self._channel(address).unary_stream(
            f"/{SERVICE}/Pull",
            request_serializer=wire.PullRequest.SerializeToString,
            response_deserializer=wire.PullMessage.FromString,
        )(request, timeout=deadline_s)
        try:
            async for message in call:
                yield message.data
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound(
                    f"{address} does not hold {file} of {checkpoint}", remedy="ask another"
                ) from error
            raise CheckpointRefused(f"{address} failed: {error.code().name} {error.details()}") from error
        finally:
            call.cancel()

    async def _whole(self, call: Any, address: str) -> Message:
        try:
            return await from_frames(call, self.largest_payload_bytes)
        except grpc.aio.AioRpcError as error:
            raise ExchangeFailed(f"{address}: {error.code().name.lower()} {error.details()}") from error
        except asyncio.CancelledError:
            call.cancel()
            raise
        except ExchangeFailed:
            call.cancel()
            raise

    async def forget(self, living: Iterable[str]) -> None:
        """Close the channels to all but the given addresses."""
        for address in set(self._channels) - set(living):
            await self._channels.pop(address).close()

    async def close(self) -> None:
        """Close all channels."""
        await self.forget(())
