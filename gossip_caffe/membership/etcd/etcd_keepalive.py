"""The keep-alive stream of one client of etcd, on which all its leases are renewed."""

from __future__ import annotations

import asyncio
from typing import Any

from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.wire import etcd_pb2 as pb


class KeepAlive:
    """One stream, opened at the first renewal, and again after a failure and on a new channel."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._connection = connection
        self._stream: Any = None
        self._endpoint = ""
        self._channel: Any = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._lock = asyncio.Lock()

    async def renew(self, lease_id: int) -> float:
        """Renew a lease. Returns its time to live in seconds; 0.0 when it does not exist. Raises StoreUnavailable."""
        async with self._lock:
            try:
                async with self._connection.clock.timeout(self._connection.settings.call_timeout_s):
                    return await self._renewed(lease_id)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                if isinstance(error, grpc.aio.AioRpcError):
                    self._connection.is_stale(self._metadata, error.details() or "")
                self._drop()
                raise self._connection.unavailable("a renewal was not answered") from error
            except BaseException:  # a stream with an outstanding reply must not serve another renewal
                self._drop()
                raise

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.cancel()

    async def _renewed(self, lease_id: int) -> float:
        if self._stream is not None and not self._connection.is_newest(self._endpoint, self._channel):
            self._stream.cancel()  # the certificate has changed; the member stays the one in use
            self._stream = None
        if self._stream is None:
            await self._open()
        await self._stream.write(pb.LeaseKeepAliveRequest(ID=lease_id))
        while (reply := await self._stream.read()) is not grpc.aio.EOF:
            if lease_id == reply.ID:
                return float(reply.TTL)
        raise self._connection.unavailable("the keep-alive stream ended")

    async def _open(self) -> None:
        """Open the stream to the member in use."""
        self._metadata = await self._connection.metadata()
        self._endpoint, self._channel = self._connection.endpoint, self._connection.channel()
        self._stream = self._channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
        )(metadata=(("hasleader", "true"), *self._metadata))

    def _drop(self) -> None:
        """Cancel the stream and leave its member, which need not be the member in use."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._connection.leave(self._endpoint or self._connection.endpoint)
